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
    """
    total = horizon if gamma == 1 else (1 - gamma**horizon) / (1 - gamma)
    return cost_limit * total / horizon


def bellman_target(signal: Tensor, following: Tensor, gamma: float, done: Tensor | float = 0.0) -> Tensor:
    """(N,) signal + γ (1 - done) following, without a gradient."""
    return (signal + gamma * (1 - done) * following).detach()


def critic_loss(values: Tensor, target: Tensor) -> Tensor:
    """Sum over the members of their mean squared errors: (K, N), (N,) -> ()."""
    return (values - target).square().mean(-1).sum()


@torch.no_grad()
def soft_update(target: nn.Module, source: nn.Module, tau: float) -> None:
    """target ← (1 - τ) target + τ source."""
    for old, new in zip(target.parameters(), source.parameters(), strict=True):
        old.lerp_(new, tau)


def target_of(module: nn.Module) -> Any:
    """A copy for `soft_update`, which no gradient reaches."""
    return copy.deepcopy(module).requires_grad_(False)


def descend(optimizer: torch.optim.Optimizer, loss: Tensor, clip: float | None = None) -> None:
    """One step against the gradient of a loss, taken in the optimizer's own parameters and in no others."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    optimizer.zero_grad()
    torch.autograd.backward(loss, inputs=parameters)
    if clip is not None:
        nn.utils.clip_grad_norm_(parameters, clip)
    optimizer.step()


def fused_adam(parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Adam:
    """Adam with torch's other defaults, which are OSRL's; all parameters in one kernel."""
    return torch.optim.Adam(parameters, lr=learning_rate, fused=True)
