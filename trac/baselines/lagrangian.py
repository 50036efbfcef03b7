"""What CPQ, BCQ-Lag and BEAR-Lag share: critics of reward and cost; and the latter two: a multiplier of the cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from trac.baselines.losses import bellman_target, critic_loss, descend, fused_adam, soft_update, target_of
from trac.baselines.networks import VAE, Ensemble
from trac.baselines.offline import CriticConfig, OfflineLearner
from trac.config import Count, NonNegative, PositiveShare


@dataclass(frozen=True)
class LagrangianConfig(CriticConfig):
    """The fields that BCQ-Lag and BEAR-Lag have beside those of all critics.

    >>> LagrangianConfig(task="BallRun").hidden
    (128, 128)
    """

    critics: Count = 1  # networks in each half of each critic
    mixture: PositiveShare = 0.75  # λ of `mixed_maximum`, the weight of the smaller half
    pid: tuple[NonNegative, NonNegative, NonNegative] = (0.1, 0.003, 0.001)  # gains of the multiplier: see there

    published: ClassVar = CriticConfig.published | dict(critics=2)


class PIDController(nn.Module):
    """Lagrange multiplier by a PID controller (Stooke et al. 2020), its proportional part clipped as in OSRL.

    λ = K_P (Δ)+ + K_I I + K_D (Δ - Δ_previous)+ with I ← (I + Δ)+, Δ the cost's excess over its limit.

    >>> PIDController([0.1, 0.0, 0.0])(torch.tensor(5.0))
    tensor(0.5000)
    """

    def __init__(self, gains: Sequence[float]):
        super().__init__()
        self.gains = gains
        self.integral: Tensor
        self.previous: Tensor
        self.register_buffer("integral", torch.zeros(()))
        self.register_buffer("previous", torch.zeros(()))

    @torch.no_grad()
    def forward(self, excess: Tensor) -> Tensor:
        """The multiplier () after this excess ()."""
        proportional, integral, derivative = self.gains
        rise = torch.relu(excess - self.previous)
        self.integral.copy_(torch.relu(self.integral + excess))
        self.previous.copy_(excess)
        return proportional * torch.relu(excess) + integral * self.integral + derivative * rise


def pessimistic(values: Tensor) -> Tensor:
    """The smallest value of each half of an ensemble: (2K, N) -> (2, N).

    >>> pessimistic(torch.tensor([[1.0], [2.0], [4.0], [3.0]])).tolist()
    [[1.0], [3.0]]
    """
    return torch.amin(torch.unflatten(values, 0, (2, -1)), 1)


def mixed_maximum(values: Tensor, samples: int, mixture: float) -> Tensor:
    """The value of the best of several actions (the target of Fujimoto et al. 2019).

    max_i [λ min_j Q_j(s, a_i) + (1 - λ) max_j Q_j(s, a_i)], where Q_1 and Q_2 are the `pessimistic` halves.

    Args:
        values: (2K, N · samples), the samples of an observation one after the other.
        mixture: λ.

    Returns:
        (N,).

    Example:
        >>> values = torch.tensor([[1.0, 5.0], [3.0, 3.0]])  # two halves of one member, two actions
        >>> mixed_maximum(values, samples=2, mixture=1.0)
        tensor([3.])
    """
    first, second = pessimistic(values)
    mixed = mixture * torch.minimum(first, second) + (1 - mixture) * torch.maximum(first, second)
    return mixed.view(-1, samples).amax(1)


class CriticLearner(OfflineLearner):
    """Critics of reward and cost with their targets, and a VAE of the actions."""

    def build_critics(self, members: int) -> None:
        sizes = [sum(self.dims), *self.config.hidden]
        self.critic, self.cost_critic = Ensemble(members, sizes), Ensemble(members, sizes)
        self.critic_target, self.cost_target = target_of(self.critic), target_of(self.cost_critic)

    def build_optimizers(self, actor: nn.Module, vae: VAE) -> None:
        config = self.config
        self.to(self.device)
        self.optimizers = {
            "policy": fused_adam(actor.parameters(), config.actor_learning_rate),
            "critic": fused_adam(self.critic.parameters(), config.critic_learning_rate),
            "cost_critic": fused_adam(self.cost_critic.parameters(), config.critic_learning_rate),
            "vae": fused_adam(vae.parameters(), config.vae_learning_rate),
        }

    def update_vae(self, vae: VAE, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        loss = vae.loss(batch["observations"], batch["actions"], self.config.beta)
        descend(self.optimizers["vae"], loss)
        return {"vae_loss": loss}

    def update_targets(self) -> None:
        soft_update(self.critic_target, self.critic, self.config.tau)
        soft_update(self.cost_target, self.cost_critic, self.config.tau)


class LagrangianLearner(CriticLearner):
    """What BCQ-Lag and BEAR-Lag share: critics of two halves, and the multiplier of the cost, a PID controller's."""

    def build_critics(self, members: int) -> None:
        super().build_critics(2 * members)
        self.controller = PIDController(self.config.pid)

    def update_critics(self, batch: dict[str, Tensor], s_next: Tensor, actions: Tensor) -> dict[str, Tensor]:
        """Bellman updates of both critics.

        Args:
            s_next: (N · samples, obs_dim) next observations, each `samples` times.
            actions: (N · samples, act_dim) in them.
        """
        config, s, a = self.config, batch["observations"], batch["actions"]
        with torch.no_grad():
            best = mixed_maximum(self.critic_target(s_next, actions), config.samples, config.mixture)
            costliest = mixed_maximum(self.cost_target(s_next, actions), config.samples, config.mixture)
        loss = critic_loss(self.critic(s, a), bellman_target(batch["rewards"], best, config.gamma, batch["done"]))
        descend(self.optimizers["critic"], loss)
        # As in OSRL, the cost goes on after the end of an episode (see `discounted_limit`), and is the costliest's.
        cost_loss = critic_loss(self.cost_critic(s, a), bellman_target(batch["costs"], costliest, config.gamma))
        descend(self.optimizers["cost_critic"], cost_loss)
        return {"critic_loss": loss, "cost_critic_loss": cost_loss}

    def lagrangian(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Q (N,) of the policy's actions, the penalty λ (E[Q_c] - l) (), and metrics; moves the multiplier λ.

        Args:
            observations: (N, obs_dim).
            actions: (N, act_dim), with a gradient to the policy.
        """
        q = pessimistic(self.critic(observations, actions)).amin(0)
        cost = pessimistic(self.cost_critic(observations, actions)).amin(0).mean()
        excess = cost - self.limit()
        multiplier = self.controller(excess.detach())
        return q, multiplier * excess, {"q": q.mean(), "cost_q": cost, "multiplier": multiplier}
