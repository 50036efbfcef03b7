"""Dropout from random integers: exact probabilities, and far cheaper than one random float for each unit."""

from collections.abc import Sequence

import torch
from torch import Tensor


def dropout_threshold(p: float) -> tuple[torch.dtype, int]:
    """How dropout compares random integers: (dtype, t) such that the unit is kept when the integer is above t.

    Bytes where p is a multiple of 1/256, which is then exact; 16-bit words for any other p, whose
    realised probability is p rounded to the next multiple of 1/65536.
    """
    dtype = torch.int8 if p * 256 == int(p * 256) else torch.int16
    info = torch.iinfo(dtype)
    return dtype, info.min + round(p * 2**info.bits) - 1


def dropout_scale(p: float) -> float:
    """1 / (1 - p) for the realised p, by which kept units are multiplied."""
    dtype, threshold = dropout_threshold(p)
    info = torch.iinfo(dtype)
    return float(2**info.bits / (info.max - threshold))


def dropout_masks(
    rows: int,
    widths: Sequence[int],
    p: float,
    generators: Sequence[torch.Generator | None],
    device: torch.device | str,
) -> list[Tensor] | None:
    """Masks (M, rows, width) for each hidden layer: 0 with probability p, else 1 / (1 - p).

    Args:
        generators: one for each of the M models.

    Returns:
        The masks; None for p = 0, which draws nothing.
    """
    if p == 0:
        return None
    dtype, threshold = dropout_threshold(p)
    masks = []
    for width in widths:
        # random_() alone would leave the sign bit of a 64-bit word at 0, and so bias every eighth byte.
        words = torch.empty(len(generators), -(-rows * width * dtype.itemsize // 8), dtype=torch.int64, device=device)
        for row, generator in zip(words, generators, strict=True):
            row.random_(-(2**63), None, generator=generator)
        keep = words.view(dtype)[:, : rows * width] > threshold
        masks.append(keep.view(-1, rows, width).to(torch.float32).mul_(dropout_scale(p)))
    return masks
