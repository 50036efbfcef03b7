"""Intervals, summaries and differences over seeds."""

import numpy as np
import pandas as pd
import pytest

from trac.statistics import differences, interval, summarize


def test_the_interval_covers_the_mean_as_often_as_it_says():
    generator = np.random.default_rng(0)
    trials = generator.exponential(size=(400, 40))
    covered = [low <= 1.0 <= high for low, high in (interval(row, resamples=1000) for row in trials)]
    assert 0.88 < np.mean(covered) < 0.97  # a percentile bootstrap of a skewed mean falls a little short of 0.95


def test_the_interval_over_seeds_counts_their_spread():
    values = np.repeat([[0.0], [1.0], [2.0]], 50, axis=1)  # all spread lies between the seeds
    low, high = interval(values)
    assert low <= 0.4 and high >= 1.6
    low, high = interval(values.ravel())
    assert low > 0.8 and high < 1.2


def runs_of_two_settings():
    """Seeds far apart, and a change of exactly +0.1 / -0.5 in each."""
    base = pd.DataFrame({"task": "T", "alpha": 0.2, "seed": range(5)})
    base = base.assign(normalized_reward=base.seed / 5, normalized_cost=base.seed / 2)
    changed = base.assign(alpha=1.0, normalized_reward=base.normalized_reward + 0.1)
    changed["normalized_cost"] -= 0.5
    return pd.concat([base, changed.sample(frac=1, random_state=0)], ignore_index=True)


def test_a_summary_over_seeds_by_hand():
    table = summarize(runs_of_two_settings(), ["task", "alpha"]).set_index("alpha")
    assert table.loc[0.2, ["runs", "safe"]].tolist() == [5, 2] and table.loc[1.0, "safe"] == 3
    assert table.normalized_reward.tolist() == pytest.approx([0.4, 0.5])
    assert table.loc[0.2, "normalized_reward_low"] < 0.4 < table.loc[0.2, "normalized_reward_high"]


def test_differences_are_taken_within_each_seed():
    row = differences(runs_of_two_settings(), ["task"], "alpha", 0.2).iloc[0]
    assert row.alpha == 1.0 and row.runs == 5
    # The same in every seed, however far apart the seeds are: an interval of no width.
    assert row[["normalized_reward_low", "normalized_reward", "normalized_reward_high"]].tolist() == pytest.approx(
        [0.1] * 3
    )
    assert row[["normalized_cost_low", "normalized_cost", "normalized_cost_high"]].tolist() == pytest.approx([-0.5] * 3)


def test_a_setting_of_none_is_a_setting():
    runs = runs_of_two_settings().rename(columns={"alpha": "clamp"}).replace({"clamp": {1.0: None}})
    assert summarize(runs, ["task", "clamp"]).clamp.isna().tolist() == [False, True]
    (row,) = differences(runs, ["task"], "clamp", 0.2).to_dict("records")
    assert np.isnan(row["clamp"]) and row["runs"] == 5 and row["normalized_reward"] == pytest.approx(0.1)


def test_a_difference_without_its_baseline_is_refused():
    runs = runs_of_two_settings()
    with pytest.raises(ValueError, match="alpha=0.2 must have one run"):
        differences(runs.drop(index=3), ["task"], "alpha", 0.2)
    with pytest.raises(ValueError, match="alpha=0.3"):
        differences(runs, ["task"], "alpha", 0.3)
