"""What an update of a stack of M runs computes, as pure functions: the networks' outputs, and Adam's step."""

import torch
import torch.nn.functional as F
from torch import Tensor

from trac.core.fused_cpu import Layers

BETAS, EPSILON = (0.9, 0.999), 1e-8  # Adam's (Kingma & Ba, 2015)


def forward(layers: Layers, x: Tensor, masks: list[Tensor] | None = None) -> Tensor:
    """`Policy.forward` for M policies at once, with dropout: (M, N, obs_dim) -> (M, N, out).

    Args:
        layers: (weight (M, out, in), bias (M, out)) of each layer.
        masks: for each hidden layer, what its output is multiplied with (see `dropout_masks`); None: no dropout.
    """
    for i, (weight, bias) in enumerate(layers):
        x = torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))
        if i < len(layers) - 1:
            x = F.relu(x)
            if masks is not None:
                x = x * masks[i]
    return x


def adam_step(gradient: Tensor, mean: Tensor, square: Tensor, size: Tensor, root: Tensor, *, out: Tensor) -> Tensor:
    """What Adam subtracts from the parameters (Kingma & Ba, 2015, algorithm 1), with a rate for each run.

    Args:
        gradient: (M, P).
        mean: (M, P), moving average of the gradient, updated in place.
        square: (M, P), moving average of its square, updated in place.
        size: (M,) learning rate / (1 - β1^t).
        root: (M,) √(1 - β2^t).
        out: (M, P), overwritten and returned.
    """
    mean.lerp_(gradient, 1 - BETAS[0])
    square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
    torch.sqrt(square, out=out).div_(root.unsqueeze(1)).add_(EPSILON)
    return torch.div(mean, out, out=out).mul_(size.unsqueeze(1))
