"""Triton kernels of `trac.core.fused_gpu`: what stands between two matrix products of an update.

Pointers are to dense arrays of the shapes that `FusedStack` has, `rows` is batch_size * length, and `row` points to
the place in the block of the update that is made. Offsets are 64 bits wide, because a stack's activations can have
more than 2^31 entries.
"""

import triton
import triton.language as tl


@triton.jit
def gather(row, index, starts, observations, out, stacked, obs_dim, width, TILE: tl.constexpr):
    # One program for each segment of the stack's M * batch_size, and for TILE entries of it.
    position = tl.program_id(0).to(tl.int64)
    start = tl.load(starts + tl.load(index + tl.load(row) * stacked + position))
    at = tl.program_id(1) * TILE + tl.arange(0, TILE)
    entries = tl.load(observations + start * obs_dim + at, mask=at < width)
    tl.store(out + position * width + at, entries, mask=at < width)


@triton.jit
def activate(
    row, scalars, seeds, x, bias, stride, models, rows, width, layer, threshold, scale,
    DROPOUT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    # Bias, ReLU and dropout in place. A call of Philox makes four words, one for each quarter of the columns.
    # Rows come first: only a grid's first axis may have more than 65,535 programs.
    model = tl.program_id(1).to(tl.int64)
    quarter = (width + 3) // 4
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
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
def _activate_quarter(x, bias, c, word, inside, threshold, scale, DROPOUT: tl.constexpr):
    value = tl.load(x + c, mask=inside) + tl.load(bias + c, mask=inside)
    value = tl.where(value < 0, 0.0, value)  # NaN stays
    if DROPOUT:
        value = tl.where((word >> 1).to(tl.int32) >= threshold, value * scale, 0.0)
    tl.store(x + c, value, mask=inside)


@triton.jit
def mask(delta, activation, partial, rows, width, scale, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    # An activation is positive exactly where the unit was on and was not dropped. Each tile's sum over its rows is
    # written apart, and summed later: the bias's gradient is the same bits each time.
    tile, model = tl.program_id(0), tl.program_id(1).to(tl.int64)
    r = tile * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    at = model * rows * width + r * width + c[None, :]
    inside = (r < rows) & (c < width)[None, :]
    on = tl.load(activation + at, mask=inside, other=0.0) > 0
    value = tl.where(on, tl.load(delta + at, mask=inside, other=0.0) * scale, 0.0)
    tl.store(delta + at, value, mask=inside)
    tl.store(partial + (model * tl.num_programs(0) + tile) * width + c, tl.sum(value, 0), mask=c < width)


@triton.jit
def _tanh(x):
    e = tl.exp(-2 * tl.abs(x))
    value = (1 - e) / (1 + e)
    return tl.where(x < 0, -value, value)


@triton.jit
def differentiate(
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
def record(
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
def adam(
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
