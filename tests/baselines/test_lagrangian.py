"""BCQ-Lag and BEAR-Lag: critics, multipliers and discrepancy by hand, and the linear program's multiplier."""

import math

import numpy as np
import pytest
import torch
from baseline_cases import learner, limited

from trac.baselines import lagrangian
from trac.baselines.bear_lag import discrepancy
from trac.teaching import cmdp


def test_the_best_of_several_actions_by_hand():
    # Two halves of two networks, one observation, two actions: halves' minima (1, 4) and (2, 3).
    values = torch.tensor([[1.0, 5.0], [3.0, 4.0], [2.0, 9.0], [7.0, 3.0]])
    assert lagrangian.pessimistic(values).tolist() == [[1, 4], [2, 3]]
    # 0.75 min + 0.25 max: 1.25 and 3.25.
    assert lagrangian.mixed_maximum(values, samples=2, mixture=0.75).tolist() == [3.25]


def test_the_controller_by_hand():
    controller = lagrangian.PIDController((0.1, 0.01, 1.0))
    found = [float(controller(torch.tensor(excess))) for excess in (2.0, 3.0, -1.0, -9.0)]
    assert found == pytest.approx([0.2 + 0.02 + 2, 0.3 + 0.05 + 1, 0.04, 0.0])


def test_the_controller_finds_the_multiplier_of_the_linear_program():
    generator = np.random.default_rng(0)
    problem = cmdp.CMDP(
        0.9 * generator.dirichlet(np.ones(5), (5, 3)), *generator.random((2, 5, 3)), np.full(5, 0.2), gamma=0.9
    )
    limit, exact = limited(problem)
    controller, multiplier = lagrangian.PIDController((0.01, 0.02, 0.0)), 0.0
    for _ in range(150):
        # The best answer jumps where two actions are equally good; a small temperature smooths it.
        answer = cmdp.soft_value_iteration(problem, np.full((5, 3), 1 / 3), 0.005, multiplier).policy
        cost = cmdp.policy_evaluation(problem, answer)[1]
        multiplier = float(controller(torch.tensor(cost - limit)))
    assert exact.multiplier > 0.1 and multiplier == pytest.approx(exact.multiplier, rel=0.05)
    assert cost == pytest.approx(limit, abs=1e-3)


def test_the_penalty_of_the_lagrangian_by_hand(data):
    method = learner("bcq_lag", data, pid=(0.5, 0.25, 0.0), cost_limit=0.0)
    s, a = method.data["observations"][:4], method.data["actions"][:4]
    for ensemble, value in ((method.cost_critic, 3.0), (method.critic, 2.0)):
        with torch.no_grad():
            ensemble.weights[-1].zero_()
            ensemble.biases[-1].fill_(value)
    q, penalty, metrics = method.lagrangian(s, a)
    assert q.tolist() == [2] * 4 and float(metrics["multiplier"]) == 0.75 * 3 and float(penalty.detach()) == 0.75 * 9
    assert method.controller.integral == 3  # it counts on with the next update
    method.lagrangian(s, a)
    assert method.controller.integral == 6


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


@pytest.mark.parametrize("limit", [0.0, 2.0])
def test_bears_multiplier_moves_by_what_the_discrepancy_is_above_its_limit(data, limit):
    method = learner("bear_lag", data, mmd_limit=limit, alpha_learning_rate=0.5)
    method.advance(1)
    moved = float(method.log_alpha)  # alpha was 1
    (metrics,) = method.read(method.config.log_every)
    assert moved == pytest.approx(0.5 * (metrics["mmd"] - limit)) and (moved > 0) == (limit == 0)
