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
    """Write bytes by `atomic`."""
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def fingerprint(*arrays: np.ndarray) -> str:
    """Short hash of arrays' values, types and shapes."""
    digest = hashlib.blake2b(digest_size=8)
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
