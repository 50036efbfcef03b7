"""BEAR-Lag: bootstrapping error accumulation reduction (Kumar et al., NeurIPS 2019, arXiv 1906.00949), Lagrangian.

The policy maximises the critic while its actions stay within a maximum mean discrepancy of a VAE's, which has been
fitted to the data; a second multiplier, of the cost critic's excess over the limit, is a PID controller's (Stooke,
Achiam and Abbeel, ICML 2020, arXiv 2007.03964), as OSRL combines them.

OSRL: 300,000 updates of 512 transitions by its file (100,000 in the benchmark's other files, which `osrl()` takes),
four networks of 256-256 for each critic. The defaults here are 5,000 updates, half the batch and half the
width, with two networks. The discrepancy is between actions before tanh, as in OSRL and in the authors' code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from trac.baselines.lagrangian import LagrangianConfig, LagrangianLearner
from trac.baselines.losses import descend, soft_update, target_of
from trac.baselines.networks import VAE, SquashedGaussian
from trac.baselines.offline import train_offline
from trac.config import Count, NonNegative, Positive
from trac.data.trajectories import Trajectories


@dataclass(frozen=True)
class BEARLagConfig(LagrangianConfig):
    """Settings of BEAR-Lag. Source of the published values: OSRL, examples/configs/bearl_configs.py.

    >>> BEARLagConfig(task="BallRun", cost_limit=20).kernel
    'gaussian'
    """

    kernel: Literal["gaussian", "laplacian"] = "gaussian"  # of the discrepancy
    mmd_sigma: NonNegative = 50.0  # the kernel's width
    mmd_limit: NonNegative = 0.05  # ε, allowed discrepancy
    mmd_samples: Count = 4  # actions for each observation on both sides of the discrepancy
    alpha_learning_rate: Positive = 1e-3  # of log α, the discrepancy's multiplier

    published: ClassVar = LagrangianConfig.published | dict(mmd_samples=10)


def discrepancy(first: Tensor, second: Tensor, sigma: float, kernel: str) -> Tensor:
    """Maximum mean discrepancy of two samples: √(E k(x, x') + E k(y, y') - 2 E k(x, y) + 10⁻⁶).

    k(x, y) = exp(-d / 2σ), d the squared distance ("gaussian") or the sum of absolute differences ("laplacian").

    Args:
        first: (N, n, D).
        second: (N, m, D).

    Returns:
        (N,).

    Example:
        >>> x = torch.tensor([[[0.0], [1.0]]])
        >>> discrepancy(x, x, 1.0, "gaussian"), discrepancy(x, x + 9, 1.0, "gaussian") > 1
        (tensor([0.0010]), tensor([True]))
    """

    def mean(x: Tensor, y: Tensor) -> Tensor:
        gap = x.unsqueeze(2) - y.unsqueeze(1)
        distance = gap.square().sum(-1) if kernel == "gaussian" else gap.abs().sum(-1)
        return torch.exp(-distance / (2 * sigma)).mean((1, 2))

    return (mean(first, first) + mean(second, second) - 2 * mean(first, second) + 1e-6).sqrt()


class BEARLag(LagrangianLearner):
    """One run of BEAR-Lag."""

    algorithm = "bear_lag"
    Config = BEARLagConfig
    policy: SquashedGaussian

    def build(self, data: Trajectories) -> None:
        config, (obs_dim, act_dim) = self.config, self.dims
        self.policy = SquashedGaussian(obs_dim, act_dim, config.hidden)
        self.vae = VAE(obs_dim, act_dim, config.vae_hidden)
        self.log_alpha: Tensor
        self.register_buffer("log_alpha", torch.zeros(()))
        self.build_critics(config.critics)
        self.policy_target = target_of(self.policy)
        self.build_optimizers(self.policy, self.vae)

    def update(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        config, s = self.config, batch["observations"]
        metrics = self.update_vae(self.vae, batch)
        s_next = batch["next_observations"].repeat_interleave(config.samples, 0)
        with torch.no_grad():
            actions = self.policy_target.sample(s_next)
        metrics |= self.update_critics(batch, s_next, actions)

        repeated = s.repeat_interleave(config.mmd_samples, 0)
        with torch.no_grad():
            cloned = self.vae.sample(repeated)
        raw = self.policy(repeated).rsample()
        cloned, sampled = (x.view(len(s), config.mmd_samples, -1) for x in (cloned, raw))
        mmd = discrepancy(cloned, sampled, config.mmd_sigma, config.kernel).mean()
        q, penalty, of_policy = self.lagrangian(s, torch.tanh(raw[:: config.mmd_samples]))
        alpha, excess = self.log_alpha.exp(), mmd - config.mmd_limit
        policy_loss = penalty - q.mean() + alpha * excess
        descend(self.optimizers["policy"], policy_loss)
        self.log_alpha += config.alpha_learning_rate * alpha * excess.detach()
        self.log_alpha.clamp_(-5, 5)

        self.update_targets()
        soft_update(self.policy_target, self.policy, config.tau)
        return metrics | {"policy_loss": policy_loss, "mmd": mmd, "alpha": alpha} | of_policy


def bear_lag(data: Trajectories, config: BEARLagConfig | Sequence[BEARLagConfig], **options: Any) -> Any:
    """Train BEAR-Lag: takes what `trac.train` takes, with its config.

    >>> config = BEARLagConfig(task="BallRun", cost_limit=20, steps=2, eval_episodes=0)
    >>> bear_lag(data, config, progress=False).policy.act(data.observations[0]).shape
    (2,)
    """
    return train_offline(BEARLag, data, config, **options)
