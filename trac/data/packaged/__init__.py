"""The book's datasets: made in the real simulators, in DSRL's form, not DSRL's. Three come with the package."""

from pathlib import Path

FOLDER = Path(__file__).parent
REPOSITORY = FOLDER.parents[2] / "book" / "data"  # of the others, where the package lies in the book's repository


def packaged() -> list[str]:
    """Names of the tasks whose dataset comes with the package.

    >>> packaged()
    ['BallCircle', 'BallRun', 'CarCircle']
    """
    return sorted(path.stem for path in FOLDER.glob("*.hdf5"))


def find(task: str) -> Path | None:
    """A task's dataset, in the package or in the repository around it.

    >>> find("BallRun").name
    'BallRun.hdf5'
    """
    paths = (folder / f"{task}.hdf5" for folder in (FOLDER, REPOSITORY))
    return next((path for path in paths if path.is_file()), None)
