import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_arrays

import trac
from trac.config import ConfigError
from trac.core.run import Run
from trac.data.trajectories import from_arrays
from trac.every_limit import at_limit, every_limit, scaled, with_limits
from trac.partition import segments_of
from trac.policy import Policy

LIMITS = (5, 8, 15)


def observed(observations, limit, products=False):
    """(o, z), with z from -1 at the smallest limit to 1 at the largest; with products (o, z o, z)."""
    z = (limit - (LIMITS[0] + LIMITS[-1]) / 2) / ((LIMITS[-1] - LIMITS[0]) / 2)
    parts = [observations, z * observations, np.full((len(observations), 1), z)]
    return np.concatenate(parts if products else parts[::2], axis=1).astype(np.float32)


@pytest.mark.parametrize("products", [False, True])
def test_each_copy_of_the_log_holds_its_limit_and_nothing_else_changes(data, products):
    stacked, size = with_limits(data, LIMITS, products), len(data)
    for copy, limit in enumerate(LIMITS):
        rows = slice(copy * size, (copy + 1) * size)
        expected = observed(data.observations, limit, products)
        np.testing.assert_allclose(stacked.observations[rows], expected, rtol=1e-6)
        for name in ("actions", "rewards", "costs", "terminals", "timeouts"):
            np.testing.assert_array_equal(getattr(stacked, name)[rows], getattr(data, name))
    np.testing.assert_array_equal(stacked.returns, np.tile(data.returns, 3))
    np.testing.assert_array_equal(stacked.episode_costs, np.tile(data.episode_costs, 3))


def test_each_copy_has_its_limits_labels(data, monkeypatch):
    seen = {}
    monkeypatch.setattr("trac.every_limit.train_on", lambda stacked, configs, segments, **_: seen.update(s=segments[0]))
    config = trac.TracConfig(segment_ratio=0.5, bottom=0.2, eval_episodes=0)
    every_limit(data, config, LIMITS, balanced=False)
    alone = [segments_of(data, config.replace(cost_limit=float(limit))) for limit in LIMITS]
    of = np.split(np.arange(len(seen["s"])), np.cumsum([len(s) for s in alone])[:-1])
    for copy, (rows, segments) in enumerate(zip(of, alone, strict=True)):
        np.testing.assert_array_equal(seen["s"].starts[rows], segments.starts + copy * len(data))
        np.testing.assert_array_equal(seen["s"].episodes[rows], segments.episodes + copy * len(data.starts))
        for name in ("labels", "weights", "returns", "costs"):
            np.testing.assert_array_equal(getattr(seen["s"], name)[rows], getattr(segments, name))
    assert seen["s"].total == sum(s.total for s in alone)


def test_balanced_each_limits_classes_weigh_against_each_other_as_when_trained_alone(data, monkeypatch):
    seen = []
    monkeypatch.setattr("trac.every_limit.train_on", lambda stacked, configs, segments, **_: seen.append(segments[0]))
    config = trac.TracConfig(segment_ratio=0.5, bottom=0.2, eval_episodes=0)
    for balanced in (False, True):
        every_limit(data, config, LIMITS, balanced=balanced)
    plain, made = seen
    copy = made.starts // len(data)
    desirable = made.labels == 1
    np.testing.assert_array_equal(made.weights[desirable], plain.weights[desirable])
    whole = desirable.sum() / (~desirable).sum()
    for number, limit in enumerate(LIMITS):
        alone = segments_of(data, config.replace(cost_limit=float(limit)))
        # What the undesirable class weighs: the loss's ratio times the sum of its weights.
        expected = alone.labels.sum() / (1 - alone.labels).sum() * alone.weights[alone.labels == 0].sum()
        got = whole * made.weights[(copy == number) & ~desirable].sum()
        np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("products", [False, True])
@pytest.mark.parametrize("kind", ["deterministic", "gaussian"])
def test_a_policy_at_a_limit_is_the_policy_that_sees_the_limit(kind, products):
    observations = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    policy = Policy(9 if products else 5, 2, hidden=(16, 16), kind=kind)
    policy.initialise(torch.Generator().manual_seed(0))
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    record = {"limits": list(LIMITS), "products": products}
    for limit in (0, 5, 11, 15, 40):
        asked = at_limit(Run(None, policy, None, None, pd.DataFrame(), record), limit)
        assert asked.obs_dim == 4
        expected = policy.act(observed(observations, limit, products))
        np.testing.assert_allclose(asked.act(observations), expected, atol=1e-5)
    assert all(torch.equal(before[name], value) for name, value in policy.state_dict().items())


def test_one_policy_takes_the_action_that_each_limit_allows():
    # An episode's action is its return and, halved and shifted, its cost: the best safe action rises with the limit.
    arrays, actions = make_arrays(episodes=40, length=5), np.repeat(np.linspace(-0.9, 0.9, 40), 5)
    arrays |= dict(actions=np.stack([actions, actions], axis=1), rewards=actions, costs=1 + actions)
    log = from_arrays("mine", **arrays)
    options = dict(top=0.2, hidden=(32,), dropout=0.0, steps=600, bc_steps=300, lr_multiplier=1.0, eval_episodes=0)
    config = trac.TracConfig(task="mine", **options)
    run = every_limit(log, config, (3, 9), progress=False)
    low, middle, high = (at_limit(run, x).act(log.observations).mean() for x in (3, 6, 9))
    assert low < middle - 0.2 < middle < high - 0.2
    assert run.record["algorithm"] == "every_limit" and run.config.cost_limit == 9


def test_limits_that_are_no_range_and_evaluations_without_a_limit_are_refused(data):
    config = trac.TracConfig(eval_episodes=0)
    for limits in ((10, 10), (10,), (-1, 10), (10, np.inf)):
        with pytest.raises(ConfigError, match="not all the same"):
            every_limit(data, config, limits, progress=False)
    with pytest.raises(ConfigError, match="eval_episodes=0"):
        every_limit(from_arrays("BallCircle", **make_arrays()), config.replace(eval_episodes=1), LIMITS)
    assert [scaled(x, (10, 20)) for x in (10, 15, 20, 30)] == [-1, 0, 1, 3]


def test_a_run_is_asked_with_its_own_limits_also_when_it_was_saved(data, tmp_path):
    config = trac.TracConfig(steps=4, bc_steps=2, eval_episodes=0, hidden=(8,), bottom=0.2)
    runs = every_limit(data, [config, config.replace(seed=1)], LIMITS, progress=False, out=tmp_path)
    assert runs[1].record["limits"] == [5.0, 8.0, 15.0]
    saved = trac.load_run(tmp_path / "001")
    expected = runs[1].policy.act(observed(data.observations, 11))
    np.testing.assert_allclose(at_limit(saved, 11).act(data.observations), expected, atol=1e-5)
    for limit in (-1, np.nan, np.inf):
        with pytest.raises(ConfigError, match=f"limit={limit} must be a finite number, 0 or more"):
            at_limit(saved, limit)
    for other in (trac.train(data, config, progress=False), saved.policy):
        with pytest.raises(ConfigError, match="asks a run that every_limit trained"):
            at_limit(other, 11)
