"""DSRL's HDF5 form of a log, in and out: flat arrays in one file."""

import errno
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from trac.data.files import atomic, fingerprint
from trac.data.signs import order
from trac.data.tasks import TASKS, own_task
from trac.data.trajectories import KEYS, DatasetError, Trajectories, _check_finite, _check_next, _checked

_OTHERS_NAMES = {"terminals": "terminations", "timeouts": "truncations"}  # Gymnasium's and Minari's
# (E, obs_dim), in place of next_observations in a file where all others of these are the next row of observations.
FINAL = "final_observations"


class DatasetUnavailable(DatasetError):
    """A file that cannot be read here and now, and may be whole: it is locked, not permitted, or lacks its filter."""


def read(path: str | os.PathLike[str], task: str, reward_range: tuple[float, float] | None = None) -> Trajectories:
    """Read a file in DSRL's HDF5 form (flat arrays, see KEYS and FINAL).

    `reward_range` is as in `from_arrays`, and by default what `write` noted in the file, if it did.
    The file may lack next_observations, which some methods do without.

    Raises:
        DatasetError: the file is missing, empty, truncated, not HDF5, lacks a key, or holds what
            `from_arrays` refuses.
        DatasetUnavailable: the file may be whole, and cannot be read here and now.

    Example:
        >>> read(trac.data.packaged.find("BallRun"), "BallRun")
        Trajectories(BallRun: 644 episodes, 64400 transitions)
    """
    path = Path(path).expanduser()
    later = None
    with _open(path) as file:
        named = next((known.name for known in TASKS.values() if known.file == path.name), task)
        written = file.attrs.get("task", named)
        written = written.decode(errors="replace") if isinstance(written, bytes) else str(written)
        if written != task and {written, task} <= TASKS.keys():
            raise DatasetError(f"{path}: it says that it is a log of {written}. Load it under that name.")
        if reward_range is None and task not in TASKS and "reward_range" in file.attrs:
            try:
                known = own_task(task, file.attrs["reward_range"])
            except ValueError as error:
                raise DatasetError(f"{path}: its attribute {error} Pass the right one as reward_range.") from error
            reward_range = (known.min_return, known.max_return)
        arrays = {key: _array(file, key, path) for key in KEYS if key != "next_observations"}
        final = _array(file, FINAL, path) if FINAL in file else None
        if final is not None and "next_observations" in file:
            raise DatasetError(f"{path}: it has both next_observations and {FINAL}. Delete one of them.")
        if "next_observations" in file:
            _check_next(_dataset(file, "next_observations", path).shape, np.shape(arrays["observations"]), path)
            later = partial(_read_next, path.resolve(), _state(path, arrays["rewards"]))
    data = _checked(task, arrays, reward_range, str(path), copy=False, later=later)
    if later:
        with _open(path) as file:
            signs = list(order(data, _dataset(file, "next_observations", path).astype(np.float32)))
        for sign in signs:
            warnings.warn(f"{path}: {sign}", stacklevel=2)
    return data if final is None else replace(data, _next=_next_rows(data, final, path))


def read_costs(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The last transition of each episode (E,) and the costs (N,) of a file, without the large arrays.

    Raises:
        DatasetError: see `read`.

    Example:
        >>> ends, costs = read_costs(trac.data.packaged.find("BallRun"))
        >>> ends[:2].tolist(), costs.shape
        ([99, 199], (64400,))
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

    `attrs` are stored as text attributes of the file (how the data was made), and so are the task and the reward range
    of a task of one's own. `compact` writes FINAL in place of
    next_observations, if these can be had back from it: a file of half the size, which only `read` reads.

    >>> write(folder / "log.hdf5", data, attrs={"made_by": "an example"})
    >>> trac.load("BallRun", folder / "log.hdf5")
    Trajectories(BallRun: 644 episodes, 64400 transitions)
    """
    data.check()
    data.check_next()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary, h5py.File(temporary, "w") as file:
        arrays = {key: getattr(data, key) for key in KEYS if key != "next_observations"}
        if data._next is not None:
            arrays["next_observations"] = data.next_observations
            final = data.next_observations[data.starts + data.lengths - 1]
            if compact and np.array_equal(_next_rows(data, final, path), data.next_observations):
                del arrays["next_observations"]
                arrays[FINAL] = final
        for key, array in arrays.items():
            values = np.asarray(array, dtype=np.float32)
            file.create_dataset(key, data=values, compression="gzip", compression_opts=9, shuffle=True)
        if data.task not in TASKS and data.reward_range[0] < data.reward_range[1]:
            file.attrs["reward_range"] = data.reward_range
        file.attrs.update({"task": data.task, **(attrs or {})})


def _read_next(path: Path, state: tuple[int, int, str], data: Trajectories) -> np.ndarray:
    """The next_observations (N, obs_dim) of the file that `data` was read from, which had this `_state` then."""
    with _open(path) as file:
        if _state(path, _array(file, "rewards", path)) != state:
            raise DatasetError(f"{path}: the file has changed since its other arrays were read. Load it again.")
        if not np.array_equal(_array(file, "observations", path)[: len(data)], data.observations):
            raise DatasetError(
                f"{path}: the observations are no longer those of the file's first rows, whose next_observations "
                f"would not be theirs. Make the changed trajectories by from_arrays, with next_observations."
            )
        values = _array(file, "next_observations", path)[: len(data)].astype(np.float32, copy=False)
    _check_finite(values, "next_observations", path)
    return values


def _next_rows(data: Trajectories, final: np.ndarray, where: Path) -> np.ndarray:
    """(N, obs_dim), the row after each row, and at the end of an episode its row of `final`."""
    if final.shape != (len(data.starts), data.observations.shape[1]):
        raise DatasetError(f"{where}: {FINAL} has shape {final.shape}; it must have a row for each episode.")
    _check_finite(final, FINAL, where)
    rows = np.roll(data.observations, -1, axis=0)
    rows[data.starts + data.lengths - 1] = final
    return rows


def _state(path: Path, rewards: np.ndarray) -> tuple[int, int, str]:
    """What tells a file from another under its name: size [bytes], time of the last change [ns], content."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns, fingerprint(rewards)


@contextmanager
def _open(path: Path) -> Iterator[h5py.File]:
    """The file, with every error that comes of opening or reading it as a DatasetError."""
    try:
        if path.is_dir():
            raise DatasetError(f"{path}: a folder, not a file. Pass the path of a file in it.")
        if path.stat().st_size == 0:
            raise DatasetError(f"{path}: the file is empty. Delete it and fetch or write it again.")
        if path.suffix.lower() in (".npz", ".npy"):
            raise DatasetError(
                f"{path}: NumPy's format, not HDF5. Pass its arrays to trac.data.trajectories.from_arrays, such as "
                f"from_arrays(task, **np.load(path))."
            )
        with h5py.File(path, "r") as file:
            if missing := [key for key in KEYS if key != "next_observations" and key not in file]:
                raise DatasetError(f"{path}: the keys {missing} are missing{_advice(file, missing)}")
            yield file
    except DatasetError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise DatasetError(
            f"{path}: no such file. Check the path, or use trac.load(task) for a packaged dataset."
        ) from None
    except Exception as error:  # of a damaged file h5py raises nearly everything
        raise _failure(path, error) from error


def _failure(path: Path, error: Exception) -> DatasetError:
    """What kept h5py from reading a file: the system, or the file itself."""
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.EACCES, errno.EPERM):
        return DatasetUnavailable(f"{path}: there is no permission to read it. Ask its owner for that.")
    if number == errno.EAGAIN or "already open for write" in str(error):
        return DatasetUnavailable(
            f"{path}: another process is writing it. Wait until that is done; if it died, run h5clear -s on the file."
        )
    if number in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, 524):
        return DatasetUnavailable(
            f"{path}: its file system has no locks. Set the environment variable HDF5_USE_FILE_LOCKING=FALSE and start "
            f"Python again."
        )
    if number:
        return DatasetUnavailable(f"{path}: the system could not read it ({os.strerror(number)}). Try again.")
    return DatasetError(
        f"{path}: not a readable HDF5 file, or a damaged one ({error!s:.300}). Fetch or write it again."
    )


def _advice(file: h5py.File, missing: list[str]) -> str:
    """The end of an error about keys that are missing."""
    if "episode_0" in file:
        return (
            ": the file has Minari's layout, a group for each episode. Join each array over the episodes and pass them "
            "to trac.data.trajectories.from_arrays: observations[:-1], next_observations=observations[1:], actions, "
            "rewards, costs=infos/cost, terminals=terminations, timeouts=truncations."
        )
    if renamed := [f"{_OTHERS_NAMES[key]} to {key}" for key in missing if _OTHERS_NAMES.get(key, key) in file]:
        return f": rename {', '.join(renamed)}, as DSRL's form calls them."
    names = sorted(file)
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"; the file has {names[:10]}{more}. DSRL's form needs {list(KEYS)}."


def _dataset(file: h5py.File, key: str, path: Path) -> h5py.Dataset:
    # Links out of the file and variable-length or object types have no place in data from outside.
    dataset = file[key] if isinstance(file.get(key, getlink=True), h5py.HardLink) else None
    if (
        not isinstance(dataset, h5py.Dataset)
        or dataset.is_virtual
        or dataset.external
        or dataset.dtype.kind not in "biuf"
        or dataset.shape is None
    ):
        raise DatasetError(f"{path}: {key} is not a plain numeric array stored in this file.")
    properties = dataset.id.get_create_plist()
    for code, _, _, name in map(properties.get_filter, range(properties.get_nfilters())):
        if not h5py.h5z.filter_avail(code):
            raise DatasetUnavailable(
                f"{path}: {key} is compressed by HDF5's filter {code} ({name.decode(errors='replace')}), which is not "
                f"installed here. Run pip install hdf5plugin and import hdf5plugin, or write the file with gzip."
            )
    return dataset


def _array(file: h5py.File, key: str, path: Path) -> np.ndarray:
    dataset = _dataset(file, key, path)
    # float32 already while reading: no second copy of the whole array.
    values: np.ndarray = (dataset.astype(np.float32) if dataset.dtype.kind == "f" else dataset)[()]
    chunks = math.prod(-(-size // step) for size, step in zip(dataset.shape, dataset.chunks or (), strict=False))
    unwritten = dataset.id.get_num_chunks() < chunks if dataset.chunks else not dataset.id.get_storage_size()
    if dataset.size and unwritten:
        warnings.warn(f"{path}: part of {key} was never written, and is read as {dataset.fillvalue}.", stacklevel=4)
    return values
