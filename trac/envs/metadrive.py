"""MetaDrive: driving on three roads in three densities of traffic, through dsrl's classes, in panda3d.

DSRL names the fork HenryLHH/metadrive_clean, which is on GitHub alone. The fork calls itself version 0.2.6.0, and
those files of it that could be compared with that release of metadrive-simulator differ in the names of NumPy types
and in what is registered with gym. What was run is the release with both put right here; the fork was not run.
"""

import importlib
import io
import os
import sys
from contextlib import redirect_stderr
from functools import cache
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np

from trac.data.tasks import Task

NEEDS = (
    "MetaDrive, in the environment of Safety-Gymnasium: make safety, and then run with .venv-safety/bin/python. "
    "Elsewhere: pip install gym==0.26.2 panda3d panda3d-gltf panda3d-simplepbr 'protobuf<3.21' opencv-python-headless "
    "lxml pygame && pip install --no-deps dsrl==0.1.0 metadrive-simulator==0.2.6.0, or in place of that release "
    "the fork that DSRL names: git+https://github.com/HenryLHH/metadrive_clean.git@main"
)


class MetaDrive(gym.Env):
    """A task of dsrl's, which is an environment of the old gym, as a Gymnasium environment.

    >>> env = build(trac.TASKS["easysparse"])  # is one; needs MetaDrive  # doctest: +SKIP
    """

    def __init__(self, simulator: Any):
        self.simulator = simulator
        self.observation_space = gym.spaces.Box(0.0, 1.0, simulator.observation_space.shape)
        self.action_space = gym.spaces.Box(-1.0, 1.0, simulator.action_space.shape)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.simulator.lazy_init()
        if self.simulator.engine is None:
            raise RuntimeError("MetaDrive has one simulator in a process: close() the other environment first.")
        if seed is not None:
            # The simulator's own seed chooses the road, and each task has one road; it leaves the traffic unseeded.
            self.simulator.engine.traffic_manager.np_random = np.random.RandomState(seed)
        return self.simulator.reset()

    def step(self, action: Any) -> Any:
        return self.simulator.step(action)

    def render(self) -> Any:
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        surface = self.simulator.render(mode="top_down", film_size=(800, 800))
        return importlib.import_module("pygame.surfarray").array3d(surface).swapaxes(0, 1)

    def close(self) -> None:
        self.simulator.close()


def build(task: Task) -> gym.Env:
    """See `trac.envs`.

    >>> build(trac.TASKS["easysparse"]).observation_space.shape  # needs MetaDrive  # doctest: +SKIP
    (259,)
    """
    traffic = next(name for name in ("sparse", "mean", "dense") if task.name.endswith(name))
    road = task.name.removesuffix(traffic)
    return MetaDrive(getattr(_classes(), f"{road.capitalize()}{traffic.capitalize()}Env")())


@cache
def _classes() -> Any:
    # The release registers its own environments in a way that gym 0.26 no longer has; the fork registers none.
    sys.modules.setdefault("metadrive.register", ModuleType("metadrive.register"))
    # The release uses names that NumPy 1.24 took away, where the fork has these types.
    for name, kind in dict(float=np.float32, int=np.int64, bool=np.bool_).items():
        if name not in vars(np):
            setattr(np, name, kind)
    # dsrl warns of other suites' simulators that are missing, and the old gym of its age.
    with redirect_stderr(io.StringIO()):
        return importlib.import_module("dsrl.offline_metadrive.gym_envs")
