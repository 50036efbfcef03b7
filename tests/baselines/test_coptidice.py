"""COptiDICE: its divergence and its dual in closed form, and the linear program's answer."""

import math

import numpy as np
import pytest
import torch
from baseline_cases import learner, limited

from trac.baselines.coptidice import advantage, divergence, dual_loss, inverse_slope
from trac.teaching import cmdp


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


def test_an_update_by_hand(data):
    """ν is 0 everywhere, and the policy a standard normal before tanh."""
    method = learner("coptidice", data, noise=0.0, alpha=0.5, cost_epsilon=0.0, critic_learning_rate=1e-30)
    with torch.no_grad():
        for last in (method.nu.weights[-1], method.nu.biases[-1], *method.policy.body[-1].parameters()):
            last.zero_()
    batch = {name: values[:50] for name, values in method.data.items()}
    metrics = method.update(batch)
    multiplier = math.log(1 + math.e)  # softplus(1)
    e = (batch["rewards"] - multiplier * batch["costs"]).double()
    w = torch.where(e < 0, (2 * e).exp(), 2 * e + 1)
    f = torch.where(w < 1, w * (w.log() - 1) + 1, (w - 1) ** 2 / 2)
    x = torch.atanh(batch["actions"].clamp(-0.999, 0.999)).double()
    surprise = ((x**2 + math.log(2 * math.pi)) / 2).sum(-1)
    expected = dict(nu_loss=w * e - 0.5 * f, policy_loss=w * surprise, estimated_cost=w * batch["costs"], weight=w)
    for name, values in expected.items():
        assert float(metrics[name].detach()) == pytest.approx(float(values.mean()), rel=1e-5), name


@pytest.mark.parametrize(("limit", "step"), [(0.0, 1e-3), (1e3, -1e-3)])
def test_the_multiplier_rises_where_the_cost_is_above_the_limit(data, limit, step):
    method = learner("coptidice", data, cost_limit=limit, scalar_learning_rate=1e-3)
    method.advance(1)
    # Adam's first step is as long as its rate.
    assert float(method.multiplier.detach()) - 1 == pytest.approx(step, rel=1e-3)


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
    worth, spent = cmdp.policy_evaluation(problem, policy)
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
