"""load(): a packaged dataset by its task's name, DSRL's own file from a mirror, or a file in DSRL's form."""

import inspect
import os
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trac.data.download import fetch
from trac.data.filters import FilterError, filtered
from trac.data.hdf5 import read
from trac.data.packaged import find, packaged
from trac.data.tasks import TASKS, get_task
from trac.data.trajectories import DatasetError, Trajectories


def load(
    task: str | os.PathLike[str],
    source: str | os.PathLike[str] = "packaged",
    *,
    reward_range: tuple[float, float] | None = None,
    filters: Mapping[str, Any] | None = None,
) -> Trajectories:
    """The logged trajectories of a task.

    Args:
        task: name in `trac.TASKS`; with a file as source, any name for a task of your own. Or the path of a
            file (.hdf5, .h5): the task is the one whose file DSRL calls so, else it has the file's name.
        source: "packaged", the dataset that comes with the package, or lies in book/data of the repository
            around it; "dsrl", DSRL's own file (see `trac.data.download.fetch`); or the path of a file in DSRL's
            HDF5 form. Packaged data was made for this book in the real simulators; it is not DSRL's.
        reward_range: (lowest, highest) episode return of a task of your own: normalised reward 0 and 1. By
            default what `trac.data.hdf5.write` noted in the file, else the data's, which is what DSRL's ranges are.
        filters: changes that DSRL defines, such as dict(density=0.5, noise_scale=0.1): see
            `trac.data.filters.filtered`.

    Raises:
        UnknownTask: the name is not one of the 38, or nearly but not quite.
        DatasetError: the task has no packaged data, nothing can be fetched, or the file cannot be used.
        FilterError: there is no such filter, a number of one is out of range, or the data does not allow it.

    Example:
        >>> trac.load("BallRun")
        Trajectories(BallRun: 644 episodes, 64400 transitions)
        >>> trac.load("BallRun", filters=dict(density=0.5, noise_scale=0.1))
        Trajectories(BallRun: 166 episodes, 16600 transitions)
        >>> trac.load("CarRun", source="dsrl")  # downloads  # doctest: +SKIP
    """
    for given in (task, source):
        if isinstance(given, list | tuple):
            raise DatasetError(
                f"{reprlib.repr(given)} is neither a name nor the path of one file. To join several logs, load each, "
                f"lay their arrays end to end and make one of them by trac.data.trajectories.from_arrays."
            )
    suffix = Path(str(task)).suffix.lower()
    if isinstance(task, os.PathLike) or suffix in (".hdf5", ".h5") or (suffix and source == "packaged"):
        if source != "packaged":
            raise DatasetError(f"{task} is a file, and source={str(source)!r} another: write trac.load(name, source).")
        source = Path(task)
        task = next((known.name for known in TASKS.values() if known.file == source.name), source.stem)
    elif source == "packaged":
        get_task(task)
        found = find(task)
        if found is None:
            raise DatasetError(
                f"{task} has no packaged dataset (there are: {', '.join(packaged())}). The book's repository has more, "
                f"in book/data: load one by its path, or install from a clone with pip install --editable. "
                f"trac.load({task!r}, source='dsrl') fetches DSRL's file {get_task(task).file}; "
                f"trac.load({task!r}, path) reads one that you have."
            )
        source = found
    elif source == "dsrl":
        source = fetch(task)
    names = [name for name in inspect.signature(filtered).parameters if name != "data"]
    if unknown := [name for name in filters or {} if name not in names]:
        raise FilterError(f"there is no filter {unknown[0]!r}; there are {', '.join(names)}.")
    data = read(source, task, reward_range)
    return filtered(data, **filters) if filters else data
