"""The 38 tasks of DSRL: what each one is called, how it is scored, and what the paper used on it."""

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


class UnknownTask(ValueError):
    """A task name that is not one of DSRL's 38, where it should be."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: the nearest of the known ones, or all of them."""
    near = difflib.get_close_matches(name, known := list(known), n=1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}."


@dataclass(frozen=True)
class Task:
    """One DSRL task.

    Source of the numbers: `dsrl/infos.py` of dsrl 0.1.0; `paper` holds the settings of
    arXiv 2412.15429 and its released code for the task's suite.
    """

    name: str
    suite: str  # "bullet", "safety_gymnasium" or "metadrive"; "own" for a user's
    env_id: str  # the name under which dsrl registers the simulator
    file: str  # DSRL's file name: task, largest episode cost, number of trajectories
    max_episode_steps: int  # horizon of the simulator [steps]
    min_return: float  # lowest episode return in DSRL's file; normalised reward 0
    max_return: float  # highest episode return in DSRL's file; normalised reward 1
    cost_limits: tuple[float, ...]  # the paper's three limits [cost per episode]
    paper: Mapping[str, Any]  # TracConfig fields; segment_ratio only where it is published

    def normalized_reward(self, episode_return):
        """Return (scalar or array) on DSRL's scale: 0 for `min_return`, 1 for `max_return`."""
        return (episode_return - self.min_return) / (self.max_return - self.min_return)

    @staticmethod
    def normalized_cost(episode_cost, cost_limit: float):
        """Episode cost over the limit; below 1 is safe. NaN where the limit is infinite.

        DSRL adds 1 to both when the limit is 0, so that the ratio exists.
        """
        if cost_limit == float("inf"):
            return episode_cost * float("nan")
        epsilon = 1.0 if cost_limit == 0 else 0.0
        return (episode_cost + epsilon) / (cost_limit + epsilon)


_SHARED = dict(kappa=0.7, batch_size=96, learning_rate=1e-4, lr_multiplier=0.1, warmup_steps=10_000)
_PAPER = {
    "bullet": dict(_SHARED, alpha=0.2, gamma=0.99, eta=0.25, top=0.5, bottom=0.0, bc_steps=30_000, steps=100_000),
    "safety_gymnasium": dict(
        _SHARED, alpha=0.1, gamma=0.99, eta=0.5, top=0.5, bottom=0.5, bc_steps=30_000, steps=100_000
    ),
    "metadrive": dict(_SHARED, alpha=0.2, gamma=1.0, eta=0.25, top=0.25, bottom=0.0, bc_steps=60_000, steps=200_000),
}
_LIMITS = {
    "bullet": (10.0, 20.0, 40.0),
    "safety_gymnasium": (20.0, 40.0, 80.0),
    "metadrive": (10.0, 20.0, 40.0),
}
# The paper varies the ratio by task and prints these three only.
_SEGMENT_RATIO = {"BallRun": 1.0, "PointButton1": 0.75, "easydense": 0.25}

# name, file, max_episode_steps, min_return, max_return
_ROWS = (
    ("AntCircle", "SafetyAntCircle-v0-200-5728.hdf5", 500, 0.0177031010389328, 460.7091979980469),
    ("AntRun", "SafetyAntRun-v0-150-1816.hdf5", 200, 0.001767391717990563, 955.4818725585938),
    ("BallCircle", "SafetyBallCircle-v0-80-886.hdf5", 200, 0.38312244415283203, 881.46337890625),
    ("BallRun", "SafetyBallRun-v0-80-940.hdf5", 100, 26.339754104614258, 1327.445556640625),
    ("CarCircle", "SafetyCarCircle-v0-100-1450.hdf5", 300, 3.484419822692871, 534.3060913085938),
    ("CarRun", "SafetyCarRun-v0-40-651.hdf5", 200, 204.28726196289062, 574.6533203125),
    ("DroneCircle", "SafetyDroneCircle-v0-100-1923.hdf5", 300, 207.794189453125, 996.38916015625),
    ("DroneRun", "SafetyDroneRun-v0-140-1990.hdf5", 200, 10.557029724121094, 682.8330078125),
    ("CarButton1", "SafetyCarButton1Gymnasium-v0-250-2656.hdf5", 1000, 0.0028926206826067613, 44.420003345738984),
    ("CarButton2", "SafetyCarButton2Gymnasium-v0-300-3755.hdf5", 1000, 0.001767391717990563, 41.99513815522894),
    ("CarCircle1", "SafetyCarCircle1Gymnasium-v0-250-1271.hdf5", 500, 8.037073135375977, 24.94155502319336),
    ("CarCircle2", "SafetyCarCircle2Gymnasium-v0-400-940.hdf5", 500, 5.113386154174805, 25.950098037719727),
    ("CarGoal1", "SafetyCarGoal1Gymnasium-v0-120-1671.hdf5", 1000, 0.012232819540852091, 39.907809198384705),
    ("CarGoal2", "SafetyCarGoal2Gymnasium-v0-200-4105.hdf5", 1000, 0.001032874531954775, 28.902897990056502),
    ("CarPush1", "SafetyCarPush1Gymnasium-v0-200-2871.hdf5", 1000, 0.013700173533941762, 16.304467598905237),
    ("CarPush2", "SafetyCarPush2Gymnasium-v0-250-4407.hdf5", 1000, 0.00029391133526335267, 15.141648491514314),
    ("PointButton1", "SafetyPointButton1Gymnasium-v0-200-2268.hdf5", 1000, 0.008822109034937853, 41.19301568767707),
    ("PointButton2", "SafetyPointButton2Gymnasium-v0-250-3288.hdf5", 1000, 0.014114166087574098, 42.8985953616709),
    ("PointCircle1", "SafetyPointCircle1Gymnasium-v0-200-1098.hdf5", 500, 20.067626953125, 61.72819519042969),
    ("PointCircle2", "SafetyPointCircle2Gymnasium-v0-300-895.hdf5", 500, 20.478347778320312, 54.02184295654297),
    ("PointGoal1", "SafetyPointGoal1Gymnasium-v0-100-2022.hdf5", 1000, 0.01196012764197707, 30.071114857340543),
    ("PointGoal2", "SafetyPointGoal2Gymnasium-v0-200-3442.hdf5", 1000, 0.002616959830266108, 27.717709787852737),
    ("PointPush1", "SafetyPointPush1Gymnasium-v0-150-2379.hdf5", 1000, 0.0014001545292344209, 16.518654299293367),
    ("PointPush2", "SafetyPointPush2Gymnasium-v0-200-3242.hdf5", 1000, 0.0012438183001730607, 14.691039145644403),
    ("AntVelocity", "SafetyAntVelocityGymnasium-v1-250-2249.hdf5", 1000, 6.1519012451171875, 2976.276611328125),
    (
        "HalfCheetahVelocity",
        "SafetyHalfCheetahVelocityGymnasium-v1-250-2495.hdf5",
        1000,
        5.7509765625,
        2806.93310546875,
    ),
    ("HopperVelocity", "SafetyHopperVelocityGymnasium-v1-250-2240.hdf5", 1000, 37.05154800415039, 1911.396728515625),
    (
        "SwimmerVelocity",
        "SafetySwimmerVelocityGymnasium-v1-200-1686.hdf5",
        1000,
        0.07114458084106445,
        238.95831298828125,
    ),
    (
        "Walker2dVelocity",
        "SafetyWalker2dVelocityGymnasium-v1-300-2729.hdf5",
        1000,
        18.668498992919922,
        3418.223876953125,
    ),
    ("easysparse", "SafeMetaDrive-easysparse-v0-85-1000.hdf5", 1000, 20.094310760498047, 425.8006286621094),
    ("easymean", "SafeMetaDrive-easymean-v0-85-1000.hdf5", 1000, 22.142553329467773, 425.82440185546875),
    ("easydense", "SafeMetaDrive-easydense-v0-85-1000.hdf5", 1000, 19.71139144897461, 425.81732177734375),
    ("mediumsparse", "SafeMetaDrive-mediumsparse-v0-50-1000.hdf5", 1000, 17.446578979492188, 269.80084228515625),
    ("mediummean", "SafeMetaDrive-mediummean-v0-50-1000.hdf5", 1000, 17.032529830932617, 269.8221435546875),
    ("mediumdense", "SafeMetaDrive-mediumdense-v0-50-1000.hdf5", 1000, 15.102348327636719, 269.7813415527344),
    ("hardsparse", "SafeMetaDrive-hardsparse-v0-85-1000.hdf5", 1000, 17.247974395751953, 486.80523681640625),
    ("hardmean", "SafeMetaDrive-hardmean-v0-85-1000.hdf5", 1000, 19.387981414794922, 486.9967956542969),
    ("harddense", "SafeMetaDrive-harddense-v0-85-1000.hdf5", 1000, 15.386894226074219, 486.63616943359375),
)


def _task(name: str, file: str, max_episode_steps: int, min_return: float, max_return: float) -> Task:
    if file.startswith("SafeMetaDrive"):
        suite, env_id = "metadrive", f"OfflineMetadrive-{name}-v0"
    else:
        suite = "safety_gymnasium" if "Gymnasium" in file else "bullet"
        env_id = "Offline" + "-".join(file.removeprefix("Safety").split("-")[:2])
    paper = dict(_PAPER[suite])
    if name in _SEGMENT_RATIO:
        paper["segment_ratio"] = _SEGMENT_RATIO[name]
    return Task(
        name, suite, env_id, file, max_episode_steps, min_return, max_return, _LIMITS[suite], MappingProxyType(paper)
    )


TASKS: Mapping[str, Task] = MappingProxyType({row[0]: _task(*row) for row in _ROWS})


def get_task(name: str) -> Task:
    """The task of that name. Raises UnknownTask, with the nearest names."""
    if name in TASKS:
        return TASKS[name]
    near = _near(name, 0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else f"the tasks are {', '.join(TASKS)}."
    raise UnknownTask(f"unknown task {name!r}: {hint}")


def own_task(name: str, reward_range: tuple[float, float]) -> Task:
    """A task of one's own: its name and scale, and nothing about a simulator.

    Args:
        name: not one of the 38, which have DSRL's range.
        reward_range: (lowest, highest) episode return, normalised reward 0 and 1.

    Raises:
        ValueError: the range has no width, or the name is one of the 38.
    """
    low, high = reward_range
    if name in TASKS:
        raise ValueError(f"{name} has DSRL's reward range: leave reward_range out, or name your task differently.")
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"reward_range={reward_range} must be the (lowest, highest) episode return.")
    return Task(name, "own", "", "", 0, float(low), float(high), (), MappingProxyType({}))


def check_name(name: str) -> None:
    """Raise UnknownTask for what is neither one of the 38 nor a name for a task of one's own.

    A name close to one of the 38 counts as a slip.
    """
    if not name:
        raise UnknownTask("the task has no name.")
    if name not in TASKS and (near := _near(name, 0.8)):
        raise UnknownTask(
            f"unknown task {name!r}: did you mean {' or '.join(near)}? A task of your own needs a name less like it."
        )


def _near(name: str, similarity: float) -> list[str]:
    lower = {task.lower(): task for task in TASKS}
    return [lower[match] for match in difflib.get_close_matches(str(name).lower(), lower, n=3, cutoff=similarity)]
