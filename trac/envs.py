"""Simulators behind one function: `make(task)`. Every quirk of theirs is dealt with here."""

import difflib
import importlib
import math
import os
import sys
import warnings
from collections import deque
from collections.abc import Mapping
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
    """Raise OptionError for an option that the task does not have, or a value out of range."""
    if options and task.suite != "bullet":
        raise OptionError(f"env_options change Bullet tasks only, and {task.name} belongs to {task.suite}.")
    for name, value in options.items():
        if name not in OPTIONS:
            near = difflib.get_close_matches(name, OPTIONS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(OPTIONS)}."
            raise OptionError(f"env_options has no {name!r}: {hint}")
        if name == "speed_limit" and not task.name.endswith("Run"):
            raise OptionError(f"{task.name} has no speed limit: speed_limit changes the Run tasks only.")
        lowest_allowed = value >= 0 if OPTIONS[name] == 0 else value > 0
        if not (math.isfinite(value) and lowest_allowed) or (name == "action_delay" and value != int(value)):
            kind = "a whole number, 0 or more" if name == "action_delay" else "0 or more"
            raise OptionError(f"env_options: {name}={value} must be {kind if OPTIONS[name] == 0 else 'above 0'}.")


class Disturbed(gym.Wrapper):
    """Noise on what the agent sees, and a delay before its actions take effect."""

    def __init__(self, env: gym.Env, noise: float, delay: int):
        super().__init__(env)
        self.noise, self.delay = noise, delay

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        observation, info = self.env.reset(seed=seed, options=options)
        self._generator = np.random.default_rng(seed)
        space: Any = self.action_space
        self._waiting = deque([np.zeros(space.shape, dtype=np.float32)] * self.delay)
        return self._seen(observation), info

    def step(self, action):
        self._waiting.append(action)
        observation, *rest = self.env.step(self._waiting.popleft())
        return self._seen(observation), *rest

    def _seen(self, observation):
        return observation + self.noise * self._generator.standard_normal(np.shape(observation))


def _change(env: Any, options: Mapping[str, float]) -> None:
    """Change a Bullet simulator's agent and task."""
    chosen = OPTIONS | dict(options)
    client, agent, task = env.bc, env.agent, env.task
    for link in range(-1, client.getNumJoints(agent.body_id)):
        mass, friction, *_ = client.getDynamicsInfo(agent.body_id, link)
        # Setting a mass also remakes the inertia, so nothing is set that does not change.
        if chosen["mass"] != 1:
            client.changeDynamics(agent.body_id, link, mass=mass * chosen["mass"])
        if chosen["friction"] != 1:
            client.changeDynamics(agent.body_id, link, lateralFriction=friction * chosen["friction"])
    strength = {"RaceCar": "speed_multiplier", "Drone": "action_range"}.get(type(agent).__name__, "max_force")
    setattr(agent, strength, getattr(agent, strength) * chosen["motor_gain"])
    agent.velocity_constraint *= chosen["speed_limit"]
    for name in ("x_lim", "y_lim"):
        if hasattr(task, name):
            setattr(task, name, getattr(task, name) * chosen["boundary"])
    if chosen["boundary"] != 1:
        for line in (task.bound_1, task.bound_2):
            x, y, z = line.get_position()
            moved = (x * chosen["boundary"], y, z) if hasattr(task, "x_lim") else (x, y * chosen["boundary"], z)
            line.set_position(moved)


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
    """
    task, options = task if isinstance(task, Task) else get_task(task), env_options or {}
    check_options(task, options)
    if task.suite != "bullet":
        raise MissingSimulator(
            f"{task.name} belongs to the suite {task.suite}, whose simulator trac cannot start yet. Training needs "
            f"only the data: set eval_episodes=0, or take one of the Bullet tasks, for example BallCircle."
        )
    classes = _bullet_classes(task)
    # Building some of the agents draws from NumPy's global generator too.
    with _quiet(), _numpy_state(np.random.RandomState(0).get_state()):
        env = getattr(classes, f"{task.name}Env")()
        _change(env, options)
    seeded = SeededReset(gym.wrappers.TimeLimit(env, max_episode_steps=task.max_episode_steps))
    noise, delay = options.get("observation_noise", 0.0), int(options.get("action_delay", 0))
    return Disturbed(seeded, noise, delay) if noise or delay else seeded


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
