import random

import numpy as np
import pytest

import trac
from trac.data import hdf5
from trac.data.filters import FilterError, filtered
from trac.data.trajectories import KEYS, from_arrays

EPISODES, LENGTH = 300, 12


def make_data():
    generator = np.random.default_rng(3)
    n = EPISODES * LENGTH
    risk = np.repeat(generator.random(EPISODES), LENGTH)
    timeouts = np.zeros(n)
    timeouts[LENGTH - 1 :: LENGTH] = 1
    arrays = dict(
        observations=generator.standard_normal((n, 4)).astype(np.float32),
        next_observations=generator.standard_normal((n, 4)).astype(np.float32),
        actions=generator.uniform(-1, 1, (n, 2)).astype(np.float32),
        rewards=(generator.random(n) + risk).astype(np.float32),
        costs=(generator.random(n) < risk).astype(np.float32),
        terminals=np.zeros(n),
        timeouts=timeouts,
    )
    return from_arrays("made_up", **arrays)


@pytest.fixture(scope="module")
def data():
    return make_data()


BINS = dict(cbins=4, rbins=5, max_npb=12, min_npb=3)


@pytest.mark.parametrize(
    "filters",
    [
        dict(density=0.5, **BINS),
        dict(density=0.5),  # dsrl's own default bins
        dict(outliers_percent=0.1),
        dict(noise_scale=0.2),
        dict(inpaint_ranges=[(0.1, 0.6, 0.2, 0.8)]),
        dict(density=0.5, **BINS, outliers_percent=0.05, noise_scale=0.1, inpaint_ranges=[(0.0, 0.5, 0.0, 1.0)]),
        dict(outliers_percent=0.1, inpaint_ranges=[(0.0, 0.9, 0.0, 1.0)]),
    ],
    ids=lambda filters: "+".join(filters),
)
def test_the_same_as_from_dsrl(tmp_path, monkeypatch, data, filters):
    offline_env = pytest.importorskip("dsrl.offline_env")
    monkeypatch.chdir(tmp_path)  # it saves a figure
    env = offline_env.OfflineEnv(max_episode_reward=data.returns.max(), max_episode_cost=data.episode_costs.max())
    env.set_target_cost(5)
    random.seed(1234)
    theirs = env.pre_process_data({key: getattr(data, key).copy() for key in KEYS}, **filters)
    ours = filtered(data, **filters, cost_limit=5 if "outliers_percent" in filters else None)
    assert len(ours) > 0 and (len(ours) < len(data) or not {"density", "inpaint_ranges"} & set(filters))
    for key in KEYS:
        np.testing.assert_array_equal(getattr(ours, key), theirs[key], err_msg=key)
    ends = np.flatnonzero(theirs["terminals"] + theirs["timeouts"])
    np.testing.assert_array_equal(ours.starts + ours.lengths - 1, ends)
    np.testing.assert_array_equal(ours.starts, np.concatenate([[0], ends[:-1] + 1]))


def test_several_ranges_by_hand():
    """Costs 0 to 10, returns ten times that: a range of costs is a range of episodes, and so is one of returns."""
    cost = np.arange(11.0)
    ones = np.ones(11)
    data = from_arrays(
        "made_up",
        observations=ones[:, None],
        actions=0 * ones[:, None],
        rewards=10 * cost,
        costs=cost,
        terminals=ones,
        timeouts=0 * ones,
    )
    kept = filtered(data, inpaint_ranges=[(0.0, 0.2, 0.0, 1.0), (0.6, 1.0, 0.0, 0.5)])
    assert kept.costs.tolist() == [3, 4, 5, 9, 10]  # without 0 to 2, and 6 to 8: the lower half of 60 to 100
    assert len(data) == 11 and kept.task == "made_up" and kept.reward_range == (0, 100)


def test_the_seed_decides_and_the_data_stays(data):
    before = data.costs.copy(), data.rewards.copy(), data.observations.copy()
    once, again, other = (
        filtered(data, density=0.5, **BINS, outliers_percent=0.1, cost_limit=5, noise_scale=0.1, seed=seed)
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(once.observations, again.observations)
    assert len(once) != len(other) or (once.observations != other.observations).any()
    for now, then in zip((data.costs, data.rewards, data.observations), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_load_applies_them(tmp_path, data):
    hdf5.write(tmp_path / "made_up.hdf5", data)
    thin = trac.load(tmp_path / "made_up.hdf5", filters=dict(density=0.5, **BINS))
    assert len(thin.starts) < EPISODES and thin.next_observations.shape == thin.observations.shape


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (dict(densty=0.5), "there is no filter 'densty'; there are density, cbins"),
        (dict(density=1.5), "density=1.5"),
        (dict(max_npb=3), "max_npb=3 and min_npb=2 remove no episode: they are for density= below 1, which is missing"),
        (dict(density=0.5, cbins=0), "cbins, rbins and max_npb must be at least 1"),
        (dict(density=0.5, min_npb=400, max_npb=400), "leave no episode"),
        (dict(outliers_percent=0.1), "needs a cost_limit"),
        (dict(cost_limit=5), "cost_limit=5 removes no episode: it is for outliers_percent="),
        (dict(outliers_percent=2.0, cost_limit=5), "outliers_percent=2.0"),
        (dict(outliers_percent=1.0, cost_limit=5), "300 outliers are asked for, and"),
        (dict(outliers_percent=0.1, cost_limit=50), "must have 49 steps or more"),
        (dict(inpaint_ranges=[(0.5, 0.1, 0, 1)]), r"inpaint_ranges: \(0.5, 0.1, 0, 1\) must be"),
        (dict(inpaint_ranges=[(0, 1, 0, 1)]), "leave no episode"),
        (dict(noise_scale=-1.0), "noise_scale=-1.0"),
    ],
)
def test_what_cannot_be_done_is_refused(tmp_path, data, filters, message):
    hdf5.write(tmp_path / "made_up.hdf5", data)
    with pytest.raises(FilterError, match=message):
        trac.load(tmp_path / "made_up.hdf5", filters=filters)
