"""CDT: its data and its windows by hand, its memory, and whether it does what it is asked for."""

import dataclasses
import math
import warnings

import numpy as np
import pytest
import torch
from baseline_cases import CPU, LONG, learner, one_state, small

import trac
from trac.baselines.cdt import CDTConfig, cdt, frontier, made_up, to_go
from trac.baselines.offline import seeded
from trac.config import ConfigError


def test_what_is_to_go_by_hand():
    values = np.array([1, 2, 3, 10, 20], dtype=np.float32)
    assert to_go(values, np.array([0, 3]), np.array([3, 2])).tolist() == [6, 5, 3, 30, 20]


def test_the_frontier_by_hand():
    costs, returns = np.array([0.0, 1, 1, 2, 3, 4]), np.array([1.0, 3, 2, 3, 5, 4])
    assert frontier(returns, costs).tolist() == [0, 1, 4]


def test_made_up_pairs_lie_beyond_the_frontier():
    generator = np.random.default_rng(0)
    costs = generator.uniform(0, 50, 200)
    returns = costs * 10 - generator.uniform(0, 200, 200)
    options = dict(share=0.2, degree=1, ceiling=600.0, decrease=100.0)
    which, gains, asked = made_up(returns, costs, **options, generator=np.random.default_rng(1))
    best = frontier(returns, costs)
    line = np.poly1d(np.polyfit(costs[best], returns[best], 1))
    assert (
        len(which) == 40
        and (gains >= line(asked) + 1 - 1e-6).all()
        and (gains <= np.maximum(600, line(asked) + 1)).all()
    )
    assert (costs[which] <= asked).all()  # who imitates it keeps the cost that was asked for
    again = made_up(returns, costs, **options, generator=np.random.default_rng(1))
    assert all(np.array_equal(x, y) for x, y in zip((which, gains, asked), again, strict=True))


def test_the_transformer_does_not_see_the_future(data):
    torch.manual_seed(0)
    policy = learner("cdt", data, layers=2).policy
    length = 6
    x = [torch.randn(1, length, 8), torch.randn(1, length, 2), *torch.randn(2, 1, length), torch.arange(length)[None]]
    means, logits = policy(*x)[0].mean, policy(*x)[1]
    for i in range(4):  # observations, actions, returns, costs
        changed = [part.clone() for part in x]
        changed[i][:, 3] += 1
        after = policy(*changed)
        # An action is seen by its own step's cost, but not by its own prediction.
        reach = 4 if i == 1 else 3
        assert torch.equal(after[0].mean[:, :reach], means[:, :reach])
        assert torch.equal(after[1][:, :3], logits[:, :3])
        assert not torch.equal(after[0].mean[:, reach], means[:, reach])
        assert not torch.equal(after[1][:, 3], logits[:, 3])


def test_acting_step_by_step_is_reading_the_window(data):
    policy = learner("cdt", data, context=4).policy
    torch.manual_seed(0)
    for p in policy.parameters():
        torch.nn.init.normal_(p, std=0.2)
    policy.aim(30.0, 5.0)
    rewards, costs, taken = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [0, 1, 0, 1, 1, 0], []
    policy.start(0)
    for t in range(6):
        taken.append(policy.act(data.observations[t]))
        policy.observe(rewards[t], costs[t])
    returns = torch.tensor([3.0 - 0.1 * sum(rewards[:t]) for t in range(2, 6)])
    paid = torch.tensor([5.0 - sum(costs[:t]) for t in range(2, 6)])
    actions = torch.tensor(np.array(taken))[2:].clone()
    actions[-1] = 7.0  # not seen
    window = torch.as_tensor(data.observations[2:6])
    following, _ = policy(*(x[None] for x in (window, actions, returns, paid, torch.arange(2, 6))))
    torch.testing.assert_close(following.mean[0, -1].clamp(-1, 1), torch.tensor(taken[5]))
    with pytest.raises(RuntimeError, match="call observe"):
        policy.start(0)
        policy.act(data.observations[0])
        policy.act(data.observations[0])


def test_windows_stay_in_their_episode_and_carry_what_is_to_go(data):
    method = learner("cdt", data, context=10, augment=0.5, reward_scale=0.1, sampling_cost=100.0)
    with seeded(CPU, 0):
        batch = method.batch()
    assert 0 < batch["mask"].float().mean() < 1
    real = 0
    for i in range(16):
        mask = batch["mask"][i]
        (row,) = np.flatnonzero((data.observations == batch["observations"][i, 0].numpy()).all(1))
        episode = np.searchsorted(data.starts, row, side="right") - 1
        left = data.starts[episode] + data.lengths[episode] - row
        assert mask.sum() == min(10, left) and batch["times"][i, 0] == row - data.starts[episode]
        rows = slice(row, row + int(mask.sum()))
        np.testing.assert_array_equal(batch["actions"][i][mask], data.actions[rows])
        # Within a window what is to go falls by what came, whether the episode's sums are real or made up.
        steps = -np.diff(batch["returns"][i][mask])
        np.testing.assert_allclose(steps, 0.1 * data.rewards[rows][:-1], atol=1e-4)
        expected = 0.1 * data.rewards[row : row + left].sum()
        real += abs(float(batch["returns"][i, 0]) - expected) < 1e-3
    assert 0 < real < 16


def test_the_loss_of_a_transformer_that_knows_nothing(data):
    """Its heads give zeros: a standard normal for each action, and even odds that a step costs."""
    method = learner("cdt", data, temperature=0.1)
    with torch.no_grad():
        method.policy.action_head.weight.zero_()
        method.policy.cost_head.weight.zero_()
    with seeded(CPU, 0):
        batch = method.batch()
    method.step = 1
    metrics = {name: float(value.detach()) for name, value in method.update(batch).items()}
    mask, constant = batch["mask"], math.log(2 * math.pi)
    log_prob, entropy = -(float((batch["actions"][mask] ** 2).mean()) + constant) / 2, (1 + constant) / 2
    expected = dict(log_prob=log_prob, entropy=entropy, policy_loss=-(log_prob + 0.1 * entropy))
    assert 0 < mask.float().mean() < 1
    for name, value in (expected | dict(cost_loss=math.log(2) * float(mask.float().mean()))).items():
        assert metrics[name] == pytest.approx(value, rel=1e-5), name
    # The entropy is above its target, -2: the temperature falls, by Adam's rate at first.
    assert float(method.log_temperature.detach()) == pytest.approx(math.log(0.1) - 1e-4, abs=1e-6)


def test_cdt_asks_for_the_best_safe_return_unless_told(data):
    assert learner("cdt", data).policy.target.tolist() == pytest.approx(
        [0.1 * data.returns[data.episode_costs <= 8].max(), 8]
    )
    assert learner("cdt", data, target_return=12.0).policy.target.tolist() == pytest.approx([1.2, 8])
    costly = dataclasses.replace(data, costs=data.costs + 1)
    with pytest.raises(ConfigError, match="none costs at most cost_limit=8 and less than sampling_cost=70"):
        learner("cdt", costly)


def test_a_refused_run_leaves_no_folder_behind(tmp_path, data):
    costly, kept = dataclasses.replace(data, costs=data.costs + 1), tmp_path / "kept"
    kept.mkdir()
    for out in (tmp_path / "run", kept):
        with pytest.raises(ConfigError, match="no episode to take target_return from"):
            cdt(costly, small("cdt"), out=out, progress=False)
    assert kept.is_dir() and not (tmp_path / "run").exists()


def test_cdt_needs_no_next_observations(data):
    alone = dataclasses.replace(data, _next=None)
    one, other = (learner("cdt", log) for log in (data, alone))
    for step in (1, 2):
        one.advance(step)
        other.advance(step)
    assert all(torch.equal(one.state[name], x) for name, x in other.state.items())


def test_a_policy_whose_state_is_loaded_acts_for_that_states_target(data):
    policy = learner("cdt", data).policy
    fresh = type(policy)(**policy.settings)
    fresh.load_state_dict(policy.state_dict())
    observation = data.observations[0]
    assert (fresh.act(observation) == policy.act(observation)).all()
    assert fresh.wanted == policy.wanted != [[0.0, 0.0]]


@pytest.mark.slow
def test_a_score_under_another_limit_than_the_one_aimed_at_is_told(data):
    policy = learner("cdt", data).policy.aim(100.0, 0.1)
    options = dict(task="BallCircle", episodes=1, workers=1)
    with pytest.warns(UserWarning, match="aims at an episode cost of 0.1 and is scored under cost_limit=20: call"):
        trac.evaluate(policy, cost_limit=20, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for limit in (0.1, math.inf):
            trac.evaluate(policy, cost_limit=limit, **options)


def test_a_normalised_return_as_the_target_is_told(data):
    policy = learner("cdt", data).policy
    for target in (0.9, 1e6):
        policy.aim(target, 8)
        with pytest.warns(UserWarning, match="aims at a return of .*, and those of .* go from .*: it is a return, not"):
            trac.evaluate(policy, task=data.task, cost_limit=8, episodes=1, workers=1)


def test_cdt_does_what_it_is_asked_for():
    changes = dict(batch_size=32, width=32, heads=2, layers=1, context=5, augment=0.0, sampling_cost=200.0)
    config = CDTConfig(**(LONG | changes), steps=1_500, learning_rate=1e-3, cost_limit=25)
    policy = cdt(one_state(), config, device="cpu", progress=False).policy
    for action in (-0.5, 0.2, 0.5, 0.8):
        # The return and the cost of an episode of this action, which the data does not hold as such.
        policy.aim(100 * action, 100 * max(action, 0) ** 2)
        taken = []
        for _ in range(100):
            taken.append(float(policy.act(np.ones(1))[0]))
            policy.observe(taken[-1], max(taken[-1], 0) ** 2)
        assert np.mean(taken) == pytest.approx(action, abs=0.03)


def test_the_target_is_the_return_of_an_episode_that_can_be_drawn(data):
    costs = data.episode_costs
    method = learner(
        "cdt", data, cost_limit=float(costs.max()), sampling_cost=float(np.median(costs)), reward_scale=1.0
    )
    assert float(method.policy.target[0]) == pytest.approx(data.returns[costs < np.median(costs)].max(), rel=1e-6)
    assert data.returns.max() > float(method.policy.target[0])
