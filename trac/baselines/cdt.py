"""Constrained decision transformer (Liu et al., ICML 2023, arXiv 2302.07351), as in OSRL.

A causal transformer reads (return to go, cost to go, observation, action) of the last steps and clones the action that
follows; asked for a high return and a low cost it should take actions like those of such episodes. One trained policy
serves any limit: see `DecisionTransformer.aim`.

OSRL: 100,000 updates of 2,048 context windows of 10 steps, 3 layers of width 128 with 8 heads. The defaults here are
5,000 updates of 64 of them, 2 layers of width 64 with 4 heads, no dropout: small enough for a CPU. Left out: OSRL's
state prediction, whose weight is 0, and the thinning of the episodes before the frontier is fitted. The standard
deviation has the other methods' bounds, where OSRL's has none.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trac.baselines.losses import descend, fused_adam
from trac.baselines.offline import OfflineConfig, OfflineLearner, train_offline
from trac.baselines.transformer import DecisionTransformer
from trac.config import ConfigError, Count, CountOrZero, Dropout, Finite, NonNegative, Positive
from trac.data.tasks import keeps_limit
from trac.data.trajectories import Trajectories

AUGMENT = 2  # what a random number is for; see `trac.baselines.offline`

# Return to ask for at each cost limit, degree of the frontier, largest return of a made-up pair, and how much lower an
# episode's return may be than that of the one it stands in for (OSRL, examples/configs/cdt_configs.py).
_PUBLISHED: dict[str, tuple[dict[float, float], int, float, float]] = {
    "AntCircle": ({10: 300, 20: 350, 40: 400}, 2, 500, 100),
    "AntRun": ({10: 700, 20: 750, 40: 800}, 3, 1000, 150),
    "BallCircle": ({10: 700, 20: 750, 40: 800}, 2, 1000, 200),
    "BallRun": ({10: 500, 20: 500, 40: 700}, 2, 1400, 200),
    "CarCircle": ({10: 450, 20: 500, 50: 550}, 4, 600, 100),
    "CarRun": ({10: 575, 20: 575, 40: 575}, 0, 600, 100),
    "DroneCircle": ({10: 700, 20: 750, 40: 800}, 1, 1000, 100),
    "DroneRun": ({10: 400, 20: 500, 40: 600}, 1, 700, 100),
}


@dataclass(frozen=True)
class CDTConfig(OfflineConfig):
    """Settings of CDT.

    Source of the published values: OSRL, examples/configs/cdt_configs.py; of `sampling_cost`, its
    examples/train/train_cdt.py.

    >>> CDTConfig(task="BallRun", cost_limit=20).width
    64
    """

    batch_size: Count = 64  # context windows per update
    target_return: Finite | None = None  # return to ask for; None: the best of the data's episodes within the limit
    context: Count = 10  # steps that the policy sees, the present one included
    width: Count = 64  # of the embeddings
    layers: Count = 2
    heads: Count = 4  # of the attention in each layer
    dropout: Dropout = 0.0  # of embeddings, attention and residuals
    learning_rate: Positive = 5e-4  # AdamW
    weight_decay: NonNegative = 1e-4
    clip: NonNegative = 0.25  # largest norm of the gradient
    warmup_steps: CountOrZero = 200  # updates of linear warm-up
    cost_weight: NonNegative = 0.02  # of the loss that predicts whether a step costs
    temperature: Positive = 0.1  # of the entropy bonus at first
    sampling_cost: NonNegative = 70.0  # episodes are drawn with probability proportional to this minus their cost
    augment: NonNegative = 0.2  # made-up pairs of return and cost, over the number of episodes
    degree: CountOrZero = 2  # of the polynomial for the frontier of return over cost
    ceiling: Finite | None = None  # largest return of a made-up pair; None: the data's largest
    decrease: NonNegative = 200.0  # an episode that stands in for another may have so much less return

    published: ClassVar = dict(
        batch_size=2048, width=128, layers=3, heads=8, dropout=0.1, learning_rate=1e-4, warmup_steps=500
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.heads:
            raise ConfigError(f"width={self.width} must be a multiple of heads={self.heads}.")

    @classmethod
    def osrl(cls, task: str, cost_limit: float, seed: int = 0) -> Self:
        """The benchmark's settings, which depend on task and limit; only those of Bullet's tasks are here."""
        targets, degree, ceiling, decrease = _PUBLISHED.get(task, ({}, 0, 0, 0))
        if cost_limit not in targets:
            raise ConfigError(
                f"no target return is known for {task} at cost_limit={cost_limit:g} (known limits: "
                f"{', '.join(map(str, targets)) or 'none'}). Set target_return and ceiling in a CDTConfig."
            )
        return (
            super()
            .osrl(task, cost_limit, seed)
            .replace(target_return=targets[cost_limit], degree=degree, ceiling=ceiling, decrease=decrease)
        )


def to_go(values: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """(N,) float32 sum of the values from each step to the end of its episode.

    >>> to_go(np.array([1.0, 2.0, 3.0]), np.array([0, 2]), np.array([2, 1])).tolist()
    [3.0, 2.0, 3.0]
    """
    total = np.cumsum(values, dtype=np.float64)
    ends = np.repeat(total[starts + lengths - 1], lengths)
    rest: np.ndarray = (ends - total + values).astype(np.float32)
    return rest


def frontier(returns: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Indices, by rising cost, of the episodes that no other one beats: more return than all that cost no more.

    >>> frontier(returns=np.array([5.0, 4.0, 9.0]), costs=np.array([1.0, 2.0, 3.0])).tolist()
    [0, 2]
    """
    order = np.lexsort((-returns, costs))
    best = np.maximum.accumulate(returns[order])
    return order[np.diff(best, prepend=-np.inf) > 0]


def made_up(
    returns: np.ndarray,
    costs: np.ndarray,
    *,
    share: float,
    degree: int,
    ceiling: float,
    decrease: float,
    generator: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of cost and return beyond the data's frontier, each with an episode to imitate (CDT's augmentation).

    Args:
        returns: (E,), of the episodes.
        costs: (E,).
        share: number of pairs over E.
        degree: of the polynomial that is fitted to the frontier.
        ceiling: largest return.
        decrease: an episode that comes up again is replaced by one that costs no more and earns at most so much less,
            the nearer the likelier.
        generator: of the returns, and of the replacements.

    Returns:
        (K,) each: the episode nearest in cost and return of those that cost no more, the return, and the cost.

    Example:
        >>> settings = dict(share=0.1, degree=2, ceiling=1500.0, decrease=100.0, generator=np.random.default_rng(0))
        >>> episodes, returns, costs = made_up(data.returns, data.episode_costs, **settings)
        >>> len(episodes)  # a tenth of the 644
        64
    """
    best = frontier(returns, costs)
    fit = np.polynomial.Polynomial.fit(costs[best], returns[best], min(degree, len(best) - 1))
    asked_costs = np.linspace(costs.min(), costs.max(), int(share * len(costs)))
    low = fit(asked_costs) + 1  # OSRL's min_reward
    asked_returns = generator.uniform(low, np.maximum(low, ceiling))
    chosen: list[int] = []
    for cost, gain in zip(asked_costs, asked_returns, strict=True):
        distance = np.where(costs <= cost, np.hypot(costs - cost, returns - gain), np.inf)
        nearest = int(distance.argmin())
        if nearest in chosen:
            near = (costs <= costs[nearest]) & (returns >= returns[nearest] - decrease)
            likely = near / (1 + np.hypot(costs - costs[nearest], returns - returns[nearest]))
            nearest = int(generator.choice(len(costs), p=likely / likely.sum()))
        chosen.append(nearest)
    return np.array(chosen, dtype=np.int64), asked_returns, asked_costs


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the entries where the mask is set: (N, K, A), (N, K) -> ().

    >>> masked_mean(torch.tensor([[[1.0], [5.0]]]), torch.tensor([[True, False]]))
    tensor(1.)
    """
    if values.device.type == "cpu":
        return values[mask].mean()
    # Choosing entries would make the host wait for their number.
    return (values * mask.unsqueeze(-1)).mean() * (mask.numel() / mask.sum())


class CDT(OfflineLearner):
    """One run of CDT."""

    algorithm = "cdt"
    Config = CDTConfig
    reads_next = False
    repeats = False  # the host sets each update's learning rate
    policy: DecisionTransformer

    def build(self, data: Trajectories) -> None:
        config = self.config
        shape = {name: getattr(config, name) for name in ("width", "layers", "heads", "dropout", "context")}
        self.policy = DecisionTransformer(*self.dims, self.horizon, reward_scale=config.reward_scale, **shape)
        # Episodes above sampling_cost are never drawn, so their returns are out of reach.
        within = keeps_limit(data.episode_costs, config.cost_limit) & (data.episode_costs < config.sampling_cost)
        if config.target_return is None and not within.any():
            raise ConfigError(
                f"no episode to take target_return from: none costs at most cost_limit={config.cost_limit:g} and less "
                f"than sampling_cost={config.sampling_cost:g}; the smallest cost is {data.episode_costs.min():g}. Set "
                f"target_return."
            )
        asked = config.target_return if config.target_return is not None else float(data.returns[within].max())
        self.policy.aim(asked, config.cost_limit)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(config.temperature)))
        self.to(self.device)
        weights = dict(lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)
        self.optimizers = {
            "policy": torch.optim.AdamW(self.policy.parameters(), **weights),
            "temperature": fused_adam([self.log_temperature], 1e-4),  # OSRL's rate
        }
        self._lay_out(data)

    def _lay_out(self, data: Trajectories) -> None:
        """Episodes with what is to go in them, the made-up pairs after the real ones."""
        config, key = self.config, np.random.SeedSequence(self.config.seed, spawn_key=(AUGMENT,))
        episodes, returns, costs = made_up(
            data.returns,
            data.episode_costs,
            share=config.augment,
            degree=config.degree,
            ceiling=data.returns.max() if config.ceiling is None else config.ceiling,
            decrease=config.decrease,
            generator=np.random.default_rng(key),
        )
        episodes = np.concatenate([np.arange(len(data.starts)), episodes])
        returns, costs = np.concatenate([data.returns, returns]), np.concatenate([data.episode_costs, costs])
        chance = np.maximum(0, config.sampling_cost - costs)
        if not chance.any():
            raise ConfigError(f"every episode costs sampling_cost={config.sampling_cost:g} or more: raise it.")
        arrays = {
            "starts": data.starts[episodes],
            "lengths": data.lengths[episodes],
            "chance": chance.astype(np.float32),
            "return_shift": ((returns - data.returns[episodes]) * config.reward_scale).astype(np.float32),
            "cost_shift": (costs - data.episode_costs[episodes]).astype(np.float32),
        }
        self.episodes = {name: torch.as_tensor(array, device=self.device) for name, array in arrays.items()}
        for name, values in (("returns", data.rewards * np.float32(config.reward_scale)), ("cost_to_go", data.costs)):
            self.data[name] = torch.as_tensor(to_go(values, data.starts, data.lengths), device=self.device)

    def batch(self) -> dict[str, Tensor]:
        """Windows of `context` steps from a random start on; `mask` is 0 beyond the end of the episode."""
        which = torch.multinomial(self.episodes["chance"], self.config.batch_size, replacement=True)
        drawn = {name: values[which].unsqueeze(1) for name, values in self.episodes.items()}
        start = (torch.rand(which.shape, device=self.device).unsqueeze(1) * drawn["lengths"]).long()
        times = start + torch.arange(self.config.context, device=self.device)
        mask, times = times < drawn["lengths"], torch.minimum(times, drawn["lengths"] - 1)
        rows = drawn["starts"] + times
        batch = {name: self.data[name][rows] for name in ("observations", "actions", "costs")}
        batch["returns"] = self.data["returns"][rows] + drawn["return_shift"]
        batch["cost_to_go"] = self.data["cost_to_go"][rows] + drawn["cost_shift"]
        return batch | {"mask": mask, "times": times}

    def update(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        config, mask = self.config, batch["mask"]
        names = ("observations", "actions", "returns", "cost_to_go", "times")
        predicted, logits = self.policy(*(batch[name] for name in names))
        log_prob = masked_mean(predicted.log_prob(batch["actions"]), mask)
        entropy = masked_mean(predicted.entropy(), mask)
        costly = (batch["costs"] > 0).long()
        cost_loss = (F.cross_entropy(logits.flatten(0, 1), costly.flatten(), reduction="none") * mask.flatten()).mean()
        temperature = self.log_temperature.exp()
        policy_loss = -(log_prob + temperature.detach() * entropy)
        for group in self.optimizers["policy"].param_groups:
            group["lr"] = config.learning_rate * min(1.0, self.step / max(1, config.warmup_steps))
        descend(self.optimizers["policy"], policy_loss + config.cost_weight * cost_loss, config.clip)
        # OSRL's target entropy: minus the number of dimensions, for the mean over them.
        descend(self.optimizers["temperature"], temperature * (entropy.detach() + self.dims[1]))
        accuracy = ((logits.argmax(-1) == costly) * mask).sum() / mask.sum()
        losses = {"policy_loss": policy_loss, "log_prob": log_prob, "entropy": entropy, "cost_loss": cost_loss}
        return losses | {"cost_accuracy": accuracy, "temperature": temperature}


def cdt(data: Trajectories, config: CDTConfig | Sequence[CDTConfig], **options: Any) -> Any:
    """Train CDT: takes what `trac.train` takes, with its own config.

    >>> config = CDTConfig(task="BallRun", cost_limit=20, steps=2, batch_size=2, eval_episodes=0)
    >>> cdt(data, config, progress=False).policy.act(data.observations[0]).shape
    (2,)
    """
    return train_offline(CDT, data, config, **options)
