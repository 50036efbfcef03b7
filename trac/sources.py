"""load(): a packaged dataset by its task's name, or a file in DSRL's form."""

import os
from importlib import resources
from pathlib import Path

from trac import trajectories
from trac.tasks import get_task
from trac.trajectories import DatasetError, Trajectories

FOLDER = Path(str(resources.files("trac") / "datasets"))


def packaged() -> list[str]:
    """Names of the tasks whose data comes with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.hdf5"))


def load(task: str, source: str | os.PathLike = "packaged") -> Trajectories:
    """The logged trajectories of a task.

    Args:
        task: name in `trac.TASKS`.
        source: "packaged", the dataset that comes with the package, or the path of a file in DSRL's HDF5
            form. Packaged data was made for this book in the real simulators; it is not DSRL's.

    Raises:
        UnknownTask: the name is not one of the 38.
        DatasetError: the task has no packaged data, or the file cannot be used.
    """
    get_task(task)
    if source == "packaged":
        source = FOLDER / f"{task}.hdf5"
        if not source.is_file():
            raise DatasetError(
                f"{task} has no packaged dataset (there are: {', '.join(packaged())}). Download DSRL's file "
                f"{get_task(task).file} and pass its path: trac.load({task!r}, path)."
            )
    return trajectories.read(source, task)
