"""Bullet-Safety-Gym: balls, cars, drones and ants that run or circle, in pybullet."""

import importlib
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from typing import Any

import gymnasium as gym
import numpy as np

from trac.data.tasks import Task
from trac.envs.randomness import PROCESS, numpy_state

NEEDS = (
    f"Bullet-Safety-Gym: pip install {'pybullet' if sys.version_info < (3, 12) else 'pybullet-arm64'} tqdm && "
    "pip install --no-deps dsrl==0.1.0 bullet_safety_gym==1.4.0"
)


class SeededReset(gym.Wrapper):
    """Give an environment that draws from NumPy's global generator a stream of its own.

    Bullet-Safety-Gym ignores `reset(seed=)` and draws start states from `np.random`. The wrapper puts
    its own state there during a reset and the caller's back after it.

    >>> env = trac.envs.make("BallRun")  # has one
    >>> np.array_equal(env.reset(seed=1)[0], env.reset(seed=1)[0])
    True
    """

    def __init__(self, env: gym.Env):
        super().__init__(env)
        self._state = np.random.RandomState().get_state()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if seed is not None:
            self._state = np.random.RandomState(seed).get_state()
        with numpy_state(self._state):
            result = self.env.reset(seed=seed, options=options)
            self._state = np.random.get_state()
        return result

    def render(self) -> Any:
        # Without a mode the simulator would open a window.
        simulator: Any = self.env
        return simulator.render(mode="rgb_array")


def build(task: Task) -> gym.Env:
    """See `trac.envs`.

    >>> build(trac.TASKS["BallRun"]).observation_space.shape
    (7,)
    """
    classes = _classes()
    with _quiet():
        return SeededReset(getattr(classes, f"{task.name}Env")())


def change(simulator: Any, options: Mapping[str, float]) -> None:
    """Change the agent and the task; `options` are all of `trac.envs.OPTIONS`.

    >>> simulator = build(trac.TASKS["BallRun"]).unwrapped
    >>> change(simulator, trac.envs.OPTIONS | {"mass": 2.0})
    """
    client, agent, task = simulator.bc, simulator.agent, simulator.task
    for link in range(-1, client.getNumJoints(agent.body_id)):
        mass, friction, *_ = client.getDynamicsInfo(agent.body_id, link)
        # Setting a mass also remakes the inertia, so nothing is set that does not change.
        if options["mass"] != 1:
            client.changeDynamics(agent.body_id, link, mass=mass * options["mass"])
        if options["friction"] != 1:
            client.changeDynamics(agent.body_id, link, lateralFriction=friction * options["friction"])
    strength = {"RaceCar": "speed_multiplier", "Drone": "action_range"}.get(type(agent).__name__, "max_force")
    setattr(agent, strength, getattr(agent, strength) * options["motor_gain"])
    agent.velocity_constraint *= options["speed_limit"]
    for name in ("x_lim", "y_lim"):
        if hasattr(task, name):
            setattr(task, name, getattr(task, name) * options["boundary"])
    if options["boundary"] != 1:
        for line in (task.bound_1, task.bound_2):
            x, y, z = line.get_position()
            moved = (x * options["boundary"], y, z) if hasattr(task, "x_lim") else (x, y * options["boundary"], z)
            line.set_position(moved)


def _classes() -> Any:
    # dsrl prints a warning on import when Safety-Gymnasium, which the Bullet tasks do not use, is missing.
    os.environ.setdefault("DSRL_SUPPRESS_IMPORT_ERROR", "1")
    # bullet_safety_gym redirects C streams by slicing sys.stderr.name, which fails under Jupyter and
    # pytest: import it with the real streams, then leave them alone.
    with PROCESS, redirect_stdout(sys.__stdout__ or sys.stdout), redirect_stderr(sys.__stderr__ or sys.stderr):
        builder: Any = importlib.import_module("bullet_safety_gym.envs.builder")
        classes = importlib.import_module("dsrl.offline_bullet_safety_gym.gym_envs")
    builder.RedirectStream = lambda *args, **kwargs: nullcontext()
    return classes


@contextmanager
def _quiet() -> Iterator[None]:
    # pybullet's C code prints "argv[0]=" for every simulator, and gymnasium warns of the bounds of its
    # action space: either would fill a notebook's output.
    with PROCESS, warnings.catch_warnings(), open(os.devnull, "w") as sink:
        warnings.filterwarnings("ignore", "overflow encountered in cast", RuntimeWarning)
        saved = os.dup(1)
        os.dup2(sink.fileno(), 1)
        try:
            yield
        finally:
            os.dup2(saved, 1)
            os.close(saved)
