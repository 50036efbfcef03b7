"""Intervals, what is safe, and what a setting does over seeds: tables of means and of paired differences.

Over the episodes of one policy: `bootstrap_interval`. Over seeds, which are few: `t_interval`.
"""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from trac.config import TracConfig, field_types
from trac.data.tasks import keeps_limit


def bootstrap_interval(
    values: ArrayLike, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over the episodes of one policy.

    It is about this policy, not about a method that is trained again: for that, over seeds, there is `t_interval`. It
    needs some twenty values or more, which may be the tasks of a table as well. Of five normal values it misses the
    mean in some 16 % of the cases, of three in 24 %.

    Args:
        values: (E,) one for each episode.
        level: coverage that it comes near to.
        resamples: bootstrap draws.
        seed: of the resampling.

    Raises:
        ValueError: the values are not in one row, or there are none; the level is not between 0 and 1; there are
            fewer than 100 resamples.

    Returns:
        Both ends; NaN for a single value, which says nothing of the spread.

    Example:
        >>> low, high = bootstrap_interval(np.arange(20))
        >>> low < 9.5 < high
        True
    """
    values = _row(values, level)
    if resamples < 100:
        raise ValueError(f"resamples={resamples} must be at least 100.")
    if len(values) == 1:
        return float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    for start in range(0, resamples, 1000):
        picks = generator.integers(len(values), size=(1000, len(values)))
        means[start : start + 1000] = values[picks].mean(1)[: resamples - start]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def t_interval(values: ArrayLike, *, level: float = 0.95) -> tuple[float, float]:
    """Student's t interval of the mean over seeds: mean ± t_(S-1) sd / √S.

    It has its level where the values are normal, however few they are. Where they are not, as with costs that are 0 in
    most runs, it is an approximation; an end may lie below a cost of 0, and runs that all agree have no width.

    Args:
        values: (S,) one for each training run, the mean of its episodes; or the paired difference of each seed.
        level: coverage.

    Returns:
        Both ends; NaN for a single value, which says nothing of the spread.

    Raises:
        ValueError: the values are not in one row, or there are none; the level is not between 0 and 1.

    Example:
        >>> low, high = t_interval([0.4, 0.5, 0.6])
        >>> round(low, 2), round(high, 2)
        (0.25, 0.75)
    """
    values = _row(values, level)
    if len(values) == 1:
        return float("nan"), float("nan")
    half = float(stdtrit(len(values) - 1, (1 + level) / 2)) * values.std(ddof=1) / len(values) ** 0.5
    return float(values.mean() - half), float(values.mean() + half)


def betting_wealth(values: ArrayLike, mean: float, *, highest: float, bets: int = 20) -> np.ndarray:
    """What a bettor against "the mean is at most `mean`" owns after each value, from a stake of 1.

    A fair game if that is so: the wealth ever reaches 1/δ with a probability of at most δ, however often one looks and
    whenever one stops, and whatever the distribution (Ville's inequality). So wealth of 20 or more is evidence at 5 %
    that the mean is higher. For evidence that it is lower, bet on `highest - values` against `highest - mean`.

    The stake is shared out equally over bets of λ = k / ((bets + 1) mean), k = 1..bets, each of which multiplies its
    share by 1 + λ (value - mean): "diversified Kelly betting" of Waudby-Smith and Ramdas, Estimating means of bounded
    random variables by betting (2024).

    Args:
        values: (..., N) in the order in which they came, between 0 and `highest`.
        mean: of what is bet against, between 0 and `highest`, both excluded.
        highest: the largest value that is possible, not the largest seen.
        bets: number of bets.

    Returns:
        (..., N) wealth after each value.

    Raises:
        ValueError: a value is outside of 0 to `highest`, or `mean` is not inside; there is no bet.

    Example:
        >>> betting_wealth([1, 1, 0, 1], 0.5, highest=1).round(2).tolist()
        [1.5, 2.33, 0.94, 1.34]
    """
    values = np.asarray(values, dtype=np.float64)
    if not isinstance(bets, Integral) or bets < 1:
        raise ValueError(f"bets={bets} must be a whole number, at least 1.")
    if not 0 < mean < highest < np.inf:
        raise ValueError(f"mean={mean} must lie between 0 and highest={highest}, which must be finite.")
    if not ((values >= 0) & (values <= highest)).all():
        raise ValueError(f"each value must be a number from 0 to highest={highest}.")
    fractions = np.arange(1, bets + 1) / (bets + 1) / mean
    growth = np.log1p(fractions * (values[..., None] - mean)).cumsum(-2)
    return np.asarray(np.exp(np.logaddexp.reduce(growth, axis=-1) - np.log(bets)))


def safe(normalized_cost: ArrayLike) -> Any:
    """Whether a mean normalised cost is at most 1, which is the limit; elementwise, False for NaN.

    The paper and DSRL write "below 1". It is the same but for a mean of just 1: that keeps the limit here, such as
    no cost at all under the limit 0.

    >>> safe([0.5, 1.0, 1.1, np.nan]).tolist()
    [True, True, False, False]
    """
    return keeps_limit(np.asarray(normalized_cost), 1.0)


def summarize(runs: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """What a setting does: one row for each, over its seeds.

    Args:
        runs: one row for each run: seed, normalized_reward, normalized_cost and the columns of `by`.
        by: the columns that make a setting. Other columns named like a field of `trac.TracConfig` have one value in it.

    Returns:
        The columns of `by`; runs, their number; safe, how many of them are (`safe`); the mean of
        both scores, and its 95 % Student's t interval over seeds as `<score>_low`, `<score>_high` (`t_interval`).

    Raises:
        ValueError: a column is missing, a seed has several rows in one setting, or a run has no score; runs of one
            setting differ in a field of `trac.TracConfig`; the rows are episodes.

    Example:
        >>> scores = dict(normalized_reward=[0.4, 0.6], normalized_cost=[0.5, 1.5])
        >>> runs = pd.DataFrame(dict(alpha=0.2, seed=[0, 1], **scores))
        >>> summarize(runs, ["alpha"])[["alpha", "runs", "safe", "normalized_reward"]].values.tolist()
        [[0.2, 2.0, 1.0, 0.5]]
    """
    by, rows = _names(by), []
    for keys, group in _checked(runs, by).groupby(by, sort=False, dropna=False):
        row = dict(zip(by, keys, strict=True)) | {"runs": len(group), "safe": int(safe(group.normalized_cost).sum())}
        rows.append(row | _means(group))
    return pd.DataFrame(rows)


def differences(runs: pd.DataFrame, by: Sequence[str], setting: str, baseline: Any) -> pd.DataFrame:
    """What changing one setting does, seed by seed: a run against the run of the same seed at the baseline.

    Args:
        runs: see `summarize`.
        by: columns in which the two runs agree, such as the task.
        setting: the column that differs.
        baseline: its value in the runs that are subtracted.

    Returns:
        One row for each other value, as from `summarize`, of the differences of both scores. The interval is
        the paired t test's: without 0, the test says at 5 % that the setting does something.

    Raises:
        ValueError: there is no run at the baseline for some seed; see also `summarize`.

    Example:
        >>> scores = dict(normalized_reward=[0.4, 0.5, 0.6, 0.9], normalized_cost=1.0)
        >>> runs = pd.DataFrame(dict(task="BallRun", alpha=[0.2, 0.2, 0.5, 0.5], seed=[0, 1, 0, 1], **scores))
        >>> table = differences(runs, ["task"], "alpha", 0.2)
        >>> table.normalized_reward.round(2).tolist(), table.runs.tolist()  # the mean of 0.2 and 0.4
        ([0.3], [2])
    """
    by = _names(by)
    keys, scores, runs = [*by, "seed"], ["normalized_reward", "normalized_cost"], _checked(runs, [*by, setting])
    at_baseline = runs[setting].isna() if pd.isna(baseline) else runs[setting] == baseline
    base, others = runs[at_baseline].set_index(keys)[scores], runs[~at_baseline].set_index(keys)
    if not len(others):
        raise ValueError(f"every run has {setting}={baseline!r}: there is no other value to compare with it.")
    missing = others.index.difference(base.index)
    if len(missing):
        raise ValueError(f"{setting}={baseline!r} must have one run for each of {keys}; wrong for {list(missing)[:3]}.")
    changed = others.assign(**(others[scores] - base.reindex(others.index))).reset_index()
    rows = [
        dict(zip([*by, setting], values, strict=True)) | {"runs": len(group)} | _means(group)
        for values, group in changed.groupby([*by, setting], sort=False, dropna=False)
    ]
    return pd.DataFrame(rows)


def _names(by: Sequence[str]) -> list[str]:
    return [by] if isinstance(by, str) else list(by)


def _means(group: pd.DataFrame) -> dict[str, float]:
    row = {}
    for score in ("normalized_reward", "normalized_cost"):
        row[score] = group[score].mean()
        row[f"{score}_low"], row[f"{score}_high"] = t_interval(group[score])
    return row


def _checked(runs: pd.DataFrame, settings: Sequence[str]) -> pd.DataFrame:
    """The table, if it has one row for each seed of a setting, and its scores."""
    needed = [*settings, "seed", "normalized_reward", "normalized_cost"]
    if missing := [name for name in needed if name not in runs]:
        raise ValueError(f"the table has no column {', '.join(missing)}; it has {', '.join(map(str, runs))}.")
    if not len(runs):
        raise ValueError("the table has no rows.")
    # Those of `Evaluation.episodes`: their seeds are drawn from 32 bits.
    if {"return", "cost", "length"} <= set(runs) and pd.to_numeric(runs.seed, errors="coerce").median() > 1e6:
        raise ValueError(
            "these rows are episodes, each with the simulator's seed: make one row of each run, with the run's own "
            "seed and the means of its episodes."
        )
    keys = needed[: len(settings) + 1]
    if not settings or runs.seed.isna().any():
        raise ValueError("name a column that makes a setting." if not settings else "a run has no seed.")
    twice = runs[runs.duplicated(keys)]
    if len(twice):
        named = ", ".join(f"{name}={twice[name].iloc[0]}" for name in keys)
        raise ValueError(
            f"{named} has more than one row, and a seed counts once: choose among them first, such "
            f"as the rows of the last model, or name the column in which they differ."
        )
    for name in field_types(TracConfig).keys() & set(runs) - {*settings, "seed"}:
        values = runs[name].map(str)  # hidden's are lists
        if (values.groupby([runs[setting] for setting in settings], dropna=False).nunique() > 1).any():
            raise ValueError(f"{name} differs between runs of one setting: choose one of its values, or name it, too.")
    if not pd.api.types.is_numeric_dtype(runs.seed):
        raise ValueError(f"seed holds {runs.seed.dtype}, where 0 and '0' are two: make numbers of it, by astype(int).")
    for score in needed[-2:]:
        if not pd.api.types.is_numeric_dtype(runs[score]):
            raise ValueError(f"{score} holds {runs[score].dtype}: make numbers of it, by astype(float).")
        absent = runs[score].isna()
        # Without a constraint no run has a normalised cost.
        if (absent.groupby([runs[name] for name in settings], dropna=False).nunique() > 1).any():
            raise ValueError(f"{score} is missing in row {absent.idxmax()}: leave that run out, and say so.")
    return runs


def _row(values: ArrayLike, level: float) -> np.ndarray:
    if not 0 < level < 1:
        raise ValueError(f"level={level} must lie between 0 and 1, such as 0.95.")
    if np.ma.is_masked(values):
        raise ValueError("some of the values are masked: pass those that count, as values.compressed().")
    row = np.asarray(values, dtype=np.float64)
    if row.ndim != 1 or not len(row):
        raise ValueError(
            f"an interval needs one row of values, not an array of shape {row.shape}: of several runs' episodes take "
            f"the mean of each run first."
        )
    return row
