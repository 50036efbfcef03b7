"""What the online baselines share: settings, the cost's multiplier, and the loop that moves it.

Stable-Baselines3's learner sees the reward r - λ c. The multiplier λ follows the cost of the episodes that it makes.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from trac import envs
from trac.baselines.networks import BaselinePolicy, mlp
from trac.baselines.recorder import Recorder
from trac.config import ConfigError, Settings
from trac.evaluate import SCORES, MakeEnv, evaluate, rank
from trac.runs import Run, made_by
from trac.simulators import numpy_state
from trac.tasks import TASKS


@dataclass(frozen=True)
class OnlineConfig(Settings):
    """The fields that both online baselines have.

    The multiplier's gains are ours. FSRL, from which the other defaults come, has 0.05 for the proportional part,
    0.0005 for the integral, and 0.1 for a derivative, which is not here.
    """

    task: str = "BallCircle"  # name in trac.TASKS, or of a task of your own
    cost_limit: float = 20.0  # l [cost per episode]
    seed: int = 0
    steps: int = 100_000  # of the simulator; a multiple of `every`
    every: int = 2_000  # simulator steps between updates of the multiplier
    hidden: tuple[int, ...] = (128, 128)  # widths of actor and critics
    reward_scale: float = 0.1  # the learner sees scale * (r - λ c)
    integral_gain: float = 0.02  # change of λ for each unit of an episode's cost over the limit
    proportional_gain: float = 0.05  # λ on top of the integral for each unit of cost over the limit
    initial_multiplier: float = 0.0  # λ before the first episode
    max_multiplier: float = 50.0  # λ stays in [0, max]
    eval_every: int = 0  # simulator steps between evaluations, a multiple of `every`; 0: only at the end
    eval_episodes: int = 20  # per evaluation; 0: never evaluate

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.cost_limit < float("inf"):
            raise ConfigError(f"cost_limit={self.cost_limit} must be 0 or more and finite.")
        if self.every < 1 or self.steps < 1 or self.steps % self.every:
            raise ConfigError(f"steps={self.steps} must be a multiple of every={self.every}, and both at least 1.")
        if self.eval_every % self.every:
            raise ConfigError(f"eval_every={self.eval_every} must be a multiple of every={self.every}, or 0.")
        for name in ("integral_gain", "proportional_gain", "initial_multiplier", "eval_every", "eval_episodes"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name}={getattr(self, name)} must be 0 or more.")
        if not self.max_multiplier >= self.initial_multiplier:
            raise ConfigError(
                f"max_multiplier={self.max_multiplier} must be at least initial_multiplier={self.initial_multiplier}."
            )


class Multiplier:
    """λ in [0, largest], by proportional and integral control of a cost's excess over its limit.

    The proportional term matters where return is convex in cost: there the integral alone jumps from one end of the
    frontier to the other (Stooke, Achiam and Abbeel, ICML 2020, arXiv 2007.03964).
    """

    def __init__(self, integral_gain: float, proportional_gain: float, largest: float, initial: float = 0.0):
        self.gains, self.largest, self.integral = (integral_gain, proportional_gain), largest, initial

    def __call__(self, excess: float) -> float:
        """The multiplier after this excess [cost per episode]."""
        integral_gain, proportional_gain = self.gains
        self.integral = float(np.clip(self.integral + integral_gain * excess, 0, self.largest))
        return float(np.clip(self.integral + proportional_gain * excess, 0, self.largest))


def stable_baselines3():
    """The package; an ImportError that has the command to install it, where it is missing."""
    try:
        import stable_baselines3
    except ImportError as error:
        raise ImportError(
            f"This needs Stable-Baselines3, and importing it failed ({error}). "
            f"Install it with: pip install stable-baselines3"
        ) from error
    return stable_baselines3


class MeanPolicy(BaselinePolicy):
    """tanh of a multilayer perceptron: the mean action of what was learned."""

    def __init__(self, obs_dim: int, act_dim: int, hidden: Sequence[int]):
        super().__init__()
        self.body = mlp([obs_dim, *hidden, act_dim])

    def actions(self, observations: Tensor) -> Tensor:
        return torch.tanh(self.body(observations))


class Online:
    """One run of an online baseline. A subclass makes Stable-Baselines3's model.

    Attributes:
        env: what the model acts in.
        model: see `build`.
        best: the policy of the best evaluation, see `trac.evaluate.rank`; None without `eval_every`.
    """

    algorithm: ClassVar[str]
    Config: ClassVar[type[OnlineConfig]]

    def __init__(self, config: Any, env: Recorder, device: str, start: Any):
        self.config, self.env = config, env
        self.best: MeanPolicy | None = None
        self.model = self.build(device, start)

    def build(self, device: str, start: Any) -> Any:
        """The model, with what the run starts from, if anything."""
        raise NotImplementedError

    def actor(self) -> list[nn.Linear]:
        """The layers from an observation to the mean action before tanh."""
        raise NotImplementedError

    def repriced(self) -> None:
        """Called whenever the multiplier has moved."""

    @staticmethod
    def make_policy(config: Any, obs_dim: int, act_dim: int) -> MeanPolicy:
        return MeanPolicy(obs_dim, act_dim, config.hidden)

    def policy(self) -> MeanPolicy:
        """The mean action as a policy of its own, on the CPU."""
        spaces: Any = (self.env.observation_space, self.env.action_space)
        with torch.random.fork_rng(
            devices=[]
        ):  # weights that are overwritten shall not cost the learner random numbers
            policy = self.make_policy(self.config, *(space.shape[0] for space in spaces))
        mine = [layer for layer in policy.body if isinstance(layer, nn.Linear)]
        for ours, layer in zip(mine, self.actor(), strict=True):
            ours.load_state_dict(layer.state_dict())
        return policy.requires_grad_(False)

    def learn(self, progress: bool, evaluated: Callable[[MeanPolicy], dict[str, float]]) -> pd.DataFrame:
        """All simulator steps; see `train_online` for the table. `evaluated` gives the scores of a policy."""
        config, env, rows = self.config, self.env, []
        multiplier = Multiplier(
            config.integral_gain, config.proportional_gain, config.max_multiplier, config.initial_multiplier
        )
        env.multiplier = multiplier.integral
        before = seen = len(env.episodes)
        best = [-np.inf, -np.inf]
        self.repriced()
        with tqdm(total=config.steps, disable=not progress, desc=config.task, mininterval=1.0) as bar:
            for step in range(config.every, config.steps + 1, config.every):
                self.model.learn(config.every, reset_num_timesteps=False)
                new, seen = env.episodes[seen:], len(env.episodes)
                row = {"step": step, "episodes": seen - before, "noisy_return": np.nan, "noisy_cost": np.nan}
                if new:
                    row["noisy_return"], row["noisy_cost"] = (
                        float(np.mean([episode[key].sum() for episode in new])) for key in ("rewards", "costs")
                    )
                    env.multiplier = multiplier(row["noisy_cost"] - config.cost_limit)
                    self.repriced()
                row |= {"multiplier": env.multiplier, "paid": env.paid}
                if config.eval_episodes and (
                    step == config.steps or (config.eval_every and step % config.eval_every == 0)
                ):
                    policy = self.policy()
                    scores = evaluated(policy)
                    row |= scores
                    if config.eval_every and rank(scores, config.cost_limit) > best:
                        best, self.best = rank(scores, config.cost_limit), policy
                rows.append(row)
                bar.update(config.every)
        return pd.DataFrame(rows)


def train_online(
    method: type[Online],
    config: Any,
    *,
    env: MakeEnv | None = None,
    reward_range: tuple[float, float] | None = None,
    device: str = "cpu",
    out=None,
    progress: bool = True,
    start: Any = None,
):
    """Learn in the simulator, one run after the other where a list of configs is given.

    The simulator's state cannot be saved, so that there are no checkpoints to go on from.

    Args:
        config: one of the method's configs, or a list.
        env: makes the environment of a task of your own, as in `trac.evaluate`.
        reward_range: (lowest, highest) episode return, to evaluate on a task of your own.
        device: for the networks.
        out: folder for the finished run; of a list, each run has a subfolder, from 000 on.
        progress: show a progress bar.
        start: what the method starts from, if anything.

    Returns:
        A Run, or a list of Runs. Its policy acts by the mean; its history has a row for each update of the multiplier:
        step [simulator steps]; episodes, their number so far; noisy_return and noisy_cost, the means of the learner's
        episodes since the row before (NaN where none was finished); the multiplier λ from here on; paid, the cost of
        all steps so far; evaluation columns where there was one. Its steps are not counted and its costs not paid.

    Raises:
        ConfigError: a config is of another method, or a task of your own is to be evaluated without `reward_range`.
        ImportError: Stable-Baselines3 is not installed.
        MissingSimulator: the task's simulator is not installed.
    """
    if not isinstance(config, Settings):
        where = [None if out is None else f"{out}/{i:03d}" for i in range(len(config))]
        options: dict[str, Any] = dict(
            env=env, reward_range=reward_range, device=device, progress=progress, start=start
        )
        return [train_online(method, c, out=folder, **options) for c, folder in zip(config, where, strict=True)]
    if not isinstance(config, method.Config):
        raise ConfigError(
            f"{method.algorithm} takes a {method.Config.__name__}, and this is a {type(config).__name__}."
        )
    if config.eval_episodes and config.task not in TASKS and reward_range is None:
        raise ConfigError(
            f"{config.task} is a task of your own: pass reward_range=(lowest, highest) episode return, or let "
            f"eval_episodes be 0."
        )

    def evaluated(policy: MeanPolicy) -> dict[str, float]:
        scores = evaluate(
            policy,
            task=config.task,
            cost_limit=config.cost_limit,
            episodes=config.eval_episodes,
            seed=config.seed,
            workers=1,  # runs may themselves be processes side by side
            env=env,
            reward_range=reward_range,
        )
        return scores.episodes[[*SCORES, "length"]].mean().to_dict()

    started = time.perf_counter()
    with _global_generators_as_they_were():
        simulator = Recorder(env() if env else envs.make(config.task), config.reward_scale)
        learner = method(config, simulator, device, start)
        history, policy = learner.learn(progress, evaluated), learner.policy()
    seconds = time.perf_counter() - started
    dims = [policy.body[0].in_features, policy.body[-1].out_features]
    record = made_by(device) | {"algorithm": method.algorithm, "seconds": round(seconds, 2), "dims": dims}
    record["versions"] |= {"stable-baselines3": stable_baselines3().__version__}
    run = Run(config, policy=policy, reference=None, best=learner.best, history=history, record=record)
    if out is not None:
        run.save(out)
    return run


@contextmanager
def _global_generators_as_they_were():
    # Stable-Baselines3 seeds the global generators, and the simulators draw from NumPy's.
    with torch.random.fork_rng(), numpy_state(np.random.get_state()):
        yield
