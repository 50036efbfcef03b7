"""CPQ: its credit and its penalty by hand, and a peak that its limit allows."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from baseline_cases import CPU, LONG, learner, one_state

from trac.baselines.cpq import CPQConfig, cpq, penalised, unseen_cost
from trac.baselines.offline import seeded
from trac.teaching import cmdp


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


def test_cpqs_multiplier_rises_by_what_unseen_actions_cost_too_little(data):
    method = learner("cpq", data, margin=2.0, alpha_learning_rate=0.01)
    with torch.no_grad():
        method.cost_critic.weights[-1].zero_()
        method.cost_critic.biases[-1].zero_()
    method.advance(1)
    # No action costs anything yet, and alpha is 1.
    assert float(method.log_alpha) == pytest.approx(0.01 * 2.0 * method.limit())


@pytest.mark.parametrize(("bias", "frozen"), [(1e3, 1), (-1e3, 0)])
def test_cpq_is_frozen_where_all_actions_are_above_the_limit(data, bias, frozen):
    method = learner("cpq", data)
    with torch.no_grad():
        method.cost_critic.biases[-1].fill_(bias)
    before = [p.clone() for p in method.policy.parameters()]
    method.advance(1)
    moved = any(not torch.equal(p, q) for p, q in zip(method.policy.parameters(), before, strict=True))
    (metrics,) = method.read(method.config.log_every)
    assert (metrics["frozen"], metrics["safe"], moved) == (frozen, 1 - frozen, not frozen)


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
