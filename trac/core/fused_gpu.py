"""The update of a stack of runs on a GPU: products by cuBLAS, and one Triton kernel for what stands between two.

It is the arithmetic of `trac.core.fused_cpu` and of the losses in `trac.score`, by hand, for M runs at once. Nothing
in it waits for the device or asks the host, so that one CUDA graph holds an update. With
TRITON_INTERPRET=1 in the environment the kernels run on CPU tensors; the tests compare them with autograd there.
"""

import itertools
from collections.abc import Mapping

import torch
import triton
from torch import Tensor

from trac.config import TracConfig
from trac.core import kernels
from trac.core.adam import BETAS, EPSILON
from trac.core.fused_cpu import Layers
from trac.policy import LOG_STD_MAX, LOG_STD_MIN

TILE = 2048  # entries of the tile that one program of a kernel works on
_WORD = 2**31  # dropout compares words of 31 bits


class FusedStack:
    """Buffers and arithmetic for the updates of M runs that share shapes.

    Args:
        config: of any run: batch size, widths, dropout, and what chooses the loss.
        sizes: widths of the input, the hidden layers and the output.
        length: L, of a segment.
        data: observations (T, obs_dim), actions (T, act_dim).
        table: starts, labels and weights of all segments, (S,) each.
        block: of a few hundred updates the segments `index` (U, M, batch_size) and the `scalars` (U, 3, M): number of
            the update, and Adam's `size` and `root` (see `trac.core.adam`); `row` (1,), the next update's, which
            counts up by itself.
        runs: seed (int64), alpha, gamma and eta, (M,) each.
        state, gradient: see `TracLearner`; (M, P) with a P that is padded to a multiple of 4.
        layers, gradient_layers: views of the weights and of the gradient.

    Example:
        >>> TracLearner(data, segments, configs, device="cuda")  # has one; needs a GPU  # doctest: +SKIP
    """

    def __init__(
        self,
        config: TracConfig,
        sizes: list[int],
        length: int,
        data: Mapping[str, Tensor],
        table: Mapping[str, Tensor],
        block: Mapping[str, Tensor],
        runs: Mapping[str, Tensor],
        state: Mapping[str, Tensor],
        gradient: Tensor,
        layers: Layers,
        gradient_layers: Layers,
    ):
        self.config, self.length, self.models = config, length, len(gradient)
        self.data, self.table, self.block, self.runs, self.state = data, table, block, runs, state
        self.gradient, self.layers, self.gradient_layers = gradient, layers, gradient_layers
        self.rows, where = config.batch_size * length, gradient.device
        # The input, the activations, and the output, which the loss overwrites with its gradient.
        self.x = [torch.empty(self.models, self.rows, width, device=where) for width in sizes]
        self.deltas = [torch.empty_like(x) for x in self.x[1:-1]]
        tiles = [_tile(width) for width in sizes[1:-1]]
        self.partial = [
            torch.empty(self.models, triton.cdiv(self.rows, rows), width, device=where)
            for (rows, _), width in zip(tiles, sizes[1:-1], strict=True)
        ]
        # Loss, accuracy, score and score of the desirable, of each segment; whether a run's update is finite.
        self.parts = torch.empty(4, self.models, config.batch_size, device=where)
        self.finite = torch.empty(self.models, device=where)
        self.threshold = round(config.dropout * _WORD)
        self.scale = _WORD / (_WORD - self.threshold)

    @torch.no_grad()
    def update(self, reference: Tensor | None) -> None:
        """Make the update that stands in the block's next row.

        Args:
            reference: (M, T) log π_ref of every transition; None while cloning.
        """
        self.forward()
        self.differentiate(reference)
        self.backward()
        self.step(cloning=reference is None)
        self.block["row"].add_(1)

    def forward(self) -> None:
        """Gather the batch and fill `x`, up to the last layer's product."""
        block, last = self.block, len(self.layers) - 1
        width = self.length * self.x[0].shape[-1]
        kernels.gather[self.models * self.config.batch_size, triton.cdiv(width, TILE)](
            *(block["row"], block["index"], self.table["starts"], self.data["observations"], self.x[0]),
            *(self.models * self.config.batch_size, self.x[0].shape[-1], width),
            TILE=TILE,
        )
        for i, (weight, bias) in enumerate(self.layers):
            torch.bmm(self.x[i], weight.transpose(1, 2), out=self.x[i + 1])
            if i < last:
                width = weight.shape[1]
                rows, columns = _tile(triton.cdiv(width, 4), TILE // 4)
                kernels.activate[triton.cdiv(self.rows, rows), self.models, triton.cdiv(width, 4 * columns)](
                    *(block["row"], block["scalars"], self.runs["seed"], self.x[i + 1], bias, bias.stride(0)),
                    *(self.models, self.rows, width, i, self.threshold, self.scale),
                    DROPOUT=self.config.dropout > 0,
                    ROWS=rows,
                    COLUMNS=columns,
                )

    def differentiate(self, reference: Tensor | None) -> None:
        """Replace the output by the loss's gradient with respect to it, and fill `parts`."""
        c, output, (_, bias) = self.config, self.x[-1], self.layers[-1]
        steps, actions = (triton.next_power_of_2(n) for n in (self.length, self.data["actions"].shape[-1]))
        kernels.differentiate[self.models * c.batch_size,](
            *(self.block["row"], self.block["index"], self.table["starts"], self.table["labels"]),
            *(self.table["weights"], self.data["actions"], self.data["actions"] if reference is None else reference),
            *(output, bias, bias.stride(0), *(self.runs[name] for name in ("alpha", "gamma", "eta")), self.parts),
            *(len(self.data["actions"]), self.models, c.batch_size, self.length, self.data["actions"].shape[-1]),
            *(float(c.bc_coef), c.clamp or 0.0, float(c.use != "undesirable"), float(c.use != "desirable")),
            *(LOG_STD_MIN, LOG_STD_MAX),
            CLONING=reference is None,
            CLAMP=c.clamp is not None,
            GAUSSIAN=c.policy == "gaussian",
            BATCH=triton.next_power_of_2(c.batch_size),
            STEPS=steps,
            ACTIONS=actions,
            num_warps=min(16, max(4, steps * actions // 512)),
        )

    def backward(self) -> None:
        """Fill the gradient from what `differentiate` left in the output."""
        delta = self.x[-1]
        torch.sum(delta, 1, out=self.gradient_layers[-1][1])
        for i in reversed(range(len(self.layers))):
            torch.bmm(delta.transpose(1, 2), self.x[i], out=self.gradient_layers[i][0])
            if i > 0:
                delta = torch.bmm(delta, self.layers[i][0], out=self.deltas[i - 1])
                partial, width = self.partial[i - 1], delta.shape[-1]
                rows, columns = _tile(width)
                kernels.mask[partial.shape[1], self.models, triton.cdiv(width, columns)](
                    *(delta, self.x[i], partial, self.rows, width, self.scale), ROWS=rows, COLUMNS=columns
                )
                torch.sum(partial, 1, out=self.gradient_layers[i - 1][1])

    def step(self, *, cloning: bool) -> None:
        """Add to the sums, and let Adam change the weights of the runs whose loss and gradient are finite."""
        state, (models, parameters) = self.state, self.gradient.shape
        kernels.record[models,](
            *(self.block["row"], self.block["index"], self.block["scalars"], self.table["labels"], self.parts),
            *(self.gradient, state["sums"], state["finite_updates"], self.finite),
            *(models, self.config.batch_size, parameters),
            CLONING=cloning,
            BATCH=triton.next_power_of_2(self.config.batch_size),
            TILE=4 * TILE,
            num_warps=16,
        )
        kernels.adam[models, triton.cdiv(parameters, TILE)](
            *(self.block["row"], self.block["scalars"], self.finite, self.gradient),
            *(state["mean"], state["square"], state["weights"], models, parameters),
            *(*BETAS, EPSILON),
            TILE=TILE,
        )


def bytes_needed(config: TracConfig, sizes: list[int], length: int, segments: int, transitions: int) -> int:
    """Memory [bytes] that one run adds to a stack: its buffers, weights and moments, and its tables.

    >>> bytes_needed(trac.TracConfig(), [7, 128, 2], length=100, segments=644, transitions=64_400) > 2**20
    True
    """
    rows = config.batch_size * length
    weights = sum(a * b + b for a, b in itertools.pairwise(sizes))
    buffers = rows * (sum(sizes) + sum(sizes[1:-1])) + 6 * weights + transitions
    return 4 * buffers + 16 * segments + 8 * 256 * config.batch_size


def _tile(width: int, entries: int = TILE) -> tuple[int, int]:
    """Rows and columns of a tile, powers of 2, for rows of that width."""
    columns = min(128, triton.next_power_of_2(width))
    return entries // columns, columns
