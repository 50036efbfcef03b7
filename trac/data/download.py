"""DSRL's own files: fetched from a mirror, with what a cut transfer brought kept, and checked."""

import functools
import os
import time
import warnings
from pathlib import Path

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from trac.data import trajectories
from trac.data.files import write_file
from trac.data.packaged import packaged
from trac.data.tasks import get_task
from trac.data.trajectories import DatasetError, DatasetUnavailable

# The repository that DSRL's maintainers name, and the host that dsrl 0.1.0 names, which has been down often.
MIRRORS = ("https://huggingface.co/datasets/YYY-45/DSRL/resolve/main", "http://data.offline-saferl.org/download")
TIMEOUTS = (10.0, 60.0)  # [s] to connect, and between two pieces of an answer
PAUSE = 1.0  # [s] after a cut


def dsrl_folder() -> Path:
    """The folder in which dsrl keeps its files: the variable DSRL_DATASET_DIR, else ~/.dsrl/datasets."""
    return Path(os.environ.get("DSRL_DATASET_DIR", os.path.expanduser("~/.dsrl/datasets")))


def fetch(task: str) -> Path:
    """DSRL's file of a task, downloaded where it is missing or damaged.

    The mirrors are the base URL in the variable TRAC_DSRL_MIRROR, if there is one, and then `MIRRORS`. A
    transfer that was cut is gone on with. A file counts once it is what its name says (`check`); its SHA-256
    is then written beside it and verified from then on. A file that fails is kept under the name
    <file>.damaged and fetched again.

    Returns:
        The path, in `dsrl_folder()`, where dsrl itself finds the file too.

    Raises:
        UnknownTask: the name is not one of the 38.
        DatasetError: no mirror has the file; the message has each one's answer.
        DatasetUnavailable: the file is there and cannot be read now: it is left as it is.
    """
    file, folder = get_task(task).file, dsrl_folder()
    path = folder / file
    if path.is_file() and not os.access(folder, os.W_OK):
        return path  # a folder that others fill
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{file}.lock"):  # one process fetches, the others wait for it
            _ensure(task, path)
    except OSError as error:
        raise DatasetError(
            f"{path} could not be written ({error}). Make room or set DSRL_DATASET_DIR to another folder; what was "
            f"received is kept as {file}.part, and the next call goes on from it."
        ) from error
    return path


def _ensure(task: str, path: Path) -> None:
    import pooch
    import requests

    record = path.with_name(f"{path.name}.sha256")
    known = record.read_text().split()[0] if record.is_file() else None
    failures = []
    if path.is_file():
        try:
            check(path, path.name)
            if known and pooch.file_hash(str(path)) != known:
                raise DatasetError(f"{path}: its SHA-256 is not the one in {record.name}.")
        except DatasetUnavailable:
            raise
        except DatasetError as error:
            aside = path.replace(path.with_name(f"{path.name}.damaged"))
            failures.append(f"{error} It is kept as {aside.name}.")
            warnings.warn(
                f"{failures[0]} Fetching it again. If you put it there on purpose, put it back and delete {record}.",
                stacklevel=4,
            )
    download = functools.partial(_download, part=path.with_name(f"{path.name}.part"))
    for mirror in filter(None, [os.environ.get("TRAC_DSRL_MIRROR", "").rstrip("/"), *MIRRORS]):
        if path.is_file():
            break
        fetcher = pooch.create(path=path.parent, base_url=f"{mirror}/", registry={path.name: known})
        try:
            fetcher.fetch(path.name, downloader=download)
        except (requests.RequestException, ValueError) as error:
            failures.append(f"{mirror}/{path.name}: {_reason(error)}")
    if known and failures:
        failures.append(f"The first file's SHA-256 is in {record.name}: delete that if DSRL has published another.")
    if not path.is_file():
        instead = [task] if task in packaged() else packaged()
        raise DatasetError(
            "\n  ".join([f"DSRL's file of {task} could not be fetched:", *failures])
            + f"\nPut {path.name} into {path.parent} by hand, or name another mirror's address in TRAC_DSRL_MIRROR. "
            f"Meanwhile there is packaged data, which is not DSRL's: {', '.join(f'trac.load({t!r})' for t in instead)}."
        )
    if known is None:
        write_file(record, f"{pooch.file_hash(str(path))}  {path.name}\n".encode())


def _download(url: str, output: str, _fetcher: object, *, part: Path) -> None:
    """A downloader for pooch that keeps what a cut transfer brought, and goes on from there."""
    import requests

    def size() -> int:
        return part.stat().st_size if part.is_file() else 0

    while True:
        before = size()
        try:
            _receive(url, part)
            break
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError):
            if size() <= before:  # nothing new: another mirror may be better
                raise
            time.sleep(PAUSE)
    try:
        check(part, part.name.removesuffix(".part"))
    except DatasetError:
        part.unlink()
        raise
    finally:
        part.with_name(f"{part.name}.from").unlink(missing_ok=True)
    part.replace(output)


def _receive(url: str, part: Path) -> None:
    """Append the rest of a file to its part, or all of it where the server or the file is another one."""
    import requests

    origin = part.with_name(f"{part.name}.from")  # where the part's bytes came from, and of which version
    headers, had = {"Accept-Encoding": "identity"}, 0
    if part.is_file() and origin.is_file():
        address, version = origin.read_text().split("\n")
        if address == url and version:
            had = part.stat().st_size
            headers |= {"Range": f"bytes={had}-", "If-Range": version}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUTS) as answer:
        if had and answer.status_code == 416:  # it has no bytes after these: start over
            part.unlink()
            return _receive(url, part)
        answer.raise_for_status()
        if answer.status_code != 206:
            had = 0
        total = had + int(answer.headers["Content-Length"]) if "Content-Length" in answer.headers else None
        version = answer.headers.get("ETag") or answer.headers.get("Last-Modified", "")
        name = part.name.removesuffix(".part")
        with (
            part.open("ab" if had else "wb") as file,
            tqdm(total=total, initial=had, unit="B", unit_scale=True, desc=name) as bar,
        ):
            origin.write_text(f"{url}\n{version}")  # not before the bytes of another version are gone
            for piece in answer.iter_content(1 << 14):  # a cut loses the piece that it is in
                file.write(piece)
                bar.update(len(piece))
    if total is not None and part.stat().st_size != total:
        raise requests.ConnectionError(f"cut after {part.stat().st_size} of {total} bytes")


def _reason(error: Exception) -> str:
    """Why a mirror was of no use, in a few words."""
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answered {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    cause: BaseException = error
    while isinstance(error, requests.RequestException) and cause.__context__:
        cause = cause.__context__  # requests and urllib3 wrap the system's error several times
    return f"{type(cause).__name__}: {cause}" if cause is not error else str(error)


def check(path: Path, name: str) -> None:
    """Raise DatasetError unless a file is what its name in DSRL says, such as SafetyBallRun-v0-80-940.hdf5.

    DSRL names a file after the bound on the episode cost by which its trajectories were filtered, and the
    number of those that it kept, each with an end (scripts/process_dataset.py in DSRL's repository).
    dsrl/infos.py has largest costs from 0.92 to 1.0002 times the bound. The margins here are wider, for a
    genuine file must pass; a page of HTML, a cut file or another task's is further off.
    """
    bound, count = (int(number) for number in name.removesuffix(".hdf5").split("-")[-2:])
    ends, costs = trajectories.read_costs(path)
    if abs(len(ends) - count) > 0.01 * count:
        raise DatasetError(f"{path}: holds {len(ends)} finished episodes, and {name} should hold {count}.")
    largest = np.add.reduceat(costs[: ends[-1] + 1], np.concatenate([[0], ends[:-1] + 1])).max()
    if not 0.8 * bound <= largest <= 1.02 * bound:
        raise DatasetError(f"{path}: the largest episode cost is {largest:g}, and {name} should have {bound}.")
