"""What the online baselines share: settings, the cost's multiplier, and the learner that moves it.

Stable-Baselines3's learner sees the reward r - λ c. The multiplier λ follows the cost of the episodes that it makes.
"""

import os
import reprlib
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from trac.baselines.networks import BaselinePolicy, mlp
from trac.baselines.recorder import Recorder
from trac.config import ConfigError, Count, CountOrZero, NonNegative, Positive, Settings, Widths
from trac.core.run import Run
from trac.core.trackers import Tracker
from trac.data.tasks import TASKS
from trac.envs import MakeEnv, open_env
from trac.envs.randomness import PROCESS, numpy_state
from trac.evaluate import scored_task
from trac.train import find_device, run_all


@dataclass(frozen=True)
class OnlineConfig(Settings):
    """The fields that both online baselines have.

    The multiplier's gains are ours. FSRL, from which the other defaults come, has 0.05 for the proportional part,
    0.0005 for the integral, and 0.1 for a derivative, which is not here.

    >>> OnlineConfig(task="BallRun", cost_limit=20).hidden
    (128, 128)
    """

    task: str = "BallCircle"  # name in trac.TASKS, or of a task of your own
    cost_limit: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 20.0  # l [cost per episode]
    seed: CountOrZero = 0
    steps: Count = 100_000  # of the simulator; a multiple of `every`
    every: Count = 2_000  # simulator steps between updates of the multiplier
    hidden: Widths = (128, 128)  # widths of actor and critics
    reward_scale: Positive = 0.1  # the learner sees scale * (r - λ c)
    integral_gain: NonNegative = 0.02  # change of λ for each unit of an episode's cost over the limit
    proportional_gain: NonNegative = 0.05  # λ on top of the integral for each unit of cost over the limit
    initial_multiplier: NonNegative = 0.0  # λ before the first episode
    max_multiplier: NonNegative = 50.0  # λ stays in [0, max]
    eval_every: CountOrZero = 0  # simulator steps between evaluations, a multiple of `every`; 0: only at the end
    eval_episodes: CountOrZero = 20  # per evaluation; 0: never evaluate

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "eval_every"):
            if getattr(self, name) % self.every:
                raise ConfigError(f"{name}={getattr(self, name)} must be a multiple of every={self.every}.")
        if not self.max_multiplier >= self.initial_multiplier:
            raise ConfigError(
                f"max_multiplier={self.max_multiplier} must be at least initial_multiplier={self.initial_multiplier}."
            )


class PIController:
    """λ in [0, largest], by proportional and integral control of a cost's excess over its limit.

    The proportional term matters where return is convex in cost: there the integral alone jumps from one end of the
    frontier to the other (Stooke, Achiam and Abbeel, ICML 2020, arXiv 2007.03964).

    >>> multiplier = PIController(integral_gain=0.1, proportional_gain=0.0, largest=10.0)
    >>> multiplier(5.0), multiplier(5.0), multiplier(-99.0)
    (0.5, 1.0, 0.0)
    """

    def __init__(self, integral_gain: float, proportional_gain: float, largest: float, initial: float = 0.0):
        self.gains, self.largest, self.integral = (integral_gain, proportional_gain), largest, initial

    def __call__(self, excess: float) -> float:
        """The multiplier after this excess [cost per episode]."""
        integral_gain, proportional_gain = self.gains
        self.integral = float(np.clip(self.integral + integral_gain * excess, 0, self.largest))
        return float(np.clip(self.integral + proportional_gain * excess, 0, self.largest))


def stable_baselines3() -> ModuleType:
    """The package; an ImportError that has the command to install it, where it is missing.

    >>> stable_baselines3().__name__
    'stable_baselines3'
    """
    try:
        import stable_baselines3
    except ImportError as error:
        raise ImportError(
            f"This needs Stable-Baselines3, and importing it failed ({error}). "
            f"Install it with: pip install stable-baselines3"
        ) from error
    return stable_baselines3


class MeanPolicy(BaselinePolicy):
    """tanh of a multilayer perceptron: the mean action of what was learned.

    >>> MeanPolicy(7, 2, hidden=(64,)).act(data.observations[0]).shape
    (2,)
    """

    def __init__(self, obs_dim: int, act_dim: int, hidden: Sequence[int]):
        super().__init__(obs_dim=obs_dim, act_dim=act_dim, hidden=list(hidden))
        self.body = mlp([obs_dim, *hidden, act_dim])

    def actions(self, observations: Tensor) -> Tensor:
        return torch.tanh(self.body(observations))


class OnlineLearner:
    """One run of an online baseline; see `trac.core.fit.Learner`. A subclass makes Stable-Baselines3's model.

    Its steps are the simulator's. The simulator's state cannot be saved, so that `state` is empty.

    Attributes:
        env: what the model acts in.
        model: see `build`.
    """

    algorithm: ClassVar[str]
    Config: ClassVar[type[OnlineConfig]]

    def __init__(self, config: Any, env: Recorder, device: str | torch.device, warm_start: Any):
        self.config, self.configs, self.env, self.device = config, [config], env, torch.device(device)
        self.steps, self.failed = range(config.every, config.steps + 1, config.every), [0]
        self.state: dict[str, Tensor] = {}
        self.model = self.build(warm_start)
        self.multiplier = PIController(
            config.integral_gain, config.proportional_gain, config.max_multiplier, config.initial_multiplier
        )
        env.multiplier = self.multiplier.integral
        self.before = self.seen = len(env.episodes)  # those of offline data
        self.multiplier_moved()

    def build(self, warm_start: Any) -> Any:
        """The model, with what the run starts from, if anything."""
        raise NotImplementedError

    def actor(self) -> list[nn.Linear]:
        """The layers from an observation to the mean action before tanh."""
        raise NotImplementedError

    def multiplier_moved(self) -> None:
        """Called whenever the multiplier has moved."""

    def advance(self, step: int) -> None:
        """Learn for `every` simulator steps, up to this one."""
        self.model.learn(self.config.every, reset_num_timesteps=False)

    def read(self, step: int) -> list[dict[str, Any]]:
        """Move the multiplier after the episodes since the row before; see `train_online` for the row."""
        env = self.env
        new, self.seen = env.episodes[self.seen :], len(env.episodes)
        row = {"episodes": self.seen - self.before, "noisy_return": np.nan, "noisy_cost": np.nan}
        if new:
            row["noisy_return"], row["noisy_cost"] = (
                float(np.mean([episode[key].sum() for episode in new])) for key in ("rewards", "costs")
            )
            env.multiplier = self.multiplier(row["noisy_cost"] - self.config.cost_limit)
            self.multiplier_moved()
        if step == self.config.steps and self.seen == self.before:
            warnings.warn(
                f"no episode ended within steps={step}, so the cost limit was not learned from: let steps be many "
                f"episodes.",
                stacklevel=2,
            )
        return [row | {"multiplier": env.multiplier, "cumulative_cost": env.cumulative_cost}]

    def policies(self) -> list[MeanPolicy]:
        """The mean action as a policy of its own, on the CPU."""
        spaces: Any = (self.env.observation_space, self.env.action_space)
        # Weights that are overwritten shall not cost the learner random numbers.
        with torch.random.fork_rng(devices=[]):
            policy = MeanPolicy(spaces[0].shape[0], spaces[1].shape[0], self.config.hidden)
        mine = [layer for layer in policy.body if isinstance(layer, nn.Linear)]
        for ours, layer in zip(mine, self.actor(), strict=True):
            ours.load_state_dict(layer.state_dict())
        return [policy.requires_grad_(False)]

    def references(self, step: int) -> list[None]:
        """None: there is no reference policy."""
        return [None]

    def load_state(self, state: dict[str, Tensor]) -> None:
        """There is none."""


def train_online(
    method: type[OnlineLearner],
    config: Any,
    *,
    env: MakeEnv | None = None,
    reward_range: tuple[float, float] | None = None,
    device: str | torch.device = "cpu",
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
    warm_start: Any = None,
    tracker: Tracker | None = None,
) -> Run | list[Run]:
    """Learn in the simulator, one run after the other where a list of configs is given.

    The simulator's state cannot be saved, so that there are no checkpoints to go on from.

    Args:
        config: one of the method's configs, or a list.
        env: makes the environment of the config's task, one of your own or not, as in `trac.evaluate`.
        reward_range: (lowest, highest) episode return, to evaluate on a task of your own.
        device: for the networks.
        out: folder for the finished run; of a list, each run has a subfolder, from 000 on.
        progress: show a progress bar.
        warm_start: what the method starts from, if anything.
        tracker: called with each row of the history, see `trac.core.trackers`.

    Returns:
        A Run, or a list of Runs. Its policy acts by the mean; its history has a row for each update of the multiplier:
        step [simulator steps]; episodes, their number so far; noisy_return and noisy_cost, the means of the learner's
        episodes since the row before (NaN where none was finished); the multiplier λ from here on; cumulative_cost,
        the cost of all steps so far; evaluation columns where there was one, whose own steps and costs are in neither.

    Raises:
        ConfigError: a config is of another method, or its task is your own and `env` is missing.
        ValueError: a task of your own is to be evaluated without `reward_range`.
        ImportError: Stable-Baselines3 is not installed.
        EnvError: the environment cannot be learned in, see `trac.envs.checked`.
        MissingSimulator: the task's simulator is not installed.
        TrainingError: an evaluation failed; the runs so far are saved, and in the error's `.runs`.

    Example:
        >>> from trac.baselines.ppo_lag import PPOLag, PPOLagConfig
        >>> config = PPOLagConfig(task="BallRun", cost_limit=20, steps=250, every=250, eval_episodes=0)
        >>> train_online(PPOLag, config, progress=False).history.episodes.tolist()
        [2]
    """
    configs: list[Any] = list(config) if isinstance(config, Iterable) else [config]
    for c in configs:
        if not isinstance(c, method.Config):
            raise ConfigError(f"{reprlib.repr(c)} is not a {method.Config.__name__}: pass one, or a list of them.")
        if env is None and c.task not in TASKS:
            raise ConfigError(f"{c.task} is a task of your own: pass env=, a function that makes its environment.")
        if env is not None and c.task == method.Config.task:
            warnings.warn(
                f"env= is taken for {c.task}, the default task, and scored on its scale: name another task in the "
                f"config, and pass reward_range=, if it is not that.",
                stacklevel=3,
            )
        if c.eval_episodes:
            scored_task(c.task, env, reward_range)
    where = find_device(device)

    def groups() -> Generator[tuple[list[int], list[OnlineLearner]], None, None]:
        for i, c in enumerate(configs):
            with closing(open_env(c.task, env)) as simulator:
                yield [i], [method(c, Recorder(simulator, c.reward_scale), where, warm_start)]

    # Runs may themselves be processes side by side, so that episodes stay in this one. Of MetaDrive a process has one
    # simulator, the learner's.
    metadrive = any(c.task in TASKS and TASKS[c.task].suite == "metadrive" for c in configs)
    simulator = dict(env=env, reward_range=reward_range, workers=2 if metadrive else 1)
    with _global_generators_as_they_were(), closing(groups()) as each:
        return run_all(
            each,
            identity={"algorithm": method.algorithm},
            single=isinstance(config, Settings),
            out=out,
            progress=progress,
            simulator=simulator,
            tracker=tracker,
        )


@contextmanager
def _global_generators_as_they_were() -> Iterator[None]:
    # Stable-Baselines3 seeds the global generators, and the simulators draw from NumPy's. Other threads wait meanwhile.
    with PROCESS, torch.random.fork_rng(), numpy_state(np.random.get_state()):
        yield
