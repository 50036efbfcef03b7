"""Constraints penalized Q-learning (Xu, Zhan and Zhu, AAAI 2022, arXiv 2107.09003), with OSRL's networks and settings.

The cost critic is pushed above the limit on actions of the policy that the data does not hold, which a VAE tells by
the KL divergence of their code; and where it is above the limit, neither the reward critic nor the policy gets credit.

OSRL: 100,000 updates of 512 transitions, two networks of 256-256 for each critic. The defaults here are 5,000 updates,
half the batch and half the width. What differs from OSRL's code: actions are sampled after tanh, as the
policy takes them, where its penalty takes them before; E[Q_c] over unseen actions is the mean over those alone, where
its mean counts zeros for the others. In its code the penalty has no gradient: `penalty=False` repeats that.

The policy's loss pushes actions within the limit towards a larger Q and leaves those above it alone; nothing pushes
back. Where the best action within the limit is on its edge, a policy can go on until all actions of a batch are above
the limit; then the loss has no gradient, and the policy is frozen. The history has `safe`, the share of the actions
within the limit, and `frozen`, the share of the updates without any.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from trac.baselines.lagrangian import CriticLearner
from trac.baselines.losses import bellman_target, critic_loss, descend
from trac.baselines.networks import VAE, SquashedGaussian, kl_to_standard_normal
from trac.baselines.offline import CriticConfig, train_offline
from trac.config import Count, NonNegative, Positive, PositiveShare
from trac.data.trajectories import Trajectories


@dataclass(frozen=True)
class CPQConfig(CriticConfig):
    """Settings of CPQ. Source of the published values: OSRL, examples/configs/cpq_configs.py.

    >>> CPQConfig(task="BallRun", cost_limit=20).steps, CPQConfig.osrl("BallRun", cost_limit=20).steps
    (5000, 100000)
    """

    critics: Count = 2  # networks of each critic, of which the smallest value counts
    samples: Count = 4  # actions of the policy for each observation in the penalty
    unseen: PositiveShare = 0.25  # share of those that counts as unseen: the highest KL
    margin: NonNegative = 1.5  # unseen actions shall cost this times the limit
    penalty: bool = True  # False: no gradient of the penalty
    actor_learning_rate: Positive = 1e-4
    alpha_learning_rate: Positive = 1e-4  # of log α, the penalty's multiplier

    published: ClassVar = CriticConfig.published | dict(penalty=False)


def penalised(q: Tensor, cost: Tensor, limit: float) -> Tensor:
    """1[Q_c <= l] Q: no credit where the limit is not kept; (N,), (N,) -> (N,).

    >>> penalised(torch.tensor([5.0, 5.0]), torch.tensor([1.0, 3.0]), limit=2.0)
    tensor([5., 0.])
    """
    return (cost <= limit) * q


def unseen_cost(cost: Tensor, kl: Tensor, share: float) -> Tensor:
    """Mean cost of the actions with the highest KL, a share of them all: (N,), (N,) -> ().

    >>> unseen_cost(torch.tensor([1.0, 2.0, 3.0, 8.0]), torch.tensor([0.0, 0.0, 0.0, 1.0]), share=0.25)
    tensor(8.)
    """
    unseen = kl >= torch.quantile(kl, 1 - share)
    return (cost * unseen).sum() / unseen.sum()


class CPQ(CriticLearner):
    """One run of CPQ."""

    algorithm = "cpq"
    Config = CPQConfig
    policy: SquashedGaussian

    def build(self, data: Trajectories) -> None:
        config, (obs_dim, act_dim) = self.config, self.dims
        self.policy = SquashedGaussian(obs_dim, act_dim, config.hidden)
        self.build_critics(config.critics)
        self.vae = VAE(obs_dim, act_dim, config.vae_hidden)
        self.log_alpha: Tensor
        self.register_buffer("log_alpha", torch.zeros(()))
        self.build_optimizers(self.policy, self.vae)

    def update(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        config, limit, optimizers = self.config, self.limit(), self.optimizers
        s, a, s_next = batch["observations"], batch["actions"], batch["next_observations"]
        metrics = self.update_vae(self.vae, batch)
        with torch.no_grad():
            a_next = self.policy.sample(s_next)
            q_next = self.critic_target(s_next, a_next).amin(0)
            cost_next = self.cost_target(s_next, a_next).amin(0)
        credit = penalised(q_next, cost_next, limit)
        target = bellman_target(batch["rewards"], credit, config.gamma, batch["done"])
        q_loss = critic_loss(self.critic(s, a), target)
        descend(optimizers["critic"], q_loss)

        # As in OSRL, the cost goes on after the end of an episode: see `discounted_limit`.
        target = bellman_target(batch["costs"], cost_next, config.gamma)
        cost_loss = critic_loss(self.cost_critic(s, a), target)
        excess = config.margin * limit - self._unseen_cost(s)
        alpha = self.log_alpha.exp()
        descend(optimizers["cost_critic"], cost_loss + alpha * excess if config.penalty else cost_loss)
        self.log_alpha += config.alpha_learning_rate * alpha * excess.detach()
        self.log_alpha.clamp_(-5, 5)

        actions = self.policy.sample(s)
        q, cost = self.critic(s, actions).amin(0), self.cost_critic(s, actions).amin(0)
        policy_loss = -penalised(q, cost, limit).mean()
        descend(optimizers["policy"], policy_loss)

        self.update_targets()
        safe = (cost <= limit).float().mean()
        metrics |= {"critic_loss": q_loss, "cost_critic_loss": cost_loss, "policy_loss": policy_loss}
        metrics |= {"q": q.mean(), "cost_q": cost.mean(), "safe": safe, "frozen": (safe == 0).float()}
        return metrics | {"alpha": alpha}

    def _unseen_cost(self, observations: Tensor) -> Tensor:
        """Q_c of the policy's unseen actions, with a gradient to the cost critic alone."""
        with torch.no_grad():
            repeated = observations.repeat(self.config.samples, 1)
            actions = self.policy.sample(repeated)
            kl = kl_to_standard_normal(*self.vae.encode(repeated, actions)).mean(-1)
        cost = self.cost_critic(repeated, actions).amin(0)
        return unseen_cost(cost, kl, self.config.unseen)


def cpq(data: Trajectories, config: CPQConfig | Sequence[CPQConfig], **options: Any) -> Any:
    """Train CPQ: takes what `trac.train` takes, with its own config.

    >>> config = CPQConfig(task="BallRun", cost_limit=20, steps=2, eval_episodes=0)
    >>> cpq(data, config, progress=False).policy.act(data.observations[0]).shape
    (2,)
    """
    return train_offline(CPQ, data, config, **options)
