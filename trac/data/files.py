"""Files that are written whole or not at all."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary name to write to. What is there at the end is put on the disk and gets its name.

    Raises OSError with the file's name.

    >>> with atomic(folder / "a.txt") as temporary:
    ...     written = temporary.write_text("whole, or not at all")
    >>> (folder / "a.txt").read_text()
    'whole, or not at all'
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and not error.filename:  # of a full disk the system names none
            error.filename = str(path)
        raise


def write_file(path: Path, content: bytes) -> None:
    """Write bytes by `atomic`.

    >>> write_file(folder / "b.txt", b"whole, or not at all")
    """
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def fingerprint(*arrays: np.ndarray) -> str:
    """Short hash of arrays' values, types and shapes.

    >>> fingerprint(np.arange(3)) == fingerprint(np.arange(3)), len(fingerprint(np.arange(3)))
    (True, 16)
    """
    digest = hashlib.blake2b(digest_size=8)
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
