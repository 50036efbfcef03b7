"""Cut logged episodes into segments and call each one desirable, undesirable, or neither (paper, section 4.1)."""

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from trac.config import ConfigError, TracConfig
from trac.data.tasks import keeps_limit
from trac.data.trajectories import Trajectories

RELEASED_MAX_SEGMENTS = 10**6
NOTICEABLE = 0.1  # share of the episodes that are too short, above which a warning says so


class PartitionError(ConfigError):
    """Settings that leave one of the two classes empty on this data."""


@dataclass(frozen=True, eq=False)
class Segments:
    """The labelled segments; segments that belong to neither class are left out.

    Attributes:
        starts: (S,) int64, index of each segment's first transition in the flat arrays.
        length: number of steps L of every segment.
        labels: (S,) float32, 1 desirable, 0 undesirable.
        weights: (S,) float32 in [0, 1], the confidence in each label.
        episodes: (S,) int64, the episode that each segment lies in.
        returns: (S,) float64, undiscounted sum of rewards over the segment.
        costs: (S,) float64, undiscounted sum of costs over the segment.
        cost_limit: largest cost of a safe segment, l * L / T.
        total: number of segments cut, labelled or not.
        too_short: number of episodes shorter than L.
        too_short_unsafe: how many of those exceed the limit l.

    Example:
        >>> segments = trac.partition(data, cost_limit=20, segment_ratio=0.25)
        >>> segments.length, len(segments) == len(segments.labels), segments.cost_limit
        (25, True, 5.0)
    """

    starts: np.ndarray
    length: int
    labels: np.ndarray
    weights: np.ndarray
    episodes: np.ndarray
    returns: np.ndarray
    costs: np.ndarray
    cost_limit: float
    total: int
    too_short: int
    too_short_unsafe: int

    def __len__(self) -> int:
        return len(self.starts)

    def __repr__(self) -> str:
        desirable = int(self.labels.sum())
        text = (
            f"Segments(length {self.length}: {desirable} desirable, {len(self) - desirable} undesirable, "
            f"{self.total - len(self)} in neither class"
        )
        if self.too_short:
            text += f"; {self.too_short} episodes are too short, {self.too_short_unsafe} of them unsafe"
        return text + ")"


def partition(
    data: Trajectories,
    *,
    cost_limit: float,
    top: float = 0.5,
    bottom: float = 0.0,
    kappa: float = 0.7,
    segment_ratio: float = 1.0,
    sampling: str = "exact",
    level: str = "trajectory",
    seed: int = 0,
) -> Segments:
    """Label segments of the logged episodes.

    T is the data's longest episode (of a log cut into pieces, the longest piece, and the limit is then a piece's) and
    L = int(T * segment_ratio). A segment is safe when its cost is at most l * L / T. Safe segments are ranked by
    return: the best `top` are desirable, the worst `bottom` undesirable, the rest is dropped; every unsafe segment
    is undesirable. Weights follow the paper's equations: from kappa to 1 by return among safe segments, 1 for unsafe
    ones. The defaults are TracConfig's. Where more than a tenth of the episodes is shorter than L, and has no segment,
    a warning says so.

    Args:
        cost_limit: l, per episode; `inf` means no constraint and needs bottom > 0.
        top: x in (0, 1], share of the safe segments that is desirable (rounded up).
        bottom: y in [0, 1], share that is undesirable; x + y <= 1. Where rounding makes them overlap,
            undesirable wins.
        kappa: in [0, 1], the smallest weight of a safe segment.
        segment_ratio: L / T in (0, 1].
        sampling: "exact" takes every segment once. "released" repeats the released code: segments drawn
            with replacement by a `RandomState(seed)`, floor((T - L) / 6) for each episode.
        level: "trajectory", or "step": segments of one step, labelled by the step's own cost against
            l / T and ranked by its reward (segment_ratio is then not used).
        seed: of the released sampling.

    Raises:
        ConfigError: a setting is out of range.
        PartitionError: no segment exists, none is safe, none is undesirable.

    Example:
        >>> trac.partition(data, cost_limit=20)
        Segments(length 100: 112 desirable, 421 undesirable, 111 in neither class)
        >>> trac.partition(data, cost_limit=20, top=0.25, bottom=0.5)
        Segments(length 100: 56 desirable, 533 undesirable, 55 in neither class)
    """
    settings: dict[str, Any] = dict(cost_limit=cost_limit, top=top, bottom=bottom, kappa=kappa, seed=seed)
    settings |= dict(segment_ratio=segment_ratio, sampling=sampling, level=level)
    data.check()
    return segments_of(data, TracConfig(task=data.task, **settings))


def segments_of(data: Trajectories, config: TracConfig) -> Segments:
    """`partition` with the settings of a config.

    >>> segments_of(data, trac.TracConfig(task="BallRun", cost_limit=20, segment_ratio=0.5)).length
    50
    """
    cost_limit, horizon = config.cost_limit, int(data.lengths.max())
    top, bottom, kappa, segment_ratio = config.top, config.bottom, config.kappa, config.segment_ratio
    # A trifle more, below less: 0.29 * 100 is 28.999999999999996, and 0.55 * 100 is 55.00000000000001.
    length = 1 if config.level == "step" else int(horizon * segment_ratio * (1 + 1e-12))
    if length < 1:
        raise PartitionError(
            f"segment_ratio={segment_ratio:g} of {horizon} steps is less than one step. Use at least {1 / horizon:.3g}."
        )
    if config.sampling == "exact":
        starts, episodes = every_segment(data, length)
    else:
        starts, episodes = _released_segments(data, length, horizon, config.seed)
    returns, costs = (_segment_sums(data, values, starts, length) for values in (data.rewards, data.costs))

    threshold = cost_limit if math.isinf(cost_limit) else cost_limit * length / horizon
    short = data.lengths < length
    too_short, too_short_unsafe = int(short.sum()), int((~keeps_limit(data.episode_costs[short], cost_limit)).sum())

    lost = (
        f"{too_short} of {len(short)} episodes, {too_short_unsafe} of them unsafe, are shorter than {length} steps and "
        f"have no segment: lower segment_ratio, or mark an end that is missing inside episode {data.lengths.argmax()}, "
        f"the longest with its {horizon} steps"
    )

    def advised(advice: str) -> str:
        return f"{lost}, or {advice}" if too_short else advice[0].upper() + advice[1:]

    safe = np.flatnonzero(keeps_limit(costs, threshold))
    if len(safe) == 0:
        raise PartitionError(
            f"no segment is safe: the limit {cost_limit:g} allows a cost of {threshold:g} in {length} steps, and the "
            f"smallest cost of a segment is {costs.min():g}. "
            + advised(f"raise cost_limit to at least {costs.min() * horizon / length:g}.")
        )
    ranked = safe[np.argsort(returns[safe], kind="stable")]
    labels = np.zeros(len(starts), dtype=np.float32)
    labels[safe] = -1
    labels[ranked[len(ranked) - math.ceil(top * len(ranked) * (1 - 1e-12)) :]] = 1
    labels[ranked[: math.ceil(bottom * len(ranked) * (1 - 1e-12))]] = 0
    if not (labels == 0).any():
        lower = f"lower cost_limit below {costs.max() * horizon / length:g}, or " if costs.max() > 0 else ""
        raise PartitionError(
            f"no segment is undesirable: none costs more than {threshold:g} and bottom is 0. "
            + advised(f"{lower}set bottom above 0 to make the safe segments of lowest return undesirable.")
        )
    if not (labels == 1).any():
        raise PartitionError(
            f"no segment is desirable: the bottom share took all {len(ranked)} safe segments. "
            + advised(f"lower bottom={bottom:g}.")
        )

    weights = np.ones(len(starts))
    low, high = returns[safe].min(), returns[safe].max()
    if high > low:
        rank = (returns[safe] - low) / (high - low)
        weights[safe] = (1 - kappa) * np.where(labels[safe] == 1, rank, 1 - rank) + kappa
    else:
        warnings.warn(
            f"all {len(safe)} safe segments have the same return {low:g}: their weights are set to 1.", stacklevel=3
        )

    if too_short > NOTICEABLE * len(short):
        warnings.warn(f"{lost}.", stacklevel=3)
    keep = labels >= 0
    return Segments(
        starts=starts[keep],
        length=length,
        labels=labels[keep],
        weights=weights[keep].astype(np.float32),
        episodes=episodes[keep],
        returns=returns[keep],
        costs=costs[keep],
        cost_limit=threshold,
        total=len(starts),
        too_short=too_short,
        too_short_unsafe=too_short_unsafe,
    )


def every_segment(data: Trajectories, length: int) -> tuple[np.ndarray, np.ndarray]:
    """First transition and episode of every segment of that length, in their order: (S,), (S,) int64.

    >>> starts, episodes = every_segment(data, 99)  # two in each episode of 100 steps
    >>> starts[:4].tolist(), episodes[:4].tolist()
    ([0, 1, 100, 101], [0, 0, 1, 1])
    """
    counts = np.maximum(data.lengths - length + 1, 0)
    episodes = np.repeat(np.arange(len(counts)), counts)
    offsets = np.arange(len(episodes)) - np.repeat(np.cumsum(counts) - counts, counts)
    return data.starts[episodes] + offsets, episodes


def _released_segments(data: Trajectories, length: int, horizon: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    long_enough = np.flatnonzero(data.lengths >= length)
    number = len(long_enough)
    if length < horizon:
        number = min((horizon - length) // 6 * len(data.lengths), RELEASED_MAX_SEGMENTS)
    if number == 0:
        raise PartitionError(
            f"the released sampling draws floor((T - L) / 6) segments for each episode: none for T={horizon}, "
            f'L={length}. Use a smaller segment_ratio, a ratio of 1, or sampling="exact".'
        )
    generator = np.random.RandomState(seed)
    episodes = generator.choice(long_enough, size=number, replace=True)
    offsets = generator.randint(0, data.lengths[episodes] - length + 1)
    return data.starts[episodes] + offsets, episodes


def check_segments(data: Trajectories, segments: Segments, cost_limit: float) -> None:
    """Raise PartitionError for segments that were not cut from these trajectories for that limit of an episode's cost.

    Also for labels that are none.

    >>> check_segments(data, trac.partition(data, cost_limit=20), 20)
    >>> check_segments(trac.load("BallCircle"), trac.partition(data, cost_limit=20), 20)
    Traceback (most recent call last):
    trac.partition.PartitionError: segment 433 is of none of the log's 528 episodes: cut segments from this log.
    """
    starts, episodes, length = segments.starts, segments.episodes, segments.length
    for name in ("starts", "episodes", "labels", "weights", "returns", "costs"):
        if (shape := np.shape(getattr(segments, name))) != (len(segments),) or not len(segments):
            raise PartitionError(f"segments.{name} has shape {shape}: it must have one entry for each segment.")
    if np.isin(segments.labels, (0, 1), invert=True).any():
        raise PartitionError("each label of a segment must be 1, desirable, or 0, undesirable.")
    if not (np.isfinite(segments.weights) & (segments.weights >= 0)).all():
        raise PartitionError("each weight of a segment must be a finite number, 0 or more.")

    def refuse(wrong: np.ndarray, what: str) -> None:
        if wrong.any():
            raise PartitionError(f"segment {wrong.argmax()} {what}: cut segments from this log.")

    refuse((episodes < 0) | (episodes >= len(data.starts)), f"is of none of the log's {len(data.starts)} episodes")
    first = data.starts[episodes]
    outside = (starts < first) | (starts + length > first + data.lengths[episodes]) | (length < 1)
    refuse(outside, "does not lie within its episode")
    for name, values in (("costs", data.costs), ("returns", data.rewards)):
        sums, given = _segment_sums(data, values, starts, length), getattr(segments, name)
        # Close, because sums of one's own may be rounded in another order.
        near = np.isclose(given, sums, rtol=1e-4, atol=1e-4 * np.abs(sums).max())
        refuse(~near, f"has other {name} than its steps in the log")
    scale = length / int(data.lengths.max())
    if not np.isclose(segments.cost_limit, cost_limit * scale, rtol=1e-6):
        raise PartitionError(
            f"the config's cost_limit is {cost_limit:g}, and the segments are labelled for "
            f"{segments.cost_limit / scale:g}: give each config the segments of its own limit."
        )


def _segment_sums(data: Trajectories, values: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    # The sum so far begins anew in each episode: beside one huge value the others would be rounded away.
    before = np.zeros(len(values))
    for start, steps in zip(data.starts, data.lengths, strict=True):
        np.cumsum(values[start : start + steps - 1], dtype=np.float64, out=before[start + 1 : start + steps])
    last = starts + length - 1
    sums: np.ndarray = before[last] + values[last] - before[starts]
    return sums
