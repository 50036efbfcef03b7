"""One run of an offline baseline: its settings, its data, and the making of one update after the other.

The methods follow the OSRL benchmark (Liu et al. 2023, arXiv 2306.09303; code: github.com/liuzuxin/OSRL, version
0.1.0), which is what "OSRL" means in these files. An update draws the next actions once for both critics' targets,
where OSRL draws them for each.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from trac.baselines.losses import discounted_limit
from trac.baselines.networks import BaselinePolicy
from trac.config import ConfigError, Settings
from trac.tasks import TASKS, check_name, get_task
from trac.trajectories import Trajectories

INITIAL, UPDATE = 0, 1  # what a run's random numbers are for; with the seed and a counter the key of each draw


# Fields that are at least 1.
_COUNTS = (
    *("steps", "batch_size", "log_every", "critics", "samples", "mmd_samples", "vae_hidden"),
    *("context", "width", "layers", "heads"),
)


@dataclass(frozen=True)
class BaselineConfig(Settings):
    """The fields that all baselines have. The defaults are quick settings; `osrl()` gives the benchmark's."""

    task: str = "BallCircle"  # name in trac.TASKS, or a task of your own: the data's
    cost_limit: float = 20.0  # l [cost per episode], finite
    seed: int = 0
    steps: int = 5_000  # updates
    batch_size: int = 256  # drawn with replacement for each update
    reward_scale: float = 0.1  # rewards are multiplied with it
    eval_every: int = 0  # updates between evaluations; 0: only at the end
    eval_episodes: int = 20  # per evaluation; 0: never evaluate
    log_every: int = 100  # updates per row of the history

    published: ClassVar[dict[str, Any]] = {}  # the benchmark's values, where they are not the defaults

    def __post_init__(self):
        super().__post_init__()
        check_name(self.task)
        if not 0 <= self.cost_limit < math.inf:
            raise ConfigError(
                f"cost_limit={self.cost_limit} must be 0 or more and finite; for a limit that never binds, take one "
                f"beyond the largest cost of an episode."
            )
        for name, value in vars(self).items():
            if name in ("gamma", "tau", "mixture", "unseen") and not 0 < value <= 1:
                raise ConfigError(f"{name}={value} must lie in (0, 1].")
            if name in _COUNTS and value < 1:
                raise ConfigError(f"{name}={value} must be at least 1.")
            if name.endswith(("learning_rate", "_scale", "temperature")) and not 0 < value < math.inf:
                raise ConfigError(f"{name}={value} must be above 0.")
            signed = name in ("target_return", "ceiling")  # a task's returns may all be negative
            if isinstance(value, float | int) and not signed and not value >= 0:
                raise ConfigError(f"{name}={value} must be 0 or more.")

    @classmethod
    def osrl(cls, task: str, cost_limit: float, seed: int = 0) -> Self:
        """The benchmark's settings: 100,000 updates, 200,000 on MetaDrive; an evaluation every 2,500 updates."""
        steps = 200_000 if get_task(task).suite == "metadrive" else 100_000
        return cls(task=task, cost_limit=cost_limit, seed=seed).replace(
            steps=steps, eval_every=2_500, eval_episodes=10, **cls.published
        )


def transitions(data: Trajectories, device: torch.device, reward_scale: float) -> dict[str, Tensor]:
    """Flat tensors on the device: observations, next_observations, actions, rewards, costs, done, first.

    `done` is 1 at the end of an episode, by time or not, as in OSRL; `first` is 1 at its beginning.
    """
    first = np.zeros(len(data), dtype=np.float32)
    first[data.starts] = 1
    arrays = {name: getattr(data, name) for name in ("observations", "next_observations", "actions", "costs")}
    arrays |= {"rewards": data.rewards * np.float32(reward_scale), "first": first}
    arrays["done"] = (data.terminals | data.timeouts).astype(np.float32)
    return {name: torch.as_tensor(array, device=device) for name, array in arrays.items()}


def horizon(data: Trajectories) -> int:
    """T [steps]: the longest episode that the task has, or the data; a task of one's own has the data's alone."""
    longest = int(data.lengths.max())
    return max(longest, TASKS[data.task].max_episode_steps) if data.task in TASKS else longest


@contextmanager
def seeded(device: torch.device, seed: int, *key: int) -> Iterator[None]:
    """Inside, the device's default generator starts from this key; after it, it goes on as if nothing had been."""
    generator = torch.default_generator
    if device.type == "cuda":
        generator = torch.cuda.default_generators[device.index or 0]
    state = generator.get_state()
    words = np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)
    generator.manual_seed(int(words[0]))
    try:
        yield
    finally:
        generator.set_state(state)


class Learner(nn.Module):
    """One run of a baseline. A subclass makes the networks, `policy` among them, and the optimizers, and says what an
    update is.

    An update's batch and noise depend on the run's seed and the number of the update alone, as in `trac.learner`.

    Attributes:
        dims: what `make_policy` takes after the config.
        horizon: T; see `horizon`.
        data: the flat transitions on the device; see `transitions`.
        optimizers: by name.
    """

    algorithm: ClassVar[str]
    Config: ClassVar[type[BaselineConfig]]
    dims: tuple[int, ...]
    policy: BaselinePolicy
    optimizers: dict[str, torch.optim.Optimizer]

    def __init__(self, config: Any, data: Trajectories, device: torch.device):
        super().__init__()
        self.config, self.device = config, device
        self.dims = (data.observations.shape[1], data.actions.shape[1])
        self.horizon = horizon(data)
        self.data = transitions(data, device, config.reward_scale)
        with seeded(torch.device("cpu"), config.seed, INITIAL):
            self.build(data)
        self.sums: dict[str, Tensor] = {}  # of the metrics since they were last read, and the number of updates

    def build(self, data: Trajectories) -> None:
        """Make networks on the CPU, move them to the device, and make the optimizers."""
        raise NotImplementedError

    @staticmethod
    def make_policy(config: Any, obs_dim: int, act_dim: int) -> BaselinePolicy:
        """An untrained policy of the config's shape."""
        raise NotImplementedError

    def update(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Change the networks; returns metrics, () each."""
        raise NotImplementedError

    def batch(self) -> dict[str, Tensor]:
        """Transitions drawn with replacement."""
        rows = torch.randint(len(self.data["rewards"]), (self.config.batch_size,), device=self.device)
        return {name: values[rows] for name, values in self.data.items()}

    def limit(self) -> float:
        """The cost limit on the cost critics' scale; see `discounted_limit`."""
        return discounted_limit(self.config.cost_limit, self.config.gamma, self.horizon)

    def advance(self, step: int) -> None:
        """Make update `step`, counted from 1."""
        self.step = step
        with seeded(self.device, self.config.seed, UPDATE, step):
            metrics = self.update(self.batch()) | {"updates": torch.ones((), device=self.device)}
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach()

    def read(self) -> dict[str, float]:
        """Means of the metrics since they were last read."""
        updates = self.sums.pop("updates")
        means = dict(zip(self.sums, (torch.stack(list(self.sums.values())) / updates).tolist(), strict=True))
        self.sums = {}
        return means

    def tensors(self) -> dict[str, Tensor]:
        """All that an update changes."""
        tensors = {f"module.{name}": value for name, value in self.state_dict().items()}
        for key, optimizer in self.optimizers.items():
            for i, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{key}.{i}.{name}": value for name, value in state.items()}
        return tensors | {f"sum.{name}": value for name, value in self.sums.items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        parts: dict[str, dict[str, Tensor]] = {"module": {}, "optimizer": {}, "sum": {}}
        for name, value in tensors.items():
            part, rest = name.split(".", 1)
            if part in parts:
                parts[part][rest] = value
        self.load_state_dict(parts["module"])
        self.sums = {name: value.to(self.device) for name, value in parts["sum"].items()}
        for key, optimizer in self.optimizers.items():
            states: dict[int, dict[str, Tensor]] = {}
            for name, value in parts["optimizer"].items():
                owner, i, field = name.split(".")
                if owner == key:
                    states.setdefault(int(i), {})[field] = value
            optimizer.load_state_dict(optimizer.state_dict() | {"state": states})
