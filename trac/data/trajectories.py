"""Logged trajectories as flat arrays, and DSRL's HDF5 form in and out. Every check on input is here."""

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import ArrayLike

from trac.data.files import atomic
from trac.data.tasks import TASKS, check_name, own_task

KEYS = ("observations", "next_observations", "actions", "rewards", "costs", "terminals", "timeouts")
# (E, obs_dim), in place of next_observations in a file where all others of these are the next row of observations.
FINAL = "final_observations"


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
        reward_range: (lowest, highest) episode return, normalised reward 0 and 1.
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
    _next: np.ndarray | Path | None = field(default=None, repr=False)

    def __len__(self) -> int:
        """Number of transitions N."""
        return len(self.rewards)

    @cached_property
    def returns(self) -> np.ndarray:
        """(E,) float64, undiscounted sum of rewards of each episode."""
        return np.add.reduceat(self.rewards.astype(np.float64), self.starts)

    @cached_property
    def episode_costs(self) -> np.ndarray:
        """(E,) float64, undiscounted sum of costs of each episode."""
        return np.add.reduceat(self.costs.astype(np.float64), self.starts)

    @cached_property
    def next_observations(self) -> np.ndarray:
        """(N, obs_dim) float32; read from the file when first asked for. Raises DatasetError for what is not finite."""
        if isinstance(self._next, np.ndarray):
            return self._next
        if self._next is None:
            raise DatasetError(f"{self.task}: these trajectories were made without next observations; pass them in.")
        with _open(self._next) as file:
            values = _array(file, "next_observations", self._next)[: len(self)].astype(np.float32, copy=False)
        _check_finite(values, "next_observations", self._next)
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
    next_observations: ArrayLike | Path | None = None,
    reward_range: tuple[float, float] | None = None,
    where: str = "the arrays",
) -> Trajectories:
    """Check flat arrays and cut them into episodes.

    Args:
        task: name in `trac.TASKS`, or of a task of your own.
        observations: (N, obs_dim).
        actions: (N, act_dim) in [-1, 1].
        rewards: (N,) or (N, 1), as are costs, terminals and timeouts.
        costs: per step, 0 or more.
        terminals: 0 or 1.
        timeouts: 0 or 1.
        next_observations: (N, obs_dim), a file to read it from when asked for, or None.
        reward_range: (lowest, highest) episode return of a task of your own; by default the data's. The
            tasks in `trac.TASKS` have DSRL's.
        where: how errors call the source.

    Raises:
        DatasetError: shapes differ, values are not finite numbers, a cost is negative, actions leave the bounds, no
            episode ends.
        UnknownTask: the name is nearly, but not quite, one of the 38.
        ValueError: the task has DSRL's range, or `reward_range` has no width.
    """
    check_name(task)
    if reward_range is not None:
        own_task(task, reward_range)
    given = dict(observations=observations, actions=actions, rewards=rewards, costs=costs)
    if next_observations is not None and not isinstance(next_observations, Path):
        given["next_observations"] = next_observations
    arrays: dict[str, np.ndarray] = {}
    for key, value in given.items():
        try:
            arrays[key] = np.asarray(value, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise DatasetError(f"{where}: {key} is not an array of numbers ({error}).") from error
    for key, value in dict(terminals=terminals, timeouts=timeouts).items():
        flags = np.asarray(value)
        if not np.isin(flags, (0, 1)).all():
            raise DatasetError(f"{where}: {key} must hold only 0 and 1. Check how the file was written.")
        arrays[key] = flags.astype(bool)
    for key in ("rewards", "costs", "terminals", "timeouts"):
        if arrays[key].ndim == 2 and arrays[key].shape[1] == 1:
            arrays[key] = arrays[key][:, 0]
        if arrays[key].ndim != 1:
            raise DatasetError(f"{where}: {key} has shape {arrays[key].shape}; it must be (N,) or (N, 1).")
    for key in ("observations", "actions"):
        if arrays[key].ndim != 2 or arrays[key].shape[1] == 0:
            raise DatasetError(f"{where}: {key} has shape {arrays[key].shape}; it must be (N, dimension).")

    sizes = {key: len(value) for key, value in arrays.items()}
    if len(set(sizes.values())) != 1:
        raise DatasetError(
            f"{where}: the arrays have different lengths {sizes}. Write the same number of rows for each."
        )
    if "next_observations" in arrays:
        _check_next(arrays["next_observations"].shape, arrays["observations"].shape, where)
    for key in given:
        _check_finite(arrays[key], key, where)
    if arrays["costs"].min(initial=0.0) < 0:
        raise DatasetError(
            f"{where}: costs must be 0 or more; the smallest is {arrays['costs'].min():g}, first below 0 in row "
            f"{int(np.argmax(arrays['costs'] < 0))}. Check their sign."
        )
    # Files written in float32 from float64 simulators overshoot by a rounding error.
    largest = float(np.abs(arrays["actions"]).max(initial=0.0))
    if largest > 1 + 1e-4:
        row = int(np.argwhere(np.abs(arrays["actions"]) > 1 + 1e-4)[0][0])
        raise DatasetError(
            f"{where}: actions must lie in [-1, 1]; the largest is {largest:g}, first in row {row}. "
            f"Rescale the actions to the simulator's action space."
        )

    ends = np.flatnonzero(arrays["terminals"] | arrays["timeouts"])
    if len(ends) == 0:
        raise DatasetError(
            f"{where}: no episode ends: neither terminals nor timeouts is ever true. Mark each episode's last step."
        )
    n = int(ends[-1]) + 1
    if n < sizes["rewards"]:
        warnings.warn(
            f"{where}: dropped the last {sizes['rewards'] - n} transitions, which belong to no finished episode.",
            stacklevel=2,
        )
        arrays = {key: value[:n] for key, value in arrays.items()}
    upcoming = next_observations if isinstance(next_observations, Path) else arrays.pop("next_observations", None)
    starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)
    if task in TASKS:
        reward_range = (TASKS[task].min_return, TASKS[task].max_return)
    elif reward_range is None:
        returns = np.add.reduceat(arrays["rewards"].astype(np.float64), starts)
        reward_range = (float(returns.min()), float(returns.max()))
    lengths = ends + 1 - starts
    return Trajectories(task=task, **arrays, starts=starts, lengths=lengths, reward_range=reward_range, _next=upcoming)


def read(path: str | os.PathLike[str], task: str, reward_range: tuple[float, float] | None = None) -> Trajectories:
    """Read a file in DSRL's HDF5 form (seven flat arrays, see KEYS; or FINAL); `reward_range` as in `from_arrays`.

    Raises:
        DatasetError: the file is missing, empty, truncated, not HDF5, lacks a key, or holds what
            `from_arrays` refuses.
    """
    path = Path(path)
    with _open(path) as file:
        arrays: Mapping[str, np.ndarray] = {key: _array(file, key, path) for key in KEYS if key != "next_observations"}
        if FINAL in file:
            data = from_arrays(task, **arrays, reward_range=reward_range, where=str(path))
            return replace(data, _next=_next_rows(data, _array(file, FINAL, path), path))
        _check_next(_dataset(file, "next_observations", path).shape, arrays["observations"].shape, path)
    return from_arrays(task, **arrays, next_observations=path, reward_range=reward_range, where=str(path))


def read_costs(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The last transition of each episode (E,) and the costs (N,) of a file, without the large arrays.

    Raises:
        DatasetError: see `read`.
    """
    with _open(path) as file:
        costs, terminals, timeouts = (_array(file, key, path).reshape(-1) for key in ("costs", "terminals", "timeouts"))
    if not len(costs) == len(terminals) == len(timeouts):
        raise DatasetError(f"{path}: costs, terminals and timeouts have different lengths.")
    return np.flatnonzero((terminals != 0) | (timeouts != 0)), costs


def write(
    path: str | os.PathLike[str], data: Trajectories, attrs: Mapping[str, str] | None = None, compact: bool = False
) -> None:
    """Write DSRL's HDF5 form, float32 and compressed, to a temporary name and rename it.

    `attrs` are stored as text attributes of the file (how the data was made). `compact` writes FINAL in place of
    next_observations, if these can be had back from it: a file of half the size, which only `read` reads.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary, h5py.File(temporary, "w") as file:
        arrays = {key: np.asarray(getattr(data, key), dtype=np.float32) for key in KEYS}
        final = arrays["next_observations"][data.starts + data.lengths - 1]
        if compact and np.array_equal(_next_rows(data, final, path), arrays["next_observations"]):
            del arrays["next_observations"]
            arrays[FINAL] = final
        for key, values in arrays.items():
            file.create_dataset(key, data=values, compression="gzip", compression_opts=9, shuffle=True)
        file.attrs.update({"task": data.task, **(attrs or {})})


def _check_finite(values: np.ndarray, key: str, where: str | Path) -> None:
    if not np.isfinite(values).all():
        row = int(np.argwhere(~np.isfinite(values))[0][0])
        raise DatasetError(
            f"{where}: {key} has a NaN or infinite value, first in row {row}. Remove or repair that episode."
        )


def _next_rows(data: Trajectories, final: np.ndarray, where: Path) -> np.ndarray:
    """(N, obs_dim), the row after each row, and at the end of an episode its row of `final`."""
    if final.shape != (len(data.starts), data.observations.shape[1]):
        raise DatasetError(f"{where}: {FINAL} has shape {final.shape}; it must have a row for each episode.")
    _check_finite(final, FINAL, where)
    rows = np.roll(data.observations, -1, axis=0)
    rows[data.starts + data.lengths - 1] = final
    return rows


def _check_next(shape: tuple[int, ...], expected: tuple[int, ...], where: str | Path) -> None:
    if shape != expected:
        raise DatasetError(
            f"{where}: next_observations has shape {shape}, observations {expected}. They must be the same."
        )


def _open(path: Path) -> h5py.File:
    if not path.is_file():
        raise DatasetError(f"{path}: no such file. Check the path, or use trac.load(task) for a packaged dataset.")
    if path.stat().st_size == 0:
        raise DatasetError(f"{path}: the file is empty. Delete it and fetch or write it again.")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DatasetError(
            f"{path}: not a readable HDF5 file, or a truncated one ({error}). Delete it and fetch or write it again."
        ) from error
    if missing := [key for key in KEYS if key not in file and not (key == "next_observations" and FINAL in file)]:
        with file:
            raise DatasetError(
                f"{path}: the keys {missing} are missing; the file has {sorted(file)}. DSRL's form needs {list(KEYS)}."
            )
    return file


def _dataset(file: h5py.File, key: str, path: Path) -> h5py.Dataset:
    # Links out of the file and variable-length or object types have no place in data from outside.
    dataset = file[key] if isinstance(file.get(key, getlink=True), h5py.HardLink) else None
    if (
        not isinstance(dataset, h5py.Dataset)
        or dataset.is_virtual
        or dataset.external
        or dataset.dtype.kind not in "biuf"
    ):
        raise DatasetError(f"{path}: {key} is not a plain numeric array stored in this file.")
    return dataset


def _array(file: h5py.File, key: str, path: Path) -> np.ndarray:
    dataset = _dataset(file, key, path)
    try:
        # float32 already while reading: no second copy of the whole array.
        values: np.ndarray = (dataset.astype(np.float32) if dataset.dtype.kind == "f" else dataset)[()]
        return values
    except OSError as error:
        raise DatasetError(
            f"{path}: {key} cannot be read, the file is damaged ({error}). Fetch or write it again."
        ) from error
