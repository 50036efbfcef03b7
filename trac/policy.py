"""A stack of M independent MLP policies that share shapes; M = 1 is an ordinary policy."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trac import score

LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0


class Policy(nn.Module):
    """M policies of one architecture: ReLU hidden layers with dropout, tanh output (paper, appendix).

    All parameters are one matrix (M, P), a row for each policy, so that an optimizer, a copy or a
    checkpoint is one operation. `layers()` shows the row as weights and biases.

    Args:
        obs_dim: size of one observation.
        act_dim: size of one action.
        hidden: widths of the hidden layers.
        dropout: probability p of dropping a hidden unit while training.
        kind: "deterministic", or "gaussian" with a learned log standard deviation for each state.
        parameters: (M, P), used as it is, not copied.
    """

    def __init__(self, obs_dim: int, act_dim: int, *, hidden, dropout: float, kind: str, parameters: Tensor):
        super().__init__()
        self.obs_dim, self.act_dim, self.hidden = obs_dim, act_dim, tuple(hidden)
        self.dropout, self.kind = dropout, kind
        self.matrix = nn.Parameter(parameters)

    @staticmethod
    def untrained(obs_dim: int, act_dim: int, *, hidden, dropout: float, kind: str, generators) -> "Policy":
        """Orthogonal initial weights with gain 1, biases 0; one torch.Generator for each of the M policies."""
        policy = Policy(obs_dim, act_dim, hidden=hidden, dropout=dropout, kind=kind, parameters=torch.empty(0))
        policy.matrix = nn.Parameter(torch.zeros(len(generators), sum(map(math.prod, policy.shapes))))
        with torch.no_grad():
            for weight, _ in policy.layers():
                for one, generator in zip(weight, generators, strict=True):
                    nn.init.orthogonal_(one, generator=generator)
        return policy

    @property
    def models(self) -> int:
        """M, the number of policies in the stack."""
        return self.matrix.shape[0]

    @property
    def sizes(self) -> list[int]:
        """See `layer_sizes`."""
        return layer_sizes(self.obs_dim, self.act_dim, self.hidden, self.kind)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of weight and bias, layer after layer, in the order in which they stand in a row."""
        pairs = itertools.pairwise(self.sizes)
        return [shape for inputs, outputs in pairs for shape in ((outputs, inputs), (outputs,))]

    def layers(self, matrix: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
        """(weight (M, out, in), bias (M, out)) of each layer, as views of the parameters or of a matrix like them."""
        matrix = self.matrix if matrix is None else matrix
        parts = matrix.split([math.prod(shape) for shape in self.shapes], dim=1)
        views = [part.unflatten(1, shape) for part, shape in zip(parts, self.shapes, strict=True)]
        return list(zip(views[::2], views[1::2], strict=True))

    def forward(self, observations: Tensor, masks: list[Tensor] | None = None) -> Tensor:
        """The network's raw output, before tanh: (M, N, obs_dim) -> (M, N, sizes[-1]).

        Args:
            masks: for each hidden layer, what its output is multiplied with (see `dropout_masks`); None: no dropout.
        """
        x, layers = observations, self.layers()
        for i, (weight, bias) in enumerate(layers):
            x = torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))
            if i < len(layers) - 1:
                x = F.relu(x)
                if masks is not None:
                    x = x * masks[i]
        return x

    def log_prob_of(self, output: Tensor, actions: Tensor) -> Tensor:
        """log π(a|s) from the network's output: (..., sizes[-1]), (..., act_dim) -> (...)."""
        if self.kind == "deterministic":
            return score.log_prob(torch.tanh(output), actions)
        mean, log_std = output.chunk(2, dim=-1)
        return score.log_prob(torch.tanh(mean), actions, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX))

    def log_prob(self, observations: Tensor, actions: Tensor) -> Tensor:
        """log π(a|s) without dropout: (M, N, obs_dim), (M, N, act_dim) -> (M, N)."""
        return self.log_prob_of(self(observations), actions)

    @torch.inference_mode()
    def act(self, observation) -> np.ndarray:
        """The mean action, for one policy (M = 1): (obs_dim,) or (B, obs_dim) -> the same with act_dim."""
        x = torch.as_tensor(np.asarray(observation, dtype=np.float32), device=self.matrix.device)
        if self.models != 1:
            raise ValueError(f"act() takes one policy and this is a stack of {self.models}: use unstack() first.")
        if x.shape[-1] != self.obs_dim:
            raise ValueError(f"observation has {x.shape[-1]} entries; this policy was made for {self.obs_dim}.")
        mean = torch.tanh(self(x.reshape(1, -1, self.obs_dim))[..., : self.act_dim])
        return mean.view(*x.shape[:-1], self.act_dim).cpu().numpy()

    def unstack(self) -> list["Policy"]:
        """The M policies, each on its own, as copies on the CPU."""
        return [self.like(row.unsqueeze(0)) for row in self.matrix.detach().cpu()]

    def like(self, matrix: Tensor) -> "Policy":
        """Policies of this architecture with a copy of these parameters (M, P)."""
        values = matrix.detach().clone()
        return Policy(
            self.obs_dim, self.act_dim, hidden=self.hidden, dropout=self.dropout, kind=self.kind, parameters=values
        )

    def named(self) -> dict[str, Tensor]:
        """Each layer's parameters under a name of its own: weights.0 (M, out, in), biases.0 (M, out), ..."""
        layers = self.layers(self.matrix.detach())
        return {
            f"{name}.{i}": value.contiguous()
            for i, layer in enumerate(layers)
            for name, value in zip(("weights", "biases"), layer, strict=True)
        }

    @staticmethod
    def from_named(values: dict[str, Tensor], *, dropout: float, kind: str) -> "Policy":
        """The inverse of `named()`; sizes are read off the tensors. Raises KeyError if one is missing."""
        layers = [(values[f"weights.{i}"], values[f"biases.{i}"]) for i in range(len(values) // 2)]
        matrix = torch.cat([value.flatten(1) for layer in layers for value in layer], dim=1)
        sizes = [layers[0][0].shape[2], *(weight.shape[1] for weight, _ in layers)]
        act_dim = sizes[-1] // (2 if kind == "gaussian" else 1)
        return Policy(sizes[0], act_dim, hidden=sizes[1:-1], dropout=dropout, kind=kind, parameters=matrix)


def layer_sizes(obs_dim: int, act_dim: int, hidden: Sequence[int], kind: str) -> list[int]:
    """Width of the input, of each hidden layer and of the output (mean, and log_std if gaussian)."""
    return [obs_dim, *hidden, act_dim * (2 if kind == "gaussian" else 1)]


def dropout_threshold(p: float) -> tuple[torch.dtype, int]:
    """How dropout compares random integers: (dtype, t) such that the unit is kept when the integer is above t.

    Bytes where p is a multiple of 1/256, which is then exact; 16-bit words for any other p, whose
    realised probability is p rounded to the next multiple of 1/65536.
    """
    dtype = torch.int8 if p * 256 == int(p * 256) else torch.int16
    info = torch.iinfo(dtype)
    return dtype, info.min + round(p * 2**info.bits) - 1


def dropout_scale(p: float) -> float:
    """1 / (1 - p) for the realised p, by which kept units are multiplied."""
    dtype, threshold = dropout_threshold(p)
    info = torch.iinfo(dtype)
    return 2**info.bits / (info.max - threshold)


def dropout_masks(rows: int, widths, p: float, generators, device) -> list[Tensor] | None:
    """Masks (M, rows, width) for each hidden layer: 0 with probability p, else 1 / (1 - p).

    Args:
        generators: one torch.Generator for each of the M models.

    Returns:
        The masks; None for p = 0, which draws nothing.
    """
    if p == 0:
        return None
    dtype, threshold = dropout_threshold(p)
    masks = []
    for width in widths:
        # random_() alone would leave the sign bit of a 64-bit word at 0, and so bias every eighth byte.
        words = torch.empty(len(generators), -(-rows * width * dtype.itemsize // 8), dtype=torch.int64, device=device)
        for row, generator in zip(words, generators, strict=True):
            row.random_(-(2**63), None, generator=generator)
        keep = words.view(dtype)[:, : rows * width] > threshold
        masks.append(keep.view(-1, rows, width).to(torch.float32).mul_(dropout_scale(p)))
    return masks
