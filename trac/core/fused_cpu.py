"""Forward and backward of one MLP on the CPU, by hand, in pieces that stay in the processor's cache.

Autograd spends more time around the matrix products than in them: it allocates every intermediate
result anew, draws dropout masks serially, and streams 10 MB arrays through memory once for each
elementwise operation. Here every buffer is allocated once, the rows are worked off in chunks whose
activations fit the cache, and an elementwise operation works in place on what the product before it
has just written. `Policy.forward` under autograd is the same function; the tests compare the two.
"""

import itertools
from functools import cache

import numpy as np
import torch
from torch import Tensor

# Activations of one layer in one chunk [bytes].
CHUNK = 3 * 2**20

Layers = list[tuple[Tensor, Tensor]]  # (weight, bias) of each layer

_where_above = torch.ops.aten.threshold_backward.grad_input  # (x, y, t): x where y > t, else 0


class FusedMLP:
    """Buffers and arithmetic for `rows` rows of an MLP with layer widths `sizes`, and dropout p.

    Fill `inputs` (rows, sizes[0]), call `forward`, then `backward`.

    >>> mlp = FusedMLP(rows=4, sizes=[7, 16, 2], p=0.25)
    >>> mlp.inputs.shape
    torch.Size([4, 7])
    """

    def __init__(self, rows: int, sizes: list[int], p: float):
        hidden = sizes[1:-1]
        self.p, self.scale = p, 1.0
        self.inputs, self.outputs = torch.empty(rows, sizes[0]), torch.empty(rows, sizes[-1])
        activations = [torch.empty(rows, width) for width in hidden]
        edges = np.linspace(0, rows, -(-rows * max(sizes[1:]) * 4 // CHUNK) + 1).astype(int).tolist()
        longest = max(stop - start for start, stop in itertools.pairwise(edges))
        scratch = [torch.empty(longest, width) for width in hidden]
        self.weights = [torch.empty(b, a) for a, b in itertools.pairwise(sizes[1:])]
        self.ones = torch.ones(longest)
        # For each chunk: its input, activations and output, then a scratch buffer for each hidden layer.
        self.chunks = [
            (
                [x[start:stop] for x in (self.inputs, *activations, self.outputs)],
                [x[: stop - start] for x in scratch],
                slice(start, stop),
            )
            for start, stop in itertools.pairwise(edges)
        ]

    def forward(self, layers: Layers, source: np.random.BitGenerator | None) -> Tensor:
        """The network's raw output (rows, sizes[-1]), in a buffer that the next call overwrites.

        Args:
            layers: (weight (out, in), bias (out,)) of each layer.
            source: of dropout's random words; None: no dropout, whatever p.
        """
        # Kept units are not scaled by 1 / (1 - p): the weights above them are, which are far fewer.
        self.scale = dropout_scale(self.p) if self.p > 0 and source is not None else 1.0
        for (weight, _), scaled in zip(layers[1:], self.weights, strict=True):
            torch.mul(weight, self.scale, out=scaled)
        weights = [layers[0][0], *self.weights]
        for x, scratch, _ in self.chunks:
            for i, (_, bias) in enumerate(layers):
                torch.mm(x[i], weights[i].t(), out=x[i + 1])
                x[i + 1].add_(bias)
                if i < len(scratch):
                    x[i + 1].relu_()
                    if source is not None and self.p > 0:
                        _drop(x[i + 1], scratch[i], self.p, source)
        return self.outputs

    def backward(self, gradient: Tensor, layers: Layers) -> None:
        """Write the gradient of a loss into `layers`, given its gradient with respect to the outputs of `forward`.

        Args:
            gradient: (rows, sizes[-1]).
            layers: (weight (out, in), bias (out,)) of each layer, overwritten.
        """
        for x, scratch, rows in self.chunks:
            keep = float(rows.start > 0)  # the first chunk overwrites, the others add
            delta = gradient[rows]
            for i in reversed(range(len(layers))):
                weight, bias = layers[i]
                weight.addmm_(delta.t(), x[i], beta=keep)
                bias.addmv_(delta.t(), self.ones[: len(delta)], beta=keep)
                if i > 0:
                    delta = torch.mm(delta, self.weights[i - 1], out=scratch[i - 1])
                    # An activation is positive exactly where the unit was on and was not dropped.
                    _where_above(delta, x[i], 0, grad_input=delta)
        for weight, _ in layers[1:]:
            weight.mul_(self.scale)


@cache
def dropout_threshold(p: float) -> tuple[torch.dtype, int]:
    """How dropout compares random integers: (dtype, t) such that the unit is kept when the integer is above t.

    Bytes where p is a multiple of 1/256, which is then exact; 16-bit words for any other p, whose
    realised probability is p rounded to the next multiple of 1/65536.

    >>> dropout_threshold(0.25)  # a signed byte is above -65 in three of four cases
    (torch.int8, -65)
    """
    dtype = torch.int8 if p * 256 == int(p * 256) else torch.int16
    info = torch.iinfo(dtype)
    return dtype, info.min + round(p * 2**info.bits) - 1


@cache
def dropout_scale(p: float) -> float:
    """1 / (1 - p) for the realised p, by which kept units are multiplied.

    >>> dropout_scale(0.5)
    2.0
    """
    dtype, threshold = dropout_threshold(p)
    info = torch.iinfo(dtype)
    return float(2**info.bits / (info.max - threshold))


def _drop(x: Tensor, scratch: Tensor, p: float, source: np.random.BitGenerator) -> None:
    """Set each entry of x (rows, width) to 0 with probability p, in place."""
    dtype, threshold = dropout_threshold(p)
    words = source.random_raw(-(-x.numel() * dtype.itemsize // 8)).view(f"i{dtype.itemsize}")
    # As floats, because the comparison below works on one type of number, and wide vectors of it.
    scratch.copy_(torch.from_numpy(words)[: x.numel()].view_as(x))
    _where_above(x, scratch, threshold, grad_input=x)
