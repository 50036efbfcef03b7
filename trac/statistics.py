"""Intervals, and what a setting does over seeds: tables of means and of paired differences."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike


def interval(values: ArrayLike, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean.

    Args:
        values: (E,) one mean over E episodes; or (S, E): episodes of S seeds, where the seeds are
            resampled first and then each seed's episodes.
        level: coverage.
        resamples: bootstrap draws.
        seed: of the resampling.
    """
    values = np.atleast_2d(np.asarray(values, dtype=np.float64))
    generator = np.random.default_rng(seed)
    seeds, size = values.shape
    means = np.empty(resamples)
    for start in range(0, resamples, 1000):
        rows = generator.integers(seeds, size=(1000, seeds, 1))
        columns = generator.integers(size, size=(1000, seeds, size))
        means[start : start + 1000] = values[rows, columns].mean((1, 2))[: resamples - start]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def summarize(runs: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """What a setting does: one row for each, over its seeds.

    Args:
        runs: one row for each run: seed, normalized_reward, normalized_cost and the columns of `by`.
        by: the columns that make a setting.

    Returns:
        The columns of `by`; runs, their number; safe, how many of them have a normalised cost below 1;
        the mean of both scores, and its 95 % bootstrap interval over seeds as `<score>_low`, `<score>_high`.
    """
    rows = []
    for keys, group in runs.groupby(list(by), sort=False, dropna=False):
        row = dict(zip(by, keys, strict=True)) | {"runs": len(group), "safe": int((group.normalized_cost < 1).sum())}
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
        One row for each other value, as from `summarize`, of the differences of both scores: an interval
        without 0 is a difference that the seeds do not explain.

    Raises:
        ValueError: there is no run at the baseline for some seed.
    """
    keys, scores = [*by, "seed"], ["normalized_reward", "normalized_cost"]
    base = runs[runs[setting] == baseline].set_index(keys)[scores]
    others = runs[runs[setting] != baseline].set_index(keys)
    missing = others.index.difference(base.index)
    if len(missing) or base.index.has_duplicates:
        raise ValueError(f"{setting}={baseline!r} must have one run for each of {keys}; wrong for {list(missing)[:3]}.")
    changed = others.assign(**(others[scores] - base.reindex(others.index))).reset_index()
    rows = [
        dict(zip([*by, setting], values, strict=True)) | {"runs": len(group)} | _means(group)
        for values, group in changed.groupby([*by, setting], sort=False, dropna=False)
    ]
    return pd.DataFrame(rows)


def _means(group: pd.DataFrame) -> dict[str, float]:
    row = {}
    for score in ("normalized_reward", "normalized_cost"):
        row[score] = group[score].mean()
        row[f"{score}_low"], row[f"{score}_high"] = interval(group[score])
    return row
