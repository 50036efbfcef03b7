"""Safety-Gymnasium 0.4.0: points and cars among hazards, and five runners with a speed limit, in MuJoCo.

It needs gymnasium 0.28 and NumPy 1, and so an environment of its own: `make safety`.
"""

import importlib
import io
import os
from contextlib import redirect_stderr
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np

from trac.data.tasks import Task

NEEDS = (
    "Safety-Gymnasium, in an environment of its own, on Python 3.11: make safety, and then run with "
    ".venv-safety/bin/python. Without make: pip install torch==2.13.0, then pip install -r "
    "requirements-safety.txt && pip install --no-deps -r requirements-safety-no-deps.txt -e ."
)
SKY = {"@type": "skybox", "@builtin": "gradient", "@rgb1": ".5 .7 .9", "@rgb2": ".1 .2 .35"}


class SafetyGymnasium(gym.Wrapper):
    """Safety-Gymnasium's step of six values as Gymnasium's five, and its drawing without a display.

    >>> env = build(trac.TASKS["CarGoal1"])  # is one; needs Safety-Gymnasium  # doctest: +SKIP
    """

    def step(self, action: Any) -> Any:
        simulator: Any = self.env
        observation, reward, cost, terminated, truncated, info = simulator.step(action)
        return observation, reward, terminated, truncated, info | {"cost": cost}

    def render(self) -> Any:
        # Importing MuJoCo needs no EGL as long as this is not set: only drawing does.
        os.environ.setdefault("MUJOCO_GL", "egl")
        simulator: Any = self.env
        if isinstance(simulator, importlib.import_module("gymnasium.envs.mujoco").MujocoEnv):
            simulator.render_mode = "rgb_array"
        else:
            simulator.render_parameters.mode, simulator.render_parameters.camera_name = "rgb_array", "fixedfar"
        try:
            return simulator.render()
        except Exception as error:
            raise RuntimeError(
                f"MuJoCo cannot draw with MUJOCO_GL={os.environ['MUJOCO_GL']} ({error}). On Debian and Ubuntu EGL "
                f"comes with: sudo apt-get install libegl1 libgl1-mesa-dri"
            ) from error

    def close(self) -> None:
        viewers = getattr(getattr(self.env, "task", None), "_viewers", {})
        for viewer in viewers.values():  # the navigation tasks leave theirs open, which complains at exit
            viewer.close()
        super().close()


class _Colour(np.ndarray):
    __hash__ = object.__hash__  # type: ignore[assignment]  # an array has none


def build(task: Task) -> gym.Env:
    """See `trac.envs`.

    >>> build(trac.TASKS["CarGoal1"]).observation_space.shape  # needs Safety-Gymnasium  # doctest: +SKIP
    (72,)
    """
    name = f"Safety{task.name}Env" if task.name.endswith("Velocity") else f"{task.name}Env"
    return SafetyGymnasium(getattr(_classes(), name)())


@cache
def _classes() -> Any:
    colours: Any = importlib.import_module("safety_gymnasium.assets.color").COLOR
    # They are defaults of dataclasses, which Python 3.11 refuses where they have no hash.
    colours.update({name: value.view(_Colour) for name, value in colours.items()})
    # MuJoCo decodes 24 MB of pictures of the sky twice in a reset, for seconds; the physics has no sky.
    world: Any = importlib.import_module("safety_gymnasium.world")
    assets = world.yaml.safe_load(Path(world.BASE_DIR, "configs", "assets.yaml").read_text())
    assets["textures"]["skybox"] = SKY | {"@width": "256", "@height": "256"}
    world.yaml = SimpleNamespace(load=lambda file, Loader: assets, FullLoader=None)
    # dsrl warns of other suites' simulators that are missing, and the old gym of its age.
    with redirect_stderr(io.StringIO()):
        return importlib.import_module("dsrl.offline_safety_gymnasium.gym_envs")
