"""What an environment must be for a policy to act, or to learn, in it: checked at the door and at every step."""

import warnings
from typing import Any

import gymnasium as gym
import numpy as np

from trac.data.signs import sums_so_far
from trac.data.trajectories import DatasetError, Trajectories

MAX_STEPS = 10_000  # of an episode in an environment without a TimeLimit; ten times the longest of DSRL's

_NORMALIZERS = (gym.wrappers.NormalizeObservation, gym.wrappers.NormalizeReward)


class EnvError(ValueError):
    """An environment that cannot be used, or an action that it cannot take; the message says what to change."""


class Checked(gym.Wrapper):
    """An environment with flat observations and actions in [-1, 1], and `info["cost"]` on every step.

    It changes nothing. An EnvError says what is otherwise: of the spaces when it is made, of actions and of what
    `reset` and `step` return, and of an episode that does not end. A warning tells of an episode whose costs look like
    sums so far.

    Args:
        env: the environment.
        clips: it clips larger actions itself, as DSRL's simulators do.

    >>> env = Checked(trac.envs.make("BallRun"))
    >>> observation, info = env.reset(seed=0)
    >>> env.step([np.nan, 0.0])
    Traceback (most recent call last):
    trac.envs.checked.EnvError: the policy returns an action with a NaN or infinite value, first in place 0.
    """

    def __init__(self, env: Any, clips: bool = False):
        if hasattr(env, "num_envs"):
            raise EnvError(f"env= makes a vector of environments, {env}: let it make a single one.")
        if not isinstance(env, gym.Env):
            raise EnvError(f"env= makes {env!r}, a {type(env).__name__}: let it make a gymnasium.Env.")
        super().__init__(env)
        for space, kind, remedy in (
            (env.observation_space, "observations", "gymnasium.wrappers.FlattenObservation may help"),
            (env.action_space, "actions", "policies here make no others"),
        ):
            if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
                found = f"{type(space).__name__}{getattr(space, 'shape', None) or ''}"
                raise EnvError(f"{env} has {kind} in a {found}, and not in a Box of shape (n,): {remedy}.")
        actions: Any = env.action_space
        if not np.issubdtype(actions.dtype, np.floating):
            raise EnvError(f"{env} has actions of type {actions.dtype}: policies here make no whole numbers.")
        if (actions.low != -1).any() or (actions.high != 1).any():
            raise EnvError(
                f"{env} has actions in [{actions.low.min():g}, {actions.high.max():g}], and policies act in [-1, 1]: "
                f"wrap it in gymnasium.wrappers.RescaleAction(env, np.float32(-1), np.float32(1))."
            )
        if getattr(env, "of_an_episode_before", False):
            raise EnvError(f"env= returns one {env} again and again: let it make a fresh one at each call.")
        env.of_an_episode_before = True  # type: ignore[attr-defined]
        self.clips, self.limited = clips, False
        self.costs: list[float] = []  # of the episode's steps
        while isinstance(env, gym.Wrapper):
            self.limited |= isinstance(env, gym.wrappers.TimeLimit)
            if isinstance(env, _NORMALIZERS) and getattr(env, "update_running_mean", True):
                raise EnvError(
                    f"{self.env} starts its statistics anew in each environment, so that no two are alike: leave out "
                    f"{type(env).__name__}, or set what it has learned and update_running_mean=False."
                )
            env = env.env

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        # Many an environment's reset takes no options.
        given = {name: value for name, value in options.items() if value is not None}
        try:
            result: Any = self.env.reset(**given)
        except TypeError as error:
            if "unexpected keyword argument" not in str(error):
                raise
            raise EnvError(f"reset() of {self.env} must take seed=, as Gymnasium's does ({error}).") from error
        if not (isinstance(result, tuple) and len(result) == 2):
            raise EnvError(f"reset() of {self.env} must return observation and info.")
        self._check(result[0], self.observation_space, f"reset() of {self.env} returns an observation")
        self.costs = []
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self._check(action, self.action_space, "the policy returns an action")
        if not self.clips and (largest := np.abs(action).max()) > 1 + 1e-4:
            raise EnvError(
                f"the policy returns an action of {largest:g}: let it act in [-1, 1], or clip what it returns."
            )
        where = f"step() of {self.env}"
        try:
            observation, reward, terminated, truncated, info = self.env.step(action)
        except ValueError as error:
            if "to unpack" not in str(error):
                raise
            raise EnvError(
                f"{where} must return five values, observation, reward, terminated, truncated and info, with the "
                f"step's cost in info['cost'] ({error})."
            ) from error
        self._check(observation, self.observation_space, f"{where} returns an observation")
        if not isinstance(info, dict) or "cost" not in info:
            raise EnvError(f"{self.env} reports no cost: let its step() put the step's cost into info['cost'].")
        if not np.isfinite(_number(reward)):
            raise EnvError(f"{where} returns the reward {reward!r}: it must be a finite number.")
        if not 0 <= _number(info["cost"]) < np.inf:
            raise EnvError(f"{where} returns the cost {info['cost']!r}: it must be a finite number, 0 or more.")
        if not all(isinstance(end, bool | np.bool_ | int) for end in (terminated, truncated)):
            raise EnvError(f"{where} returns the ends {terminated!r} and {truncated!r}: each must be True or False.")
        self.costs.append(_number(info["cost"]))
        if (terminated or truncated) and sums_so_far(np.array(self.costs), np.array([len(self.costs)])).any():
            warnings.warn(
                f"{self.env}: info['cost'] rises again and again and never falls in an episode, as the sum of the "
                f"costs so far does. It must be each step's own.",
                stacklevel=2,
            )
        if len(self.costs) >= MAX_STEPS and not (self.limited or terminated or truncated):
            raise EnvError(
                f"{self.env} has gone on for {MAX_STEPS} steps: give its episodes an end, with "
                f"gymnasium.wrappers.TimeLimit(env, max_episode_steps=...)."
            )
        return observation, reward, bool(terminated), bool(truncated), info

    def _check(self, value: Any, space: Any, what: str) -> None:
        if isinstance(value, tuple):
            raise EnvError(f"{what} that is a tuple of {len(value)}: it must be one array.")
        if (shape := np.shape(value)) != space.shape:
            raise EnvError(f"{what} of shape {shape}: it must be of its space's, {space.shape}.")
        if not np.isfinite(value).all():
            raise EnvError(f"{what} with a NaN or infinite value, first in place {np.isfinite(value).argmin()}.")


def check_log(env: gym.Env, data: Trajectories) -> None:
    """Raise DatasetError for a log that is not this simulator's: other sizes, or observations far out of its bounds.

    >>> check_log(trac.envs.make("BallRun"), data)
    """
    space: Any = env.observation_space
    theirs = space.shape + (env.action_space.shape or ())
    sizes = (data.observations.shape[1], data.actions.shape[1])
    if sizes != theirs:
        raise DatasetError(
            f"the data has observations of {sizes[0]} and actions of {sizes[1]} numbers, and the simulator of "
            f"{data.task} {theirs[0]} and {theirs[1]}: load it under the name of its own task."
        )
    low, high = space.low.astype(float), space.high.astype(float)
    lowest, highest = data.observations.min(axis=0), data.observations.max(axis=0)
    outside = (lowest < low - (high - low)) | (highest > high + (high - low))
    if outside.any():
        i = int(outside.argmax())
        raise DatasetError(
            f"number {i} of the data's observations lies in [{lowest[i]:g}, {highest[i]:g}], and in the simulator of "
            f"{data.task} in [{low[i]:g}, {high[i]:g}]: load it under the name of its own task."
        )


def _number(value: Any) -> float:
    try:
        return float(value) if np.ndim(value) == 0 else np.nan
    except (TypeError, ValueError):
        return np.nan
