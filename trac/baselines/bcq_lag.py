"""BCQ-Lag: batch-constrained Q-learning (Fujimoto, Meger and Precup, ICML 2019, arXiv 1812.02900) with a Lagrangian.

A VAE proposes actions like the data's, a second network moves each by at most φ, and the multiplier of the cost
critic's excess over the limit is a PID controller's (Stooke, Achiam and Abbeel, ICML 2020, arXiv 2007.03964), as OSRL
combines them.

OSRL: 100,000 updates of 512 transitions, four networks of 256-256 for each critic. The defaults here are 5,000
updates, half the batch and half the width, with two networks. As in OSRL, the policy acts by one sampled code; the
original takes the best of ten by its critic.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trac.baselines.lagrangian import LagrangianConfig, LagrangianLearner
from trac.baselines.losses import descend, soft_update, target_of
from trac.baselines.networks import VAE, BaselinePolicy, mlp
from trac.baselines.offline import train_offline
from trac.config import NonNegative
from trac.data.trajectories import Trajectories


@dataclass(frozen=True)
class BCQLagConfig(LagrangianConfig):
    """Settings of BCQ-Lag. Source of the published values: OSRL, examples/configs/bcql_configs.py.

    >>> BCQLagConfig(task="BallRun", cost_limit=20).phi
    0.05
    """

    phi: NonNegative = 0.05  # Φ, largest change of a proposed action in each dimension


class Perturbation(nn.Module):
    """An action moved by at most φ: a + φ ξ(s, a), clipped to [-1, 1].

    >>> Perturbation(7, 2, hidden=(8,), phi=0.05)(torch.zeros(5, 7), torch.ones(5, 2)).shape
    torch.Size([5, 2])
    """

    def __init__(self, obs_dim: int, act_dim: int, hidden: Sequence[int], phi: float):
        super().__init__()
        self.phi, self.move = phi, mlp([obs_dim + act_dim, *hidden, act_dim], nn.Tanh)

    def forward(self, observations: Tensor, actions: Tensor) -> Tensor:
        """(N, obs_dim), (N, act_dim) -> (N, act_dim)."""
        move = torch.tanh(self.move(torch.cat([observations, actions], -1)))
        return (actions + self.phi * move).clamp(-1, 1)


class Perturbed(BaselinePolicy):
    """Takes an action from the VAE and perturbs it. After `start(seed)` the codes are drawn from that seed.

    >>> Perturbed(7, 2, hidden=(8,), vae_hidden=8, phi=0.05).act(data.observations[0]).shape
    (2,)
    """

    def __init__(self, obs_dim: int, act_dim: int, *, hidden: Sequence[int], vae_hidden: int, phi: float):
        super().__init__(obs_dim=obs_dim, act_dim=act_dim, hidden=list(hidden), vae_hidden=vae_hidden, phi=phi)
        self.vae = VAE(obs_dim, act_dim, vae_hidden)
        self.perturbation = Perturbation(obs_dim, act_dim, hidden, phi)
        self.generator: torch.Generator | None = None

    def start(self, seed: int) -> None:
        self.generator = torch.Generator(next(self.parameters()).device).manual_seed(seed)

    def actions(self, observations: Tensor) -> Tensor:
        perturbed: Tensor = self.perturbation(observations, torch.tanh(self.vae.sample(observations, self.generator)))
        return perturbed


class BCQLag(LagrangianLearner):
    """One run of BCQ-Lag."""

    algorithm = "bcq_lag"
    Config = BCQLagConfig
    policy: Perturbed

    def build(self, data: Trajectories) -> None:
        config = self.config
        self.policy = Perturbed(*self.dims, hidden=config.hidden, vae_hidden=config.vae_hidden, phi=config.phi)
        self.build_critics(config.critics)
        self.perturbation_target = target_of(self.policy.perturbation)
        self.build_optimizers(self.policy.perturbation, self.policy.vae)

    def update(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        vae, perturbation = self.policy.vae, self.policy.perturbation
        metrics = self.update_vae(vae, batch)
        s_next = batch["next_observations"].repeat_interleave(self.config.samples, 0)
        with torch.no_grad():
            actions = self.perturbation_target(s_next, torch.tanh(vae.sample(s_next)))
            proposed = torch.tanh(vae.sample(batch["observations"]))
        metrics |= self.update_critics(batch, s_next, actions)

        actions = perturbation(batch["observations"], proposed)
        q, penalty, of_policy = self.lagrangian(batch["observations"], actions)
        policy_loss = penalty - q.mean()
        descend(self.optimizers["policy"], policy_loss)

        self.update_targets()
        soft_update(self.perturbation_target, perturbation, self.config.tau)
        return metrics | {"policy_loss": policy_loss} | of_policy


def bcq_lag(data: Trajectories, config: BCQLagConfig | Sequence[BCQLagConfig], **options: Any) -> Any:
    """Train BCQ-Lag: takes what `trac.train` takes, with its config.

    >>> config = BCQLagConfig(task="BallRun", cost_limit=20, steps=2, eval_episodes=0)
    >>> bcq_lag(data, config, progress=False).policy.act(data.observations[0]).shape
    (2,)
    """
    return train_offline(BCQLag, data, config, **options)
