"""Tabular constrained Markov decision processes, solved exactly; for the chapters and as a yardstick for methods.

Sources: Altman, Constrained Markov Decision Processes (1999), for the linear program; Ziebart's thesis (2010) for
soft value iteration. All sums over time are discounted: J_r(π) = E Σ_t γ^t r(s_t, a_t), and likewise J_c.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linprog
from scipy.special import logsumexp


class CMDPError(ValueError):
    """A table that is not a Markov decision process, or a question about one that has no answer."""


class InfeasibleLimit(CMDPError):
    """No policy keeps the limit. `smallest` is the smallest cost that a policy can reach (nan: there is no policy)."""

    def __init__(self, message: str, smallest: float):
        super().__init__(message)
        self.smallest = smallest


@dataclass(frozen=True, eq=False)
class CMDP:
    """A constrained Markov decision process with S states and A actions.

    Attributes:
        transitions: (S, A, S) probability of the next state. A row may sum to less than 1: what is missing is the
            probability that the episode ends with this step.
        rewards: (S, A) expected reward of a step.
        costs: (S, A) expected cost of a step, 0 or more.
        start: (S,) distribution of the first state.
        gamma: discount in (0, 1]. 1 is for episodes that end under every policy.

    Example:
        >>> world = CMDP(np.zeros((1, 2, 1)), rewards=[[1, 2]], costs=[[0, 1]], start=[1], gamma=0.9)
        >>> world.rewards.shape
        (1, 2)
    """

    transitions: np.ndarray
    rewards: np.ndarray
    costs: np.ndarray
    start: np.ndarray
    gamma: float

    def __post_init__(self) -> None:
        for name in ("transitions", "rewards", "costs", "start"):
            object.__setattr__(self, name, np.array(getattr(self, name), dtype=float))  # a copy of its own
        states, actions = self.rewards.shape if self.rewards.ndim == 2 else (0, 0)
        shapes = dict(transitions=(states, actions, states), costs=(states, actions), start=(states,))
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape or states * actions == 0:
                found = getattr(self, name).shape
                raise CMDPError(f"{name} has shape {found}; rewards of shape {self.rewards.shape} ask for {shape}.")
        if not all(np.isfinite(a).all() for a in (self.transitions, self.rewards, self.costs, self.start)):
            raise CMDPError("transitions, rewards, costs and start must be finite numbers.")
        if self.transitions.min() < 0 or self.transitions.sum(-1).max() > 1 + 1e-9:
            raise CMDPError("a row of transitions must hold probabilities whose sum is at most 1.")
        if self.start.min() < 0 or abs(self.start.sum() - 1) > 1e-9:
            raise CMDPError("start must hold probabilities whose sum is 1.")
        if self.costs.min() < 0:
            raise CMDPError(f"costs must be 0 or more; the smallest is {self.costs.min():g}.")
        if not 0 < self.gamma <= 1:
            raise CMDPError(f"gamma={self.gamma} must lie in (0, 1].")
        if self.gamma == 1:
            longest = np.ones(states)  # largest probability of still running after so many steps
            for _ in range(states):
                longest = (self.transitions @ longest).max(1)
            if longest.max() > 1 - 1e-12:
                raise CMDPError("gamma=1, but some policy runs for ever: use gamma below 1, or `unroll`.")


class Solution(NamedTuple):
    """A policy with what it is worth.

    Attributes:
        occupancy: (S, A) expected discounted number of times that each pair is visited.
        policy: (S, A) probabilities; in states that are never visited the allowed actions are equally likely.
        expected_return: J_r, expected discounted sum of rewards.
        expected_cost: J_c, expected discounted sum of costs.
        multiplier: λ >= 0, the return gained for one more unit of cost limit; 0 where the limit does not bind.

    Example:
        >>> world = CMDP(np.zeros((1, 2, 1)), rewards=[[1, 2]], costs=[[0, 1]], start=[1], gamma=0.9)
        >>> solve(world, cost_limit=0.25).policy.tolist()
        [[0.75, 0.25]]
    """

    occupancy: np.ndarray
    policy: np.ndarray
    expected_return: float
    expected_cost: float
    multiplier: float


class Optimum(NamedTuple):
    """Result of dynamic programming: values (S,), action values (S, A) and the optimal policy (S, A).

    >>> world = CMDP(np.zeros((1, 2, 1)), rewards=[[1, 2]], costs=[[0, 1]], start=[1], gamma=0.9)
    >>> value_iteration(world).values.tolist()
    [2.0]
    """

    values: np.ndarray
    action_values: np.ndarray
    policy: np.ndarray


def solve(cmdp: CMDP, cost_limit: float = math.inf, *, step_limit: float = math.inf) -> Solution:
    """Best policy whose expected cost is at most the limit, by a linear program over occupancy measures.

    maximise Σ ρ r  subject to  Σ ρ c <= cost_limit,  ρ >= 0, and for each state s'
    Σ_a ρ(s', a) - γ Σ_{s, a} P(s' | s, a) ρ(s, a) = start(s').

    Args:
        cost_limit: of the whole trajectory, on the expected discounted sum of costs.
        step_limit: of each step: pairs (s, a) whose own cost exceeds it are forbidden.

    Raises:
        InfeasibleLimit: no policy keeps the limits; names the smallest achievable cost.
        CMDPError: a limit is not a number, or the solver failed.

    Example:
        >>> world = CMDP(np.zeros((1, 2, 1)), rewards=[[1, 2]], costs=[[0, 1]], start=[1], gamma=0.9)
        >>> solution = solve(world, cost_limit=0.25)
        >>> solution.expected_return, solution.expected_cost, solution.multiplier
        (1.25, 0.25, 1.0)
    """
    if not (cost_limit > -math.inf and step_limit > -math.inf):
        raise CMDPError("cost_limit and step_limit must be numbers above -inf; inf means no limit.")
    states, actions = cmdp.rewards.shape
    allowed = cmdp.costs <= step_limit
    flow = np.repeat(np.eye(states), actions, axis=0) - cmdp.gamma * cmdp.transitions.reshape(-1, states)
    program: dict[str, Any] = dict(
        A_eq=flow.T,
        b_eq=cmdp.start,
        bounds=np.stack([np.zeros(allowed.size), np.where(allowed.ravel(), np.inf, 0.0)], axis=1),
        method="highs",
    )
    limit = {} if cost_limit == math.inf else dict(A_ub=cmdp.costs.reshape(1, -1), b_ub=[cost_limit])
    result = linprog(-cmdp.rewards.ravel(), **limit, **program)
    if result.status == 2:  # infeasible
        least = linprog(cmdp.costs.ravel(), **program)
        if least.status != 0:
            raise InfeasibleLimit(f"no policy keeps every step's cost at or below {step_limit:g}.", math.nan)
        raise InfeasibleLimit(
            f"no policy has an expected cost of at most {cost_limit:g}; the smallest achievable cost is {least.fun:g}.",
            float(least.fun),
        )
    if result.status != 0:
        raise CMDPError(f"the linear program was not solved: {result.message}")
    visits = result.x.clip(min=0).reshape(states, actions)
    total = visits.sum(1, keepdims=True)
    spread = np.where(allowed.any(1, keepdims=True), allowed, True)
    policy = np.where(total > 1e-10, visits, spread)
    return Solution(
        visits,
        policy / policy.sum(1, keepdims=True),
        float((visits * cmdp.rewards).sum()),
        float((visits * cmdp.costs).sum()),
        float(abs(result.ineqlin.marginals.sum())),
    )


def occupancy(cmdp: CMDP, policy: ArrayLike) -> np.ndarray:
    """(S, A) occupancy measure of a policy (S, A), from a linear system; it sums to the expected discounted length.

    >>> world = CMDP(np.zeros((1, 2, 1)), rewards=[[1, 2]], costs=[[0, 1]], start=[1], gamma=0.9)
    >>> occupancy(world, [[0.5, 0.5]]).tolist()
    [[0.5, 0.5]]
    """
    policy = _distribution(cmdp, policy)
    moves = np.einsum("sa,sat->st", policy, cmdp.transitions)
    visits: np.ndarray = np.linalg.solve(np.eye(len(moves)) - cmdp.gamma * moves.T, cmdp.start)[:, None] * policy
    return visits


def values(cmdp: CMDP, policy: ArrayLike, signal: ArrayLike) -> np.ndarray:
    """(S,) expected discounted sum of a signal (S, A), such as `cmdp.costs`, from each state on, by a linear system.

    >>> world = CMDP(np.zeros((1, 2, 1)), rewards=[[1, 2]], costs=[[0, 1]], start=[1], gamma=0.9)
    >>> values(world, [[0.5, 0.5]], world.costs).tolist()
    [0.5]
    """
    policy = _distribution(cmdp, policy)
    moves = np.einsum("sa,sat->st", policy, cmdp.transitions)
    return np.linalg.solve(np.eye(len(moves)) - cmdp.gamma * moves, (policy * np.asarray(signal)).sum(1))


def policy_evaluation(cmdp: CMDP, policy: ArrayLike) -> tuple[float, float]:
    """Expected return J_r and expected cost J_c of a policy (S, A), without sampling.

    >>> world = CMDP(np.zeros((1, 2, 1)), rewards=[[1, 2]], costs=[[0, 1]], start=[1], gamma=0.9)
    >>> policy_evaluation(world, [[0.5, 0.5]])
    (1.5, 0.5)
    """
    visits = occupancy(cmdp, policy)
    return float((visits * cmdp.rewards).sum()), float((visits * cmdp.costs).sum())


def value_iteration(cmdp: CMDP, multiplier: float = 0.0) -> Optimum:
    """Optimal values of the unconstrained problem with reward r - λc, and a deterministic policy that reaches them.

    >>> world = CMDP(np.zeros((1, 2, 1)), rewards=[[1, 2]], costs=[[0, 1]], start=[1], gamma=0.9)
    >>> value_iteration(world).policy.tolist(), value_iteration(world, multiplier=5.0).policy.tolist()
    ([[0.0, 1.0]], [[1.0, 0.0]])
    """
    best = _iterate(cmdp, multiplier, lambda q: q.max(1))
    return Optimum(*best, np.eye(best[1].shape[1])[best[1].argmax(1)])


def soft_value_iteration(cmdp: CMDP, reference: ArrayLike, alpha: float, multiplier: float = 0.0) -> Optimum:
    """Optimal soft values and policy with reward r - λc and the penalty α KL(π || reference) in each step.

    V(s) = α log Σ_a reference(a | s) exp(Q(s, a) / α) and π(a | s) = reference(a | s) exp((Q(s, a) - V(s)) / α).
    A uniform reference gives maximum-entropy reinforcement learning, up to the constant α log A in each step.

    Args:
        reference: (S, A) probabilities; the optimal policy is 0 where it is 0.
        alpha: temperature above 0, in units of the reward.

    Raises:
        CMDPError: alpha or the reference is out of range.

    Example:
        >>> world = CMDP(np.zeros((1, 2, 1)), rewards=[[1, 2]], costs=[[0, 1]], start=[1], gamma=0.9)
        >>> soft_value_iteration(world, [[0.5, 0.5]], alpha=1.0).policy.round(2).tolist()
        [[0.27, 0.73]]
    """
    if not 0 < alpha < math.inf:
        raise CMDPError(f"alpha={alpha} must be above 0 and finite; `value_iteration` is the limit at 0.")
    reference = _distribution(cmdp, reference)
    v, q = _iterate(cmdp, multiplier, lambda q: alpha * logsumexp(q / alpha, axis=1, b=reference))
    advantage = np.where(reference > 0, q - v[:, None], 0.0)
    return Optimum(v, q, reference * np.exp(advantage / alpha))


def _iterate(
    cmdp: CMDP, multiplier: float, backup: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    signal = cmdp.rewards - multiplier * cmdp.costs
    v = np.zeros(len(signal))
    for _ in range(1_000_000):
        q = signal + cmdp.gamma * cmdp.transitions @ v
        previous, v = v, backup(q)
        if np.abs(v - previous).max() <= 1e-13 * max(1, np.abs(v).max()):
            return v, q
    raise CMDPError(f"no convergence in 1,000,000 sweeps: lower gamma={cmdp.gamma}.")


def unroll(cmdp: CMDP, horizon: int, gamma: float = 1.0) -> CMDP:
    """The same process for exactly `horizon` steps, with the discount given here.

    State t · S + s of the result is state s at time t, so a policy may depend on the time: (horizon · S, A), which
    reshapes to (horizon, S, A).

    >>> world = CMDP(np.ones((1, 2, 1)), rewards=[[1, 2]], costs=[[0, 1]], start=[1], gamma=0.9)
    >>> solve(unroll(world, horizon=3), cost_limit=1).expected_return
    4.0
    """
    if horizon < 1:
        raise CMDPError(f"horizon={horizon} must be at least 1.")
    states, actions = cmdp.rewards.shape
    transitions = np.zeros((horizon, states, actions, horizon, states))
    for t in range(horizon - 1):
        transitions[t, :, :, t + 1] = cmdp.transitions
    return CMDP(
        transitions.reshape(horizon * states, actions, horizon * states),
        np.tile(cmdp.rewards, (horizon, 1)),
        np.tile(cmdp.costs, (horizon, 1)),
        np.concatenate([cmdp.start, np.zeros((horizon - 1) * states)]),
        gamma,
    )


def sample_episodes(
    cmdp: CMDP, policy: ArrayLike, *, episodes: int, steps: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sampled states and actions, each (episodes, steps) int64; -1 after an episode has ended.

    >>> world = CMDP(np.zeros((1, 2, 1)), rewards=[[1, 2]], costs=[[0, 1]], start=[1], gamma=0.9)
    >>> states, actions = sample_episodes(world, [[0, 1]], episodes=2, steps=3, seed=0)
    >>> actions.tolist()  # -1: it ended with the first step
    [[1, -1, -1], [1, -1, -1]]
    """
    generator = np.random.default_rng(seed)
    acting = np.cumsum(_distribution(cmdp, policy), axis=1)
    moving = np.cumsum(cmdp.transitions, axis=2)
    visited = np.full((2, episodes, steps), -1)
    running, s = np.arange(episodes), generator.choice(len(cmdp.start), episodes, p=cmdp.start)
    for t in range(steps):
        # The first entry above a uniform number; rounding must not reach past an action's last entry.
        a = (acting[s] <= generator.random(len(s))[:, None] * acting[s, -1:]).sum(1)
        visited[:, running, t] = s, a
        after = (moving[s, a] <= generator.random(len(s))[:, None]).sum(1)
        running, s = running[after < len(cmdp.start)], after[after < len(cmdp.start)]
    return visited[0], visited[1]


def _distribution(cmdp: CMDP, policy: ArrayLike) -> np.ndarray:
    table = np.asarray(policy, dtype=float)
    if table.shape != cmdp.rewards.shape:
        raise CMDPError(f"the policy has shape {table.shape}; this process asks for {cmdp.rewards.shape}.")
    if not (table.min() >= 0 and np.abs(table.sum(1) - 1).max() < 1e-6):
        raise CMDPError("each row of a policy must hold probabilities whose sum is 1.")
    return table
