"""One run of an offline baseline: its settings, its data, and the making of one update after the other.

The methods follow the OSRL benchmark (Liu et al. 2023, arXiv 2306.09303; code: github.com/liuzuxin/OSRL, version
0.1.0), which is what "OSRL" means in these files. An update draws the next actions once for both critics' targets,
where OSRL draws them for each.
"""

import copy
import math
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from trac.baselines.losses import discounted_limit
from trac.baselines.networks import BaselinePolicy
from trac.config import Count, CountOrZero, NonNegative, Positive, PositiveShare, Settings, Widths
from trac.core.capture import Captured
from trac.core.run import Run
from trac.data.tasks import TASKS, get_task
from trac.data.trajectories import KEYS, Trajectories
from trac.envs.randomness import PROCESS
from trac.train import config_list, data_identity, find_device, run_all

INITIAL, UPDATE = 0, 1  # what a run's random numbers are for; with the seed and a counter the key of each draw


@dataclass(frozen=True)
class OfflineConfig(Settings):
    """The fields that all offline baselines have. The defaults are quick settings; `osrl()` gives the benchmark's.

    >>> OfflineConfig(task="BallRun").replace(cost_limit=10).cost_limit
    10.0
    """

    task: str = "BallCircle"  # name in trac.TASKS, or a task of your own: the data's
    cost_limit: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 20.0  # l [cost per episode], finite
    seed: CountOrZero = 0
    steps: Count = 5_000  # updates
    batch_size: Count = 256  # drawn with replacement for each update
    reward_scale: Positive = 0.1  # rewards are multiplied with it
    eval_every: CountOrZero = 0  # updates between evaluations; 0: only at the end
    eval_episodes: CountOrZero = 20  # per evaluation; 0: never evaluate
    log_every: Count = 100  # updates per row of the history

    published: ClassVar[dict[str, Any]] = {}  # the benchmark's values, where they are not the defaults

    @classmethod
    def osrl(cls, task: str, cost_limit: float, seed: int = 0) -> Self:
        """The benchmark's settings: 100,000 updates, 200,000 on MetaDrive; an evaluation every 2,500 updates."""
        steps = 200_000 if get_task(task).suite == "metadrive" else 100_000
        return cls(task=task, cost_limit=cost_limit, seed=seed).replace(
            steps=steps, eval_every=2_500, eval_episodes=10, **cls.published
        )


@dataclass(frozen=True)
class CriticConfig(OfflineConfig):
    """The fields of the methods with critics of reward and cost and a VAE of the actions.

    >>> CriticConfig(task="BallRun").hidden, CriticConfig.osrl("BallRun", cost_limit=20).hidden
    ((128, 128), (256, 256))
    """

    gamma: PositiveShare = 0.99  # discount
    tau: PositiveShare = 0.005  # share of the new weights in a target network's update
    hidden: Widths = (128, 128)  # widths of the critics and of what acts
    vae_hidden: Count = 128  # width of the VAE's two hidden layers
    beta: NonNegative = 0.5  # weight of the VAE's KL term
    critics: Count = 1  # networks of each critic, or of each of its halves
    samples: Count = 4  # actions for each observation
    actor_learning_rate: Positive = 1e-3
    critic_learning_rate: Positive = 1e-3
    vae_learning_rate: Positive = 1e-3

    published: ClassVar[dict[str, Any]] = dict(batch_size=512, hidden=(256, 256), vae_hidden=400, samples=10)


def transitions(
    data: Trajectories, device: torch.device, reward_scale: float, next_observations: bool = True
) -> dict[str, Tensor]:
    """Flat tensors on the device: observations, next_observations if asked for, actions, rewards, costs, done, first.

    `done` is 1 at the end of an episode, by time or not, as in OSRL; `first` is 1 at its beginning.

    >>> sorted(transitions(data, torch.device("cpu"), reward_scale=0.1))
    ['actions', 'costs', 'done', 'first', 'next_observations', 'observations', 'rewards']
    """
    first = np.zeros(len(data), dtype=np.float32)
    first[data.starts] = 1
    names = ("observations", *(("next_observations",) if next_observations else ()), "actions", "costs")
    arrays = {name: getattr(data, name) for name in names}
    arrays |= {"rewards": data.rewards * np.float32(reward_scale), "first": first}
    arrays["done"] = (data.terminals | data.timeouts).astype(np.float32)
    return {name: torch.as_tensor(array, device=device) for name, array in arrays.items()}


def horizon(data: Trajectories) -> int:
    """T [steps]: the longest episode that the task allows; for a task of one's own, the data's longest.

    >>> horizon(data)
    100
    """
    return TASKS[data.task].max_episode_steps if data.task in TASKS else int(data.lengths.max())


@contextmanager
def seeded(device: torch.device, seed: int, *key: int) -> Iterator[None]:
    """Inside, the device's default generator starts from this key; after it, it goes on as if nothing had been.

    The generator is the process's, so that other threads wait for their turn.

    >>> with seeded(torch.device("cpu"), 0, UPDATE, 1):
    ...     first = torch.rand(3)
    >>> with seeded(torch.device("cpu"), 0, UPDATE, 1):
    ...     torch.equal(first, torch.rand(3))
    True
    """
    generator = torch.default_generator
    if device.type == "cuda":
        generator = torch.cuda.default_generators[device.index]
    words = np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)
    with PROCESS:
        state = generator.get_state()
        generator.manual_seed(int(words[0]))
        try:
            yield
        finally:
            generator.set_state(state)


class OfflineLearner(nn.Module):
    """One run of a baseline; see `trac.core.fit.Learner`. A subclass makes the networks, `policy` among them, and the
    optimizers, and says what an update is.

    An update's batch and noise depend on the run's seed and the number of the update alone, as in `trac.core.learner`.

    Attributes:
        horizon: T; see `horizon`.
        data: the flat transitions on the device; see `transitions`.
        optimizers: by name.
    """

    algorithm: ClassVar[str]
    Config: ClassVar[type[OfflineConfig]]
    reads_next: ClassVar[bool] = True  # whether updates read next_observations
    repeats: ClassVar[bool] = True  # whether every update launches the same work on a GPU, and can be one graph
    policy: BaselinePolicy
    optimizers: dict[str, torch.optim.Optimizer]

    def __init__(self, config: Any, data: Trajectories, device: torch.device, capture: bool = True):
        super().__init__()
        self.config, self.configs, self.device = config, [config], device
        self.steps, self.failed = range(1, config.steps + 1), [0]
        self.dims = (data.observations.shape[1], data.actions.shape[1])
        self.horizon = horizon(data)
        self.data = transitions(data, device, config.reward_scale, self.reads_next)
        with seeded(torch.device("cpu"), config.seed, INITIAL):
            self.build(data)
        for group in (group for optimizer in self.optimizers.values() for group in optimizer.param_groups):
            group["capturable"] = device.type == "cuda"
        self.sums: dict[str, Tensor] = {}  # of the metrics since they were last read, and the number of updates
        # Weakly, so that a finished run, and its data on a GPU, goes at once.
        advance: Any = weakref.WeakMethod(self._advance)
        self.captured = Captured(lambda: advance()(), device, capture and self.repeats)

    def build(self, data: Trajectories) -> None:
        """Make networks on the CPU, move them to the device, and make the optimizers."""
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
            self.captured()

    def _advance(self) -> None:
        metrics = self.update(self.batch()) | {"updates": torch.ones((), device=self.device)}
        for name, value in metrics.items():
            if name not in self.sums:
                self.sums[name] = torch.zeros_like(value)
            self.sums[name] += value.detach()

    def read(self, step: int) -> list[dict[str, Any]]:
        """Means of the metrics since they were last read; a run has failed when one is not finite."""
        if step % self.config.log_every and step != self.config.steps:
            return []
        means = dict(
            zip(self.sums, (torch.stack(list(self.sums.values())) / self.sums["updates"]).tolist(), strict=True)
        )
        del means["updates"]
        for value in self.sums.values():
            value.zero_()
        self.failed = [0 if all(map(math.isfinite, means.values())) else step]
        return [means]

    def policies(self) -> list[BaselinePolicy]:
        """The policy as it is now, as a copy on the CPU."""
        return [copy.deepcopy(self.policy).cpu().requires_grad_(False)]

    def references(self, step: int) -> list[None]:
        """None: there is no reference policy."""
        return [None]

    @property
    def state(self) -> dict[str, Tensor]:
        """All that an update changes."""
        tensors = {f"module.{name}": value for name, value in self.state_dict().items()}
        for key, optimizer in self.optimizers.items():
            for i, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{key}.{i}.{name}": value for name, value in state.items()}
        return tensors | {f"sum.{name}": value for name, value in self.sums.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`."""
        parts: dict[str, dict[str, Tensor]] = {"module": {}, "optimizer": {}, "sum": {}}
        for name, value in state.items():
            part, rest = name.split(".", 1)
            parts[part][rest] = value
        self.captured.graph = None  # it works on the tensors that were there before
        self.load_state_dict(parts["module"])
        self.sums = {name: value.to(self.device) for name, value in parts["sum"].items()}
        for key, optimizer in self.optimizers.items():
            states: dict[int, dict[str, Tensor]] = {}
            for name, value in parts["optimizer"].items():
                owner, i, field = name.split(".")
                if owner == key:
                    states.setdefault(int(i), {})[field] = value
            optimizer.load_state_dict(optimizer.state_dict() | {"state": states})


def train_offline(
    method: type[OfflineLearner],
    data: Trajectories,
    config: Any,
    device: str | torch.device | None = None,
    capture: bool = True,
    **options: Any,
) -> Run | list[Run]:
    """Train a baseline, one run after the other where a list of configs is given; otherwise as `trac.train`.

    >>> from trac.baselines.cpq import CPQ, CPQConfig
    >>> config = CPQConfig(task="BallRun", cost_limit=20, steps=2, eval_episodes=0)
    >>> train_offline(CPQ, data, config, progress=False).record["algorithm"]
    'cpq'
    """
    configs, where = config_list(data, config, method.Config), find_device(device)
    if method.reads_next:
        data.check_next()
    groups = (([i], [method(c, data, where, capture)]) for i, c in enumerate(configs))
    identity = {"algorithm": method.algorithm}
    if options.get("out") is not None:
        identity |= data_identity(data, (name for name in KEYS if name != "next_observations" or method.reads_next))
    return run_all(groups, identity=identity, single=isinstance(config, Settings), **options)
