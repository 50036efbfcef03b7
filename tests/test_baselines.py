"""The offline baselines: losses by hand, tabular problems with known answers, and the training loop around them."""

import dataclasses
import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from torch.distributions import Normal, kl_divergence

import trac
from trac import cmdp, trajectories
from trac.baselines import lagrangian, learner_of, losses, networks
from trac.baselines.bcq_lag import BCQLagConfig, bcq_lag
from trac.baselines.bear_lag import BEARLagConfig, bear_lag, discrepancy
from trac.baselines.cdt import CDTConfig, cdt, frontier, made_up, to_go
from trac.baselines.coptidice import COptiDICEConfig, advantage, coptidice, divergence, dual_loss, inverse_slope
from trac.baselines.cpq import CPQConfig, cpq, penalised, unseen_cost
from trac.baselines.learner import seeded, transitions
from trac.config import ConfigError
from trac.train import TrainingError

CPU = torch.device("cpu")
TRAIN = dict(bcq_lag=bcq_lag, bear_lag=bear_lag, cdt=cdt, coptidice=coptidice, cpq=cpq)
METHODS = {name: learner_of(name) for name in TRAIN}
SMALL = dict(cost_limit=8, steps=30, batch_size=16, eval_episodes=0, log_every=10)


def small(name, **changes):
    """A config with which the made-up data of conftest.py trains in a moment."""
    shape = dict(width=16, heads=2, layers=1) if name == "cdt" else dict(hidden=(16, 16))
    return METHODS[name].Config(**(SMALL | shape | changes))


def learner(name, data, **changes):
    return METHODS[name](small(name, **changes), data, CPU)


def same(a, b):
    a, b = a.named(), b.named()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- what the methods share


def test_the_limit_is_the_discounted_sum_of_equal_costs():
    gamma, horizon, limit = 0.97, 200, 20.0
    assert losses.discounted_limit(limit, gamma, horizon) == pytest.approx(
        sum(gamma**t * limit / horizon for t in range(horizon))
    )
    assert losses.discounted_limit(limit, 1.0, horizon) == limit


def test_each_method_puts_the_limit_on_its_own_scale(data):
    # BallCircle has 200 steps: 8 (1 - 0.99^200) / (0.01 · 200).
    expected = 8 * (1 - 0.99**200) / 2
    for name in ("cpq", "bcq_lag", "bear_lag"):
        assert learner(name, data).limit() == pytest.approx(expected)
    assert learner("coptidice", data).limit() == pytest.approx(0.01 * expected)
    assert learner("coptidice", data, normalized_limit=False).limit() == pytest.approx(expected)


def test_the_vaes_divergence_is_the_closed_form():
    torch.manual_seed(0)
    mean, std = torch.randn(5, 3), torch.rand(5, 3) + 0.1
    expected = kl_divergence(Normal(mean, std), Normal(0.0, 1.0))
    torch.testing.assert_close(networks.kl_to_standard_normal(mean, std), expected)
    assert networks.kl_to_standard_normal(torch.zeros(1), torch.ones(1)) == 0


def test_an_ensemble_is_its_members():
    torch.manual_seed(0)
    ensemble, x = networks.Ensemble(3, [4, 8, 8]), torch.randn(5, 4)
    for k, values in enumerate(ensemble(x[:, :1], x[:, 1:])):
        y = x
        for i, (weight, bias) in enumerate(zip(ensemble.weights, ensemble.biases, strict=True)):
            y = (y if i == 0 else y.relu()) @ weight[k] + bias[k]
        torch.testing.assert_close(values, y[:, 0])


def test_the_best_of_several_actions_by_hand():
    # Two halves of two networks, one observation, two actions: halves' minima (1, 4) and (2, 3).
    values = torch.tensor([[1.0, 5.0], [3.0, 4.0], [2.0, 9.0], [7.0, 3.0]])
    assert lagrangian.pessimistic(values).tolist() == [[1, 4], [2, 3]]
    # 0.75 min + 0.25 max: 1.25 and 3.25.
    assert lagrangian.mixed_maximum(values, samples=2, mixture=0.75).tolist() == [3.25]


def test_bellman_targets_and_losses_by_hand():
    target = losses.bellman_target(torch.tensor([1.0, 1.0]), torch.tensor([10.0, 10.0]), 0.9, torch.tensor([0.0, 1.0]))
    assert target.tolist() == [10, 1]
    assert losses.critic_loss(torch.tensor([[10.0, 3.0], [9.0, 1.0]]), target) == 2 + 0.5


def test_the_controller_by_hand():
    controller = lagrangian.PID((0.1, 0.01, 1.0))
    found = [float(controller(torch.tensor(excess))) for excess in (2.0, 3.0, -1.0, -9.0)]
    assert found == pytest.approx([0.2 + 0.02 + 2, 0.3 + 0.05 + 1, 0.04, 0.0])


def limited(problem):
    """A limit halfway between the costs of the best policy and of the cheapest one, and the linear program's answer."""
    most = cmdp.solve(problem).expected_cost
    least = cmdp.solve(dataclasses.replace(problem, rewards=-problem.costs)).expected_cost
    return (most + least) / 2, cmdp.solve(problem, (most + least) / 2)


def test_the_controller_finds_the_multiplier_of_the_linear_program():
    generator = np.random.default_rng(0)
    problem = cmdp.CMDP(
        0.9 * generator.dirichlet(np.ones(5), (5, 3)), *generator.random((2, 5, 3)), np.full(5, 0.2), gamma=0.9
    )
    limit, exact = limited(problem)
    controller, multiplier = lagrangian.PID((0.01, 0.02, 0.0)), 0.0
    for _ in range(150):
        # The best answer jumps where two actions are equally good; a small temperature smooths it.
        answer = cmdp.soft_value_iteration(problem, np.full((5, 3), 1 / 3), 0.005, multiplier).policy
        cost = cmdp.evaluate(problem, answer)[1]
        multiplier = float(controller(torch.tensor(cost - limit)))
    assert exact.multiplier > 0.1 and multiplier == pytest.approx(exact.multiplier, rel=0.05)
    assert cost == pytest.approx(limit, abs=1e-3)


def test_a_cost_critics_fixed_point_is_the_exact_discounted_cost():
    """One-hot pairs, all of them equally often, and a uniform policy: the regression's solution is exact."""
    generator = np.random.default_rng(0)
    states, actions = 4, 2
    following = generator.integers(states, size=(states, actions))
    problem = cmdp.CMDP(
        np.eye(states)[following],
        np.zeros((states, actions)),
        generator.random((states, actions)),
        np.full(states, 1 / states),
        0.8,
    )
    s, a, a_next = (x.ravel() for x in np.indices((states, actions, actions)))
    pairs = torch.eye(states * actions)
    now, then = pairs[s * actions + a], pairs[following[s, a] * actions + a_next]
    costs = torch.tensor(problem.costs[s, a], dtype=torch.float32)
    torch.manual_seed(0)
    critic = networks.Ensemble(2, [states * actions])
    target, optimizer = losses.target_of(critic), losses.adam(critic.parameters(), 0.02)
    for _ in range(2_000):
        goal = losses.bellman_target(costs, target(then).amin(0), problem.gamma)
        losses.descend(optimizer, losses.critic_loss(critic(now), goal))
        losses.soft_update(target, critic, 0.05)
    values = cmdp.values(problem, np.full((states, actions), 0.5), problem.costs)
    exact = problem.costs + problem.gamma * problem.transitions @ values
    np.testing.assert_allclose(critic(pairs).detach()[0].view(states, actions), exact, atol=2e-3)


def test_soft_updates_and_gradients_stay_where_they_belong():
    one, two = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    target, before = losses.target_of(one), [p.clone() for p in two.parameters()]
    loss = (one(torch.ones(1, 2)) * two(torch.ones(1, 2))).sum()
    losses.descend(torch.optim.SGD(one.parameters(), 0.5), loss)
    assert all(p.grad is None for p in two.parameters())
    assert all(torch.equal(p, q) for p, q in zip(two.parameters(), before, strict=True))
    expected = 0.9 * target.weight + 0.1 * one.weight
    losses.soft_update(target, one, 0.1)
    torch.testing.assert_close(target.weight, expected)
    assert not target.weight.requires_grad


def test_a_key_gives_the_same_draws_and_leaves_no_trace():
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    draws = []
    for key in ((1, 2), (1, 2), (1, 3)):
        with seeded(CPU, *key):
            draws.append(torch.rand(3))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.rand(2), expected)


def test_transitions_say_where_episodes_begin_and_end(data):
    flat = transitions(data, CPU, reward_scale=0.1)
    assert flat["first"].nonzero()[:, 0].tolist() == data.starts.tolist()
    assert flat["done"].nonzero()[:, 0].tolist() == (data.starts + data.lengths - 1).tolist()
    np.testing.assert_allclose(flat["rewards"], 0.1 * data.rewards, rtol=1e-6)
    np.testing.assert_array_equal(flat["next_observations"], data.next_observations)


# --- CPQ


def test_cpq_gives_no_credit_above_the_limit():
    q, cost = torch.tensor([1.0, 2.0, 3.0], requires_grad=True), torch.tensor([0.5, 1.0, 1.5])
    credit = penalised(q, cost, limit=1.0)
    assert credit.tolist() == [1, 2, 0]
    credit.sum().backward()
    assert q.grad.tolist() == [1, 1, 0]


def test_cpq_averages_over_the_unseen_actions_alone():
    kl = torch.tensor([[0.0, 9.0], [1.0, 2.0], [3.0, 4.0], [8.0, 5.0]])
    cost = torch.arange(8.0).view(4, 2)
    assert unseen_cost(cost, kl, share=0.25) == (1.0 + 6.0) / 2  # the two largest of eight


def test_cpqs_penalty_raises_the_cost_of_unseen_actions(data):
    flat = dataclasses.replace(data, costs=np.zeros_like(data.costs))
    found = {}
    for penalty in (True, False):
        method = learner("cpq", flat, penalty=penalty, alpha_learning_rate=1e-2, critic_learning_rate=1e-2)
        for step in range(1, 81):
            method.advance(step)
        with seeded(CPU, 0):
            found[penalty] = float(method._unseen_cost(method.data["observations"]).detach())
    # Nothing costs in the data, so that without the penalty no action does.
    assert found[True] > 5 * abs(found[False]) and abs(found[False]) < 0.5


def test_cpqs_penalty_reaches_the_cost_critic_alone(data):
    method = learner("cpq", data)
    method._unseen_cost(method.data["observations"][:32]).backward()
    touched = {name.split(".")[0] for name, p in method.named_parameters() if p.grad is not None}
    assert touched == {"cost_critic"}


@pytest.mark.parametrize(("bias", "frozen"), [(1e3, 1), (-1e3, 0)])
def test_cpq_is_frozen_where_all_actions_are_above_the_limit(data, bias, frozen):
    method = learner("cpq", data)
    with torch.no_grad():
        method.cost_critic.biases[-1].fill_(bias)
    before = [p.clone() for p in method.policy.parameters()]
    method.advance(1)
    moved = any(not torch.equal(p, q) for p, q in zip(method.policy.parameters(), before, strict=True))
    metrics = method.read()
    assert (metrics["frozen"], metrics["safe"], moved) == (frozen, 1 - frozen, not frozen)


# --- BCQ-Lag and BEAR-Lag


def test_bcqs_perturbation_is_bounded_and_its_codes_follow_the_seed(data):
    policy = learner("bcq_lag", data, phi=0.05).policy
    s, a = torch.as_tensor(data.observations), torch.as_tensor(data.actions)
    moved = policy.perturbation(s, a)
    assert (moved - a).abs().max() <= 0.05 + 1e-6 and moved.abs().max() <= 1 and not torch.equal(moved, a)
    taken = []
    for seed in (1, 1, 2):
        policy.start(seed)
        taken.append([policy.act(data.observations[0]).tolist() for _ in range(2)])
    assert taken[0] == taken[1] != taken[2] and taken[0][0] != taken[0][1]


@pytest.mark.parametrize(("kernel", "exponent"), [("gaussian", 4 + 9), ("laplacian", 2 + 3)])
def test_the_discrepancy_of_two_points(kernel, exponent):
    first, second = torch.zeros(1, 4, 2), torch.tensor([2.0, 3.0]).expand(1, 5, 2)
    expected = math.sqrt(2 - 2 * math.exp(-exponent / (2 * 7.0)) + 1e-6)
    assert float(discrepancy(first, second, 7.0, kernel)) == pytest.approx(expected)
    assert float(discrepancy(first, first, 7.0, kernel)) == pytest.approx(1e-3)


def test_the_penalty_of_the_lagrangian_by_hand(data):
    method = learner("bcq_lag", data, pid=(0.5, 0.25, 0.0), cost_limit=0.0)
    s, a = method.data["observations"][:4], method.data["actions"][:4]
    for bias, sign in ((method.cost_critic.biases, 3.0), (method.critic.biases, 2.0)):
        with torch.no_grad():
            bias[-1].fill_(sign)
    for ensemble in (method.critic, method.cost_critic):
        with torch.no_grad():
            ensemble.weights[-1].zero_()
    q, penalty, metrics = method.lagrangian(s, a)
    assert q.tolist() == [2] * 4 and float(metrics["multiplier"]) == 0.75 * 3 and float(penalty.detach()) == 0.75 * 9
    assert method.controller.integral == 3  # it counts on with the next update
    method.lagrangian(s, a)
    assert method.controller.integral == 6


# --- COptiDICE


def test_the_divergence_and_the_inverse_of_its_slope():
    w = torch.linspace(0.05, 4, 80, requires_grad=True)
    (slope,) = torch.autograd.grad(divergence(w).sum(), w)
    torch.testing.assert_close(inverse_slope(slope), w.detach())
    assert divergence(torch.ones(1)) == 0 and divergence(torch.zeros(1)) == pytest.approx(1)
    # The w that maximises w e - α f(w), by search.
    alpha, grid = 0.5, torch.linspace(0, 8, 800_001, dtype=torch.float64)
    for e in (-1.0, -0.1, 0.4, 2.0):
        best = grid[(grid * e - alpha * divergence(grid)).argmax()]
        assert float(inverse_slope(torch.tensor(e / alpha))) == pytest.approx(float(best), abs=1e-4)


def test_the_advantage_by_hand():
    batch = dict(rewards=torch.tensor([1.0, 1.0]), costs=torch.tensor([2.0, 0.0]), done=torch.tensor([0.0, 1.0]))
    e = advantage(batch, torch.tensor([4.0, 4.0]), torch.tensor([10.0, 10.0]), torch.tensor(0.5), 0.9)
    assert e.tolist() == pytest.approx([1 - 1 + 9 - 4, 1 - 4])


def test_the_tabular_dual_of_coptidice_reaches_the_linear_program():
    generator = np.random.default_rng(3)
    states, actions, gamma = 5, 3, 0.8
    following = generator.integers(states, size=(states, actions))
    start = np.eye(states)[0]
    problem = cmdp.CMDP(
        np.eye(states)[following],
        generator.random((states, actions)),
        generator.random((states, actions)),
        start,
        gamma,
    )
    limit, exact = limited(problem)

    s, a = (x.ravel() for x in np.indices((states, actions)))
    batch = dict(
        rewards=torch.tensor(problem.rewards[s, a]),
        costs=torch.tensor(problem.costs[s, a]),
        done=torch.zeros(len(s), dtype=torch.float64),
    )
    nu = torch.zeros(states, dtype=torch.float64, requires_grad=True)
    multiplier = torch.tensor(1.0, dtype=torch.float64)
    now, then, alpha = torch.tensor(s), torch.tensor(following[s, a]), 0.01
    first = torch.tensor(start[s] * len(s) / actions)  # its mean weighs ν(s_0) with 1

    def loss():
        e = advantage(batch, nu[now], nu[then], multiplier, gamma)
        return dual_loss(e, nu[now] * first, alpha, gamma)

    def closure():
        nu.grad = None
        value = loss()
        value.backward()
        return value

    # The dual is convex in the multiplier too: bisect on its slope, limit - cost.
    low, high = 0.0, 10.0
    for _ in range(40):
        multiplier = torch.tensor((low + high) / 2, dtype=torch.float64)
        # A new one each time: its picture of the curvature belongs to one multiplier.
        optimizer = torch.optim.LBFGS([nu], max_iter=500, tolerance_change=0, line_search_fn="strong_wolfe")
        optimizer.step(closure)
        with torch.no_grad():
            w = inverse_slope(advantage(batch, nu[now], nu[then], multiplier, gamma) / alpha)
        cost = float((w * batch["costs"]).mean()) / (1 - gamma)
        low, high = (float(multiplier), high) if cost > limit else (low, float(multiplier))

    visits = (w / len(s) / (1 - gamma)).view(states, actions).numpy()
    policy = visits / visits.sum(1, keepdims=True)
    # w D are the visits of the policy that it makes, whose cost is the limit.
    np.testing.assert_allclose(visits, cmdp.occupancy(problem, policy), atol=1e-4)
    worth, spent = cmdp.evaluate(problem, policy)
    assert spent == pytest.approx(limit, abs=1e-3)
    # Within what the divergence costs of the best return; the multiplier is the linear program's, but for α.
    price = alpha * float(divergence(w).mean()) / (1 - gamma)
    assert exact.expected_return - price - 1e-3 <= worth <= exact.expected_return + 1e-3
    assert float(multiplier) == pytest.approx(exact.multiplier, rel=0.1)
    # The dual's value, with λ l, is the regularised optimum.
    assert (float(loss().detach()) + float(multiplier) * limit * (1 - gamma)) / (1 - gamma) == pytest.approx(
        worth - price, abs=1e-3
    )


def test_the_bound_of_the_cost_is_above_the_estimate(data):
    method = learner("coptidice", data)
    batch = {name: values[:200] for name, values in method.data.items()}
    w, first = torch.ones(200), batch["first"] / method.first
    for _ in range(20):
        bound, metrics = method._cost_bound(batch, w, first)
    assert bound > batch["costs"].mean() and metrics["kl"] > 0


# --- CDT


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


def test_cdt_asks_for_the_best_safe_return_unless_told(data):
    assert learner("cdt", data).policy.target.tolist() == pytest.approx(
        [0.1 * data.returns[data.episode_costs <= 8].max(), 8]
    )
    assert learner("cdt", data, target_return=12.0).policy.target.tolist() == pytest.approx([1.2, 8])
    costly = dataclasses.replace(data, costs=data.costs + 1)
    with pytest.raises(ConfigError, match="no episode is within cost_limit=8 to take target_return from"):
        learner("cdt", costly)


# --- the loop


@pytest.mark.parametrize("name", METHODS)
def test_the_same_seed_gives_the_same_bits_also_when_resumed(name, data, tmp_path):
    config = small(name)
    whole = TRAIN[name](data, config, device="cpu", progress=False)
    other = TRAIN[name](data, config.replace(seed=1), device="cpu", progress=False)
    assert not same(whole.policy, other.policy)

    class Stop(Exception):
        pass

    method, advance = METHODS[name], METHODS[name].advance

    def interrupted(self, step):
        if step == 18:
            raise Stop
        advance(self, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(method, "advance", interrupted)
        with pytest.raises(Stop):
            TRAIN[name](data, config, device="cpu", progress=False, out=tmp_path, checkpoint_every=7)
    resumed = TRAIN[name](data, config, device="cpu", progress=False, out=tmp_path, resume=True)
    assert same(whole.policy, resumed.policy)
    pd.testing.assert_frame_equal(whole.history, resumed.history)
    assert whole.history.step.tolist() == [10, 20, 30]

    loaded = trac.load_run(tmp_path)
    assert loaded.config == config and loaded.record["algorithm"] == name and same(loaded.policy, whole.policy)
    for policy in (loaded.policy, whole.policy):
        if hasattr(policy, "start"):
            policy.start(3)
    np.testing.assert_array_equal(loaded.policy.act(data.observations[0]), whole.policy.act(data.observations[0]))


@pytest.mark.parametrize("name", METHODS)
def test_an_episode_is_the_same_in_any_process(name):
    data = trac.load("BallRun")
    policy = learner(name, data, task="BallRun").policy
    options = dict(task="BallRun", cost_limit=20, episodes=2, seed=0)
    one, two = (trac.evaluate(policy, **options, workers=workers).episodes for workers in (1, 2))
    pd.testing.assert_frame_equal(one, two)
    assert one["return"].nunique() == 2


def test_a_list_of_configs_trains_one_after_the_other(data, tmp_path):
    configs = [small("cpq"), small("cpq", seed=1, batch_size=8)]
    runs = cpq(data, configs, device="cpu", progress=False, out=tmp_path)
    for config, run in zip(configs, runs, strict=True):
        assert run.config == config and same(run.policy, cpq(data, config, device="cpu", progress=False).policy)
    assert trac.load_run(tmp_path / "001").config == configs[1]


def test_evaluations_stand_in_the_history_and_choose_the_best(data):
    config = small("coptidice", eval_every=10, eval_episodes=1)
    run = coptidice(data, config, device="cpu", progress=False)
    scores = run.history[["normalized_reward", "normalized_cost"]]
    assert scores.notna().all().all()
    row = run.history.assign(excess=scores.normalized_cost.clip(lower=1)).sort_values(
        ["excess", "normalized_reward"], ascending=[True, False]
    )
    result = trac.evaluate(run.best, task=config.task, cost_limit=8, episodes=1, seed=config.seed)
    assert result.episodes["return"][0] == row["return"].iloc[0]


def test_a_run_that_diverges_is_named(data):
    configs = [small("bcq_lag", critic_learning_rate=1e30), small("bcq_lag")]
    with pytest.raises(TrainingError, match="not finite in run 0 at update 10; 1 of 2 runs are finished") as caught:
        bcq_lag(data, configs, device="cpu", progress=False)
    assert [run.record["failed_step"] for run in caught.value.runs] == [10, None]


def test_what_is_wrong_is_refused(data, tmp_path):
    with pytest.raises(ConfigError, match="cpq takes a CPQConfig, and this is a BCQLagConfig"):
        cpq(data, small("bcq_lag"))
    with pytest.raises(ConfigError, match="the config is for BallRun and the data is of BallCircle"):
        cpq(data, small("cpq", task="BallRun"), progress=False)
    cpq(data, small("cpq"), device="cpu", progress=False, out=tmp_path)
    with pytest.raises(ConfigError, match="holds a run already"):
        cpq(data, small("cpq"), progress=False, out=tmp_path)
    with pytest.raises(ConfigError, match="gamma of run 0 was 0.99, now 0.9"):
        cpq(data, small("cpq", gamma=0.9), device="cpu", progress=False, out=tmp_path, resume=True)


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (CPQConfig, dict(cost_limit=math.inf), "cost_limit=inf must be 0 or more and finite"),
        (CPQConfig, dict(cost_limit=-1), "cost_limit=-1"),
        (CPQConfig, dict(gamma=0), "gamma=0 must lie in"),
        (CPQConfig, dict(steps=0), "steps=0 must be at least 1"),
        (CPQConfig, dict(critic_learning_rate=0), "critic_learning_rate=0 must be above 0"),
        (CPQConfig, dict(margin=-1), "margin=-1 must be 0 or more"),
        (CPQConfig, dict(gama=1), "'gama' is not a field of CPQConfig: did you mean gamma"),
        (BCQLagConfig, dict(task="BallRum"), "did you mean BallRun"),
        (BEARLagConfig, dict(kernel="cosine"), "kernel='cosine' must be one of"),
        (COptiDICEConfig, dict(gamma=1.0), "gamma=1.0 must be below 1"),
        (CDTConfig, dict(heads=3), "width=64 must be a multiple of heads=3"),
        (CDTConfig, dict(dropout=1.0), "dropout=1.0"),
    ],
)
def test_bad_configs_are_refused(config, change, message):
    with pytest.raises(ValueError, match=message):
        config().replace(**change)


def test_the_benchmarks_settings():
    config = CPQConfig.osrl("BallRun", 20, seed=10)
    assert (config.steps, config.batch_size, config.hidden, config.vae_hidden) == (100_000, 512, (256, 256), 400)
    assert (config.actor_learning_rate, config.critic_learning_rate, config.margin) == (1e-4, 1e-3, 1.5)
    assert CPQConfig.osrl("easysparse", 10).steps == 200_000
    config = BCQLagConfig.osrl("BallRun", 20)
    assert (config.phi, config.mixture, config.pid, config.critics) == (0.05, 0.75, (0.1, 0.003, 0.001), 2)
    config = BEARLagConfig.osrl("BallRun", 20)
    assert (config.mmd_sigma, config.mmd_limit, config.mmd_samples, config.kernel) == (50, 0.05, 10, "gaussian")
    config = COptiDICEConfig.osrl("BallRun", 20)
    assert (config.alpha, config.cost_epsilon, config.scalar_learning_rate) == (0.5, 0.01, 1e-4)
    config = CDTConfig.osrl("BallCircle", 20)
    assert (config.target_return, config.degree, config.ceiling, config.batch_size) == (750, 2, 1000, 2048)
    assert (config.width, config.layers, config.heads, config.dropout) == (128, 3, 8, 0.1)
    with pytest.raises(ConfigError, match="no target return is known for BallCircle at cost_limit=30"):
        CDTConfig.osrl("BallCircle", 30)


def test_importing_one_method_leaves_the_others_unloaded():
    code = "import sys, trac.baselines.bc; print(*sorted(m for m in sys.modules if m.startswith('trac.baselines')))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.split() == ["trac.baselines", "trac.baselines.bc"]


def test_configs_survive_json():
    for method in METHODS.values():
        config = method.Config(seed=3)
        assert method.Config.from_dict(config.to_dict()) == config


# --- whole runs with a known answer

LONG = dict(task="BallRun", seed=0, eval_episodes=0, reward_scale=1.0, batch_size=128, log_every=500)


def one_state(reward=lambda a: a, cost=lambda a: np.maximum(a, 0) ** 2):
    """The same observation always; each of 60 episodes of 100 steps has an action of its own.

    Reward a, cost (a)+²: under a limit of 25 a step may cost 1/4, and the best action is 1/2. Without a limit it is 1.
    """
    generator = np.random.default_rng(0)
    centres = np.repeat(generator.uniform(-1, 1, 60), 100)
    actions = np.clip(centres + 0.1 * generator.standard_normal(6000), -1, 1)
    timeouts = (np.arange(6000) % 100 == 99).astype(float)
    return trajectories.from_arrays(
        "BallRun",
        observations=np.ones((6000, 1)),
        next_observations=np.ones((6000, 1)),
        actions=actions[:, None],
        rewards=reward(actions),
        costs=cost(actions),
        terminals=np.zeros(6000),
        timeouts=timeouts,
    )


def episode_cost(policy):
    """Mean over sampled actions of (a)+², times 100 steps."""
    costs = []
    for seed in range(50):
        if hasattr(policy, "start"):
            policy.start(seed)
        costs.append(max(float(policy.act(np.ones(1))[0]), 0.0) ** 2)
    return 100 * np.mean(costs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("bcq_lag", dict(tau=0.05, vae_hidden=32, phi=0.95)),
        ("bear_lag", dict(tau=0.05, vae_hidden=32, mmd_limit=1.0)),
        ("coptidice", dict(alpha=0.05, critics=1)),
    ],
)
def test_a_limit_is_met_and_used(name, changes):
    config = METHODS[name].Config(**LONG, **changes, gamma=0.9, hidden=(32, 32), steps=1_500)
    kept, free = (
        episode_cost(TRAIN[name](one_state(), config.replace(cost_limit=limit), device="cpu", progress=False).policy)
        for limit in (25.0, 100.0)
    )
    # The linear program over 41 actions agrees with the answer by hand.
    actions = np.linspace(-1, 1, 41)
    problem = cmdp.CMDP(np.ones((1, 41, 1)), actions[None], np.maximum(actions, 0)[None] ** 2, [1], 0.9)
    limit = losses.discounted_limit(25.0, 0.9, 100)
    assert actions[cmdp.solve(problem, limit).policy[0].argmax()] == pytest.approx(0.5)
    assert 15 < kept < 35 and free > 50


def two_peaks(a):
    """1 at 0.6 and 0.6 at -0.5, with a valley at 0."""
    return np.exp(-(((a - 0.6) / 0.35) ** 2)) + 0.6 * np.exp(-(((a + 0.5) / 0.35) ** 2))


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "best"), [(30.0, -0.5), (200.0, 0.6)])
def test_cpq_takes_the_peak_that_the_limit_allows(limit, best):
    """A step costs 1 above 0: without a limit the higher peak is best; the best that costs nothing is the lower one.

    That is away from the edge, so that the policy is not frozen there.
    """
    grid = np.linspace(-1, 1, 41)
    problem = cmdp.CMDP(np.ones((1, 41, 1)), two_peaks(grid)[None], (grid > 0.01)[None] * 1.0, [1], 0.5)
    exact = cmdp.solve(problem, 0.0 if limit < 100 else math.inf)
    assert grid[exact.policy[0].argmax()] == pytest.approx(best, abs=0.05)
    rates = dict(tau=0.05, actor_learning_rate=2e-4, critic_learning_rate=5e-3)
    config = CPQConfig(**LONG, **rates, vae_hidden=32, gamma=0.5, hidden=(32, 32), penalty=False, steps=1_500)
    data = one_state(two_peaks, lambda a: (a > 0) * 1.0)
    run = cpq(data, config.replace(cost_limit=limit), device="cpu", progress=False)
    assert float(run.policy.act(np.ones(1))[0]) == pytest.approx(best, abs=0.1)
    assert run.history.frozen.iloc[-1] == 0


@pytest.mark.slow
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
