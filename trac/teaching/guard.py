"""A guard round a policy: another one acts where the log says nothing, or once the episode's budget is spent."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.spatial import cKDTree


def distance_to(observations: np.ndarray, actions: np.ndarray) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """The distance of steps from the nearest step of a log, each coordinate in units of its spread in the log.

    Args:
        observations: (N, obs_dim) of the log.
        actions: (N, act_dim).

    Returns:
        A function of observations (..., obs_dim) and actions (..., act_dim) that returns distances (...).

    Example:
        >>> distance = distance_to(np.array([[0.0], [2.0]]), np.array([[0.0], [4.0]]))
        >>> float(distance(np.array([3.0]), np.array([4.0])))
        1.0
    """
    steps = np.hstack([observations, actions])
    spread = steps.std(0)
    spread[spread == 0] = 1.0
    tree = cKDTree(steps / spread)
    return lambda observations, actions: tree.query(np.concatenate([observations, actions], axis=-1) / spread)[0]


class Guard:
    """A policy that hands over to another one, step by step.

    The fallback acts in a step where the policy's action lies farther than `threshold` from the log, and in all steps
    after those that have cost `budget` or more. Neither policy may have a memory of its own.

    Args:
        policy: anything with `.act(observation)`.
        fallback: the same.
        distance: of an observation and an action from the log, see `distance_to`; None never asks.
        threshold: the largest distance at which the policy acts.
        budget: cost after which the fallback acts for the rest of the episode.

    Attributes:
        taken: for each episode so far, whether the fallback acted, step by step.

    Example:
        >>> go, stop = (trac.policy.Policy(7, 2, hidden=(8,)) for _ in range(2))
        >>> guard = Guard(go, stop, budget=10)
        >>> scores = trac.evaluate(guard, task="BallRun", cost_limit=20, episodes=1, workers=1)
        >>> sum(guard.taken[0])  # no step cost anything
        0
    """

    def __init__(
        self,
        policy: Any,
        fallback: Any,
        *,
        distance: Callable[[np.ndarray, np.ndarray], Any] | None = None,
        threshold: float = float("inf"),
        budget: float = float("inf"),
    ) -> None:
        for one in (policy, fallback):
            if hasattr(one, "start") or hasattr(one, "observe"):
                raise ValueError(f"a {type(one).__name__} remembers the episode, and a guard asks for single actions.")
        self.policy, self.fallback = policy, fallback
        self.distance, self.threshold, self.budget = distance, threshold, budget
        self.taken: list[list[bool]] = []
        self.start(0)
        self.taken.clear()

    def start(self, seed: int) -> None:
        """A new episode: nothing is spent."""
        self.spent = 0.0
        self.taken.append([])

    def act(self, observation: np.ndarray) -> np.ndarray:
        """The policy's action (act_dim,), or the fallback's. Raises RuntimeError where no episode was started."""
        if not self.taken:
            raise RuntimeError("the guard acts within an episode: call start(seed) at the beginning of each one.")
        action = self.policy.act(observation)
        far = self.distance is not None and self.distance(observation, action) > self.threshold
        takes = bool(far or self.spent >= self.budget)
        self.taken[-1].append(takes)
        return np.asarray(self.fallback.act(observation) if takes else action)

    def observe(self, reward: float, cost: float) -> None:
        """What the step cost."""
        self.spent += cost
