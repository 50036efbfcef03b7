"""The datasets that come with the package: made for the book in the real simulators, in DSRL's form, not DSRL's."""

from pathlib import Path

FOLDER = Path(__file__).parent


def packaged() -> list[str]:
    """Names of their tasks."""
    return sorted(path.stem for path in FOLDER.glob("*.hdf5"))
