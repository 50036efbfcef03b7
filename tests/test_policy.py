import numpy as np
import pytest
import torch
from scipy import stats

from trac.policy import Policy, dropout_masks


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def make(*seeds, kind="deterministic", dropout=0.25, hidden=(16, 12)):
    return Policy(5, 2, hidden=hidden, dropout=dropout, kind=kind, generators=generators(*seeds))


def test_forward_is_the_network_written_out():
    policy = make(0)
    (w1, w2, w3), (b1, b2, b3) = ([p[0] for p in group] for group in (policy.weights, policy.biases))
    x = torch.randn(7, 5)
    h = torch.relu(torch.relu(x @ w1.T + b1) @ w2.T + b2)
    assert torch.allclose(policy(x[None])[0][0], torch.tanh(h @ w3.T + b3), atol=1e-6)


@pytest.mark.parametrize("kind", ["deterministic", "gaussian"])
def test_a_stack_has_the_same_bits_as_its_members(kind):
    stack, alone = make(3, 4, kind=kind), make(4, kind=kind)
    x, a = torch.randn(2, 6, 9, 5), torch.rand(2, 6, 9, 2)
    for dropout in (None, generators(8, 9)):
        mine = None if dropout is None else generators(9)
        assert torch.equal(stack.log_prob(x, a, dropout)[1:], alone.log_prob(x[1:], a[1:], mine))


def test_initial_weights_are_orthogonal_and_biases_zero():
    policy = make(0)
    for weight, bias in zip(policy.weights, policy.biases, strict=True):
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


def test_state_comes_back():
    policy = make(0, 1, kind="gaussian")
    again = Policy.from_state(policy.state_dict(), dropout=0.25, kind="gaussian")
    assert (again.obs_dim, again.act_dim, again.hidden, again.models) == (5, 2, (16, 12), 2)
    x = torch.randn(2, 3, 5)
    assert torch.equal(again(x)[0], policy(x)[0]) and torch.equal(again.unstack()[1](x[1:])[0], policy(x)[0][1:])


@pytest.mark.parametrize("p", [0.25, 0.1])
def test_dropout_has_its_probability_in_every_byte(p):
    # 8 binomial tests of 250,000 draws each; a two-sided false alarm in 10^6 for each.
    masks = dropout_masks((2_000_000,), p, generators(0))[0]
    values = masks.unique()
    assert len(values) == 2 and values[0] == 0 and torch.isclose(values[1], torch.tensor(1 / (1 - p)))
    for byte in range(8):
        dropped = int((masks[byte::8] == 0).sum())
        assert stats.binomtest(dropped, 250_000, p).pvalue > 1e-6


@pytest.mark.parametrize("p", [0.25, 0.1])
def test_dropout_differs_between_models_and_draws_and_repeats_with_the_seed(p):
    pair = generators(0, 1)
    first, second = dropout_masks((1000,), p, pair), dropout_masks((1000,), p, pair)
    assert not torch.equal(first[0], first[1]) and not torch.equal(first, second)
    assert torch.equal(first, dropout_masks((1000,), p, generators(0, 1)))
