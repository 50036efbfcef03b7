"""The update of a stack of runs on a GPU: products by cuBLAS, and one Triton kernel for what stands between two.

It is the arithmetic of `trac.core.fused_cpu` and of the losses in `trac.score`, by hand, for M runs at once. Nothing
in it allocates memory, waits for the device or asks the host, so that one CUDA graph holds an update. With
TRITON_INTERPRET=1 in the environment the kernels run on CPU tensors; the tests compare them with autograd there.
"""

import itertools
from collections.abc import Mapping

import torch
import triton
import triton.language as tl
from torch import Tensor

from trac.config import TracConfig
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
        self.rows, options = config.batch_size * length, dict(device=gradient.device)
        # The input, the activations, and the output, which the loss overwrites with its gradient.
        self.x = [torch.empty(self.models, self.rows, width, **options) for width in sizes]
        self.deltas = [torch.empty_like(x) for x in self.x[1:-1]]
        tiles = [_tile(width) for width in sizes[1:-1]]
        self.partial = [
            torch.empty(self.models, triton.cdiv(self.rows, rows), width, **options)
            for (rows, _), width in zip(tiles, sizes[1:-1], strict=True)
        ]
        # Loss, accuracy, score and score of the desirable, of each segment; whether a run's update is finite.
        self.parts = torch.empty(4, self.models, config.batch_size, **options)
        self.finite = torch.empty(self.models, **options)
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
        _gather[self.models * self.config.batch_size, triton.cdiv(width, TILE)](
            *(block["row"], block["index"], self.table["starts"], self.data["observations"], self.x[0]),
            *(self.models * self.config.batch_size, self.x[0].shape[-1], width),
            TILE=TILE,
        )
        for i, (weight, bias) in enumerate(self.layers):
            torch.bmm(self.x[i], weight.transpose(1, 2), out=self.x[i + 1])
            if i < last:
                width = weight.shape[1]
                rows, columns = _tile(triton.cdiv(width, 4), TILE // 4)
                _activate[self.models, triton.cdiv(self.rows, rows), triton.cdiv(width, 4 * columns)](
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
        _differentiate[self.models * c.batch_size,](
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
                _mask[self.models, partial.shape[1], triton.cdiv(width, columns)](
                    *(delta, self.x[i], partial, self.rows, width, self.scale), ROWS=rows, COLUMNS=columns
                )
                torch.sum(partial, 1, out=self.gradient_layers[i - 1][1])

    def step(self, *, cloning: bool) -> None:
        """Add to the sums, and let Adam change the weights of the runs whose loss and gradient are finite."""
        state, (models, parameters) = self.state, self.gradient.shape
        _record[models,](
            *(self.block["row"], self.block["index"], self.block["scalars"], self.table["labels"], self.parts),
            *(self.gradient, state["sums"], state["finite_updates"], self.finite),
            *(models, self.config.batch_size, parameters),
            CLONING=cloning,
            BATCH=triton.next_power_of_2(self.config.batch_size),
            TILE=TILE,
        )
        _adam[models, triton.cdiv(parameters, TILE)](
            *(self.block["row"], self.block["scalars"], self.finite, self.gradient),
            *(state["mean"], state["square"], state["weights"], models, parameters),
            *(*BETAS, EPSILON),
            TILE=TILE,
        )


def bytes_needed(config: TracConfig, sizes: list[int], length: int, transitions: int) -> int:
    """Memory [bytes] that one run adds to a stack: its buffers, its weights and moments, and its reference's table."""
    rows = config.batch_size * length
    weights = sum(a * b + b for a, b in itertools.pairwise(sizes))
    return 4 * (rows * (sum(sizes) + sum(sizes[1:-1])) + 6 * weights + transitions)


def _tile(width: int, entries: int = TILE) -> tuple[int, int]:
    """Rows and columns of a tile, powers of 2, for rows of that width."""
    columns = min(128, triton.next_power_of_2(width))
    return entries // columns, columns


@triton.jit
def _gather(row, index, starts, observations, out, stacked, obs_dim, width, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    # One program for each segment of the stack's M * batch_size, and for TILE entries of it.
    position = tl.program_id(0).to(tl.int64)
    start = tl.load(starts + tl.load(index + tl.load(row) * stacked + position))
    at = tl.program_id(1) * TILE + tl.arange(0, TILE)
    entries = tl.load(observations + start * obs_dim + at, mask=at < width)
    tl.store(out + position * width + at, entries, mask=at < width)


@triton.jit
def _activate(  # type: ignore[no-untyped-def]
    row, scalars, seeds, x, bias, stride, models, rows, width, layer, threshold, scale,
    DROPOUT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    # Bias, ReLU and dropout in place. A call of Philox makes four words, one for each quarter of the columns.
    model = tl.program_id(0).to(tl.int64)
    quarter = (width + 3) // 4
    r = tl.program_id(1) * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    position = r * quarter + c
    if DROPOUT:
        update = tl.load(scalars + tl.load(row) * 3 * models + model).to(tl.int32)
        zero = position * 0
        w0, w1, w2, w3 = tl.philox(tl.load(seeds + model), position, zero + update, zero + layer, zero)
    else:
        w0, w1, w2, w3 = position, position, position, position
    x += model * rows * width + r * width
    bias += model * stride
    inside = (r < rows) & (c < quarter)
    _activate_quarter(x, bias, c, w0, inside & (c < width), threshold, scale, DROPOUT)
    _activate_quarter(x, bias, c + quarter, w1, inside & (c + quarter < width), threshold, scale, DROPOUT)
    _activate_quarter(x, bias, c + 2 * quarter, w2, inside & (c + 2 * quarter < width), threshold, scale, DROPOUT)
    _activate_quarter(x, bias, c + 3 * quarter, w3, inside & (c + 3 * quarter < width), threshold, scale, DROPOUT)


@triton.jit
def _activate_quarter(x, bias, c, word, inside, threshold, scale, DROPOUT: tl.constexpr):  # type: ignore[no-untyped-def]
    value = tl.load(x + c, mask=inside) + tl.load(bias + c, mask=inside)
    value = tl.where(value < 0, 0.0, value)  # NaN stays
    if DROPOUT:
        value = tl.where((word >> 1).to(tl.int32) >= threshold, value * scale, 0.0)
    tl.store(x + c, value, mask=inside)


@triton.jit
def _mask(delta, activation, partial, rows, width, scale, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    # An activation is positive exactly where the unit was on and was not dropped. Each tile's sum over its rows is
    # written apart, and summed later: the bias's gradient is the same bits each time.
    model, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    r = tile * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    at = model * rows * width + r * width + c[None, :]
    inside = (r < rows) & (c < width)[None, :]
    on = tl.load(activation + at, mask=inside, other=0.0) > 0
    value = tl.where(on, tl.load(delta + at, mask=inside, other=0.0) * scale, 0.0)
    tl.store(delta + at, value, mask=inside)
    tl.store(partial + (model * tl.num_programs(1) + tile) * width + c, tl.sum(value, 0), mask=c < width)


@triton.jit
def _tanh(x):  # type: ignore[no-untyped-def]
    e = tl.exp(-2 * tl.abs(x))
    value = (1 - e) / (1 + e)
    return tl.where(x < 0, -value, value)


@triton.jit
def _differentiate(  # type: ignore[no-untyped-def]
    row, index, starts, labels, weights, actions, reference, output, bias, stride, alphas, gammas, etas, parts,
    transitions, models, batch, length, act_dim, bc_coef, clamp, use_desirable, use_undesirable, low, high,
    CLONING: tl.constexpr, CLAMP: tl.constexpr, GAUSSIAN: tl.constexpr, BATCH: tl.constexpr, STEPS: tl.constexpr,
    ACTIONS: tl.constexpr,
):  # fmt: skip
    # One program for each segment. The names are those of `trac.score`; slope is d log π / d output.
    position = tl.program_id(0).to(tl.int64)
    model = position // batch
    index += tl.load(row) * models * batch
    segment = tl.load(index + position)
    start = tl.load(starts + segment)
    t, j = tl.arange(0, STEPS), tl.arange(0, ACTIONS)
    inside = (t < length)[:, None] & (j < act_dim)[None, :]
    outputs = 2 * act_dim if GAUSSIAN else act_dim
    output += (position * length + t[:, None]) * outputs + j[None, :]
    bias += model * stride + j
    action = tl.load(actions + (start + t[:, None]) * act_dim + j[None, :], mask=inside, other=0.0)
    mean = _tanh(tl.load(output, mask=inside, other=0.0) + tl.load(bias, mask=j < act_dim, other=0.0)[None, :])
    error = action - mean
    if GAUSSIAN:
        raw = (
            tl.load(output + act_dim, mask=inside, other=0.0)
            + tl.load(bias + act_dim, mask=j < act_dim, other=0.0)[None, :]
        )
        log_std = tl.minimum(tl.maximum(raw, low), high)
        precision = tl.exp(-log_std)
        z = error * precision
        terms = -0.5 * z * z - log_std - 0.9189385332046727  # log √(2π)
        slope = z * precision * (1 - mean * mean)
        slope_std = tl.where((raw >= low) & (raw <= high), z * z - 1, 0.0)
    else:
        terms = -error * error
        slope = 2 * error * (1 - mean * mean)
        slope_std = slope
    log_prob = tl.sum(tl.where(inside, terms, 0.0), 1)

    if CLONING:
        part = -tl.sum(log_prob, 0) / (length * batch)
        upstream = tl.full((STEPS,), -1.0, tl.float32) / (length * batch)
        tl.store(parts + position, part)
    else:
        alpha, gamma, eta = tl.load(alphas + model), tl.load(gammas + model), tl.load(etas + model)
        cached = tl.load(reference + model * transitions + start + t, mask=t < length, other=0.0)
        discount = tl.exp2(t * tl.log2(gamma))
        score = alpha * tl.sum(tl.where(t < length, discount * (log_prob - cached), 0.0), 0)

        others = tl.arange(0, BATCH)
        of_batch = tl.load(index + model * batch + others, mask=others < batch, other=0)
        desirable = tl.sum(tl.load(labels + of_batch, mask=others < batch, other=0.0), 0)
        label, weight = tl.load(labels + segment), tl.load(weights + segment)
        ratio = eta * desirable / tl.maximum(batch - desirable, 1.0)
        coefficient = weight * (use_desirable * label + use_undesirable * ratio * (1 - label)) / batch
        sign = tl.where(label > 0.5, 1.0, -1.0)
        correct = sign * score
        if CLAMP:
            sigmoid = 1 / (1 + tl.exp(-correct))
            log_probability = tl.log(tl.where(sigmoid < clamp, clamp, sigmoid))
            pull = tl.where(sigmoid < clamp, 0.0, 1 - sigmoid)
        else:
            log_probability = tl.where(correct < 0, correct, 0.0) - tl.log(1 + tl.exp(-tl.abs(correct)))
            pull = 1 / (1 + tl.exp(correct))
        cloned = bc_coef * label / tl.maximum(desirable, 1.0) / length
        upstream = -coefficient * sign * pull * alpha * discount - cloned
        tl.store(parts + position, -coefficient * log_probability - cloned * tl.sum(log_prob, 0))
        size = models * batch
        tl.store(parts + size + position, tl.where((score > 0) == (label > 0.5), 1.0, 0.0) / batch)
        tl.store(parts + 2 * size + position, score)
        tl.store(parts + 3 * size + position, score * label)

    tl.store(output, upstream[:, None] * slope, mask=inside)
    if GAUSSIAN:
        tl.store(output + act_dim, upstream[:, None] * slope_std, mask=inside)


@triton.jit
def _record(  # type: ignore[no-untyped-def]
    row, index, scalars, labels, parts, gradient, sums, finite_updates, finite, models, batch, parameters,
    CLONING: tl.constexpr, BATCH: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    # One program for each run. The order of the sums is that of `_SUMS` in trac/core/learner.py.
    model = tl.program_id(0).to(tl.int64)
    square = tl.zeros((TILE,), tl.float32)
    for at in range(0, parameters, TILE):
        g = at + tl.arange(0, TILE)
        value = tl.load(gradient + model * parameters + g, mask=g < parameters, other=0.0)
        square += value * value
    norm = tl.sqrt(tl.sum(square, 0))

    b = tl.arange(0, BATCH)
    size, of_run = models * batch, model * batch + b
    loss = tl.sum(tl.load(parts + of_run, mask=b < batch, other=0.0), 0)
    sums += model
    tl.store(sums, tl.load(sums) + loss)
    if not CLONING:
        segment = tl.load(index + tl.load(row) * size + of_run, mask=b < batch, other=0)
        desirable = tl.sum(tl.load(labels + segment, mask=b < batch, other=0.0), 0)
        accuracy = tl.sum(tl.load(parts + size + of_run, mask=b < batch, other=0.0), 0)
        score = tl.sum(tl.load(parts + 2 * size + of_run, mask=b < batch, other=0.0), 0)
        score_desirable = tl.sum(tl.load(parts + 3 * size + of_run, mask=b < batch, other=0.0), 0)
        one_sided = tl.where((desirable == 0) | (desirable == batch), 1.0, 0.0)
        tl.store(sums + models, tl.load(sums + models) + accuracy)
        tl.store(sums + 2 * models, tl.load(sums + 2 * models) + desirable)
        tl.store(sums + 3 * models, tl.load(sums + 3 * models) + score)
        tl.store(sums + 4 * models, tl.load(sums + 4 * models) + score_desirable)
        tl.store(sums + 5 * models, tl.load(sums + 5 * models) + one_sided)
    tl.store(sums + 6 * models, tl.load(sums + 6 * models) + norm)
    tl.store(sums + 7 * models, tl.load(sums + 7 * models) + 1)

    # A run that fails once stays as it is: at the last weights that a finite gradient made.
    update, so_far = tl.load(scalars + tl.load(row) * 3 * models + model), tl.load(finite_updates + model)
    is_finite = (tl.abs(loss + norm) < float("inf")) & (so_far == update - 1)
    tl.store(finite + model, tl.where(is_finite, 1.0, 0.0))
    tl.store(finite_updates + model, so_far + tl.where(is_finite, 1.0, 0.0))


@triton.jit
def _adam(  # type: ignore[no-untyped-def]
    row, scalars, finite, gradient, means, squares, weights, models, parameters, beta1, beta2, epsilon,
    TILE: tl.constexpr,
):  # fmt: skip
    model = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = at < parameters
    at += model * parameters
    scalars += tl.load(row) * 3 * models + model
    size, root = tl.load(scalars + models), tl.load(scalars + 2 * models)
    g = tl.load(gradient + at, mask=inside, other=0.0)
    mean = tl.load(means + at, mask=inside, other=0.0)
    square = tl.load(squares + at, mask=inside, other=0.0)
    mean += (g - mean) * (1 - beta1)
    square = beta2 * square + (1 - beta2) * g * g
    tl.store(means + at, mean, mask=inside)
    tl.store(squares + at, square, mask=inside)
    weight = tl.load(weights + at, mask=inside)
    changed = weight - size * mean / (tl.sqrt(square) / root + epsilon)
    tl.store(weights + at, tl.where(tl.load(finite + model) > 0, changed, weight), mask=inside)
