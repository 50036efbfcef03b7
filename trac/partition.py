"""Cut logged episodes into windows and call each one desirable, undesirable, or neither (paper, section 4.1)."""

import math
import warnings
from dataclasses import dataclass
from numbers import Real

import numpy as np

from trac.trajectories import Trajectories

RELEASED_MAX_WINDOWS = 10**6


class PartitionError(ValueError):
    """Partition settings that are out of range, or that leave one of the two halves empty."""


@dataclass(frozen=True, eq=False)
class Segments:
    """The labelled windows; windows that belong to neither half are left out.

    Attributes:
        starts: (W,) int64, index of each window's first transition in the flat arrays.
        length: number of steps L of every window.
        labels: (W,) float32, 1 desirable, 0 undesirable.
        weights: (W,) float32 in [0, 1], the confidence in each label.
        episodes: (W,) int64, the episode that each window lies in.
        returns: (W,) float64, undiscounted sum of rewards over the window.
        costs: (W,) float64, undiscounted sum of costs over the window.
        cost_limit: largest cost of a safe window, l * L / T.
        windows: number of windows cut, labelled or not.
        too_short: number of episodes shorter than L.
        too_short_unsafe: how many of those exceed the limit l.
    """

    starts: np.ndarray
    length: int
    labels: np.ndarray
    weights: np.ndarray
    episodes: np.ndarray
    returns: np.ndarray
    costs: np.ndarray
    cost_limit: float
    windows: int
    too_short: int
    too_short_unsafe: int

    def __len__(self) -> int:
        return len(self.starts)

    def __repr__(self) -> str:
        desirable = int(self.labels.sum())
        text = (
            f"Segments(length {self.length}: {desirable} desirable, {len(self) - desirable} undesirable, "
            f"{self.windows - len(self)} in neither half"
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
    """Label windows of the logged episodes.

    T is the longest episode and L = int(T * segment_ratio). A window is safe when its cost is at most
    l * L / T. Safe windows are ranked by return: the best `top` are desirable, the worst `bottom`
    undesirable, the rest is dropped; every unsafe window is undesirable. Weights follow the paper's
    equations: from kappa to 1 by return among safe windows, 1 for unsafe ones. The defaults are TracConfig's.

    Args:
        cost_limit: l, per episode; `inf` means no constraint and needs bottom > 0.
        top: x in (0, 1], share of the safe windows that is desirable (rounded up).
        bottom: y in [0, 1], share that is undesirable; x + y <= 1. Where rounding makes them overlap,
            undesirable wins.
        kappa: in [0, 1], the smallest weight of a safe window.
        segment_ratio: L / T in (0, 1].
        sampling: "exact" takes every window once. "released" repeats the released code: windows drawn
            with replacement by a `RandomState(seed)`, floor((T - L) / 6) for each episode.
        level: "trajectory", or "step": windows of one step, labelled by the step's own cost against
            l / T and ranked by its reward (segment_ratio is then not used).
        seed: of the released sampling.

    Raises:
        PartitionError: a setting is out of range, no window exists, none is safe, none is undesirable.
    """
    check_settings(cost_limit, top, bottom, kappa, segment_ratio, sampling, level)
    horizon = int(data.lengths.max())
    length = 1 if level == "step" else int(horizon * segment_ratio)
    if length < 1:
        raise PartitionError(
            f"segment_ratio={segment_ratio:g} of {horizon} steps is less than one step. Use at least {1 / horizon:.3g}."
        )
    if sampling == "exact":
        starts, episodes = _every_window(data, length)
    else:
        starts, episodes = _released_windows(data, length, horizon, seed)
    returns, costs = _window_sums(data.rewards, starts, length), _window_sums(data.costs, starts, length)

    threshold = cost_limit if math.isinf(cost_limit) else cost_limit * length / horizon
    short = data.lengths < length
    too_short, too_short_unsafe = int(short.sum()), int((data.episode_costs[short] > cost_limit).sum())

    def advised(advice: str) -> str:
        if not too_short:
            return advice[0].upper() + advice[1:]
        return (
            f"{too_short} of {len(short)} episodes, {too_short_unsafe} of them unsafe, are shorter than {length} steps "
            f"and have no window: lower segment_ratio, mark an end that is missing inside episode "
            f"{data.lengths.argmax()}, the longest with its {horizon} steps, or {advice}"
        )

    safe = np.flatnonzero(costs <= threshold)
    if len(safe) == 0:
        raise PartitionError(
            f"no window is safe: the limit {cost_limit:g} allows a cost of {threshold:g} in {length} steps, and the "
            f"smallest cost of a window is {costs.min():g}. "
            + advised(f"raise cost_limit to at least {costs.min() * horizon / length:g}.")
        )
    ranked = safe[np.argsort(returns[safe], kind="stable")]
    labels = np.full(len(starts), -1.0, dtype=np.float32)
    labels[costs > threshold] = 0
    labels[ranked[len(ranked) - math.ceil(top * len(ranked)) :]] = 1
    labels[ranked[: math.ceil(bottom * len(ranked))]] = 0
    if not (labels == 0).any():
        lower = f"lower cost_limit below {costs.max() * horizon / length:g}, or " if costs.max() > 0 else ""
        raise PartitionError(
            f"no window is undesirable: none costs more than {threshold:g} and bottom is 0. "
            + advised(f"{lower}set bottom above 0 to make the safe windows of lowest return undesirable.")
        )
    if not (labels == 1).any():
        raise PartitionError(
            f"no window is desirable: the bottom share took all {len(ranked)} safe windows. Lower bottom={bottom:g}."
        )

    weights = np.ones(len(starts))
    low, high = returns[safe].min(), returns[safe].max()
    if high > low:
        rank = (returns[safe] - low) / (high - low)
        weights[safe] = (1 - kappa) * np.where(labels[safe] == 1, rank, 1 - rank) + kappa
    else:
        warnings.warn(
            f"all {len(safe)} safe windows have the same return {low:g}: their weights are set to 1.", stacklevel=2
        )

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
        windows=len(starts),
        too_short=too_short,
        too_short_unsafe=too_short_unsafe,
    )


def check_settings(cost_limit, top, bottom, kappa, segment_ratio, sampling, level) -> None:
    """Raise PartitionError for settings that no data could make sense of."""
    numbers = dict(cost_limit=cost_limit, top=top, bottom=bottom, kappa=kappa, segment_ratio=segment_ratio)
    for name, value in numbers.items():
        if not isinstance(value, Real):
            raise PartitionError(f"{name}={value!r} must be a number.")
    if math.isnan(cost_limit) or cost_limit < 0:
        raise PartitionError(f"cost_limit={cost_limit} must be 0 or more, or inf for no constraint.")
    if not 0 < top <= 1:
        raise PartitionError(f"top={top} must lie in (0, 1]: without a desirable half there is nothing to learn.")
    if not 0 <= bottom <= 1:
        raise PartitionError(f"bottom={bottom} must lie in [0, 1].")
    # 0.7 + 0.3 exceeds 1 by one rounding error in some orders of adding up.
    if top + bottom > 1 + 1e-9:
        raise PartitionError(f"top + bottom = {top + bottom:g} is more than 1: a window cannot be in both halves.")
    if not 0 <= kappa <= 1:
        raise PartitionError(f"kappa={kappa} must lie in [0, 1].")
    if not 0 < segment_ratio <= 1:
        raise PartitionError(f"segment_ratio={segment_ratio} must lie in (0, 1].")
    if math.isinf(cost_limit) and bottom == 0:
        raise PartitionError("cost_limit=inf makes every window safe: set bottom above 0 to have an undesirable half.")
    if sampling not in ("exact", "released"):
        raise PartitionError(f"sampling={sampling!r} must be 'exact' or 'released'.")
    if level not in ("trajectory", "step"):
        raise PartitionError(f"level={level!r} must be 'trajectory' or 'step'.")


def _every_window(data: Trajectories, length: int) -> tuple[np.ndarray, np.ndarray]:
    counts = np.maximum(data.lengths - length + 1, 0)
    episodes = np.repeat(np.arange(len(counts)), counts)
    offsets = np.arange(len(episodes)) - np.repeat(np.cumsum(counts) - counts, counts)
    return data.starts[episodes] + offsets, episodes


def _released_windows(data: Trajectories, length: int, horizon: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    long_enough = np.flatnonzero(data.lengths >= length)
    number = len(long_enough)
    if length < horizon:
        number = min((horizon - length) // 6 * len(data.lengths), RELEASED_MAX_WINDOWS)
    if number == 0:
        raise PartitionError(
            f"the released sampling draws floor((T - L) / 6) windows for each episode: none for T={horizon}, "
            f'L={length}. Use a smaller segment_ratio, a ratio of 1, or sampling="exact".'
        )
    generator = np.random.RandomState(seed)
    episodes = generator.choice(long_enough, size=number, replace=True)
    offsets = generator.randint(0, data.lengths[episodes] - length + 1)
    return data.starts[episodes] + offsets, episodes


def _window_sums(values: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    total = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    return total[starts + length] - total[starts]
