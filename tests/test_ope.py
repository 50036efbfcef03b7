"""Off-policy evaluation against exact values of tabular processes and cases computed by hand."""

import re

import numpy as np
import pytest
import torch
from conftest import make_arrays

import trac
from trac.baselines.cdt import CDTConfig, cdt
from trac.data.trajectories import from_arrays
from trac.ope import fitted_q, importance_sampling
from trac.policy import Policy
from trac.score import segment_score
from trac.teaching.cmdp import CMDP, policy_evaluation, sample_episodes, unroll

STEPS = 4
# In the second state there is more to earn and to pay; the second action goes there in most cases.
MOVES = np.array([[[0.9, 0.1], [0.2, 0.8]], [[0.7, 0.3], [0.1, 0.9]]])
WORLD = CMDP(MOVES, [[0, 1], [2, 3]], [[0, 0], [1, 2]], [0.5, 0.5], 0.9)


class Table:
    """A policy that takes action choices[s] in state s."""

    def __init__(self, *choices):
        self.choices = np.array(choices, dtype=np.float32)

    def act(self, observations):
        return self.choices[observations[:, 0].astype(int)][:, None]


def log_of(world=WORLD, steps=STEPS, episodes=4_000, behaviour=0.5, own=(0, 1)):
    """Episodes of a policy that takes the second action with that probability, with next observations."""
    table = np.tile([1 - behaviour, behaviour], (len(world.start), 1))
    # One more step says where the last one led; no process of these tests ends before.
    s, a = sample_episodes(world, table, episodes=episodes, steps=steps + 1, seed=0)
    ends = np.tile(np.arange(steps) == steps - 1, episodes)
    now = s[:, :-1].ravel(), a[:, :-1].ravel()
    return from_arrays(
        "small",
        observations=now[0][:, None],
        actions=now[1][:, None],
        rewards=world.rewards[now],
        costs=world.costs[now],
        terminals=np.zeros(len(ends)),
        timeouts=ends,
        next_observations=s[:, 1:].reshape(-1, 1),
        reward_range=own,
    )


def one_episode_each(rewards, costs, lengths):
    """A log of given rewards and costs with observations and actions of 0."""
    ends = np.zeros(len(rewards))
    ends[np.cumsum(lengths) - 1] = 1
    steps = dict(observations=np.zeros((len(ends), 1)), actions=np.zeros((len(ends), 1)))
    steps |= dict(rewards=rewards, costs=costs, terminals=ends, timeouts=np.zeros(len(ends)))
    return from_arrays("small", **steps, reward_range=(0, 1))


@pytest.mark.parametrize("gamma", [1.0, 0.8])
@pytest.mark.parametrize("choices", [(0, 0), (1, 0), (1, 1)])
def test_fitted_q_finds_the_exact_value_of_a_policy_that_did_not_make_the_log(choices, gamma):
    table = np.tile(np.eye(2)[list(choices)], (STEPS, 1))
    exact = policy_evaluation(unroll(WORLD, STEPS, gamma), table)
    found = fitted_q(log_of(), Table(*choices), gamma=gamma, updates=1_500, batch_size=256, hidden=(32, 32), tau=0.1)
    assert found == pytest.approx(exact, abs=0.25)  # the log's own values lie up to 3 away


def test_an_episode_that_ends_has_nothing_after_its_end():
    log = log_of()
    ends = (np.arange(len(log)) % 2).astype(bool)
    halves = from_arrays(
        "small",
        **{name: getattr(log, name) for name in ("observations", "actions", "rewards", "costs", "next_observations")},
        terminals=ends,
        timeouts=np.zeros(len(ends)),
        reward_range=(0, 1),
    )
    reached = np.stack([log.observations.reshape(-1, 2)[:, 0] == s for s in range(2)]).mean(1)
    world = CMDP(WORLD.transitions, WORLD.rewards, WORLD.costs, reached, 0.9)
    exact = policy_evaluation(unroll(world, 2), np.tile(np.eye(2)[[1, 1]], (2, 1)))
    found = fitted_q(halves, Table(1, 1), updates=1_500, batch_size=256, hidden=(32, 32), tau=0.1)
    assert found == pytest.approx(exact, abs=0.15)


def test_one_seed_gives_one_value_and_leaves_torch_as_it_was():
    log, before = log_of(episodes=50), torch.random.get_rng_state()
    found = [fitted_q(log, Table(1, 1), updates=20, seed=seed) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_log_without_cost_has_the_cost_0():
    world = CMDP(WORLD.transitions, WORLD.rewards, np.zeros((2, 2)), WORLD.start, 0.9)
    assert fitted_q(log_of(world, episodes=50), Table(0, 1), updates=20)[1] == pytest.approx(0, abs=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_the_value_is_the_same_but_for_the_draws():
    exact = policy_evaluation(unroll(WORLD, STEPS), np.tile(np.eye(2)[[1, 0]], (STEPS, 1)))
    found = fitted_q(log_of(), Table(1, 0), updates=1_500, batch_size=256, hidden=(32, 32), tau=0.1, device="cuda")
    assert found == pytest.approx(exact, abs=0.25)


def test_weights_by_hand():
    # Ratios of 3 and 1, then 1 and 1: weights up to each step 3, 3 and 1, 1.
    log = one_episode_each([1, 2, 5, 8], [0, 4, 0, 0], [2, 2])
    ratio = np.log([3, 1, 1, 1])
    found = importance_sampling(log, ratio, gamma=0.5)
    assert found[:2] == pytest.approx([(3 * 1 + 5) / 4 + 0.5 * (3 * 2 + 8) / 4, 0.5 * 3 * 4 / 4])
    np.testing.assert_allclose(found[2], 16 / 10)
    # Ratios of 1 and 3: at the first step both count alike by decision, and 3 to 1 by trajectory.
    late = np.log([1, 3, 1, 1])
    found = importance_sampling(log, late)
    assert found[:2] == pytest.approx([(1 + 5) / 2 + (3 * 2 + 8) / 4, 3])
    np.testing.assert_allclose(found[2], [2, 1.6])
    found = importance_sampling(log, late, per_decision=False)
    assert found[:2] == pytest.approx([(3 * 3 + 13) / 4, 3])
    np.testing.assert_allclose(found[2], [1.6, 1.6])


def test_the_ratio_may_be_a_tensor_with_a_gradient():
    data = trac.load("BallRun")
    ratio = torch.zeros(len(data), requires_grad=True)
    assert importance_sampling(data, ratio)[:2] == importance_sampling(data, np.zeros(len(data)))[:2]


def test_an_episode_that_has_ended_keeps_its_weight():
    log = one_episode_each([1, 2, 4], [0, 0, 1], [1, 2])
    found = importance_sampling(log, np.log([3, 1, 1]))
    assert found[:2] == pytest.approx([(3 * 1 + 2) / 4 + 4 / 4, 1 / 4])


@pytest.mark.parametrize("per_decision", [True, False])
def test_many_episodes_give_the_exact_value(per_decision):
    log = log_of(episodes=20_000, behaviour=0.5)
    chosen = np.array([0.2, 0.6])[log.observations[:, 0].astype(int)]  # probability of the second action
    ratio = np.log(np.where(log.actions[:, 0] == 1, chosen, 1 - chosen) / 0.5)
    exact = policy_evaluation(unroll(WORLD, STEPS), np.tile([[0.8, 0.2], [0.4, 0.6]], (STEPS, 1)))
    found = importance_sampling(log, ratio, per_decision=per_decision)
    assert found[:2] == pytest.approx(exact, abs=0.08)
    assert 1_000 < found[2][-1] < 20_000


def test_the_score_of_a_whole_episode_is_the_logarithm_of_its_weight():
    log = trac.load("BallRun")
    policies = [Policy(7, 2, hidden=(8,)).initialise(torch.Generator().manual_seed(seed)) for seed in range(2)]
    rows = torch.from_numpy(log.observations), torch.from_numpy(log.actions)
    with torch.no_grad():
        ratio = (policies[0].log_prob(*rows) - policies[1].log_prob(*rows)).double()
    score = segment_score(ratio.reshape(-1, 100), alpha=1.0, gamma=1.0).numpy()
    shares = np.exp(score - score.max()) / np.exp(score - score.max()).sum()
    found = importance_sampling(log, ratio, per_decision=False)
    assert found[:2] == pytest.approx([shares @ log.returns, shares @ log.episode_costs])
    assert found[2][0] == pytest.approx(1 / (shares**2).sum())


def test_weights_beyond_what_a_float_holds_do_no_harm():
    log = one_episode_each([1, 2, 4, 8], [0, 0, 1, 1], [2, 2])
    assert importance_sampling(log, [900, 900, -900, -900])[:2] == (3, 0)


@pytest.mark.parametrize("change", [dict(gamma=0), dict(gamma=1.1), dict(tau=0), dict(updates=0), dict(batch_size=0)])
def test_settings_out_of_range_are_refused(change):
    with pytest.raises(ValueError, match=re.escape(f"{next(iter(change))}={next(iter(change.values()))}")):
        fitted_q(log_of(episodes=5), Table(0, 0), **change)


def test_a_policy_of_another_shape_is_refused():
    class Wide:
        def act(self, observations):
            return np.zeros((len(observations), 2))

    with pytest.raises(ValueError, match=r"policy.act gave shape \(20, 2\) for \(20, 1\)"):
        fitted_q(log_of(episodes=5), Wide())
    with pytest.raises(ValueError, match="not finite"):
        fitted_q(log_of(episodes=5), Table(np.nan, 0))
    for action in (2, -2):
        with pytest.raises(ValueError, match=r"policy.act gave an action of 2: let it act in \[-1, 1\]"):
            fitted_q(log_of(episodes=5), Table(action, action))


def test_a_policy_with_a_memory_is_refused():
    config = CDTConfig(task="BallCircle", cost_limit=20, steps=2, batch_size=4, eval_episodes=0)
    data = from_arrays("BallCircle", **make_arrays())
    with pytest.raises(ValueError, match="a DecisionTransformer remembers the episode or draws its actions"):
        fitted_q(data, cdt(data, config, progress=False).policy, updates=1)


def test_what_is_no_ratio_is_refused():
    log = one_episode_each([1, 2], [0, 0], [2])
    for wrong in ([0.0], [0.0, np.inf]):
        with pytest.raises(ValueError, match="pass 2 finite numbers"):
            importance_sampling(log, wrong)
    with pytest.raises(ValueError, match="gamma=0"):
        importance_sampling(log, [0, 0], gamma=0)
    with pytest.raises(ValueError, match="above 0 in all 2 transitions.* Take their logarithm"):
        importance_sampling(log, np.exp([-1, 0.5]))
    with pytest.warns(UserWarning, match="below 0 in all 2 transitions: was log π_b subtracted"):
        importance_sampling(log, [-2, -0.5])
