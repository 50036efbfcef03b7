import numpy as np
import pytest
import torch
from scipy import stats

from trac.policy import Policy, dropout_masks, dropout_scale


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def make(*seeds, kind="deterministic", dropout=0.25, hidden=(16, 12)):
    return Policy.untrained(5, 2, hidden=hidden, dropout=dropout, kind=kind, generators=generators(*seeds))


def test_forward_is_the_network_written_out():
    policy = make(0)
    (w1, b1), (w2, b2), (w3, b3) = ((weight[0], bias[0]) for weight, bias in policy.layers())
    x = torch.randn(7, 5)
    h = torch.relu(torch.relu(x @ w1.T + b1) @ w2.T + b2)
    assert torch.allclose(policy(x[None])[0], h @ w3.T + b3, atol=1e-6)
    np.testing.assert_allclose(policy.act(x), torch.tanh(h @ w3.T + b3).detach(), atol=1e-6)


@pytest.mark.parametrize("kind", ["deterministic", "gaussian"])
def test_a_stack_agrees_with_its_members(kind):
    stack, alone = make(3, 4, kind=kind), make(4, kind=kind)
    x, a = torch.randn(2, 54, 5), torch.rand(2, 54, 2)
    torch.testing.assert_close(stack.log_prob(x, a)[1:], alone.log_prob(x[1:], a[1:]))
    pair = dropout_masks(54, (16, 12), 0.25, generators(8, 9), "cpu")
    one = dropout_masks(54, (16, 12), 0.25, generators(9), "cpu")
    assert all(torch.equal(mine[1:], other) for mine, other in zip(pair, one, strict=True))
    torch.testing.assert_close(stack(x, pair)[1:], alone(x[1:], one))


def test_initial_weights_are_orthogonal_and_biases_zero():
    for weight, bias in make(0).layers():
        rows, columns = weight.shape[1:]
        product = weight[0] @ weight[0].T if rows <= columns else weight[0].T @ weight[0]
        assert torch.allclose(product, torch.eye(min(rows, columns)), atol=1e-5)
        assert (bias == 0).all()


def test_act_takes_one_observation_or_a_batch():
    policy = make(0, kind="gaussian")
    x = np.random.default_rng(0).standard_normal((4, 5))
    assert policy.act(x[0]).shape == (2,) and policy.act(x).shape == (4, 2)
    np.testing.assert_allclose(policy.act(x)[2], policy.act(x[2]), atol=1e-6)
    with pytest.raises(ValueError, match="3 entries; this policy was made for 5"):
        policy.act(np.zeros(3))
    with pytest.raises(ValueError, match="stack of 2"):
        make(0, 1).act(x[0])


def test_named_parameters_come_back():
    policy = make(0, 1, kind="gaussian")
    named = policy.named()
    assert {name: tuple(value.shape) for name, value in named.items()} == {
        **{"weights.0": (2, 16, 5), "biases.0": (2, 16), "weights.1": (2, 12, 16)},
        **{"biases.1": (2, 12), "weights.2": (2, 4, 12), "biases.2": (2, 4)},
    }
    again = Policy.from_named(named, dropout=0.25, kind="gaussian")
    assert (again.obs_dim, again.act_dim, again.hidden, again.models) == (5, 2, (16, 12), 2)
    assert torch.equal(again.matrix, policy.matrix) and torch.equal(again.unstack()[1].matrix, policy.matrix[1:])


# Each statistical test below has a false alarm in at most 10^5 seeds; the seed is fixed.


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
