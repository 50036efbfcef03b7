"""A stack of M independent MLP policies that share shapes; M = 1 is an ordinary policy."""

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trac import score

LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0


class Policy(nn.Module):
    """M policies of one architecture: ReLU hidden layers with dropout, tanh output (paper, appendix).

    Args:
        obs_dim, act_dim: sizes of one observation and one action.
        hidden: widths of the hidden layers.
        dropout: probability p of dropping a hidden unit while training.
        kind: "deterministic", or "gaussian" with a learned log standard deviation for each state.
        generators: one for each model, for its initial weights (orthogonal, gain 1; biases 0).

    Parameters have the leading dimension M: weights (M, out, in), biases (M, out).
    """

    def __init__(self, obs_dim: int, act_dim: int, *, hidden, dropout: float, kind: str, generators):
        super().__init__()
        self.obs_dim, self.act_dim, self.hidden = obs_dim, act_dim, tuple(hidden)
        self.dropout, self.kind = dropout, kind
        outputs = act_dim * (2 if kind == "gaussian" else 1)
        sizes = [obs_dim, *self.hidden, outputs]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in itertools.pairwise(sizes):
            weight = torch.stack(
                [nn.init.orthogonal_(torch.empty(fan_out, fan_in), generator=generator) for generator in generators]
            )
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(torch.zeros(len(generators), fan_out)))

    @property
    def models(self) -> int:
        """M, the number of policies in the stack."""
        return self.weights[0].shape[0]

    def forward(self, observations: Tensor, dropout_generators=None) -> tuple[Tensor, Tensor | None]:
        """Action distribution: (M, N, obs_dim) -> mean (M, N, act_dim) and log_std (same shape, or None).

        Dropout is on when generators, one for each model, are given.
        """
        x = observations
        layers = list(zip(self.weights, self.biases, strict=True))
        for weight, bias in layers[:-1]:
            x = F.relu(_linear(x, weight, bias))
            if dropout_generators is not None and self.dropout > 0:
                x = x * dropout_masks(x.shape[1:], self.dropout, dropout_generators)
        x = _linear(x, *layers[-1])
        if self.kind == "deterministic":
            return torch.tanh(x), None
        mean, log_std = x.chunk(2, dim=-1)
        return torch.tanh(mean), log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)

    def log_prob(self, observations: Tensor, actions: Tensor, dropout_generators=None) -> Tensor:
        """log π(a|s): (M, ..., obs_dim), (M, ..., act_dim) -> (M, ...)."""
        shape = actions.shape[:-1]
        mean, log_std = self(observations.flatten(1, -2), dropout_generators)
        return score.log_prob(mean, actions.flatten(1, -2), log_std).view(shape)

    @torch.inference_mode()
    def act(self, observation) -> np.ndarray:
        """The mean action, for one policy (M = 1): (obs_dim,) or (B, obs_dim) -> the same with act_dim."""
        device = self.weights[0].device
        x = torch.as_tensor(np.asarray(observation, dtype=np.float32), device=device)
        if self.models != 1:
            raise ValueError(f"act() takes one policy and this is a stack of {self.models}: use unstack() first.")
        if x.shape[-1] != self.obs_dim:
            raise ValueError(f"observation has {x.shape[-1]} entries; this policy was made for {self.obs_dim}.")
        return self(x.reshape(1, -1, self.obs_dim))[0].view(*x.shape[:-1], self.act_dim).cpu().numpy()

    def unstack(self) -> list["Policy"]:
        """The M policies, each on its own, detached copies."""
        return [self._like([p[m : m + 1] for p in self.parameters()]) for m in range(self.models)]

    def copy(self) -> "Policy":
        """A detached copy of the stack."""
        return self._like(list(self.parameters()))

    def _like(self, parameters: list[Tensor]) -> "Policy":
        other = Policy.__new__(Policy)
        nn.Module.__init__(other)
        for name in ("obs_dim", "act_dim", "hidden", "dropout", "kind"):
            setattr(other, name, getattr(self, name))
        values = [nn.Parameter(p.detach().clone()) for p in parameters]
        layers = len(self.weights)
        other.weights, other.biases = nn.ParameterList(values[:layers]), nn.ParameterList(values[layers:])
        return other

    @staticmethod
    def from_state(state: dict[str, Tensor], *, dropout: float, kind: str) -> "Policy":
        """The policy whose `state_dict()` this is; sizes are read off the tensors."""
        layers = [state[f"weights.{i}"] for i in range(len(state) // 2)]
        act_dim = layers[-1].shape[1] // (2 if kind == "gaussian" else 1)
        hidden = [layer.shape[1] for layer in layers[:-1]]
        generators = [torch.Generator() for _ in range(layers[0].shape[0])]
        policy = Policy(layers[0].shape[2], act_dim, hidden=hidden, dropout=dropout, kind=kind, generators=generators)
        policy.load_state_dict(state)
        return policy


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(M, N, in) -> (M, N, out), each model by its own weights.

    On the CPU one product for each model: as fast there, and a model's bits do not depend on its neighbours.
    """
    if x.device.type != "cpu":
        return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))
    if len(weight) == 1:
        return F.linear(x.squeeze(0), weight.squeeze(0), bias.squeeze(0)).unsqueeze(0)
    models = zip(x.unbind(), weight.unbind(), bias.unbind(), strict=True)
    return torch.stack([F.linear(*model) for model in models])


def dropout_masks(shape, p: float, generators) -> Tensor:
    """Inverted-dropout masks (M, *shape): 0 with probability p, else 1 / (1 - p); one generator for each model.

    Where p is a multiple of 1/256 the masks come from random bytes, which are exact and cost an eighth
    of the draws; any other p is compared with 24-bit uniform numbers.
    """
    device = generators[0].device
    size = int(np.prod(shape))
    if p * 256 == int(p * 256):
        # random_() alone leaves the sign bit of a 64-bit word at 0, which would bias every eighth byte.
        words = [torch.empty(-(-size // 8), dtype=torch.int64, device=device) for _ in generators]
        drawn = [
            w.random_(-(2**63), None, generator=g).view(torch.uint8)[:size]
            for w, g in zip(words, generators, strict=True)
        ]
        keep = torch.stack(drawn) >= int(p * 256)
    else:
        keep = torch.stack([torch.rand(size, generator=g, device=device) for g in generators]) >= p
    return keep.view(len(generators), *shape).to(torch.float32).div_(1 - p)
