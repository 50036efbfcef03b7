"""Dropout's random integers. Each statistical test has a false alarm for at most one in 10^5 seeds; they are fixed."""

import pytest
import torch
from scipy import stats

from trac.core.dropout import dropout_masks, dropout_scale


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.mark.parametrize("p", [0.25, 0.1, 0.5])
def test_dropout_has_its_probability_in_every_place_of_a_word(p):
    (masks,) = dropout_masks(2000, (1000,), p, generators(0), "cpu")
    values, masks = masks.unique(), masks.flatten()
    assert values[0] == 0 and len(values) == 2 and values[1] == torch.tensor(dropout_scale(p))
    for place in range(8):
        dropped = int((masks[place::8] == 0).sum())
        assert stats.binomtest(dropped, 250_000, p).pvalue > 1e-6


def test_the_realised_probability_is_as_documented():
    assert dropout_scale(0.25) == 1 / 0.75 and dropout_scale(200 / 256) == 256 / 56
    assert dropout_scale(0.1) == 65536 / (65536 - round(6553.6))


def test_dropout_of_zero_draws_nothing():
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    assert dropout_masks(10, (16,), 0.0, [generator], "cpu") is None
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("p", [0.25, 0.1])
def test_dropout_differs_between_models_and_draws_and_repeats_with_the_seed(p):
    pair = generators(0, 1)
    (first,), (second,) = (dropout_masks(100, (10,), p, pair, "cpu") for _ in range(2))
    assert not torch.equal(first[0], first[1]) and not torch.equal(first, second)
    assert torch.equal(first, dropout_masks(100, (10,), p, generators(0, 1), "cpu")[0])
