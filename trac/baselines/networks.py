"""Networks of the offline baselines: multilayer perceptrons, critics, a Gaussian policy, a VAE."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.distributions import Normal

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0  # of a Gaussian policy, as in OSRL


def mlp(sizes: Sequence[int], activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers of these widths with an activation between them.

    >>> mlp([7, 64, 2])(torch.zeros(5, 7)).shape
    torch.Size([5, 2])
    """
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[:-1])


class Ensemble(nn.Module):
    """K networks of one shape with a scalar output, evaluated together: (N, in) -> (K, N).

    Args:
        members: K.
        sizes: widths of the input and the hidden layers; ReLU after the latter.

    Example:
        >>> Ensemble(4, [9, 64])(torch.zeros(5, 7), torch.zeros(5, 2)).shape
        torch.Size([4, 5])
    """

    def __init__(self, members: int, sizes: Sequence[int]):
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for inputs, outputs in zip(sizes, [*sizes[1:], 1], strict=True):
            bound = inputs**-0.5  # the initial range of torch.nn.Linear
            self.weights.append(torch.empty(members, inputs, outputs).uniform_(-bound, bound))
            self.biases.append(torch.empty(members, 1, outputs).uniform_(-bound, bound))

    def forward(self, *inputs: Tensor) -> Tensor:
        """The values (K, N) of inputs that are joined in their last dimension, (N, ...) each."""
        x = torch.cat(inputs, dim=-1).expand(len(self.weights[0]), -1, -1)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x if i == 0 else torch.relu(x), weight)
        return x.squeeze(-1)


class BaselinePolicy(nn.Module):
    """A policy of a baseline, with the arguments that make it in `settings`, as in `trac.policy.Policy`.

    >>> SquashedGaussian(7, 2, hidden=(64,)).settings  # a kind of BaselinePolicy
    {'obs_dim': 7, 'act_dim': 2, 'hidden': [64]}
    """

    def __init__(self, **settings: Any):
        super().__init__()
        self.settings = settings

    def actions(self, observations: Tensor) -> Tensor:
        """(B, obs_dim) -> (B, act_dim)."""
        raise NotImplementedError

    @torch.inference_mode()
    def act(self, observation: ArrayLike) -> np.ndarray:
        """The action to take: (obs_dim,) or (B, obs_dim) -> the same with act_dim."""
        device = next(self.parameters()).device
        x = torch.as_tensor(np.asarray(observation, dtype=np.float32), device=device)
        if x.shape[-1] != (size := self.settings.get("obs_dim", x.shape[-1])):
            raise ValueError(f"observation has {x.shape[-1]} entries; this policy was made for {size}.")
        return self.actions(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1).cpu().numpy()


class SquashedGaussian(BaselinePolicy):
    """tanh of a Gaussian whose mean and standard deviation depend on the observation; acts by the mean.

    >>> SquashedGaussian(7, 2, hidden=(64,)).sample(torch.zeros(5, 7)).shape
    torch.Size([5, 2])
    """

    def __init__(self, obs_dim: int, act_dim: int, hidden: Sequence[int]):
        super().__init__(obs_dim=obs_dim, act_dim=act_dim, hidden=list(hidden))
        self.body = mlp([obs_dim, *hidden, 2 * act_dim])

    def forward(self, observations: Tensor) -> Normal:
        """The Gaussian before tanh: (N, obs_dim) -> Normal (N, act_dim)."""
        mean, log_std = self.body(observations).chunk(2, dim=-1)
        return Normal(mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX).exp(), validate_args=False)

    def sample(self, observations: Tensor) -> Tensor:
        """Actions (N, act_dim) with a gradient to the parameters."""
        return torch.tanh(self(observations).rsample())

    def actions(self, observations: Tensor) -> Tensor:
        return torch.tanh(self(observations).mean)


class VAE(nn.Module):
    """Conditional variational autoencoder of actions given observations, with two latent units per action unit.

    >>> VAE(7, 2, hidden=64).sample(torch.zeros(5, 7)).shape
    torch.Size([5, 2])
    """

    def __init__(self, obs_dim: int, act_dim: int, hidden: int):
        super().__init__()
        self.latent = 2 * act_dim
        self.encoder = mlp([obs_dim + act_dim, hidden, hidden, 2 * self.latent])
        self.decoder = mlp([obs_dim + self.latent, hidden, hidden, act_dim])

    def encode(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (N, latent) of q(z | s, a)."""
        mean, log_std = self.encoder(torch.cat([observations, actions], -1)).chunk(2, dim=-1)
        return mean, log_std.clamp(-4, 15).exp()

    def decode(self, observations: Tensor, z: Tensor) -> Tensor:
        """Actions before tanh: (N, obs_dim), (N, latent) -> (N, act_dim)."""
        decoded: Tensor = self.decoder(torch.cat([observations, z], -1))
        return decoded

    def sample(self, observations: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Actions before tanh of codes near the prior's mode: N(0, 1), clipped to [-0.5, 0.5], as in BCQ."""
        z = torch.randn(len(observations), self.latent, device=observations.device, generator=generator)
        return self.decode(observations, z.clamp(-0.5, 0.5))

    def loss(self, observations: Tensor, actions: Tensor, beta: float) -> Tensor:
        """Mean squared error of the reconstruction plus β KL, both means over units as in OSRL."""
        mean, std = self.encode(observations, actions)
        decoded = torch.tanh(self.decode(observations, mean + std * torch.randn_like(std)))
        return (decoded - actions).square().mean() + beta * kl_to_standard_normal(mean, std).mean()


def kl_to_standard_normal(mean: Tensor, std: Tensor) -> Tensor:
    """KL(N(mean, std²) || N(0, 1)) of each unit: -½ (1 + log std² - mean² - std²).

    >>> kl_to_standard_normal(torch.tensor([0.0, 1.0]), torch.ones(2))
    tensor([-0.0000, 0.5000])
    """
    return -0.5 * (1 + 2 * torch.log(std) - mean.square() - std.square())
