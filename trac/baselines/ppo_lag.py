"""PPO-Lagrangian: proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347) in the simulator.

The multiplier is a controller's (Stooke, Achiam and Abbeel, ICML 2020, arXiv 2007.03964), moved after each batch of
episodes. The mean action is tanh of the network's output, as in `trac.policy`: a cloned policy can be the start.

The defaults are those of FSRL (github.com/liuzuxin/FSRL, fsrl/config/ppol_cfg.py), with which the benchmark's authors
made their data; it takes 20 episodes for a batch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trac.baselines.online import OnlineConfig, OnlineLearner, stable_baselines3, train_online
from trac.config import ConfigError, Count, NonNegative, Positive, PositiveShare, Share
from trac.policy import Policy


@dataclass(frozen=True)
class PPOLagConfig(OnlineConfig):
    """Settings of PPO-Lagrangian; `every` simulator steps make a batch of episodes.

    >>> PPOLagConfig(task="BallRun", cost_limit=20).every
    2000
    """

    gamma: PositiveShare = 0.99  # discount per step
    gae_lambda: Share = 0.95  # of the advantage's estimate
    batch_size: Count = 250  # transitions per update; a divisor of `every` (FSRL: 256)
    epochs: Count = 4  # passes over a batch of episodes
    learning_rate: Positive = 5e-4
    clip: Positive = 0.2  # of the ratio of probabilities
    target_kl: Positive = 0.02  # beyond 1.5 times this, the batch's updates end
    value_weight: NonNegative = 0.25  # of the value's loss
    noise: Positive = 0.5  # standard deviation of the actions at first

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size == 1 or self.every % self.batch_size:
            raise ConfigError(f"batch_size={self.batch_size} must be a divisor of every={self.every}, and above 1.")


class PPOLag(OnlineLearner):
    """One run of PPO-Lagrangian."""

    algorithm = "ppo_lag"
    Config = PPOLagConfig

    def build(self, warm_start: Policy | None) -> Any:
        config = self.config
        model = stable_baselines3().PPO(
            "MlpPolicy",
            self.env,
            seed=config.seed,
            device=self.device,
            policy_kwargs=dict(
                net_arch=list(config.hidden), activation_fn=nn.ReLU, log_std_init=math.log(config.noise)
            ),
            n_steps=config.every,
            batch_size=config.batch_size,
            n_epochs=config.epochs,
            learning_rate=config.learning_rate,
            gamma=config.gamma,
            gae_lambda=config.gae_lambda,
            clip_range=config.clip,
            target_kl=config.target_kl,
            vf_coef=config.value_weight,
        )
        # The same parameters, which the optimizer has already; then tanh.
        model.policy.action_net = nn.Sequential(model.policy.action_net, nn.Tanh())
        if warm_start is not None:
            self._copy(warm_start, _linears(model))
        return model

    def _copy(self, init: Policy, layers: list[nn.Linear]) -> None:
        if not isinstance(init, Policy):
            raise ConfigError(f"init is a {type(init).__name__}: pass a policy of trac.policy, such as run.policy.")
        if (hidden := tuple(init.settings["hidden"])) != self.config.hidden:
            raise ConfigError(f"init has hidden={hidden} and the config hidden={self.config.hidden}.")
        if (sizes := (init.obs_dim, init.act_dim)) != (wanted := (layers[0].in_features, layers[-1].out_features)):
            raise ConfigError(f"init is for (observation, action) sizes {sizes} and {self.config.task} has {wanted}.")
        with torch.no_grad():
            for layer, ours in zip(layers, init.layers, strict=True):
                # A Gaussian policy's last layer has the means first.
                layer.weight.copy_(ours.weight[: len(layer.weight)])
                layer.bias.copy_(ours.bias[: len(layer.bias)])

    def actor(self) -> list[nn.Linear]:
        return _linears(self.model)


def _linears(model: Any) -> list[nn.Linear]:
    layers = (*model.policy.mlp_extractor.policy_net, *model.policy.action_net)
    return [layer for layer in layers if isinstance(layer, nn.Linear)]


def ppo_lag(config: PPOLagConfig | Sequence[PPOLagConfig], *, init: Policy | None = None, **options: Any) -> Any:
    """Train PPO-Lagrangian in the simulator.

    Args:
        init: the policy to start from, such as `bc_safe(...).policy`, with the config's hidden layers.

    For the rest, and what is returned and raised, see `trac.baselines.online.train_online`.

    Example:
        >>> config = PPOLagConfig(task="BallRun", cost_limit=20, steps=500, every=250, eval_episodes=0)
        >>> ppo_lag(config, progress=False).history.step.tolist()
        [250, 500]
    """
    return train_online(PPOLag, config, warm_start=init, **options)
