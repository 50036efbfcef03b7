"""A simulator that records its episodes and takes a penalty for cost off the reward."""

from typing import Any

import gymnasium as gym
import numpy as np

from trac.data.trajectories import KEYS

Episode = dict[str, np.ndarray]  # KEYS -> (T, dim) or (T,) float32


class Recorder(gym.Wrapper):
    """Keep every finished episode as it was executed, and pass on the reward `scale * (r - multiplier * c)`.

    Attributes:
        episodes: the finished ones.
        observation: what the last step or reset returned.
        cumulative_cost: cost of all steps so far.

    Example:
        >>> env = Recorder(trac.envs.make("BallRun"))
        >>> observation, info = env.reset(seed=0)
        >>> result = env.step([1.0, 0.0])
        >>> env.actions().tolist(), len(env.episodes)
        ([[1.0, 0.0]], 0)
    """

    def __init__(self, env: gym.Env, scale: float = 1.0):
        super().__init__(env)
        self.scale, self.multiplier, self.cumulative_cost = scale, 0.0, 0.0
        self.episodes: list[Episode] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self._rows: list[tuple[Any, ...]] = []
        observation, info = self.env.reset(seed=seed, options=options)
        self.observation = np.array(observation)  # the environment may write the next one into the same array
        return observation, info

    def step(self, action: Any) -> Any:
        action = np.clip(action, -1, 1, dtype=np.float32)  # as it is recorded
        next_observation, reward, terminal, timeout, info = self.env.step(action)
        following = np.array(next_observation)
        # The order of KEYS.
        self._rows.append((self.observation, following, action, reward, info["cost"], terminal, timeout))
        self.observation = following
        self.cumulative_cost += float(info["cost"])
        if terminal or timeout:
            columns = zip(*self._rows, strict=True)
            self.episodes.append({k: np.array(column, np.float32) for k, column in zip(KEYS, columns, strict=True)})
        return next_observation, self.scale * (reward - self.multiplier * info["cost"]), terminal, timeout, info

    def actions(self) -> np.ndarray:
        """(steps, act_dim) float32, as executed: those of the finished episodes, then of the unfinished one."""
        finished = [episode["actions"] for episode in self.episodes]
        unfinished = [np.array([row[2]], np.float32) for row in self._rows]
        space: Any = self.action_space
        return np.concatenate([np.empty((0, *space.shape), np.float32), *finished, *unfinished])


def relabel(buffer: Any, env: Recorder) -> None:
    """Rewrite a replay buffer's rewards with the current multiplier, so that old samples stay usable.

    The buffer holds the transitions of `env.episodes` in their order, then those of the unfinished episode.

    >>> from types import SimpleNamespace
    >>> env = SimpleNamespace(episodes=[{"rewards": np.ones(2), "costs": np.array([0, 1])}], scale=1.0, multiplier=0.5)
    >>> buffer = SimpleNamespace(rewards=np.zeros((3, 1)))
    >>> relabel(buffer, env)
    >>> buffer.rewards[:, 0].tolist()
    [1.0, 0.5, 0.0]
    """
    none = np.empty(0, np.float32)
    rewards, costs = (np.concatenate([none, *(e[key] for e in env.episodes)]) for key in ("rewards", "costs"))
    buffer.rewards[: len(rewards), 0] = env.scale * (rewards - env.multiplier * costs)
