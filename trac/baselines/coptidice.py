"""COptiDICE: offline constrained RL by stationary distribution correction (Lee et al., ICLR 2022, arXiv 2204.08957).

It looks for the ratio w(s, a) of the discounted visits of the best policy within the limit to the data's visits,

max_w E_D[w r] - α E_D[f(w)]  subject to  E_D[w c] <= l',  and w D being the visits of some policy,

through its dual in ν(s), the multipliers of that last condition, and λ >= 0, the cost's multiplier; then it clones the
data with the weights w. The cost is not E_D[w c], but an upper bound of it over distributions near the data's.

OSRL: 100,000 updates of 512 transitions, two networks of 256-256 for ν and for χ, learning rate 1e-4. The defaults here
are 5,000 updates, half the batch and half the width, with ten times the learning rate. w D sums to 1, so
E_D[w c] is a cost per step and its limit is l' = (1 - γ) times that of a cost critic (see `discounted_limit`). OSRL's
code leaves (1 - γ) out, which makes the limit a hundred times as wide: `normalized_limit=False` repeats that. What else
differs from its code: its Gaussian is fitted to the actions and squashed by tanh when it acts, where here it is fitted
to what tanh takes to the actions; and the weights of the cost's bound are constants in χ's gradient, as its exact
gradient has it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from trac.baselines.losses import descend, fused_adam
from trac.baselines.networks import Ensemble, SquashedGaussian
from trac.baselines.offline import OfflineConfig, OfflineLearner, train_offline
from trac.config import Count, NonNegative, Positive, Widths
from trac.data.trajectories import Trajectories

LARGEST = 1 - 1e-3  # an action is clipped to ± this before atanh


@dataclass(frozen=True)
class COptiDICEConfig(OfflineConfig):
    """Settings of COptiDICE. Source of the published values: OSRL, examples/configs/coptidice_configs.py.

    >>> COptiDICEConfig(task="BallRun", cost_limit=20).alpha
    0.5
    """

    gamma: Annotated[float, Field(gt=0, lt=1)] = 0.99  # discount
    hidden: Widths = (128, 128)  # widths of actor, ν and χ
    critics: Count = 2  # networks of ν and of χ, of which the smallest value counts
    alpha: Positive = 0.5  # weight of the divergence from the data
    cost_epsilon: NonNegative = 0.01  # KL within which the cost's upper bound is taken; 0: no bound
    normalized_limit: bool = True  # False: OSRL's wider limit
    noise: NonNegative = 0.1  # of observations and actions in the cloning, in their standard deviations
    actor_learning_rate: Positive = 1e-3
    critic_learning_rate: Positive = 1e-3
    scalar_learning_rate: Positive = 1e-3  # of λ and of the bound's temperature

    published: ClassVar = dict(
        batch_size=512,
        hidden=(256, 256),
        normalized_limit=False,
        actor_learning_rate=1e-4,
        critic_learning_rate=1e-4,
        scalar_learning_rate=1e-4,
    )


def divergence(w: Tensor) -> Tensor:
    """f(w), the soft χ²: w (log w - 1) + 1 below 1, ½ (w - 1)² from there on.

    >>> divergence(torch.tensor([1.0, 3.0]))
    tensor([0., 2.])
    """
    below = w.clamp(1e-10, 1)
    return torch.where(w < 1, below * (below.log() - 1) + 1, 0.5 * (w - 1).square())


def inverse_slope(y: Tensor) -> Tensor:
    """(f')⁻¹(y): exp(y) below 0, y + 1 from there on; above 0 everywhere.

    >>> inverse_slope(torch.tensor([0.0, 2.0]))
    tensor([1., 3.])
    """
    return torch.where(y < 0, y.clamp(max=0).exp(), y + 1)


def advantage(batch: dict[str, Tensor], nu: Tensor, nu_next: Tensor, multiplier: Tensor, gamma: float) -> Tensor:
    """e(s, a) = r - λ c + γ ν(s') - ν(s), with ν(s') = 0 after the end: (N,).

    >>> batch = {"rewards": torch.tensor([2.0]), "costs": torch.tensor([1.0]), "done": torch.tensor([1.0])}
    >>> advantage(batch, torch.tensor([0.5]), torch.tensor([9.0]), multiplier=torch.tensor(1.0), gamma=0.99)
    tensor([0.5000])
    """
    next_value = gamma * (1 - batch["done"]) * nu_next
    return batch["rewards"] - multiplier * batch["costs"] + next_value - nu


def dual_loss(e: Tensor, nu_first: Tensor, alpha: float, gamma: float) -> Tensor:
    """(1 - γ) E[ν(s_0)] + E_D[w e - α f(w)] with w = (f')⁻¹(e / α), the w that maximises it; ν minimises it.

    Args:
        e: (N,), see `advantage`.
        nu_first: (N,) whose mean is E[ν(s_0)].

    Example:
        >>> dual_loss(torch.zeros(4), torch.zeros(4), alpha=0.5, gamma=0.99)
        tensor(0.)
    """
    w = inverse_slope(e / alpha).detach()
    return (1 - gamma) * nu_first.mean() + (w * e - alpha * divergence(w)).mean()


class COptiDICE(OfflineLearner):
    """One run of COptiDICE."""

    algorithm = "coptidice"
    Config = COptiDICEConfig
    policy: SquashedGaussian

    def build(self, data: Trajectories) -> None:
        config, (obs_dim, act_dim) = self.config, self.dims
        self.policy = SquashedGaussian(obs_dim, act_dim, config.hidden)
        self.nu = Ensemble(config.critics, [obs_dim, *config.hidden])
        self.chi = Ensemble(config.critics, [obs_dim, *config.hidden])
        # Before softplus.
        self.multiplier, self.temperature = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(()))
        self.to(self.device)
        self.optimizers = {
            "policy": fused_adam(self.policy.parameters(), config.actor_learning_rate),
            "nu": fused_adam(self.nu.parameters(), config.critic_learning_rate),
            "chi": fused_adam(self.chi.parameters(), config.critic_learning_rate),
            "multiplier": fused_adam([self.multiplier], config.scalar_learning_rate),
            "temperature": fused_adam([self.temperature], config.scalar_learning_rate),
        }
        self.first = len(data.starts) / len(data)  # share of transitions that begin an episode
        self.spread = {name: config.noise * self.data[name].std(0) for name in ("observations", "actions")}

    def limit(self) -> float:
        return super().limit() * (1 - self.config.gamma if self.config.normalized_limit else 1)

    def update(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        config, optimizers, first = self.config, self.optimizers, batch["first"] / self.first
        multiplier = F.softplus(self.multiplier)
        nu, nu_next = (self.nu(batch[name]).amin(0) for name in ("observations", "next_observations"))
        e = advantage(batch, nu, nu_next, multiplier.detach(), config.gamma)
        w = inverse_slope(e / config.alpha).detach()

        cost, metrics = self._cost_bound(batch, w, first) if config.cost_epsilon else ((w * batch["costs"]).mean(), {})
        nu_loss = dual_loss(e, nu * first, config.alpha, config.gamma)
        descend(optimizers["nu"], nu_loss)
        descend(optimizers["multiplier"], multiplier * (self.limit() - cost))

        with torch.no_grad():
            nu, nu_next = (self.nu(batch[name]).amin(0) for name in ("observations", "next_observations"))
            w = inverse_slope(advantage(batch, nu, nu_next, multiplier, config.gamma) / config.alpha)
        s, a = (batch[name] + spread * torch.randn_like(batch[name]) for name, spread in self.spread.items())
        policy_loss = -(w * self.policy(s).log_prob(torch.atanh(a.clamp(-LARGEST, LARGEST))).sum(-1)).mean()
        descend(optimizers["policy"], policy_loss)
        metrics |= {"nu_loss": nu_loss, "policy_loss": policy_loss, "weight": w.mean(), "estimated_cost": cost}
        return metrics | {"multiplier": multiplier}

    def _cost_bound(self, batch: dict[str, Tensor], w: Tensor, first: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Upper bound of the cost per step over distributions within KL ε of the batch's, and metrics; moves χ and τ.

        The worst distribution has the weights softmax(ℓ / τ), ℓ = (1 - γ) χ(s_0) + w (c + γ χ(s') - χ(s)); χ minimises
        τ log E exp(ℓ / τ), and τ makes the KL ε.
        """
        config, size = self.config, len(w)
        temperature = F.softplus(self.temperature)
        chi, chi_next = (self.chi(batch[name]).amin(0) for name in ("observations", "next_observations"))
        flow = batch["costs"] + config.gamma * (1 - batch["done"]) * chi_next - chi
        logits = ((1 - config.gamma) * chi * first + w * flow) / temperature.detach()
        chi_loss = temperature.detach() * (logits.logsumexp(0) - math.log(size))
        log_weights = logits.detach().log_softmax(0) + math.log(size)
        weights = log_weights.exp()
        kl = (weights * log_weights - weights + 1).mean()
        descend(self.optimizers["chi"], chi_loss)
        descend(self.optimizers["temperature"], temperature * (config.cost_epsilon - kl))
        return (weights * w * batch["costs"]).mean(), {"chi_loss": chi_loss, "kl": kl, "temperature": temperature}


def coptidice(data: Trajectories, config: COptiDICEConfig | Sequence[COptiDICEConfig], **options: Any) -> Any:
    """Train COptiDICE: takes what `trac.train` takes, with its config.

    >>> config = COptiDICEConfig(task="BallRun", cost_limit=20, steps=2, eval_episodes=0)
    >>> coptidice(data, config, progress=False).policy.act(data.observations[0]).shape
    (2,)
    """
    return train_offline(COptiDICE, data, config, **options)
