"""An MLP policy that describes itself (paper, appendix)."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor, nn

from trac import score
from trac.envs.randomness import PROCESS

LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0


@contextmanager
def torch_defaults() -> Iterator[None]:
    """Inside, torch's defaults are its own, whatever the caller has set: float32, the CPU, gradients, no autocast.

    >>> with torch.no_grad(), torch_defaults():
    ...     torch.is_grad_enabled()
    True
    """
    dtype = torch.get_default_dtype()
    # Only where it changes something: it slows down every call of torch.
    device = torch.device("cpu") if torch.get_default_device().type != "cpu" else nullcontext()
    torch.set_default_dtype(torch.float32)
    try:
        with (
            device,
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast("cpu", enabled=False),
            torch.autocast("cuda", enabled=False),
        ):
            yield
    finally:
        torch.set_default_dtype(dtype)


class Policy(nn.Module):
    """ReLU hidden layers, tanh output. Its weights are 0 until `initialise`, or a state, sets them.

    Args:
        obs_dim: size of one observation.
        act_dim: size of one action.
        hidden: widths of the hidden layers.
        kind: "deterministic", or "gaussian" with a learned log standard deviation for each state.

    Attributes:
        settings: the arguments, by name: with `state_dict()` all it takes to rebuild the policy.
        layers: the linear layers. The last one's output is the mean before tanh and, if gaussian, log_std after it.

    Example:
        >>> policy = Policy(obs_dim=7, act_dim=2, hidden=(64, 64)).initialise(torch.Generator().manual_seed(0))
        >>> policy.act(data.observations[0]).shape, policy.act(data.observations[:5]).shape
        ((2,), (5, 2))
    """

    def __init__(self, obs_dim: int, act_dim: int, *, hidden: Sequence[int], kind: str = "deterministic"):
        super().__init__()
        self.settings: dict[str, Any] = dict(obs_dim=obs_dim, act_dim=act_dim, hidden=list(hidden), kind=kind)
        self.obs_dim, self.act_dim, self.kind = obs_dim, act_dim, kind
        pairs = itertools.pairwise(layer_sizes(obs_dim, act_dim, hidden, kind))
        # torch's own initial weights draw from the global generator, which another thread may have seeded.
        with PROCESS, torch.random.fork_rng(devices=[]):
            self.layers: Any = nn.ModuleList(nn.Linear(*pair) for pair in pairs)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.zero_()

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> Self:
        """Draw orthogonal weights with gain 1 (biases stay 0); returns itself."""
        for layer in self.layers:
            nn.init.orthogonal_(layer.weight, generator=generator)
        return self

    def forward(self, observations: Tensor) -> Tensor:
        """The last layer's output, before tanh: (N, obs_dim) -> (N, act_dim or 2 act_dim)."""
        x = observations
        for i, layer in enumerate(self.layers):
            x = F.relu(x) if i else x
            # As a batch of one, because torch rounds a narrow layer's product differently without: the core, which
            # trains many policies at once, and an evaluation agree to the last bit.
            x = torch.baddbmm(layer.bias, x.unsqueeze(0), layer.weight.t().unsqueeze(0)).squeeze(0)
        return x

    def log_prob_of(self, output: Tensor, actions: Tensor) -> Tensor:
        """log π(a|s) from the last layer's output: (..., act_dim or 2 act_dim), (..., act_dim) -> (...)."""
        if self.kind == "deterministic":
            return score.log_prob(torch.tanh(output), actions)
        mean, log_std = output.chunk(2, dim=-1)
        return score.log_prob(torch.tanh(mean), actions, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX))

    def log_prob(self, observations: Tensor, actions: Tensor) -> Tensor:
        """log π(a|s): (N, obs_dim), (N, act_dim) -> (N,).

        >>> policy = Policy(7, 2, hidden=(64,))
        >>> policy.log_prob(torch.zeros(5, 7), torch.zeros(5, 2)).shape
        torch.Size([5])
        """
        return self.log_prob_of(self(observations), actions)

    @torch.inference_mode()
    def act(self, observation: ArrayLike) -> np.ndarray:
        """The mean action: (obs_dim,) or (B, obs_dim) -> the same with act_dim."""
        device = next(self.parameters()).device
        x = torch.as_tensor(np.asarray(observation, dtype=np.float32), device=device)
        if x.shape[-1] != self.obs_dim:
            raise ValueError(f"observation has {x.shape[-1]} entries; this policy was made for {self.obs_dim}.")
        mean = torch.tanh(self(x.reshape(-1, self.obs_dim))[:, : self.act_dim])
        return mean.view(*x.shape[:-1], self.act_dim).cpu().numpy()


def layer_sizes(obs_dim: int, act_dim: int, hidden: Sequence[int], kind: str) -> list[int]:
    """Width of the input, of each hidden layer and of the output (mean, and log_std if gaussian).

    >>> layer_sizes(7, 2, (64, 64), "gaussian")
    [7, 64, 64, 4]
    """
    return [obs_dim, *hidden, act_dim * (2 if kind == "gaussian" else 1)]
