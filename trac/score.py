"""The score of a segment and the losses, as pure functions (paper, sections 4.2 and 4.3)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def log_prob(mean: Tensor, action: Tensor, log_std: Tensor | None = None) -> Tensor:
    """log π(a|s), summed over action dimensions: (..., act_dim) -> (...).

    Without `log_std`, the released code's deterministic policy: -||a - mean||², a Gaussian of variance
    1/2 up to a constant. With it, a Gaussian with that log standard deviation for each dimension.

    >>> log_prob(mean=torch.zeros(2), action=torch.tensor([0.6, 0.8]))
    tensor(-1.)
    """
    if action.shape[-1:] != mean.shape[-1:]:
        raise ValueError(f"actions {tuple(action.shape)} and means {tuple(mean.shape)} must both end in act_dim.")
    if log_std is None:
        return -(action - mean).square().sum(-1)
    scaled = (action - mean) * torch.exp(-log_std)
    return (-0.5 * scaled.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)


def segment_score(log_ratio: Tensor, *, alpha: Tensor | float, gamma: Tensor | float) -> Tensor:
    """Score of a segment, Σ_t γ^t α (log π - log π_ref): (..., L) -> (...).

    Args:
        log_ratio: (..., L) log π(a_t|s_t) - log π_ref(a_t|s_t).
        alpha: temperature, a scalar or a tensor that broadcasts against (...).
        gamma: discount, likewise.

    Example:
        >>> segment_score(torch.tensor([1.0, 1.0, 1.0]), alpha=0.5, gamma=0.5)  # 0.5 (1 + 0.5 + 0.25)
        tensor(0.8750)
    """
    steps = torch.arange(log_ratio.shape[-1], device=log_ratio.device, dtype=log_ratio.dtype)
    gamma = torch.as_tensor(gamma, dtype=log_ratio.dtype, device=log_ratio.device)
    return alpha * (log_ratio * gamma.unsqueeze(-1) ** steps).sum(-1)


def trac_loss(
    score: Tensor, weight: Tensor, label: Tensor, eta: Tensor | float, clamp: float | None = None, use: str = "both"
) -> tuple[Tensor, Tensor]:
    """Classification loss of a batch of segments and its accuracy: (..., B) -> (...), (...).

    -mean λ w (y log σ(s) + (1 - y) log(1 - σ(s))), with λ = 1 for desirable segments and
    η n_desirable / n_undesirable, counted in the batch, for undesirable ones. A batch with one class
    alone: without desirable segments λ = 0 and the loss is 0; without undesirable ones λ is not used.

    Args:
        score: (..., B).
        weight: (..., B), the confidence in each label; leading dimensions may be missing, as of `label`.
        label: (..., B), 1 desirable, 0 undesirable.
        eta: η, 0 or more, a scalar or a tensor that broadcasts against (...).
        clamp: keep σ above this value before the logarithm, as the released code does with 1e-6 (there
            is no gradient beyond it). None: exact.
        use: "both", or "desirable" / "undesirable": mask the other class's loss term and nothing else.

    Returns:
        loss (...), and accuracy (...): the share of segments whose score has the label's sign.

    Raises:
        ValueError: `weight` or `label` has another shape, or `use` is another word.

    Example:
        >>> label, weight = torch.tensor([1.0, 0.0]), torch.ones(2)
        >>> trac.score.trac_loss(torch.zeros(2), weight, label, eta=1.0)  # log 2, as of a coin; no score is above 0
        (tensor(0.6931), tensor(0.5000))
        >>> trac.score.trac_loss(torch.tensor([9.0, -9.0]), weight, label, eta=1.0)[1]
        tensor(1.)
    """
    for name, x in (("weight", weight), ("label", label)):
        if not x.dim() or x.shape != score.shape[-x.dim() :]:
            raise ValueError(f"{name} has shape {tuple(x.shape)} and score {tuple(score.shape)}: make them one.")
    if use not in (uses := {"both": (1, 1), "desirable": (1, 0), "undesirable": (0, 1)}):
        raise ValueError(f"use={use!r} must be one of {', '.join(uses)}.")
    desirable = label.sum(-1)
    ratio = eta * desirable / (label.shape[-1] - desirable).clamp(min=1)
    yes, no = uses[use]
    coefficient = weight * (yes * label + no * ratio.unsqueeze(-1) * (1 - label))
    positive = label > 0.5
    correct = torch.where(positive, score, -score)  # 1 - σ(s) = σ(-s)
    log_probability = F.logsigmoid(correct) if clamp is None else torch.sigmoid(correct).clamp(min=clamp).log()
    accuracy = ((score > 0) == positive).to(score.dtype).mean(-1)
    return -(coefficient * log_probability).mean(-1), accuracy
