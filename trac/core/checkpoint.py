"""Checkpoints of a training run: written whole or not at all, checked when read, and no pickle in them."""

import hashlib
import json
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from trac.data.files import write_file

KEPT = 2  # checkpoints, so that a damaged one has one before it


class CheckpointError(RuntimeError):
    """A folder's checkpoints cannot be read, it cannot be written, or another process is writing there."""


def save(folder: Path, step: int, tensors: dict[str, Tensor], record: dict[str, Any]) -> Path:
    """Write the checkpoint of a step, and delete those that are no longer needed.

    Args:
        tensors: on any device.
        record: plain values, fit for JSON.

    Example:
        >>> save(folder, 500, {"weights": torch.zeros(3)}, {"note": "half way"}).name
        'step-000000500.safetensors'
    """
    folder.mkdir(parents=True, exist_ok=True)
    values = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    text = json.dumps(record)
    path = folder / f"step-{step:09d}.safetensors"
    metadata = {"record": text, "sha256": _digest(values, text)}
    write_file(path, safetensors.torch.save(values, metadata))
    for old in find(folder)[:-KEPT]:
        old.unlink()
    return path


def find(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first.

    >>> find(folder)
    []
    """
    return sorted(folder.glob("step-*.safetensors"))


def load(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and record of the newest checkpoint that is whole; None where there is no checkpoint.

    A damaged one is named in a warning and the one before it is read.

    Raises:
        CheckpointError: there are checkpoints, and all are damaged.

    Example:
        >>> path = save(folder, 500, {"weights": torch.zeros(3)}, {"note": "half way"})
        >>> tensors, record = load(folder)
        >>> tensors["weights"].shape, record["note"]
        (torch.Size([3]), 'half way')
    """
    damaged = []
    for path in reversed(find(folder)):
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
                metadata = file.metadata() or {}
            if metadata.get("sha256") != _digest(values, metadata.get("record", "")):
                raise ValueError("its checksum does not match its content")
        except (safetensors.SafetensorError, ValueError, OSError) as error:
            damaged.append(f"{path} is damaged ({error})")
            continue
        for line in damaged:
            warnings.warn(f"{line}; going on from {path.name}.", stacklevel=2)
        return values, json.loads(metadata["record"])
    if damaged:
        raise CheckpointError("; ".join(damaged) + f". No other is left: delete {folder} to start anew.")
    return None


@contextmanager
def locked(folder: Path | None) -> Iterator[None]:
    """Keep other processes from training into the same folder. The lock goes with the process, however it ends.

    A folder that is made here and that nothing is written into goes again.

    >>> with locked(folder):
    ...     done = "nobody else writes here meanwhile"
    """
    if folder is None:
        yield
        return
    lock, made = FileLock(folder / ".lock"), not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise CheckpointError(
            f"another process is training into {folder}. Wait for it, or choose another folder."
        ) from None
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be written ({error}). Choose another folder.") from error
    try:
        yield
    finally:
        if made and [path.name for path in folder.iterdir()] == [".lock"]:
            shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def _digest(values: dict[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(values):
        digest.update(name.encode())
        digest.update(values[name].flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
