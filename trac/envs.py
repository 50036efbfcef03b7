"""Simulators behind one function: `make(task)`. Every quirk of theirs is dealt with here."""

import importlib
import os
import sys
import warnings
from contextlib import contextmanager, nullcontext
from typing import Any

import gymnasium as gym
import numpy as np

from trac.tasks import Task, get_task


class MissingSimulator(ImportError):
    """The package that simulates a task is not installed; the message has the command that installs it."""


class SeededReset(gym.Wrapper):
    """Give an environment that draws from NumPy's global generator a stream of its own.

    Bullet-Safety-Gym ignores `reset(seed=)` and draws start states from `np.random`. The wrapper puts
    its own state there during a reset and the caller's back after it.
    """

    def __init__(self, env: gym.Env):
        super().__init__(env)
        self._state = np.random.RandomState().get_state()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        if seed is not None:
            self._state = np.random.RandomState(seed).get_state()
        with _numpy_state(self._state):
            result = self.env.reset(seed=seed, options=options)
            self._state = np.random.get_state()
        return result


@contextmanager
def _numpy_state(state):
    before = np.random.get_state()
    np.random.set_state(state)
    try:
        yield
    finally:
        np.random.set_state(before)


def make(task: str | Task) -> gym.Env:
    """The task's simulator, with its time limit.

    Args:
        task: a name in `trac.TASKS`, or the Task itself.

    Returns:
        A gymnasium environment: observations (obs_dim,) float, actions (act_dim,) in [-1, 1],
        `info["cost"]` on every step. On a fresh environment `reset(seed=s)` fixes the start state; a
        second reset repeats it only for the Ball and Ant agents, so evaluation makes one
        environment for each episode.

    Raises:
        UnknownTask: the name is not one of the 38.
        MissingSimulator: the package is not installed.
    """
    task = task if isinstance(task, Task) else get_task(task)
    if task.suite != "bullet":
        raise MissingSimulator(
            f"{task.name} belongs to the suite {task.suite}, whose simulator trac cannot start yet. Training needs "
            f"only the data: set eval_episodes=0, or take one of the Bullet tasks, for example BallCircle."
        )
    classes = _bullet_classes(task)
    # Building some of the agents draws from NumPy's global generator too.
    with _quiet(), _numpy_state(np.random.RandomState(0).get_state()):
        env = getattr(classes, f"{task.name}Env")()
    return SeededReset(gym.wrappers.TimeLimit(env, max_episode_steps=task.max_episode_steps))


@contextmanager
def _quiet():
    # pybullet's C code prints "argv[0]=" for every simulator, and gymnasium warns of the bounds of its
    # action space: either would fill a notebook's output.
    saved = os.dup(1)
    try:
        with open(os.devnull, "w") as sink, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "overflow encountered in cast", RuntimeWarning)
            os.dup2(sink.fileno(), 1)
            yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


def _bullet_classes(task: Task):
    # dsrl prints a warning on import when Safety-Gymnasium, which the Bullet tasks do not use, is missing.
    os.environ.setdefault("DSRL_SUPPRESS_IMPORT_ERROR", "1")
    # bullet_safety_gym redirects C streams by slicing sys.stderr.name, which fails under Jupyter and
    # pytest: import it with the real streams, then leave them alone.
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = sys.__stdout__ or sys.stdout, sys.__stderr__ or sys.stderr
    try:
        builder: Any = importlib.import_module("bullet_safety_gym.envs.builder")
        classes = importlib.import_module("dsrl.offline_bullet_safety_gym.gym_envs")
    except ImportError as error:
        raise MissingSimulator(
            f"{task.name} needs Bullet-Safety-Gym, and importing it failed ({error}). Install it with: "
            f"pip install {'pybullet' if sys.version_info < (3, 12) else 'pybullet-arm64'} tqdm && "
            f"pip install --no-deps dsrl==0.1.0 bullet_safety_gym==1.4.0"
        ) from error
    finally:
        sys.stdout, sys.stderr = streams
    builder.RedirectStream = lambda *args, **kwargs: nullcontext()
    return classes


def render(env: gym.Env) -> np.ndarray:
    """One frame of a Bullet task, (height, width, 3) uint8, drawn without a display (about 0.15 s)."""
    # gymnasium's render() would open a window; the simulator's own takes a mode.
    simulator: Any = env.unwrapped
    return np.asarray(simulator.render(mode="rgb_array"), dtype=np.uint8)[..., :3]
