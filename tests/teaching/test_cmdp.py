import itertools
import math

import numpy as np
import pytest

from trac.teaching import cmdp as cm
from trac.teaching.gridworld import gridworld

LAYOUT = "....\nS~~G"


@pytest.fixture(scope="module")
def grid():
    return gridworld(LAYOUT, slip=0.2, gamma=0.95)


def random_cmdp(seed, states=5, actions=3, gamma=0.9, ending=0.1):
    generator = np.random.default_rng(seed)
    return cm.CMDP(
        (1 - ending) * generator.dirichlet(np.ones(states), (states, actions)),
        generator.normal(size=(states, actions)),
        generator.random((states, actions)),
        generator.dirichlet(np.ones(states)),
        gamma,
    )


def one_state(gamma=0.5):
    """Two actions that end nothing: (reward 0, cost 0) and (reward 1, cost 1)."""
    return cm.CMDP(np.ones((1, 2, 1)), [[0, 1]], [[0, 1]], [1], gamma)


def deterministic(cmdp):
    """Every deterministic policy's (return, cost)."""
    states, actions = cmdp.rewards.shape
    for choice in itertools.product(range(actions), repeat=states):
        yield cm.policy_evaluation(cmdp, np.eye(actions)[list(choice)])


def test_one_state_by_hand():
    # Two visits in all: a limit of 0.5 lets a quarter of them be of the second action, and a unit of cost buys one
    # of return.
    solution = cm.solve(one_state(), 0.5)
    assert np.allclose(solution.occupancy, [[1.5, 0.5]])
    assert np.allclose(solution.policy, [[0.75, 0.25]])
    assert np.allclose([solution.expected_return, solution.expected_cost, solution.multiplier], [0.5, 0.5, 1.0])


def test_a_limit_that_does_not_bind_costs_nothing():
    for limit in (10.0, math.inf):
        solution = cm.solve(one_state(), limit)
        assert solution.multiplier == 0 and np.isclose(solution.expected_return, 2.0)


@pytest.mark.parametrize("seed", range(5))
def test_occupancy_identities(seed):
    cmdp = random_cmdp(seed)
    policy = np.random.default_rng(seed).dirichlet(np.ones(3), 5)
    visits = cm.occupancy(cmdp, policy)
    inflow = cmdp.start + cmdp.gamma * np.einsum("sa,sat->t", visits, cmdp.transitions)
    assert np.allclose(visits.sum(1), inflow)
    assert np.allclose(visits / visits.sum(1, keepdims=True), policy)
    # The return is linear in the occupancy, and the same from the values.
    for signal, total in zip((cmdp.rewards, cmdp.costs), cm.policy_evaluation(cmdp, policy), strict=True):
        assert np.isclose(cmdp.start @ cm.values(cmdp, policy, signal), total)
    never_ending = cm.CMDP(cmdp.transitions / 0.9, cmdp.rewards, cmdp.costs, cmdp.start, 0.8)
    assert np.isclose(cm.occupancy(never_ending, policy).sum(), 1 / (1 - 0.8))


@pytest.mark.parametrize("seed", range(5))
def test_the_solution_is_what_its_policy_is_worth(seed):
    cmdp = random_cmdp(seed)
    least, most = cm.solve(with_rewards(cmdp, -cmdp.costs)).expected_cost, cm.solve(cmdp).expected_cost
    solution = cm.solve(cmdp, (least + most) / 2)
    assert np.allclose(cm.policy_evaluation(cmdp, solution.policy), (solution.expected_return, solution.expected_cost))
    assert np.allclose(cm.occupancy(cmdp, solution.policy), solution.occupancy, atol=1e-6)
    assert np.isclose(solution.expected_cost, (least + most) / 2)
    assert (solution.policy > 1e-9).sum() <= 5 + 1  # one constraint: at most one state with a second action


def with_rewards(cmdp, rewards):
    return cm.CMDP(cmdp.transitions, rewards, cmdp.costs, cmdp.start, cmdp.gamma)


@pytest.mark.parametrize("seed", range(5))
def test_strong_duality(seed):
    cmdp = random_cmdp(seed)
    least, most = cm.solve(with_rewards(cmdp, -cmdp.costs)).expected_cost, cm.solve(cmdp).expected_cost
    limit = 0.7 * least + 0.3 * most
    solution = cm.solve(cmdp, limit)

    def dual(multiplier):
        return cmdp.start @ cm.value_iteration(cmdp, multiplier).values + multiplier * limit

    assert solution.multiplier > 0
    assert np.isclose(dual(solution.multiplier), solution.expected_return)
    for multiplier in (0, 0.5 * solution.multiplier, 2 * solution.multiplier):
        assert dual(multiplier) >= solution.expected_return - 1e-9


def test_the_multiplier_is_the_slope_of_the_frontier(grid):
    low, middle, high = (cm.solve(grid, limit) for limit in (0.99, 1.0, 1.01))
    assert np.isclose((high.expected_return - low.expected_return) / 0.02, middle.multiplier, rtol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_without_a_limit_the_best_deterministic_policy_is_found(seed):
    cmdp = random_cmdp(seed, states=4)
    best = max(value for value, _ in deterministic(cmdp))
    assert np.isclose(cm.solve(cmdp).expected_return, best)
    optimum = cm.value_iteration(cmdp)
    assert np.isclose(cm.policy_evaluation(cmdp, optimum.policy)[0], best)
    assert np.isclose(cmdp.start @ optimum.values, best)
    assert np.allclose(optimum.values, optimum.action_values.max(1))


def test_no_deterministic_policy_within_the_limit_is_better(grid):
    solution = cm.solve(grid, 1.0)
    free = np.array([list(grid.layout[i])[j] != "G" for i, j in grid.cells])
    points = []
    for choice in itertools.product(range(4), repeat=int(free.sum())):
        if choice[0] == 1:  # the first cell's action: the rest is enough for a quick test
            actions = np.zeros(len(free), dtype=int)
            actions[free] = choice
            points.append(cm.policy_evaluation(grid, np.eye(4)[actions]))
    points = np.array(points)
    safe = points[points[:, 1] <= 1.0]
    assert safe[:, 0].max() < solution.expected_return - 0.01
    gain = points[:, 0] - solution.multiplier * points[:, 1]
    assert np.isclose(gain.max(), solution.expected_return - solution.multiplier, atol=1e-7)


def test_infeasible_limit_names_the_smallest_cost():
    cmdp = random_cmdp(0)
    least = min(cost for _, cost in deterministic(cmdp))
    with pytest.raises(cm.InfeasibleLimit, match=f"smallest achievable cost is {least:g}") as caught:
        cm.solve(cmdp, least - 0.01)
    assert np.isclose(caught.value.smallest, least)
    assert np.isclose(cm.solve(cmdp, least + 1e-9).expected_cost, least, atol=1e-6)


def test_step_limit_forbids_pairs():
    # State 0 leads to state 1, whose actions cost 0 and 3; then the episode ends.
    transitions = np.zeros((2, 2, 2))
    transitions[0, :, 1] = 1
    cmdp = cm.CMDP(transitions, [[0, 0], [1, 5]], [[0, 0], [0, 3]], [1, 0], 1.0)
    assert np.isclose(cm.solve(cmdp, 3).expected_return, 5)
    solution = cm.solve(cmdp, 3, step_limit=2)
    assert np.isclose(solution.expected_return, 1) and np.allclose(solution.policy[1], [1, 0])
    costly = cm.CMDP(transitions, [[0, 0], [1, 5]], [[0, 0], [1, 3]], [1, 0], 1.0)
    with pytest.raises(cm.InfeasibleLimit, match="no policy keeps every step's cost at or below 0.5") as caught:
        cm.solve(costly, step_limit=0.5)
    assert math.isnan(caught.value.smallest)
    # In unvisited states the policy keeps to the allowed actions too.
    away = cm.CMDP(np.zeros((2, 2, 2)), [[0, 1], [0, 0]], [[0, 0], [0, 3]], [1, 0], 1.0)
    assert np.allclose(cm.solve(away, step_limit=1).policy, [[0, 1], [1, 0]])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("alpha", [0.05, 1.0, 20.0])
def test_soft_values_are_optimal_and_give_the_advantage(seed, alpha):
    cmdp = random_cmdp(seed)
    generator = np.random.default_rng(seed)
    reference = generator.dirichlet(np.ones(3), 5)
    v, q, policy = cm.soft_value_iteration(cmdp, reference, alpha)
    assert np.allclose(policy.sum(1), 1)
    assert np.allclose(alpha * np.log(policy / reference), q - v[:, None], atol=1e-8)
    assert np.allclose(q, cmdp.rewards + cmdp.gamma * cmdp.transitions @ v)

    def regularised(other):
        return cmdp.start @ cm.values(cmdp, other, cmdp.rewards - alpha * np.log(other / reference))

    assert np.isclose(regularised(policy), cmdp.start @ v)
    for _ in range(20):
        other = generator.dirichlet(np.ones(3), 5)
        assert regularised(0.9 * policy + 0.1 * other) < cmdp.start @ v


def test_soft_values_in_both_limits(grid):
    reference = np.full((len(grid.start), 4), 0.25)
    cold, hard = cm.soft_value_iteration(grid, reference, 1e-5), cm.value_iteration(grid)
    assert np.allclose(cold.values, hard.values, atol=1e-3)
    assert (hard.policy[cold.policy > 0.999] == 1).all()
    warm = cm.soft_value_iteration(grid, reference, 1e5)
    assert np.allclose(warm.policy, reference, atol=1e-4)
    assert np.allclose(warm.values, cm.values(grid, reference, grid.rewards), atol=1e-4)


def test_soft_values_with_a_multiplier_and_a_reference_that_lacks_actions():
    cmdp = random_cmdp(1)
    reference = np.tile([0.5, 0.5, 0.0], (5, 1))
    soft = cm.soft_value_iteration(cmdp, reference, 0.3, multiplier=2.0)
    assert (soft.policy[:, 2] == 0).all() and np.allclose(soft.policy.sum(1), 1)
    priced = with_rewards(cmdp, cmdp.rewards - 2 * cmdp.costs)
    assert np.allclose(soft.policy, cm.soft_value_iteration(priced, reference, 0.3).policy)


def test_unroll_counts_steps():
    once = cm.CMDP(np.eye(2)[:, None], [[1.0], [2.0]], [[0.0], [1.0]], [0.25, 0.75], 0.9)
    assert np.allclose(cm.policy_evaluation(cm.unroll(once, 7), np.ones((14, 1))), (7 * (0.25 + 2 * 0.75), 7 * 0.75))
    discounted = cm.policy_evaluation(cm.unroll(once, 400, gamma=0.9), np.ones((800, 1)))
    assert np.allclose(discounted, cm.policy_evaluation(once, np.ones((2, 1))))
    with pytest.raises(cm.CMDPError, match="horizon=0"):
        cm.unroll(once, 0)


def test_unrolled_policies_may_depend_on_time():
    # A step in state 1 costs 1 for ever; who goes there in the last step never pays.
    transitions = np.zeros((2, 2, 2))
    transitions[0, 0, 0] = transitions[0, 1, 1] = transitions[1, :, 1] = 1
    once = cm.CMDP(transitions, [[0, 1], [0, 0]], [[0, 0], [1, 1]], [1, 0], 0.9)
    policy = cm.solve(cm.unroll(once, 4), 0.0).policy.reshape(4, 2, 2)
    assert np.allclose(policy[:, 0, 1], [0, 0, 0, 1])


def test_sampled_episodes_have_the_occupancy_as_their_mean(grid):
    policy = cm.solve(grid, 1.0).policy
    states, actions = cm.sample_episodes(grid, policy, episodes=4000, steps=150, seed=0)
    assert states.shape == actions.shape == (4000, 150)
    assert ((states >= 0) == (actions >= 0)).all()
    weights = np.broadcast_to(grid.gamma ** np.arange(150), states.shape)[states >= 0]
    visits = np.zeros(grid.rewards.shape)
    np.add.at(visits, (states[states >= 0], actions[states >= 0]), weights)
    assert np.allclose(visits / 4000, cm.occupancy(grid, policy), atol=0.05)
    goal = grid.rewards[:, 0].argmax()
    ended = (states == -1).any(1)
    assert (states[ended].max(1) == goal).all()  # the last cell is the goal, and an episode ends there alone
    again = cm.sample_episodes(grid, policy, episodes=4000, steps=150, seed=0)
    assert (again[0] == states).all() and (again[1] == actions).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(transitions=np.ones((1, 1, 1))), "transitions has shape"),
        (dict(transitions=np.full((1, 2, 1), 1.1)), "sum is at most 1"),
        (dict(transitions=np.full((1, 2, 1), -0.1)), "sum is at most 1"),
        (dict(rewards=[0, 1]), "ask for"),
        (dict(rewards=[[0, math.nan]]), "finite"),
        (dict(costs=[[0, -1]]), "costs must be 0 or more; the smallest is -1"),
        (dict(start=[0.5]), "start must hold"),
        (dict(gamma=0), "gamma=0"),
        (dict(gamma=1.0), "some policy runs for ever"),
    ],
)
def test_tables_that_are_no_process_are_refused(change, message):
    tables = dict(transitions=np.ones((1, 2, 1)), rewards=[[0, 1]], costs=[[0, 1]], start=[1], gamma=0.5)
    with pytest.raises(cm.CMDPError, match=message):
        cm.CMDP(**(tables | change))


def test_questions_without_an_answer_are_refused(grid):
    for policy, message in (
        (np.ones((2, 2)) / 2, "the policy has shape"),
        (np.ones((8, 4)), "row of a policy"),
        (np.full((8, 4), math.nan), "row of a policy"),
    ):
        with pytest.raises(cm.CMDPError, match=message):
            cm.policy_evaluation(grid, policy)
    for limits in (dict(cost_limit=math.nan), dict(step_limit=math.nan), dict(cost_limit=-math.inf)):
        with pytest.raises(cm.CMDPError, match="must be numbers"):
            cm.solve(grid, **limits)
    with pytest.raises(cm.CMDPError, match="alpha=0"):
        cm.soft_value_iteration(grid, np.full((8, 4), 0.25), 0)
