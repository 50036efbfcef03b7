"""Adam's step for a stack of M runs, with a learning rate for each (Kingma & Ba, 2015, algorithm 1)."""

import torch
from torch import Tensor

BETAS, EPSILON = (0.9, 0.999), 1e-8


def adam_step(gradient: Tensor, mean: Tensor, square: Tensor, size: Tensor, root: Tensor, *, out: Tensor) -> Tensor:
    """What Adam subtracts from the parameters.

    Args:
        gradient: (M, P).
        mean: (M, P), moving average of the gradient, updated in place.
        square: (M, P), moving average of its square, updated in place.
        size: (M,) learning rate / (1 - β1^t).
        root: (M,) √(1 - β2^t).
        out: (M, P), overwritten and returned.

    Example:
        >>> x = torch.ones(1, 3)
        >>> adam_step(x, x * 0, x * 0, torch.full((1,), 0.01), torch.ones(1), out=torch.empty(1, 3)).shape
        torch.Size([1, 3])
    """
    mean.lerp_(gradient, 1 - BETAS[0])
    square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
    torch.sqrt(square, out=out).div_(root.unsqueeze(1)).add_(EPSILON)
    return torch.div(mean, out, out=out).mul_(size.unsqueeze(1))
