import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from trac.core import fused_cpu
from trac.core.fused_cpu import FusedMLP, dropout_scale, dropout_threshold
from trac.policy import Policy, layer_sizes


def make(hidden, seed=0):
    generator = torch.Generator().manual_seed(seed)
    policy = Policy(5, 3, hidden=hidden).initialise(generator)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return policy


def fused_of(policy, rows, p):
    return FusedMLP(rows, layer_sizes(5, 3, policy.settings["hidden"], "deterministic"), p)


def layers_of(policy):
    return [(layer.weight.detach(), layer.bias.detach()) for layer in policy.layers]


def flat(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors])


def masks(mlp, hidden, p, source):
    """The masks that a pass draws from `source`: chunk by chunk, and in a chunk layer by layer."""
    dtype, threshold = dropout_threshold(p)
    parts = [[] for _ in hidden]
    for _, _, rows in mlp.chunks:
        for layer, width in enumerate(hidden):
            shape = (rows.stop - rows.start, width)
            words = source.random_raw(-(-shape[0] * width * dtype.itemsize // 8)).view(f"i{dtype.itemsize}")
            kept = words[: shape[0] * width].reshape(shape) > threshold
            parts[layer].append(torch.from_numpy(kept).float() * dropout_scale(p))
    return [torch.cat(part) for part in parts]


@pytest.mark.parametrize("p", [0.0, 0.25, 0.1, 0.9])
@pytest.mark.parametrize("hidden", [(16, 16), (24, 7, 12), (9,), ()])
@pytest.mark.parametrize("chunk", [2**20, 3000])
def test_it_is_autograd(hidden, p, chunk, monkeypatch):
    monkeypatch.setattr(fused_cpu, "CHUNK", chunk)
    policy, rows = make(hidden), 113
    mlp = fused_of(policy, rows, p)
    assert (len(mlp.chunks) > 1) == (chunk == 3000 and bool(hidden))
    generator = torch.Generator().manual_seed(1)
    x, upstream = torch.randn(rows, 5, generator=generator), torch.randn(rows, 3, generator=generator)
    for seed in range(2):  # the buffers of the first pass must not show in the second
        mlp.inputs.copy_(x * (seed + 1))
        output = mlp.forward(layers_of(policy), np.random.SFC64(seed))
        gradient = [tuple(torch.full_like(part, torch.nan) for part in layer) for layer in layers_of(policy)]
        mlp.backward(upstream, gradient)

        drawn = masks(mlp, hidden, p, np.random.SFC64(seed)) if p else None
        expected = x * (seed + 1)
        for layer, mask in zip(policy.layers[:-1], drawn or [1.0] * len(hidden), strict=True):
            expected = torch.relu(layer(expected)) * mask
        expected = policy.layers[-1](expected)
        torch.testing.assert_close(output, expected.detach(), rtol=1e-5, atol=1e-5)
        if not p:
            torch.testing.assert_close(output, policy(mlp.inputs).detach(), rtol=1e-5, atol=1e-5)
        exact = flat(torch.autograd.grad((expected * upstream).sum(), [*policy.parameters()]))
        found = flat([part for layer in gradient for part in layer])
        torch.testing.assert_close(found / exact.abs().max(), exact / exact.abs().max(), rtol=1e-5, atol=1e-5)


def test_without_a_source_nothing_is_dropped():
    policy = make((16,))
    mlp = fused_of(policy, 10, 0.25)
    mlp.inputs.normal_(generator=torch.Generator().manual_seed(0))
    output = mlp.forward(layers_of(policy), None)
    torch.testing.assert_close(output, policy(mlp.inputs).detach(), rtol=1e-5, atol=1e-5)


def test_no_dropout_draws_nothing():
    policy = make((16,))
    source = np.random.SFC64(0)
    fused_of(policy, 10, 0.0).forward(layers_of(policy), source)
    assert source.random_raw() == np.random.SFC64(0).random_raw()


@pytest.mark.parametrize("p", [0.25, 0.1])
def test_dropout_has_its_probability_and_is_independent(p):
    """In every place of four words; between neighbours, rows, words, layers, updates and runs.

    All units are switched on by their biases, so that a zero is a dropped one. 38 two-sided tests at
    10^-7, each of independent trials: a false alarm for fewer than one in 10^5 seeds. The seeds are fixed.
    """
    rows, width = 512, 256
    layers = [(torch.zeros(width, w), torch.ones(width)) for w in (1, width)] + [
        (torch.zeros(1, width), torch.zeros(1))
    ]
    mlp = FusedMLP(rows, [1, width, width, 1], p)

    def draw(seed, step):
        mlp.forward(layers, np.random.SFC64(np.random.SeedSequence(seed, spawn_key=(1, step))))
        chunks = [[(x[i + 1] == 0).numpy().copy() for i in range(2)] for x, _, _ in mlp.chunks]
        return [np.concatenate(layer) for layer in zip(*chunks, strict=True)]

    first, second = draw(0, 1)
    later, other = draw(0, 2)[0], draw(1, 1)[0]
    for place in range(32):
        dropped = first.ravel()[place::32]
        assert stats.binomtest(int(dropped.sum()), dropped.size, p).pvalue > 1e-7
    words = first.reshape(-1, 2, 8)
    pairs = {
        "columns": (first[:, 1::2], first[:, ::2]),
        "rows": (first[1::2], first[::2]),
        "words": (words[:, 0], words[:, 1]),
        "layers": (first, second),
        "updates": (first, later),
        "runs": (first, other),
    }
    for name, (a, b) in pairs.items():
        both = int((a & b).sum())
        assert stats.binomtest(both, a.size, p**2).pvalue > 1e-7, name


def test_chunks_cover_the_rows_once():
    mlp = FusedMLP(9600, [7, 256, 256, 2], 0.25)
    edges = [(rows.start, rows.stop) for _, _, rows in mlp.chunks]
    assert len(edges) == 4 and edges[0][0] == 0 and edges[-1][1] == 9600
    assert all(a[1] == b[0] for a, b in itertools.pairwise(edges))


def test_the_realised_probability_is_as_documented():
    assert dropout_scale(0.25) == 1 / 0.75 and dropout_scale(200 / 256) == 256 / 56
    assert dropout_scale(0.1) == 65536 / (65536 - round(6553.6))
