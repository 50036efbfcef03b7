"""DSRL's own files: fetched from a mirror, with what a cut transfer brought kept, and checked."""

import os
import time
from pathlib import Path

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from trac.data.hdf5 import read_costs
from trac.data.packaged import packaged
from trac.data.tasks import get_task
from trac.data.trajectories import DatasetError

# The repository that DSRL's maintainers name, and the host that dsrl 0.1.0 names, which has been down often.
MIRRORS = ("https://huggingface.co/datasets/YYY-45/DSRL/resolve/main", "http://data.offline-saferl.org/download")
TIMEOUTS = (10.0, 60.0)  # [s] to connect, and between two pieces of an answer
PAUSE = 1.0  # [s] after a cut


def dsrl_folder() -> Path:
    """The folder in which dsrl keeps its files: the variable DSRL_DATASET_DIR, else ~/.dsrl/datasets.

    >>> dsrl_folder().name
    'datasets'
    """
    return Path(os.environ.get("DSRL_DATASET_DIR", os.path.expanduser("~/.dsrl/datasets")))


def mirrors() -> list[str]:
    """The base URLs to fetch from: the one in the variable TRAC_DSRL_MIRROR, if there is one, then `MIRRORS`.

    >>> mirrors()[-1] == MIRRORS[-1]
    True
    """
    return [mirror for mirror in (os.environ.get("TRAC_DSRL_MIRROR", "").rstrip("/"), *MIRRORS) if mirror]


def fetch(task: str) -> Path:
    """DSRL's file of a task, downloaded where it is missing.

    The mirrors are those of `mirrors()`, one after the other. A transfer that was cut is gone on with. A file counts
    if it is what its name says, see `check`; one that is there already and is not, is left as it is.

    Returns:
        The path, in `dsrl_folder()`, where dsrl itself finds the file too.

    Raises:
        UnknownTask: the name is not one of the 38.
        DatasetError: no mirror has the file, the message has each one's answer; or the file that is there is another.

    Example:
        >>> fetch("BallRun").name  # downloads  # doctest: +SKIP
        'SafetyBallRun-v0-80-940.hdf5'
    """
    path = dsrl_folder() / get_task(task).file
    if path.is_file():
        check(path, path.name, " Delete the file to have DSRL's fetched, or load it by its path.")
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):  # one process fetches, the others wait for it
            if not path.is_file():
                _download(task, path)
    except OSError as error:
        raise DatasetError(
            f"{path} could not be written ({error}). Make room or set DSRL_DATASET_DIR to another folder; what was "
            f"received is kept as {path.name}.part, and the next call goes on from it."
        ) from error
    return path


def _download(task: str, path: Path) -> None:
    import requests

    part, origin, failures = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.from"), []
    for mirror in mirrors():
        url = f"{mirror}/{path.name}"
        try:
            while not _receive(url, part, origin):
                time.sleep(PAUSE)
            check(part, path.name)
            part.replace(path)
            return origin.unlink()
        except requests.RequestException as error:
            cause: BaseException = error
            while cause.__context__:
                cause = cause.__context__  # requests and urllib3 wrap the system's error several times
            failures.append(f"{url}: {type(cause).__name__}: {cause}")
        except DatasetError as error:
            failures.append(f"{url}: {error}")
            part.unlink()
            origin.unlink()
    instead = [task] if task in packaged() else packaged()
    raise DatasetError(
        "\n  ".join([f"DSRL's file of {task} could not be fetched:", *failures])
        + f"\nPut {path.name} into {path.parent} by hand, or name another mirror's address in TRAC_DSRL_MIRROR. "
        f"Meanwhile there is packaged data, which is not DSRL's: {', '.join(f'trac.load({t!r})' for t in instead)}."
    )


def _receive(url: str, part: Path, origin: Path) -> bool:
    """Fetch a file, or what is missing of it; returns whether it is whole. A cut that brought nothing new raises.

    `origin` holds the address of the part's bytes and their version: those of another one are not gone on with.
    """
    import requests

    before, headers = part.stat().st_size if part.is_file() else 0, {"Accept-Encoding": "identity"}
    if before and origin.is_file():
        address, version = origin.read_text().split("\n")
        if address == url and version:
            headers |= {"Range": f"bytes={before}-", "If-Range": version}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUTS) as answer:
            if answer.status_code == 416:  # it has no bytes after these: start over
                part.unlink()
                return False
            answer.raise_for_status()
            had = before if answer.status_code == 206 else 0
            total = had + int(answer.headers.get("Content-Length", 0)) or None
            with (
                part.open("ab" if had else "wb") as file,
                tqdm(total=total, initial=had, unit="B", unit_scale=True, desc=part.stem) as bar,
            ):
                # Not before the bytes of another version are gone.
                origin.write_text(f"{url}\n{answer.headers.get('ETag') or answer.headers.get('Last-Modified', '')}")
                for piece in answer.iter_content(1 << 14):  # a cut loses the piece that it is in
                    file.write(piece)
                    bar.update(len(piece))
        return True
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError):
        if not part.is_file() or part.stat().st_size <= before:  # another mirror may be better
            raise
        return False


def check(path: Path, name: str, advice: str = "") -> None:
    """Raise DatasetError unless a file is what its name in DSRL says, such as SafetyBallRun-v0-80-940.hdf5.

    DSRL names a file after the bound on the episode cost by which its trajectories were filtered, and the
    number of those that it kept, each with an end (scripts/process_dataset.py in DSRL's repository).
    dsrl/infos.py has largest costs from 0.92 to 1.0002 times the bound. The margins here are wider, for a
    genuine file must pass; a page of HTML, a cut file or another task's is further off. `advice` ends the error.

    >>> check(trac.data.packaged.find("BallRun"), "SafetyBallRun-v0-80-644.hdf5")
    """
    bound, count = (int(number) for number in name.removesuffix(".hdf5").split("-")[-2:])
    ends, costs = read_costs(path)
    if abs(len(ends) - count) > 0.01 * count:
        raise DatasetError(f"{path}: holds {len(ends)} finished episodes, and {name} should hold {count}.{advice}")
    largest = np.add.reduceat(costs[: ends[-1] + 1], np.concatenate([[0], ends[:-1] + 1])).max()
    if not 0.8 * bound <= largest <= 1.02 * bound:
        raise DatasetError(f"{path}: the largest episode cost is {largest:g}, and {name} should have {bound}.{advice}")
