"""Logged trajectories as flat arrays, and every check on them."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import InitVar, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from trac.data.files import fingerprint
from trac.data.signs import signs
from trac.data.tasks import TASKS, check_name, own_task

KEYS = ("observations", "next_observations", "actions", "rewards", "costs", "terminals", "timeouts")


class DatasetError(ValueError):
    """A dataset that cannot be used; the message names the file, what is wrong and what to do."""


@dataclass(frozen=True, eq=False)
class Trajectories:
    """N transitions of E episodes, laid end to end.

    Attributes:
        task: name in `trac.TASKS`, or of a task of your own.
        observations: (N, obs_dim) float32.
        actions: (N, act_dim) float32 in [-1, 1].
        rewards: (N,) float32, per step.
        costs: (N,) float32, per step, 0 or more.
        terminals: (N,) bool; an episode ends where this or `timeouts` is true.
        timeouts: (N,) bool.
        starts: (E,) int64, first transition of each episode.
        lengths: (E,) int64, number of steps of each episode.
        reward_range: (lowest, highest) episode return, normalised reward 0 and 1; DSRL's for the tasks in `trac.TASKS`.
            `dataclasses.replace` keeps it where rewards change: give a new one, too.

    Example:
        >>> data
        Trajectories(BallRun: 644 episodes, 64400 transitions)
        >>> data.observations.shape, data.episode_costs[:3].tolist()
        ((64400, 7), [1.0, 0.0, 0.0])
    """

    task: str
    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    costs: np.ndarray
    terminals: np.ndarray
    timeouts: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    reward_range: tuple[float, float]
    # (N, obs_dim) float32, or what reads them when they are first asked for.
    _next: "np.ndarray | Callable[[Trajectories], np.ndarray] | None" = field(default=None, repr=False)
    # Of observations and next_observations, when both were there; and of all arrays, when they were last checked.
    _seen: tuple[str, str] | None = field(default=None, init=False, repr=False)
    _known: str = field(default="", init=False, repr=False)
    where: InitVar[str] = ""  # how errors call the source

    def __post_init__(self, where: str) -> None:
        # Here, so that dataclasses.replace() is checked, too.
        self.check(where)
        self._see()

    def check(self, where: str = "") -> None:
        """Raise DatasetError, which calls the data `where`, for arrays that cannot be used.

        Warn of what is hardly meant. Done when trajectories are made, and again before they are used: arrays may be
        changed in place.

        >>> data.check()
        """
        where = where or self.task
        n, last = int(self.lengths.sum()), self.starts + self.lengths - 1
        for key in ("observations", "actions", "rewards", "costs", "terminals", "timeouts"):
            values, dimensions = getattr(self, key), 2 if key in ("observations", "actions") else 1
            if values.ndim != dimensions or len(values) != n:
                raise DatasetError(f"{where}: {key} has shape {values.shape}, and the episodes have {n} steps in all.")
            _check_finite(values, key, where)
        if isinstance(self._next, np.ndarray):
            _check_next(self._next.shape, self.observations.shape, where)
            _check_finite(self._next, "next_observations", where)
        if not np.array_equal(np.flatnonzero(self.terminals | self.timeouts), last):
            raise DatasetError(
                f"{where}: the episodes do not end where terminals or timeouts are true; use from_arrays."
            )
        if self.costs.min() < 0:
            raise DatasetError(
                f"{where}: costs must be 0 or more; the smallest is {self.costs.min():g}, first below 0 in row "
                f"{int(np.argmax(self.costs < 0))}. Check their sign."
            )
        # Files written in float32 from float64 simulators overshoot by a rounding error.
        largest = float(np.abs(self.actions).max())
        if largest > 1 + 1e-4:
            row = int(np.argwhere(np.abs(self.actions) > 1 + 1e-4)[0][0])
            raise DatasetError(
                f"{where}: actions must lie in [-1, 1]; the largest is {largest:g}, first in row {row}. Rescale them "
                f"as 2 (a - low) / (high - low) - 1, and the simulator by gymnasium.wrappers.RescaleAction(env, -1, 1)."
            )
        longest = int(self.lengths.max())
        if self.task in TASKS and longest > (most := TASKS[self.task].max_episode_steps):
            raise DatasetError(
                f"{where}: episode {self.lengths.argmax()} has {longest} steps, and those of {self.task} have at most "
                f"{most}. Mark the ends that are missing as timeouts, or name the task otherwise."
            )
        if self.task in TASKS and tuple(self.reward_range) != (theirs := _range_of(self.task)):
            raise DatasetError(
                f"{where}: reward_range is {tuple(self.reward_range)}, and DSRL's for {self.task} is {theirs}. Make "
                f"the trajectories by from_arrays, which gives them DSRL's, or name the task otherwise."
            )
        now = fingerprint(self.observations, self.actions, self.rewards, self.costs)
        if now != self._known:
            object.__setattr__(self, "_known", now)
            for sign in signs(self):
                warnings.warn(f"{where}: {sign}", stacklevel=5)

    def check_next(self) -> None:
        """Raise DatasetError where observations were changed in place, and next_observations, which are there, not.

        Done before a method reads next_observations. Of a file they are compared when they are read.

        >>> data.check_next()
        """
        if self._seen and isinstance(self._next, np.ndarray):
            before, before_next = self._seen
            if fingerprint(self.observations) != before and fingerprint(self._next) == before_next:
                raise DatasetError(
                    f"{self.task}: observations were changed in place, and next_observations were not. Change both "
                    f"alike, or make the trajectories by from_arrays with both."
                )

    def _see(self) -> None:
        if isinstance(self._next, np.ndarray):
            object.__setattr__(self, "_seen", (fingerprint(self.observations), fingerprint(self._next)))

    def __len__(self) -> int:
        """Number of transitions N."""
        return len(self.rewards)

    @property
    def returns(self) -> np.ndarray:
        """(E,) float64, undiscounted sum of rewards of each episode."""
        return np.add.reduceat(self.rewards.astype(np.float64), self.starts)

    @property
    def episode_costs(self) -> np.ndarray:
        """(E,) float64, undiscounted sum of costs of each episode."""
        return np.add.reduceat(self.costs.astype(np.float64), self.starts)

    @property
    def next_observations(self) -> np.ndarray:
        """(N, obs_dim) float32; read from the file when first asked for.

        Raises DatasetError for what is not there or not finite, and for a file that has changed since.
        """
        if self._next is None:
            raise DatasetError(f"{self.task}: these trajectories have no next_observations, which the method reads.")
        values = self._next if isinstance(self._next, np.ndarray) else self._next(self)
        if values is not self._next:
            object.__setattr__(self, "_next", values)
            self._see()
        return values

    def __repr__(self) -> str:
        return f"Trajectories({self.task}: {len(self.starts)} episodes, {len(self)} transitions)"


def from_arrays(
    task: str,
    *,
    observations: ArrayLike,
    actions: ArrayLike,
    rewards: ArrayLike,
    costs: ArrayLike,
    terminals: ArrayLike,
    timeouts: ArrayLike,
    next_observations: ArrayLike | None = None,
    reward_range: tuple[float, float] | None = None,
) -> Trajectories:
    """Check flat arrays, copy them, and cut them into episodes.

    Args:
        task: name in `trac.TASKS`, or of a task of your own.
        observations: (N, obs_dim).
        actions: (N, act_dim) in [-1, 1].
        rewards: (N,) or (N, 1), as are costs, terminals and timeouts.
        costs: per step, 0 or more.
        terminals: 0 or 1.
        timeouts: 0 or 1.
        next_observations: (N, obs_dim), or None: some methods do without.
        reward_range: (lowest, highest) episode return of a task of your own; by default the data's. The
            tasks in `trac.TASKS` have DSRL's.

    Raises:
        DatasetError: shapes differ, values are not finite numbers, a cost is negative, actions leave the bounds, no
            episode ends, or one is longer than the task allows.
        UnknownTask: the name is nearly, but not quite, one of the 38.
        ValueError: the task has DSRL's range, or `reward_range` has no width.

    Example:
        >>> steps = dict(observations=np.zeros((4, 3)), actions=np.zeros((4, 1)), rewards=[1, 1, 1, 2])
        >>> log = from_arrays("mine", **steps, costs=[0, 1, 0, 0], terminals=[0, 1, 0, 0], timeouts=[0, 0, 0, 1])
        >>> log.lengths.tolist(), log.returns.tolist(), log.reward_range
        ([2, 2], [2.0, 3.0], (2.0, 3.0))
    """
    given = dict(observations=observations, actions=actions, rewards=rewards, costs=costs)
    given |= dict(terminals=terminals, timeouts=timeouts)
    if next_observations is not None:
        given["next_observations"] = next_observations
    return _checked(task, given, reward_range, "the arrays", copy=True)


def _checked(
    task: str,
    given: Mapping[str, ArrayLike],
    reward_range: tuple[float, float] | None,
    where: str,
    copy: bool,
    later: Callable[[Trajectories], np.ndarray] | None = None,
) -> Trajectories:
    check_name(task)
    if reward_range is not None:
        own_task(task, reward_range)
    arrays: dict[str, np.ndarray] = {}
    for key, value in given.items():
        try:
            if (kind := np.asarray(value).dtype).kind not in "biufO":
                raise TypeError(f"its type is {kind}")
            if np.ma.is_masked(value):
                raise TypeError("some entries are masked")
            with np.errstate(over="ignore"):  # what is infinite then is refused below
                arrays[key] = (np.array if copy else np.asarray)(value, dtype=np.float32, order="C")
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise DatasetError(f"{where}: {key} is not an array of numbers ({error}).") from error
    for key in ("terminals", "timeouts"):
        if not np.isin(arrays[key], (0, 1)).all():
            raise DatasetError(f"{where}: {key} must hold only 0 and 1. Check how the file was written.")
        arrays[key] = arrays[key].astype(bool)
    for key in ("rewards", "costs", "terminals", "timeouts"):
        if arrays[key].ndim == 2 and arrays[key].shape[1] == 1:
            arrays[key] = arrays[key][:, 0]
        if arrays[key].ndim != 1:
            raise DatasetError(f"{where}: {key} has shape {arrays[key].shape}; it must be (N,) or (N, 1).")
    for key in ("observations", "actions"):
        if arrays[key].ndim != 2 or arrays[key].shape[1] == 0:
            raise DatasetError(f"{where}: {key} has shape {arrays[key].shape}; it must be (N, dimension).")
    upcoming = arrays.pop("next_observations", None)

    sizes = {key: len(value) for key, value in arrays.items()}
    if len(set(sizes.values())) != 1:
        raise DatasetError(
            f"{where}: the arrays have different lengths {sizes}. Write the same number of rows for each."
        )
    if upcoming is not None:
        _check_next(upcoming.shape, arrays["observations"].shape, where)
    ends = np.flatnonzero(arrays["terminals"] | arrays["timeouts"])
    if len(ends) == 0:
        raise DatasetError(
            f"{where}: no episode ends: neither terminals nor timeouts is ever true. Mark each episode's last step."
        )
    starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)
    lengths = ends + 1 - starts
    n = int(ends[-1]) + 1
    if n < sizes["rewards"]:
        warnings.warn(
            f"{where}: dropped the last {sizes['rewards'] - n} transitions, which belong to no finished episode.",
            stacklevel=3,
        )
        arrays = {key: value[:n] for key, value in arrays.items()}
        upcoming = None if upcoming is None else upcoming[:n]
    if task in TASKS:
        reward_range = _range_of(task)
    elif reward_range is None:
        returns = np.add.reduceat(arrays["rewards"].astype(np.float64), starts)
        reward_range = (float(returns.min()), float(returns.max()))
    arrays |= dict(starts=starts, lengths=lengths)
    following = later if upcoming is None else upcoming
    return Trajectories(task=task, **arrays, reward_range=reward_range, _next=following, where=where)


def _range_of(task: str) -> tuple[float, float]:
    return TASKS[task].min_return, TASKS[task].max_return


def _check_finite(values: np.ndarray, key: str, where: str | Path) -> None:
    if not np.isfinite(values).all():
        row = int(np.argwhere(~np.isfinite(values))[0][0])
        raise DatasetError(
            f"{where}: {key} has a NaN or infinite value, first in row {row}. Remove or repair that episode."
        )


def _check_next(shape: tuple[int, ...], expected: tuple[int, ...], where: str | Path) -> None:
    if shape != expected:
        raise DatasetError(
            f"{where}: next_observations has shape {shape}, observations {expected}. They must be the same."
        )
