"""What the offline baselines' updates share: targets, losses, steps of an optimizer, the cost limit's scale."""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def discounted_limit(cost_limit: float, gamma: float, horizon: int) -> float:
    """The limit on an episode's cost on the scale of a cost critic, as in OSRL: l (1 - γ^T) / ((1 - γ) T).

    It is the discounted sum of T equal costs that add up to l. The critic itself sums over an endless future.

    Args:
        cost_limit: l [cost per episode].
        gamma: discount.
        horizon: T [steps per episode].

    Example:
        >>> discounted_limit(20, gamma=1.0, horizon=100), round(discounted_limit(20, gamma=0.99, horizon=100), 1)
        (20.0, 12.7)
    """
    total = horizon if gamma == 1 else (1 - gamma**horizon) / (1 - gamma)
    return cost_limit * total / horizon


def bellman_target(signal: Tensor, next_values: Tensor, gamma: float, done: Tensor | float = 0.0) -> Tensor:
    """(N,) signal + γ (1 - done) next_values, without a gradient.

    >>> bellman_target(torch.tensor([1.0]), torch.tensor([10.0]), gamma=0.5)
    tensor([6.])
    """
    return (signal + gamma * (1 - done) * next_values).detach()


def critic_loss(values: Tensor, target: Tensor) -> Tensor:
    """Sum over the members of their mean squared errors: (K, N), (N,) -> ().

    >>> critic_loss(torch.tensor([[1.0, 1.0], [0.0, 0.0]]), torch.zeros(2))
    tensor(1.)
    """
    return (values - target).square().mean(-1).sum()


@torch.no_grad()
def soft_update(target: nn.Module, source: nn.Module, tau: float) -> None:
    """target ← (1 - τ) target + τ source.

    >>> source = torch.nn.Linear(2, 2)
    >>> soft_update(target_of(source), source, tau=0.005)
    """
    for old, new in zip(target.parameters(), source.parameters(), strict=True):
        old.lerp_(new, tau)


def target_of(module: nn.Module) -> Any:
    """A copy for `soft_update`, which no gradient reaches.

    >>> target_of(torch.nn.Linear(2, 2)).weight.requires_grad
    False
    """
    return copy.deepcopy(module).requires_grad_(False)


def descend(optimizer: torch.optim.Optimizer, loss: Tensor, clip: float | None = None) -> None:
    """One step against the gradient of a loss, taken in the optimizer's own parameters and in no others.

    >>> x = torch.nn.Parameter(torch.tensor(1.0))
    >>> descend(torch.optim.SGD([x], lr=0.5), x.square() / 2)
    >>> x.item()
    0.5
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    optimizer.zero_grad()
    torch.autograd.backward(loss, inputs=parameters)
    if clip is not None:
        nn.utils.clip_grad_norm_(parameters, clip)
    optimizer.step()


def fused_adam(parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Adam:
    """Adam with torch's other defaults, which are OSRL's; all parameters in one kernel.

    >>> fused_adam(torch.nn.Linear(2, 2).parameters(), 1e-3).defaults["lr"]
    0.001
    """
    return torch.optim.Adam(parameters, lr=learning_rate, fused=True)
