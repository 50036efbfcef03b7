"""The 38 tasks of DSRL: what each one is called, how it is scored, and what the paper used on it."""

import csv
import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import pandas as pd

Numbers = TypeVar("Numbers", float, np.ndarray, "pd.Series[float]")


class UnknownTask(ValueError):
    """A task name that is not one of DSRL's 38, where it should be."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: the nearest of the known ones, or all of them.

    >>> suggestion("BalRun", ["BallRun", "CarRun"])
    'did you mean BallRun?'
    """
    near = difflib.get_close_matches(str(name), known := list(known), n=1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}."


def keeps_limit(cost: Numbers, limit: float) -> Any:
    """Whether a cost is at most the limit, elementwise, False for NaN. A millionth more is float32's rounding.

    >>> keeps_limit(float(20 * np.float32(0.1)), 2.0), keeps_limit(2.01, 2.0)
    (True, False)
    """
    return cost <= limit * (1 + 1e-6)


@dataclass(frozen=True)
class Task:
    """One DSRL task.

    Source of the numbers: `dsrl/infos.py` of dsrl 0.1.0; `paper` holds the settings of
    arXiv 2412.15429 and its released code for the task's suite.

    >>> task = trac.TASKS["BallRun"]
    >>> task.suite, task.max_episode_steps, task.cost_limits
    ('bullet', 100, (10.0, 20.0, 40.0))
    """

    name: str
    suite: str  # "bullet", "safety_gymnasium" or "metadrive"; "own" for a user's
    file: str  # DSRL's file name: task, largest episode cost, number of trajectories
    max_episode_steps: int  # horizon of the simulator [steps]
    min_return: float  # lowest episode return in DSRL's file; normalised reward 0
    max_return: float  # highest episode return in DSRL's file; normalised reward 1
    cost_limits: tuple[float, ...]  # the paper's three limits [cost per episode]
    paper: Mapping[str, Any]  # TracConfig fields; segment_ratio only where it is published

    def normalized_reward(self, episode_return: Numbers) -> Numbers:
        """Return on DSRL's scale: 0 for `min_return`, 1 for `max_return`.

        >>> trac.TASKS["BallRun"].normalized_reward(trac.TASKS["BallRun"].max_return)
        1.0
        """
        return (episode_return - self.min_return) / (self.max_return - self.min_return)

    @staticmethod
    def normalized_cost(episode_cost: Numbers, cost_limit: float) -> Numbers:
        """Episode cost over the limit; a mean of at most 1 is safe. NaN where the limit is infinite.

        DSRL adds 1 to both when the limit is 0, so that the ratio exists.

        >>> trac.TASKS["BallRun"].normalized_cost(30.0, cost_limit=20)
        1.5
        """
        if cost_limit == float("inf"):
            return episode_cost * float("nan")
        epsilon = 1.0 if cost_limit == 0 else 0.0
        return (episode_cost + epsilon) / (cost_limit + epsilon)


_SHARED: dict[str, Any] = dict(kappa=0.7, batch_size=96, learning_rate=1e-4, lr_multiplier=0.1, warmup_steps=10_000)
_LONG: dict[str, Any] = _SHARED | dict(bc_steps=30_000, steps=100_000)
_PAPER: dict[str, dict[str, Any]] = {
    "bullet": _LONG | dict(alpha=0.2, gamma=0.99, eta=0.25, top=0.5, bottom=0.0),
    "safety_gymnasium": _LONG | dict(alpha=0.1, gamma=0.99, eta=0.5, top=0.5, bottom=0.5),
    "metadrive": _SHARED | dict(alpha=0.2, gamma=1.0, eta=0.25, top=0.25, bottom=0.0, bc_steps=60_000, steps=200_000),
}
_LIMITS = {
    "bullet": (10.0, 20.0, 40.0),
    "safety_gymnasium": (20.0, 40.0, 80.0),
    "metadrive": (10.0, 20.0, 40.0),
}
# The paper varies the ratio by task and prints these three only.
_SEGMENT_RATIO = {"BallRun": 1.0, "PointButton1": 0.75, "easydense": 0.25}


def _task(name: str, suite: str, file: str, steps: str, low: str, high: str) -> Task:
    ratio = {"segment_ratio": _SEGMENT_RATIO[name]} if name in _SEGMENT_RATIO else {}
    paper = MappingProxyType(_PAPER[suite] | ratio)
    return Task(name, suite, file, int(steps), float(low), float(high), _LIMITS[suite], paper)


with Path(__file__).with_name("tasks.csv").open() as _file:
    TASKS: Mapping[str, Task] = MappingProxyType({row[0]: _task(*row) for row in [*csv.reader(_file)][1:]})


def get_task(name: str) -> Task:
    """The task of that name. Raises UnknownTask, with the nearest name.

    >>> get_task("BallRun").file
    'SafetyBallRun-v0-80-940.hdf5'
    """
    if name not in TASKS:
        raise UnknownTask(f"unknown task {name!r}: {suggestion(name, TASKS)}")
    return TASKS[name]


def own_task(name: str, reward_range: tuple[float, float]) -> Task:
    """A task of one's own: its name and scale, and nothing about a simulator.

    Args:
        name: not one of the 38, which have DSRL's range.
        reward_range: (lowest, highest) episode return, normalised reward 0 and 1.

    Raises:
        ValueError: the range has no width, or the name is one of the 38.

    Example:
        >>> own_task("mine", reward_range=(0, 200)).normalized_reward(50.0)
        0.25
    """
    if name in TASKS:
        raise ValueError(f"{name} has DSRL's reward range: leave reward_range out, or name your task differently.")
    try:
        low, high = map(float, reward_range)
    except (TypeError, ValueError):
        low = high = math.nan
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"reward_range={reward_range} must be the (lowest, highest) episode return.")
    return Task(name, "own", "", 0, low, high, (), MappingProxyType({}))


def check_name(name: str) -> None:
    """Raise UnknownTask for what is neither one of the 38 nor a name for a task of one's own.

    A name close to one of the 38 counts as a slip.

    >>> check_name("mine")
    >>> check_name("BalRun")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    trac.data.tasks.UnknownTask: unknown task 'BalRun': did you mean BallRun? A task of your own needs ...
    """
    if not name:
        raise UnknownTask("the task has no name.")
    lower = {task.lower(): task for task in TASKS}
    if name not in TASKS and (near := difflib.get_close_matches(name.lower(), lower, cutoff=0.8)):
        meant = " or ".join(lower[match] for match in near)
        raise UnknownTask(f"unknown task {name!r}: did you mean {meant}? A task of your own needs a name less like it.")
