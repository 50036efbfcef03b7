"""TracConfig: everything that can be varied in a run, in one flat, frozen dataclass.

A setting is declared once: its type says which values it takes. pydantic reads the types.
"""

import dataclasses
import math
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Self, get_type_hints

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from trac.data.tasks import check_name, get_task, suggestion

Count = Annotated[int, Field(ge=1, lt=2**63)]
CountOrZero = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Widths = tuple[Count, ...]
STRICT = ConfigDict(strict=True)


class ConfigError(ValueError):
    """Settings that are out of range, contradict each other, or do not fit the data."""


class Settings:
    """What the configs of all methods are: frozen dataclasses that check themselves, with these fields among theirs.

    Online methods have no `log_every`.

    >>> config = trac.TracConfig(cost_limit=np.inf, bottom=0.25)  # a kind of Settings
    >>> config.to_dict()["cost_limit"], type(config).from_dict(config.to_dict()) == config
    ('inf', True)
    """

    task: str
    cost_limit: float
    seed: int
    steps: int
    eval_every: int
    eval_episodes: int
    log_every: int

    def __post_init__(self) -> None:
        """Raise ConfigError for a value that its field's type excludes. NumPy's numbers become Python's, for JSON."""
        cls: Any = type(self)
        for name, allowed in field_types(cls).items():
            object.__setattr__(self, name, checked(name, getattr(self, name), allowed))
        check_name(self.task)

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed. Raises ConfigError for a name that is not a field.

        >>> trac.TracConfig(cost_limit=20).replace(alpha=0.5, seed=1).alpha
        0.5
        """
        cls: Any = type(self)
        for name in changes:
            if name not in field_types(cls):
                known = suggestion(name, field_types(cls))
                raise ConfigError(f"{name!r} is not a field of {cls.__name__}: {known}")
        return type(self)(**vars(self) | changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON: an infinite limit becomes the string "inf".

        >>> trac.TracConfig().to_dict()["hidden"]
        [128, 128]
        """
        values: dict[str, Any] = {name: list(v) if isinstance(v, tuple) else v for name, v in vars(self).items()}
        return values | {"cost_limit": "inf"} if math.isinf(values["cost_limit"]) else values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict()`.

        >>> trac.TracConfig.from_dict({"task": "BallRun", "cost_limit": "inf", "bottom": 0.25}).cost_limit
        inf
        """
        limit = {"cost_limit": float(values["cost_limit"])} if "cost_limit" in values else {}
        return cls().replace(**(values | limit))


@dataclass(frozen=True)
class TracConfig(Settings):
    """Everything that can be varied in a run. The defaults are the book's quick settings; see `paper()`.

    >>> config = trac.TracConfig(task="BallRun", cost_limit=20, alpha=0.5)
    >>> config.segment_ratio, config.replace(seed=1).seed
    (1.0, 1)
    >>> trac.TracConfig(top=2.0)
    Traceback (most recent call last):
    trac.config.ConfigError: top=2.0: must be less than or equal to 1.
    """

    # problem
    task: str = "BallCircle"  # name in trac.TASKS, or a task of your own: the data's
    cost_limit: Annotated[float, Field(ge=0)] = 20.0  # l [cost per episode]; inf: no constraint (needs bottom > 0)
    # partition
    top: PositiveShare = 0.5  # x, share of the safe segments that is desirable
    bottom: Share = 0.0  # y, share of the safe segments that is undesirable
    kappa: Share = 0.7  # smallest weight of a safe segment
    segment_ratio: PositiveShare = 1.0  # L / T, segment length over the longest episode
    sampling: Literal["exact", "released"] = "exact"  # "exact": every segment once; "released": with replacement
    level: Literal["trajectory", "step"] = "trajectory"  # "step": segments of one step, labelled by its own cost
    # score and loss
    alpha: Positive = 0.2  # temperature of the score
    gamma: PositiveShare = 0.99  # discount of each step inside a segment
    eta: NonNegative = 0.25  # weight of the undesirable class against the desirable one
    use: Literal["both", "desirable", "undesirable"] = "both"  # one alone: mask the other class's loss term
    clamp: Annotated[float, Field(gt=0, lt=0.5)] | None = None  # 1e-6 repeats the released code's bound on σ(s)
    bc_coef: NonNegative = 0.0  # adds this times the cloning loss of the desirable segments to the second phase
    reference: Literal["bc", "initial", "none"] = "bc"  # "initial": the untrained weights; "none": score without it
    init: Literal["reference", "fresh"] = "reference"  # second phase starts from the cloned or the untrained weights
    # policy
    policy: Literal["deterministic", "gaussian"] = "deterministic"  # "gaussian": learns a standard deviation, too
    hidden: Widths = (128, 128)  # widths of the hidden layers
    dropout: Dropout = 0.25  # probability of dropping a hidden unit while training
    # optimisation
    batch_size: Count = 16  # segments per update
    learning_rate: Positive = 1e-3  # of Adam in the first phase
    bc_steps: CountOrZero = 2_000  # updates of the first phase; 0: π_ref is untrained; as many as steps: cloning alone
    steps: Count = 4_000  # updates in all, cloning included
    warmup_steps: CountOrZero = 200  # updates of linear warm-up in the second phase, which may end within it
    lr_multiplier: Positive = 0.1  # second phase's learning rate over the first's
    seed: CountOrZero = 0  # of initial weights, batches and dropout; of the episodes that evaluate
    # watching
    eval_every: CountOrZero = 0  # updates between evaluations; 0: only at the end
    eval_episodes: CountOrZero = 20  # episodes per evaluation; 0: never evaluate
    log_every: Count = 50  # updates per row of the history

    def __post_init__(self) -> None:
        super().__post_init__()
        # 0.7 + 0.3 exceeds 1 by one rounding error in some orders of adding up.
        if self.top + self.bottom > 1 + 1e-9:
            total = self.top + self.bottom
            raise ConfigError(f"top + bottom = {total:g} is more than 1: a segment cannot be in both classes.")
        if math.isinf(self.cost_limit) and self.bottom == 0:
            raise ConfigError("cost_limit=inf makes every segment safe: set bottom above 0 to have undesirable ones.")
        if self.bc_steps > self.steps:
            raise ConfigError(f"bc_steps={self.bc_steps} must be at most steps={self.steps}, which counts them.")

    @classmethod
    def paper(cls, task: str, cost_limit: float, seed: int = 0, *, segment_ratio: float | None = None) -> "TracConfig":
        """The released code's settings for this task, its sampling with replacement and its schedule included.

        The segment ratio is published for three tasks only; for the others it must be given.

        >>> trac.TracConfig.paper("BallRun", cost_limit=20).steps
        100000
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


@cache
def field_types(cls: Any) -> dict[str, TypeAdapter[Any]]:
    """What each field of a config takes, by its name. Strict: no texts for numbers, no True for 1.

    >>> list(field_types(trac.TracConfig))[:4]
    ['task', 'cost_limit', 'top', 'bottom']
    """
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: TypeAdapter(hints[field.name], config=STRICT) for field in dataclasses.fields(cls)}


def checked(name: str, value: Any, allowed: TypeAdapter[Any]) -> Any:
    """The value in plain types, with a tuple for a list. Raises ConfigError, with the name, for what is not allowed.

    >>> checked("hidden", [64, 64], field_types(trac.TracConfig)["hidden"])
    (64, 64)
    """
    try:
        return allowed.validate_python(_plain(value))
    except ValidationError as error:
        first = error.errors()[0]
        entry = "".join(f"entry {index} " for index in first["loc"] if isinstance(index, int))
        reason = first["msg"].replace("Input should be", "must be").replace("Field required", "is missing")
        reason = reason.replace("a valid tuple", "a tuple, such as (64, 64)")
        raise ConfigError(f"{name}={_plain(value)!r}: {entry}{reason}.") from None


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_plain(entry) for entry in value)
    return value.item() if isinstance(value, np.generic) else value
