"""What the offline baselines share: networks, critics, the cost limit's scale, multipliers, and the training loop.

The methods follow the OSRL benchmark (Liu et al. 2023, arXiv 2306.09303; code: github.com/liuzuxin/OSRL, version
0.1.0), which is what "OSRL" means in these files.
"""

import copy
import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from trac.config import ConfigError, Settings
from trac.runs import Run
from trac.stack import Stack
from trac.tasks import get_task
from trac.train import train_stacks
from trac.trajectories import Trajectories

INITIAL, UPDATE = 0, 1  # what a run's random numbers are for; with the seed and a counter the key of each draw
LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0  # of a Gaussian policy, as in OSRL


@dataclass(frozen=True)
class BaselineConfig(Settings):
    """The fields that all baselines have. The defaults are quick settings; `osrl()` gives the benchmark's."""

    task: str = "BallCircle"  # name in trac.TASKS
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
        get_task(self.task)
        if not 0 <= self.cost_limit < math.inf:
            raise ConfigError(
                f"cost_limit={self.cost_limit} must be 0 or more and finite; for a limit that never binds, take one "
                f"beyond the largest cost of an episode."
            )
        for name, value in list(vars(self).items()):
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
            if name in ("task", "cost_limit"):
                continue
            if name in ("gamma", "tau", "mixture") and not 0 < value <= 1:
                raise ConfigError(f"{name}={value} must lie in (0, 1].")
            if name in ("steps", "batch_size", "log_every", "critics", "samples") and value < 1:
                raise ConfigError(f"{name}={value} must be at least 1.")
            if name.endswith(("learning_rate", "_scale", "temperature")) and not 0 < value < math.inf:
                raise ConfigError(f"{name}={value} must be above 0.")
            if isinstance(value, float | int) and not value >= 0:
                raise ConfigError(f"{name}={value} must be 0 or more.")

    @classmethod
    def osrl(cls, task: str, cost_limit: float, seed: int = 0) -> Self:
        """The benchmark's settings: 100,000 updates, 200,000 on MetaDrive; an evaluation every 2,500 updates."""
        steps = 200_000 if get_task(task).suite == "metadrive" else 100_000
        return cls(task=task, cost_limit=cost_limit, seed=seed).replace(
            steps=steps, eval_every=2_500, eval_episodes=10, **cls.published
        )


def discounted_limit(cost_limit: float, gamma: float, horizon: int) -> float:
    """The limit on an episode's cost on the scale of a cost critic, as in OSRL: l (1 - γ^T) / ((1 - γ) T).

    It is the discounted sum of T equal costs that add up to l. The critic itself sums over an endless future.

    Args:
        cost_limit: l [cost per episode].
        gamma: discount.
        horizon: T [steps per episode].
    """
    total = horizon if gamma == 1 else (1 - gamma**horizon) / (1 - gamma)
    return cost_limit * total / horizon


def mlp(sizes: Sequence[int], activation=nn.ReLU) -> nn.Sequential:
    """Linear layers of these widths with an activation between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[:-1])


class Ensemble(nn.Module):
    """K networks of one shape with a scalar output, evaluated together: (N, in) -> (K, N).

    Args:
        members: K.
        sizes: widths of the input and the hidden layers; ReLU after the latter.
    """

    def __init__(self, members: int, sizes: Sequence[int]):
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for inputs, outputs in zip(sizes, [*sizes[1:], 1], strict=True):
            bound = inputs**-0.5  # the initial range of torch.nn.Linear
            self.weights.append(torch.empty(members, inputs, outputs).uniform_(-bound, bound))
            self.biases.append(torch.empty(members, 1, outputs).uniform_(-bound, bound))

    def forward(self, *inputs: Tensor) -> Tensor:
        """The values (K, N) of inputs that are joined in their last dimension, (N, ...) each."""
        x = torch.cat(inputs, dim=-1).expand(len(self.weights[0]), -1, -1)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x if i == 0 else torch.relu(x), weight)
        return x.squeeze(-1)


class BaselinePolicy(nn.Module):
    """A policy of a baseline: `act()`, and its parameters by name for `Run.save`."""

    def named(self) -> dict[str, Tensor]:
        return {name: value.contiguous() for name, value in self.state_dict().items()}

    def actions(self, observations: Tensor) -> Tensor:
        """(B, obs_dim) -> (B, act_dim)."""
        raise NotImplementedError

    @torch.inference_mode()
    def act(self, observation) -> np.ndarray:
        """The action to take: (obs_dim,) or (B, obs_dim) -> the same with act_dim."""
        device = next(self.parameters()).device
        x = torch.as_tensor(np.asarray(observation, dtype=np.float32), device=device)
        return self.actions(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1).cpu().numpy()


class SquashedGaussian(BaselinePolicy):
    """tanh of a Gaussian whose mean and standard deviation depend on the observation; acts by the mean."""

    def __init__(self, obs_dim: int, act_dim: int, hidden: Sequence[int]):
        super().__init__()
        self.body = mlp([obs_dim, *hidden, 2 * act_dim])

    def forward(self, observations: Tensor) -> Normal:
        """The Gaussian before tanh: (N, obs_dim) -> Normal (N, act_dim)."""
        mean, log_std = self.body(observations).chunk(2, dim=-1)
        return Normal(mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX).exp(), validate_args=False)

    def sample(self, observations: Tensor) -> Tensor:
        """Actions (N, act_dim) with a gradient to the parameters."""
        return torch.tanh(self(observations).rsample())

    def actions(self, observations: Tensor) -> Tensor:
        return torch.tanh(self(observations).mean)


class VAE(nn.Module):
    """Conditional variational autoencoder of actions given observations, with two latent units per action unit."""

    def __init__(self, obs_dim: int, act_dim: int, hidden: int):
        super().__init__()
        self.latent = 2 * act_dim
        self.encoder = mlp([obs_dim + act_dim, hidden, hidden, 2 * self.latent])
        self.decoder = mlp([obs_dim + self.latent, hidden, hidden, act_dim])

    def encode(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (N, latent) of q(z | s, a)."""
        mean, log_std = self.encoder(torch.cat([observations, actions], -1)).chunk(2, dim=-1)
        return mean, log_std.clamp(-4, 15).exp()

    def decode(self, observations: Tensor, z: Tensor) -> Tensor:
        """Actions before tanh: (N, obs_dim), (N, latent) -> (N, act_dim)."""
        return self.decoder(torch.cat([observations, z], -1))

    def sample(self, observations: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Actions before tanh of codes near the prior's mode: N(0, 1), clipped to [-0.5, 0.5], as in BCQ."""
        z = torch.randn(len(observations), self.latent, device=observations.device, generator=generator)
        return self.decode(observations, z.clamp(-0.5, 0.5))

    def loss(self, observations: Tensor, actions: Tensor, beta: float) -> Tensor:
        """Mean squared error of the reconstruction plus β KL, both means over units as in OSRL."""
        mean, std = self.encode(observations, actions)
        decoded = torch.tanh(self.decode(observations, mean + std * torch.randn_like(std)))
        return (decoded - actions).square().mean() + beta * kl_to_standard_normal(mean, std).mean()


def kl_to_standard_normal(mean: Tensor, std: Tensor) -> Tensor:
    """KL(N(mean, std²) || N(0, 1)) of each unit: -½ (1 + log std² - mean² - std²)."""
    return -0.5 * (1 + 2 * torch.log(std) - mean.square() - std.square())


def bellman_target(signal: Tensor, following: Tensor, gamma: float, done: Tensor | float = 0.0) -> Tensor:
    """(N,) signal + γ (1 - done) following, without a gradient."""
    return (signal + gamma * (1 - done) * following).detach()


def critic_loss(values: Tensor, target: Tensor) -> Tensor:
    """Sum over the members of their mean squared errors: (K, N), (N,) -> ()."""
    return (values - target).square().mean(-1).sum()


def pessimistic(values: Tensor) -> Tensor:
    """The smallest value of each half of an ensemble: (2K, N) -> (2, N)."""
    return values.unflatten(0, (2, -1)).amin(1)


def mixed_maximum(values: Tensor, samples: int, mixture: float) -> Tensor:
    """The value of the best of several actions (the target of Fujimoto et al. 2019).

    max_i [λ min_j Q_j(s, a_i) + (1 - λ) max_j Q_j(s, a_i)], where Q_1 and Q_2 are the `pessimistic` halves.

    Args:
        values: (2K, N · samples), the samples of an observation one after the other.
        mixture: λ.

    Returns:
        (N,).
    """
    first, second = pessimistic(values)
    mixed = mixture * torch.minimum(first, second) + (1 - mixture) * torch.maximum(first, second)
    return mixed.view(-1, samples).amax(1)


class PID(nn.Module):
    """Lagrange multiplier by a PID controller (Stooke et al. 2020), its proportional part clipped as in OSRL.

    λ = K_P (Δ)+ + K_I I + K_D (Δ - Δ_previous)+ with I ← (I + Δ)+, Δ the cost's excess over its limit.
    """

    def __init__(self, gains: Sequence[float]):
        super().__init__()
        self.gains = gains
        self.integral: Tensor
        self.previous: Tensor
        self.register_buffer("integral", torch.zeros(()))
        self.register_buffer("previous", torch.zeros(()))

    @torch.no_grad()
    def forward(self, excess: Tensor) -> Tensor:
        """The multiplier () after this excess ()."""
        proportional, integral, derivative = self.gains
        rise = torch.relu(excess - self.previous)
        self.integral.copy_(torch.relu(self.integral + excess))
        self.previous.copy_(excess)
        return proportional * torch.relu(excess) + integral * self.integral + derivative * rise


@torch.no_grad()
def soft_update(target: nn.Module, source: nn.Module, tau: float) -> None:
    """target ← (1 - τ) target + τ source."""
    for old, new in zip(target.parameters(), source.parameters(), strict=True):
        old.lerp_(new, tau)


def target_of(module: nn.Module) -> Any:
    """A copy for `soft_update`, which no gradient reaches."""
    return copy.deepcopy(module).requires_grad_(False)


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


def descend(optimizer: torch.optim.Optimizer, loss: Tensor, clip: float | None = None) -> None:
    """One step against the gradient of a loss, taken in the optimizer's own parameters and in no others."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    optimizer.zero_grad()
    loss.backward(inputs=parameters)
    if clip is not None:
        nn.utils.clip_grad_norm_(parameters, clip)
    optimizer.step()


def adam(parameters, learning_rate: float) -> torch.optim.Adam:
    return torch.optim.Adam(parameters, lr=learning_rate, fused=True)


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
        data: the flat transitions on the device; see `transitions`.
        optimizers: by name.
    """

    algorithm: ClassVar[str]
    Config: ClassVar[type[BaselineConfig]]
    policy: BaselinePolicy
    optimizers: dict[str, torch.optim.Optimizer]

    def __init__(self, config: Any, data: Trajectories, device: torch.device):
        super().__init__()
        self.config, self.device = config, device
        self.dims = (data.observations.shape[1], data.actions.shape[1])
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
        horizon = get_task(self.config.task).max_episode_steps
        return discounted_limit(self.config.cost_limit, self.config.gamma, horizon)

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


class LagrangianLearner(Learner):
    """What BCQ-Lag and BEAR-Lag share: critics of two halves, the VAE's loss, and the multiplier of the cost."""

    def build_critics(self, vae: VAE) -> None:
        config, (obs_dim, act_dim) = self.config, self.dims
        sizes, members = [obs_dim + act_dim, *config.hidden], 2 * config.critics
        self.critic, self.cost_critic = Ensemble(members, sizes), Ensemble(members, sizes)
        self.controller = PID(config.pid)
        self.to(self.device)
        self.critic_target, self.cost_target = target_of(self.critic), target_of(self.cost_critic)
        self.optimizers = {
            "critic": adam(self.critic.parameters(), config.critic_learning_rate),
            "cost_critic": adam(self.cost_critic.parameters(), config.critic_learning_rate),
            "vae": adam(vae.parameters(), config.vae_learning_rate),
        }

    def update_vae(self, vae: VAE, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        loss = vae.loss(batch["observations"], batch["actions"], self.config.beta)
        descend(self.optimizers["vae"], loss)
        return {"vae_loss": loss}

    def update_critics(self, batch: dict[str, Tensor], following: Tensor, actions: Tensor) -> dict[str, Tensor]:
        """Bellman updates of both critics.

        Args:
            following: (N · samples, obs_dim) next observations, each `samples` times.
            actions: (N · samples, act_dim) in them.
        """
        config, s, a = self.config, batch["observations"], batch["actions"]
        with torch.no_grad():
            best = mixed_maximum(self.critic_target(following, actions), config.samples, config.mixture)
            costliest = mixed_maximum(self.cost_target(following, actions), config.samples, config.mixture)
        loss = critic_loss(self.critic(s, a), bellman_target(batch["rewards"], best, config.gamma, batch["done"]))
        descend(self.optimizers["critic"], loss)
        # As in OSRL, the cost goes on after the end of an episode (see `discounted_limit`), and is the costliest's.
        cost_loss = critic_loss(self.cost_critic(s, a), bellman_target(batch["costs"], costliest, config.gamma))
        descend(self.optimizers["cost_critic"], cost_loss)
        return {"critic_loss": loss, "cost_critic_loss": cost_loss}

    def lagrangian(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Q (N,) of the policy's actions, the penalty λ (E[Q_c] - l) (), and metrics; moves the multiplier λ."""
        q = pessimistic(self.critic(observations, actions)).amin(0)
        cost = pessimistic(self.cost_critic(observations, actions)).amin(0).mean()
        excess = cost - self.limit()
        multiplier = self.controller(excess.detach())
        return q, multiplier * excess, {"q": q.mean(), "cost_q": cost, "multiplier": multiplier}

    def update_targets(self) -> None:
        soft_update(self.critic_target, self.critic, self.config.tau)
        soft_update(self.cost_target, self.cost_critic, self.config.tau)


class Single(Stack):
    """The loop of `Stack` around one run of a baseline: bar, evaluations, checkpoints."""

    plain: tuple[str, ...] = (*Stack.plain, "rows")

    def __init__(self, learner: Learner, *, folder: Path | None, labels: dict[str, str]):
        config = learner.config
        self.learner, self.learners = learner, [learner]  # type: ignore[list-item]
        self.configs, self.config, self.folder = [config], config, folder
        self.identity = labels | {"device": learner.device.type, "configs": [config.to_dict()]}
        self.step, self.seconds = 0, 0.0
        self.rows: list[dict[str, float]] = []  # type: ignore[assignment]
        self.scores, self.best, self.rank, self.failed = [[]], [None], [[-math.inf, -math.inf]], [0]

    def _watch(self) -> None:
        step, config = self.step, self.config
        if step % config.log_every == 0 or step == config.steps:
            row = self.learner.read()
            if not all(map(math.isfinite, row.values())):
                self.failed = [step]
                return
            self.rows.append({"step": step} | row)
        if config.eval_episodes and (step == config.steps or (config.eval_every and step % config.eval_every == 0)):
            self._evaluate()

    def _policies(self, name: str) -> list[Any]:
        return [copy.deepcopy(self.learner.policy).cpu().requires_grad_(False)]

    def _tensors(self) -> dict[str, Tensor]:
        best = self.best[0].named() if self.best[0] else {}
        return self.learner.tensors() | {f"best.{name}": value for name, value in best.items()}

    def _load(self, tensors: dict[str, Tensor]) -> None:
        self.learner.load(tensors)
        best = {name.removeprefix("best."): value for name, value in tensors.items() if name.startswith("best.")}
        if best:
            (policy,) = self._policies("best")
            policy.load_state_dict(best)
            self.best = [policy]

    def runs(self) -> list[Run]:
        table = pd.DataFrame(self.rows)
        if self.scores[0]:
            table = table.merge(pd.DataFrame(self.scores[0]), on="step", how="outer")
        record = self._record(0) | {"dims": list(self.learner.dims)}
        (policy,) = self._policies("weights")
        return [Run(self.config, policy=policy, reference=None, best=self.best[0], history=table, record=record)]


def train(
    method: type[Learner],
    data: Trajectories,
    config: Any,
    *,
    device=None,
    out=None,
    resume: bool = False,
    progress: bool = True,
    checkpoint_every: int = 500,
):
    """Train a baseline, one run after the other where a list of configs is given; otherwise as `trac.train`."""
    configs = [config] if isinstance(config, Settings) else list(config)
    for c in configs:
        if not isinstance(c, method.Config):
            raise ConfigError(f"{method.algorithm} takes a {method.Config.__name__}, and this is a {type(c).__name__}.")

    def stacks(device: torch.device, folder: Path | None, labels: dict[str, str]) -> Iterator[tuple[list[int], Stack]]:
        for number, c in enumerate(configs):
            where = folder and folder / "checkpoints" / f"{number:02d}"
            yield [number], Single(method(c, data, device), folder=where, labels=labels)

    where: dict[str, Any] = dict(
        device=device, out=out, resume=resume, progress=progress, checkpoint_every=checkpoint_every
    )
    return train_stacks(data, config, stacks, algorithm=method.algorithm, **where)
