"""SAC-Lagrangian: soft actor-critic (Haarnoja et al., ICML 2018, arXiv 1801.01290) in the simulator.

The multiplier is a controller's (Stooke, Achiam and Abbeel, ICML 2020, arXiv 2007.03964). The replay buffer keeps
rewards and costs apart, and its rewards are computed anew whenever the
multiplier moves. It can start with offline data.

The defaults are those of FSRL (github.com/liuzuxin/FSRL, fsrl/config/sacl_cfg.py), with which the benchmark's authors
made their data, where Stable-Baselines3 has the setting; the learning rate is its critic's, and returns are of one
step where FSRL takes two.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from trac.baselines.online import OnlineConfig, OnlineLearner, stable_baselines3, train_online
from trac.baselines.recorder import relabel
from trac.config import ConfigError, Count, CountOrZero, Finite, Positive, PositiveShare
from trac.data.trajectories import KEYS, Trajectories
from trac.envs.checked import check_log


@dataclass(frozen=True)
class SACLagConfig(OnlineConfig):
    """Settings of SAC-Lagrangian.

    >>> SACLagConfig(task="BallRun", cost_limit=20).batch_size
    256
    """

    gamma: PositiveShare = 0.97  # discount per step
    tau: PositiveShare = 0.05  # share of the new weights in a target network's update
    batch_size: Count = 256
    learning_rate: Positive = 1e-3  # of actor, critics and entropy coefficient
    entropy: Finite | None = None  # target entropy [nat]; None: minus the number of action dimensions
    learning_starts: CountOrZero = 2_000  # uniformly random actions before this step; without offline data alone
    train_freq: Count = 5  # simulator steps for each update; a divisor of `every`

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every % self.train_freq:
            raise ConfigError(f"every={self.every} must be a multiple of train_freq={self.train_freq}.")


class SACLag(OnlineLearner):
    """One run of SAC-Lagrangian."""

    algorithm = "sac_lag"
    Config = SACLagConfig

    def build(self, warm_start: Trajectories | None) -> Any:
        if not isinstance(warm_start, Trajectories | None):
            raise ConfigError(f"buffer is a {type(warm_start).__name__}: pass trajectories, such as trac.load(...).")
        config, offline = self.config, 0 if warm_start is None else len(warm_start)
        if not offline and config.learning_starts >= config.steps:
            raise ConfigError(
                f"learning_starts={config.learning_starts} must be below steps={config.steps}, or nothing is learned."
            )
        model = stable_baselines3().SAC(
            "MlpPolicy",
            self.env,
            seed=config.seed,
            device=self.device,
            policy_kwargs=dict(net_arch=list(config.hidden)),
            learning_rate=config.learning_rate,
            batch_size=config.batch_size,
            buffer_size=offline + config.steps,
            learning_starts=0 if offline else config.learning_starts,
            train_freq=config.train_freq,
            gamma=config.gamma,
            tau=config.tau,
            ent_coef="auto_0.1",
            target_entropy="auto" if config.entropy is None else config.entropy,
        )
        if warm_start is not None:
            if warm_start.task != config.task:
                raise ConfigError(f"the config is for {config.task} and the buffer's data is of {warm_start.task}.")
            check_log(self.env, warm_start)
            fill(model.replay_buffer, warm_start)
            # `relabel` finds them where those of the simulator follow.
            ends = np.cumsum(warm_start.lengths)[:-1]
            columns = {key: np.split(getattr(warm_start, key), ends) for key in KEYS}
            self.env.episodes = [dict(zip(KEYS, rows, strict=True)) for rows in zip(*columns.values(), strict=True)]
        return model

    def multiplier_moved(self) -> None:
        if self.env.episodes:
            relabel(self.model.replay_buffer, self.env)

    def actor(self) -> list[nn.Linear]:
        actor = self.model.actor
        return [layer for layer in (*actor.latent_pi, actor.mu) if isinstance(layer, nn.Linear)]


def fill(buffer: Any, data: Trajectories) -> None:
    """Put the data's transitions into an empty replay buffer, in their order; rewards without a penalty for cost.

    >>> sb3 = stable_baselines3().common.buffers
    >>> space = trac.envs.make("BallRun").observation_space, trac.envs.make("BallRun").action_space
    >>> buffer = sb3.ReplayBuffer(70_000, *space)
    >>> fill(buffer, data)
    >>> buffer.pos
    64400
    """
    data.check()
    data.check_next()
    size = len(data)
    for name in ("observations", "next_observations", "actions", "rewards"):
        getattr(buffer, name)[:size, 0] = getattr(data, name)
    buffer.dones[:size, 0] = data.terminals | data.timeouts
    # What goes on after a time limit has a value.
    buffer.timeouts[:size, 0] = data.timeouts & ~data.terminals
    buffer.pos, buffer.full = size % buffer.buffer_size, size == buffer.buffer_size


def sac_lag(
    config: SACLagConfig | Sequence[SACLagConfig], *, buffer: Trajectories | None = None, **options: Any
) -> Any:
    """Train SAC-Lagrangian in the simulator.

    Args:
        buffer: offline data that the replay buffer starts with; there are no random actions then.

    For the rest, and what is returned and raised, see `trac.baselines.online.train_online`.

    Example:
        >>> config = SACLagConfig(task="BallRun", steps=200, every=100, learning_starts=100, eval_episodes=0)
        >>> sac_lag(config, progress=False).history.step.tolist()
        [100, 200]
    """
    return train_online(SACLag, config, warm_start=buffer, **options)
