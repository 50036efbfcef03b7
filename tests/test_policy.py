import numpy as np
import pytest
import torch
from conftest import same

from trac import score
from trac.policy import LOG_STD_MAX, LOG_STD_MIN, Policy, layer_sizes


def make(seed=0, kind="deterministic", hidden=(16, 12)):
    return Policy(5, 2, hidden=hidden, kind=kind).initialise(torch.Generator().manual_seed(seed))


def test_forward_is_the_network_written_out():
    policy = make()
    for layer in policy.layers:
        torch.nn.init.normal_(layer.bias)
    (w1, b1), (w2, b2), (w3, b3) = ((layer.weight, layer.bias) for layer in policy.layers)
    x = torch.randn(7, 5)
    h = torch.relu(torch.relu(x @ w1.T + b1) @ w2.T + b2)
    assert torch.allclose(policy(x), h @ w3.T + b3, atol=1e-6)
    np.testing.assert_allclose(policy.act(x), torch.tanh(h @ w3.T + b3).detach(), atol=1e-6)


def test_log_prob_is_that_of_the_output():
    x, a = torch.randn(7, 5), torch.rand(7, 2)
    policy = make()
    torch.testing.assert_close(policy.log_prob(x, a), score.log_prob(torch.tanh(policy(x)), a))
    policy = make(kind="gaussian")
    torch.nn.init.constant_(policy.layers[-1].bias[2:], 9.0)  # a log standard deviation beyond the largest
    torch.nn.init.constant_(policy.layers[-1].bias[3:], -9.0)
    mean, expected = torch.tanh(policy(x)[:, :2]), torch.tensor([LOG_STD_MAX, LOG_STD_MIN])
    torch.testing.assert_close(policy.log_prob(x, a), score.log_prob(mean, a, expected.expand(7, 2)))


def test_initial_weights_are_orthogonal_biases_zero_and_the_global_generator_as_it_was():
    state = torch.get_rng_state()
    policy = make()
    assert torch.equal(torch.get_rng_state(), state)
    for layer in policy.layers:
        rows, columns = layer.weight.shape
        product = layer.weight @ layer.weight.T if rows <= columns else layer.weight.T @ layer.weight
        assert torch.allclose(product, torch.eye(min(rows, columns)), atol=1e-5)
        assert (layer.bias == 0).all()
    assert same(policy, make()) and not same(policy, make(seed=1))
    assert all((parameter == 0).all() for parameter in Policy(5, 2, hidden=(16,)).parameters())


def test_act_takes_one_observation_or_a_batch():
    policy = make(kind="gaussian")
    x = np.random.default_rng(0).standard_normal((4, 5))
    assert policy.act(x[0]).shape == (2,) and policy.act(x).shape == (4, 2)
    np.testing.assert_allclose(policy.act(x)[2], policy.act(x[2]), atol=1e-6)
    with pytest.raises(ValueError, match="3 entries; this policy was made for 5"):
        policy.act(np.zeros(3))


def test_settings_and_state_make_the_policy_again():
    policy = make(kind="gaussian")
    assert policy.settings == dict(obs_dim=5, act_dim=2, hidden=[16, 12], kind="gaussian")
    assert {name: tuple(value.shape) for name, value in policy.state_dict().items()} == {
        **{"layers.0.weight": (16, 5), "layers.0.bias": (16,), "layers.1.weight": (12, 16)},
        **{"layers.1.bias": (12,), "layers.2.weight": (4, 12), "layers.2.bias": (4,)},
    }
    again = Policy(**policy.settings)
    again.load_state_dict(policy.state_dict())
    assert same(again, policy)
    assert layer_sizes(5, 2, (16, 12), "gaussian") == [5, 16, 12, 4] and layer_sizes(5, 2, (), "x") == [5, 2]
