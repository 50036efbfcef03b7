"""TracConfig: everything that can be varied in a run, in one flat, frozen dataclass."""

import dataclasses
import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from trac.partition import check_settings
from trac.tasks import check_name, get_task, suggestion


class ConfigError(ValueError):
    """Settings that are out of range, contradict each other, or do not fit the data."""


@dataclass(frozen=True)
class Settings:
    """What the configs of all methods can do: copies with changes, and plain values for JSON."""

    def __post_init__(self):
        """Raise ConfigError for a value that is not of its field's type. NumPy's numbers become Python's, for JSON."""
        for field in dataclasses.fields(self):
            value, (fits, wanted) = _plain(getattr(self, field.name)), _TYPES[field.type]
            if not fits(value):
                raise ConfigError(f"{field.name}={value!r} must be {wanted}.")
            object.__setattr__(self, field.name, value)

    def replace(self, **changes) -> Self:
        """A copy with some fields changed. Raises ConfigError for a name that is not a field."""
        names = [field.name for field in dataclasses.fields(self)]
        for name in changes:
            if name not in names:
                raise ConfigError(f"{name!r} is not a field of {type(self).__name__}: {suggestion(name, names)}")
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON: an infinite limit becomes the string "inf"."""
        values: dict[str, Any] = {name: list(v) if isinstance(v, tuple) else v for name, v in vars(self).items()}
        return values | {"cost_limit": "inf"} if math.isinf(values["cost_limit"]) else values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict()`."""
        return cls().replace(**(values | {"cost_limit": float(values["cost_limit"])}))


@dataclass(frozen=True)
class TracConfig(Settings):
    """Everything that can be varied in a run. The defaults are the book's quick settings; see `paper()`."""

    # problem
    task: str = "BallCircle"  # name in trac.TASKS, or a task of your own: the data's
    cost_limit: float = 20.0  # l [cost per episode]; inf: no constraint (needs bottom > 0)
    # partition
    top: float = 0.5  # x, share of the safe windows that is desirable
    bottom: float = 0.0  # y, share of the safe windows that is undesirable
    kappa: float = 0.7  # smallest weight of a safe window
    segment_ratio: float = 1.0  # L / T, window length over the longest episode
    sampling: str = "exact"  # "exact": every window once; "released": drawn with replacement
    level: str = "trajectory"  # "step": windows of one step, labelled by the step's own cost
    # score and loss
    alpha: float = 0.2  # temperature of the score
    gamma: float = 0.99  # discount inside a window
    eta: float = 0.25  # weight of the undesirable half against the desirable one
    use: str = "both"  # "desirable", "undesirable": mask the other half's loss term
    clamp: float | None = None  # 1e-6 repeats the released code's bound on σ(s)
    bc_coef: float = 0.0  # adds this times the cloning loss of the desirable windows to the second phase
    reference: str = "bc"  # "bc": the cloned policy; "initial": the untrained weights; "none": score without it
    init: str = "reference"  # second phase starts from the cloned weights; "fresh": from the untrained ones
    # policy
    policy: str = "deterministic"  # or "gaussian"
    hidden: tuple[int, ...] = (128, 128)  # widths of the hidden layers
    dropout: float = 0.25  # probability of dropping a hidden unit while training
    # optimisation
    batch_size: int = 16  # windows per update
    learning_rate: float = 1e-3  # Adam, first phase
    bc_steps: int = 2_000  # updates of the first phase
    steps: int = 4_000  # updates in all, cloning included
    warmup_steps: int = 200  # updates of linear warm-up in the second phase
    lr_multiplier: float = 0.1  # second phase's learning rate over the first's
    seed: int = 0
    # watching
    eval_every: int = 0  # updates between evaluations; 0: only at the end
    eval_episodes: int = 20  # per evaluation; 0: never evaluate
    log_every: int = 50  # updates per row of the history

    def __post_init__(self):
        super().__post_init__()
        check_name(self.task)
        check_settings(
            self.cost_limit, self.top, self.bottom, self.kappa, self.segment_ratio, self.sampling, self.level
        )
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name}={getattr(self, name)!r} must be one of {allowed}.")
        for name in ("batch_size", "steps", "log_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1.")
        for name in ("warmup_steps", "eval_every", "eval_episodes", "bc_coef", "eta", "seed", "bc_steps"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name}={getattr(self, name)} must be 0 or more, and finite.")
        for name in ("alpha", "learning_rate", "lr_multiplier"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name}={getattr(self, name)} must be above 0.")
        if not 0 < self.gamma <= 1:
            raise ConfigError(f"gamma={self.gamma} must lie in (0, 1].")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout={self.dropout} must lie in [0, 1).")
        if self.clamp is not None and not 0 < self.clamp < 0.5:
            raise ConfigError(f"clamp={self.clamp} must lie in (0, 0.5), or be None.")
        if self.bc_steps > self.steps:
            raise ConfigError(f"bc_steps={self.bc_steps} must be at most steps={self.steps}, which counts them.")

    @classmethod
    def paper(cls, task: str, cost_limit: float, seed: int = 0, *, segment_ratio: float | None = None) -> "TracConfig":
        """The released code's settings for this task, its sampling with replacement and its schedule included.

        The segment ratio is published for three tasks only; for the others it must be given.
        """
        settings = dict(get_task(task).paper)
        if segment_ratio is not None:
            settings["segment_ratio"] = segment_ratio
        if "segment_ratio" not in settings:
            raise ConfigError(
                f"the paper does not print its segment ratio for {task}: pass segment_ratio=, and say it was assumed."
            )
        every = 2_000 if get_task(task).suite == "metadrive" else 1_000
        return cls(
            task=task,
            cost_limit=cost_limit,
            seed=seed,
            sampling="released",
            clamp=1e-6,
            hidden=(256, 256),
            eval_every=every,
            **settings,
        )


_CHOICES = {
    "use": ("both", "desirable", "undesirable"),
    "reference": ("bc", "initial", "none"),
    "init": ("reference", "fresh"),
    "policy": ("deterministic", "gaussian"),
}


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


# By a field's type: what its values must fulfil, and the words for it.
_TYPES: dict[Any, tuple[Callable[[Any], bool], str]] = {
    str: (lambda value: isinstance(value, str), "a text"),
    bool: (lambda value: isinstance(value, bool), "True or False"),
    int: (_whole, "a whole number"),
    float: (_number, "a number"),
    float | None: (lambda value: value is None or _number(value), "a number or None"),
    tuple[int, ...]: (
        lambda value: isinstance(value, tuple) and all(_whole(width) and width >= 1 for width in value),
        "whole numbers above 0, such as (128, 128)",
    ),
    tuple[float, float, float]: (
        lambda value: isinstance(value, tuple) and len(value) == 3 and all(map(_number, value)),
        "three numbers",
    ),
}


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_plain(entry) for entry in value)
    return value.item() if isinstance(value, np.generic) else value
