"""Simulators behind one function: `make(task)`; the quirks of DSRL's suites are dealt with in a module for each.

Such a module, named as `Task.suite`, has `build(task)`, a Gymnasium environment without a time limit that draws without
a display and whose `info["cost"]` is there on every step; and `NEEDS`, how its packages are installed.
"""

import math
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from typing import Any

import gymnasium as gym
import numpy as np

from trac.data.download import dsrl_folder
from trac.data.tasks import Task, get_task, suggestion
from trac.envs import bullet, metadrive, safety_gymnasium
from trac.envs.checked import Checked, EnvError
from trac.envs.randomness import numpy_state

MakeEnv = Callable[[], gym.Env]


class MissingSimulator(ImportError):
    """The package that simulates a task is not installed; the message has the command and the page."""


# What `make` can change of a Bullet task, and its unchanged value.
OPTIONS: dict[str, float] = {
    "mass": 1.0,  # factor on the mass of every part of the agent
    "friction": 1.0,  # factor on the agent's friction against the ground
    "motor_gain": 1.0,  # factor on what an action does: force (Ball, Ant), wheel speed (Car), rotor speed (Drone)
    "observation_noise": 0.0,  # standard deviation of Gaussian noise on every number of the observation
    "action_delay": 0,  # steps until an action takes effect; zero actions until then
    "boundary": 1.0,  # factor on the distance between the middle and the safety boundary
    "speed_limit": 1.0,  # factor on the speed above which a step costs (Run tasks)
}


class OptionError(ValueError):
    """A changed simulator that does not exist; the message says what can be changed."""


def check_options(task: Task, options: Mapping[str, float]) -> None:
    """Raise OptionError for an option that the task does not have, or a value out of range.

    >>> check_options(trac.TASKS["BallRun"], {"mass": 1.2})
    >>> check_options(trac.TASKS["BallRun"], {"mas": 1.2})
    Traceback (most recent call last):
    trac.envs.OptionError: env_options has no 'mas': did you mean mass?
    """
    if options and task.suite != "bullet":
        raise OptionError(f"env_options change Bullet tasks only, and {task.name} belongs to {task.suite}.")
    for name, value in options.items():
        if name not in OPTIONS:
            raise OptionError(f"env_options has no {name!r}: {suggestion(name, OPTIONS)}")
        if not isinstance(value, Real):
            raise OptionError(f"env_options: {name}={value!r} must be a number.")
        if name == "speed_limit" and not task.name.endswith("Run"):
            raise OptionError(f"{task.name} has no speed limit: speed_limit changes the Run tasks only.")
        lowest_allowed = value >= 0 if OPTIONS[name] == 0 else value > 0
        if not (math.isfinite(value) and lowest_allowed) or (name == "action_delay" and value != int(value)):
            kind = "a whole number, 0 or more" if name == "action_delay" else "0 or more"
            raise OptionError(f"env_options: {name}={value} must be {kind if OPTIONS[name] == 0 else 'above 0'}.")


class Disturbed(gym.Wrapper):
    """Noise on what the agent sees, and a delay before its actions take effect.

    >>> env = Disturbed(make("BallRun"), noise=0.1, delay=2)
    >>> env.reset(seed=0)[0].shape
    (7,)
    """

    def __init__(self, env: gym.Env, noise: float, delay: int):
        super().__init__(env)
        self.noise, self.delay = noise, delay

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._generator = np.random.default_rng(seed)
        space: Any = self.action_space
        self._waiting = deque([np.zeros(space.shape, dtype=np.float32)] * self.delay)
        return self._seen(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self._waiting.append(action)
        observation, *rest = self.env.step(self._waiting.popleft())
        return self._seen(observation), *rest

    def _seen(self, observation: Any) -> Any:
        return observation + self.noise * self._generator.standard_normal(np.shape(observation))


def make(task: str | Task, env_options: Mapping[str, float] | None = None) -> gym.Env:
    """The task's simulator, with its time limit.

    Args:
        task: a name in `trac.TASKS`, or the Task itself.
        env_options: changes of a Bullet task's dynamics or constraint, by name: see `OPTIONS`.

    Returns:
        A gymnasium environment: observations (obs_dim,) float, actions (act_dim,) in [-1, 1],
        `info["cost"]` on every step. On a fresh environment `reset(seed=s)` fixes the start state; a
        second reset repeats it only for the Ball and Ant agents, so evaluation makes one
        environment for each episode.

    Raises:
        UnknownTask: the name is not one of the 38.
        MissingSimulator: the package is not installed.
        OptionError: there is no such option, or its value is out of range.

    Example:
        >>> env = make("BallRun", {"mass": 1.2})
        >>> observation, info = env.reset(seed=0)
        >>> observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        >>> observation.shape, float(info["cost"])
        ((7,), 0.0)
    """
    task, options = task if isinstance(task, Task) else get_task(task), env_options or {}
    check_options(task, options)
    suite = dict(bullet=bullet, safety_gymnasium=safety_gymnasium, metadrive=metadrive)[task.suite]
    try:
        # Building some of the agents draws from NumPy's global generator too.
        with numpy_state(np.random.RandomState(0).get_state()), _folder_for_dsrl():
            env = suite.build(task)
    except ImportError as error:
        raise MissingSimulator(
            f"{task.name} cannot be simulated here ({error}). Training needs only the data: set eval_episodes=0. "
            f"Simulating it needs {suite.NEEDS}. What runs without is on the page notebooks/dsrl.ipynb."
        ) from error
    if options:
        bullet.change(env.unwrapped, OPTIONS | dict(options))
    limited = gym.wrappers.TimeLimit(env, max_episode_steps=task.max_episode_steps)
    noise, delay = options.get("observation_noise", 0.0), int(options.get("action_delay", 0))
    return Disturbed(limited, noise, delay) if noise or delay else limited


def open_env(task: str, env: MakeEnv | None = None, env_options: Mapping[str, float] | None = None) -> Checked:
    """A fresh simulator from `make`, or what `env` makes; raises EnvError for one that `Checked` refuses.

    >>> open_env("BallRun").action_space.shape
    (2,)
    """
    if env is not None and not callable(env):
        raise EnvError(
            f"env={env!r} must be a function that makes a fresh environment, such as lambda: gymnasium.make('...')."
        )
    return Checked(env()) if env else Checked(make(task, env_options), clips=True)


@contextmanager
def _folder_for_dsrl() -> Iterator[None]:
    """The import of dsrl makes a folder for its downloads: elsewhere, where HOME cannot be written."""
    before = dict(os.environ)
    try:
        dsrl_folder().mkdir(parents=True, exist_ok=True)
    except OSError:
        os.environ["DSRL_DATASET_DIR"] = tempfile.gettempdir()
    try:
        yield
    finally:
        os.environ.pop("DSRL_DATASET_DIR", None)
        os.environ.update(before)


def render(env: gym.Env) -> np.ndarray:
    """One frame of an environment from `make`, (height, width, 3) uint8, drawn without a display.

    Raises:
        RuntimeError: a library that draws is missing; the message names it.

    Example:
        >>> env = make("BallRun")
        >>> observation, info = env.reset(seed=0)
        >>> render(env).dtype
        dtype('uint8')
    """
    frame: Any = env.render()
    return np.asarray(frame, dtype=np.uint8)[..., :3]
