"""Intervals over episodes and over seeds, what is safe, summaries and differences over seeds."""

import itertools
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from trac.statistics import betting_wealth, bootstrap_interval, differences, safe, summarize, t_interval


@pytest.mark.parametrize("count", [3, 5])
def test_over_few_seeds_students_t_has_its_level_and_the_bootstrap_has_not(count):
    trials = np.random.default_rng(0).standard_normal((2000, count))

    def coverage(interval):
        return np.mean([low <= 0 <= high for low, high in map(interval, trials)])

    assert abs(coverage(t_interval) - 0.95) < 0.015  # three standard errors of 2,000 trials
    assert coverage(lambda row: bootstrap_interval(row, resamples=400)) < 0.87


def test_over_twenty_episodes_the_bootstrap_nearly_has_its_level():
    trials = np.random.default_rng(0).exponential(size=(400, 40))
    covered = [low <= 1.0 <= high for low, high in (bootstrap_interval(row, resamples=1000) for row in trials)]
    assert 0.88 < np.mean(covered) < 0.97  # a percentile bootstrap of a skewed mean falls a little short of 0.95


def test_the_t_interval_is_that_of_the_t_test():
    values = np.array([0.1, 0.4, 0.2, 0.5, 0.9])
    for level in (0.9, 0.95):
        expected = stats.t.interval(level, 4, values.mean(), stats.sem(values))
        assert t_interval(values, level=level) == pytest.approx(expected)
    # By the table: 2.776 standard errors of 0.5, from the standard deviation sqrt(1.25).
    assert t_interval([1, 2, 2, 3, 4]) == pytest.approx(
        (2.4 - 2.776 * (1.3 / 5) ** 0.5, 2.4 + 2.776 * (1.3 / 5) ** 0.5), abs=1e-3
    )


def test_one_run_has_no_interval_and_equal_runs_one_without_width():
    assert np.isnan(t_interval([0.5])).all()
    assert t_interval([0.5] * 3) == (0.5, 0.5)


@pytest.mark.parametrize("interval", [bootstrap_interval, t_interval])
def test_an_interval_of_several_runs_episodes_is_refused(interval):
    for values, shape in ((np.zeros((5, 20)), "(5, 20)"), (0.5, "()"), ([], "(0,)")):
        with pytest.raises(ValueError, match=re.escape(f"shape {shape}")):
            interval(values)


def test_safe_is_at_most_the_limit():
    assert safe([0.0, 1.0, 1.001, np.nan]).tolist() == [True, True, False, False]
    costs = np.array([16, 13, 14, 7, 0])
    assert costs.mean() == 10 and (costs / 10).mean() > 1  # only by rounding
    assert safe((costs / 10).mean())


def runs_of_two_settings():
    """Seeds far apart, and a change of exactly +0.1 / -0.5 in each."""
    base = pd.DataFrame({"task": "T", "alpha": 0.2, "seed": range(5)})
    base = base.assign(normalized_reward=base.seed / 5, normalized_cost=base.seed / 2)
    changed = base.assign(alpha=1.0, normalized_reward=base.normalized_reward + 0.1)
    changed["normalized_cost"] -= 0.5
    return pd.concat([base, changed.sample(frac=1, random_state=0)], ignore_index=True)


def test_a_summary_over_seeds_by_hand():
    table = summarize(runs_of_two_settings(), ["task", "alpha"]).set_index("alpha")
    # Costs of 0, 0.5, 1, 1.5, 2 and half of the limit less: just the limit is safe.
    assert table.loc[0.2, ["runs", "safe"]].tolist() == [5, 3] and table.loc[1.0, "safe"] == 4
    assert table.normalized_reward.tolist() == pytest.approx([0.4, 0.5])
    ends = table.loc[0.2, ["normalized_reward_low", "normalized_reward_high"]]
    assert ends.tolist() == pytest.approx(stats.t.interval(0.95, 4, 0.4, stats.sem(np.arange(5) / 5)))


def test_differences_are_taken_within_each_seed():
    row = differences(runs_of_two_settings(), ["task"], "alpha", 0.2).iloc[0]
    assert row.alpha == 1.0 and row.runs == 5
    # The same in every seed, however far apart the seeds are: an interval of no width.
    assert row[["normalized_reward_low", "normalized_reward", "normalized_reward_high"]].tolist() == pytest.approx(
        [0.1] * 3
    )
    assert row[["normalized_cost_low", "normalized_cost", "normalized_cost_high"]].tolist() == pytest.approx([-0.5] * 3)


def test_differences_need_another_value():
    runs = runs_of_two_settings()
    with pytest.raises(ValueError, match=r"every run has alpha=0\.2: there is no other value"):
        differences(runs[runs.alpha == 0.2], ["task"], "alpha", 0.2)


def test_a_difference_without_0_in_its_interval_passes_the_paired_test():
    generator = np.random.default_rng(0)
    runs, verdicts = runs_of_two_settings(), []
    for shift in np.linspace(0, 0.4, 20):
        gap = shift + 0.2 * generator.standard_normal(5)
        changed = runs.alpha == 1.0
        base = runs[~changed].normalized_reward.to_numpy()
        runs.loc[changed, "normalized_reward"] = base[runs[changed].seed] + gap
        row = differences(runs, ["task"], "alpha", 0.2).iloc[0]
        p = stats.ttest_rel(runs[changed].sort_values("seed").normalized_reward, base).pvalue
        verdicts.append((row.normalized_reward_low > 0 or row.normalized_reward_high < 0, p < 0.05))
    assert all(found == passed for found, passed in verdicts)
    assert 0 < sum(found for found, _ in verdicts) < 20


def test_a_setting_of_none_is_a_setting():
    runs = runs_of_two_settings().rename(columns={"alpha": "clamp"}).replace({"clamp": {1.0: None}})
    assert summarize(runs, ["task", "clamp"]).clamp.isna().tolist() == [False, True]
    (row,) = differences(runs, ["task"], "clamp", 0.2).to_dict("records")
    assert np.isnan(row["clamp"]) and row["runs"] == 5 and row["normalized_reward"] == pytest.approx(0.1)


def test_a_baseline_of_none_is_one():
    runs = runs_of_two_settings().rename(columns={"alpha": "clamp"}).replace({"clamp": {1.0: None}})
    (row,) = differences(runs, ["task"], "clamp", None).to_dict("records")
    assert row["clamp"] == 0.2 and row["normalized_reward"] == pytest.approx(-0.1)


def test_a_difference_without_its_baseline_is_refused():
    runs = runs_of_two_settings()
    with pytest.raises(ValueError, match="alpha=0.2 must have one run"):
        differences(runs.drop(index=3), ["task"], "alpha", 0.2)
    with pytest.raises(ValueError, match="alpha=0.3"):
        differences(runs, ["task"], "alpha", 0.3)


RUNS = pd.DataFrame(
    {"alpha": [0.1] * 3 + [0.2] * 3, "seed": [0, 1, 2] * 2, "normalized_reward": np.linspace(0.5, 1, 6)}
).assign(normalized_cost=0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda runs: pd.concat([runs.assign(model=m) for m in ("last", "best")]),
            "alpha=0.1, seed=0 has more than one row",
        ),
        (lambda runs: pd.concat([runs, runs[runs.alpha == 0.2]]), "alpha=0.2, seed=0 has more than one row"),
        (lambda runs: runs.drop(columns="seed"), "no column seed; it has alpha"),
        (lambda runs: runs.assign(normalized_reward=runs.normalized_reward.where(runs.index != 4)), "missing in row 4"),
        (lambda runs: runs[:0], "the table has no rows"),
        (
            lambda runs: pd.concat([runs, runs.assign(seed=runs.seed.map(str))]),
            "seed holds object, where 0 and",
        ),
        (lambda runs: runs.assign(cost_limit=[10, 20, 20] * 2), "cost_limit differs between runs of one setting"),
        (lambda runs: runs.assign(steps=[4000, 4000, 8000] * 2), "steps differs between runs of one setting"),
        (lambda runs: runs.assign(clamp=[1e-6, None, None] * 2), "clamp differs between runs of one setting"),
        (lambda runs: runs.assign(hidden=[[64], [64], [32]] * 2), "hidden differs between runs of one setting"),
        (
            lambda runs: runs.assign(
                seed=np.random.SeedSequence(0).generate_state(6), **{"return": 1.0, "cost": 10.0, "length": 100}
            ),
            "these rows are episodes",
        ),
        (lambda runs: runs.assign(normalized_cost="0.5"), r"normalized_cost holds (str|object): make numbers of it"),
    ],
)
def test_a_table_in_which_seeds_do_not_count_once_is_refused(change, message):
    for table in (lambda runs: summarize(runs, "alpha"), lambda runs: differences(runs, [], "alpha", 0.1)):
        assert len(table(RUNS)) >= 1
        with pytest.raises(ValueError, match=message):
            table(change(RUNS))


def test_runs_may_have_the_names_of_an_episodes_scores():
    table = summarize(RUNS.assign(**{"return": 1.0, "cost": 10.0, "length": 100}), "alpha")
    assert table.runs.tolist() == [3, 3]


def test_wealth_is_what_each_bet_has_made_with_its_share_of_the_stake():
    values, mean, bets = np.array([0.0, 30, 7]), 20.0, 4
    shares = np.full(bets, 1 / bets)
    for value, owned in zip(values, betting_wealth(values, mean, highest=200, bets=bets), strict=True):
        shares *= [1 + k / (bets + 1) / mean * (value - mean) for k in range(1, bets + 1)]
        assert owned == pytest.approx(shares.sum())


def test_against_the_true_mean_the_wealth_stays_one_in_expectation():
    """Every sequence of three values of 0 or 1, with its probability."""
    chance = 0.3
    rows = np.array(list(itertools.product([0, 1], repeat=3)))
    probability = np.where(rows == 1, chance, 1 - chance).prod(1)
    assert probability @ betting_wealth(rows, chance, highest=1) == pytest.approx([1, 1, 1])
    assert (probability @ betting_wealth(rows, 0.4, highest=1) < 1).all()  # a mean below what is bet against
    assert (probability @ betting_wealth(rows, 0.2, highest=1) > 1).all()


def test_looked_at_after_each_value_the_wealth_rarely_reaches_twenty():
    generator = np.random.default_rng(0)
    fair = {
        "two values": generator.choice([0.0, 200], p=[0.9, 0.1], size=(4000, 200)),
        "skewed": 200 * generator.beta(0.5, 4.5, size=(4000, 200)),
        "narrow": generator.normal(20, 3, size=(4000, 200)).clip(0, 40),
    }
    for name, values in fair.items():
        alarms = (betting_wealth(values, 20, highest=200) >= 20).any(1).mean()
        assert alarms < 0.05, name
    unsafe = betting_wealth(generator.normal(30, 3, size=(100, 40)), 20, highest=200)
    assert (unsafe[:, -1] >= 20).all()


def test_values_that_nothing_bounds_are_refused():
    with pytest.raises(ValueError, match="from 0 to highest=10"):
        betting_wealth([5, 11], 2, highest=10)
    with pytest.raises(ValueError, match="from 0 to highest=10"):
        betting_wealth([5, np.nan], 2, highest=10)
    for mean in (0, 10, np.nan):
        with pytest.raises(ValueError, match="must lie between 0 and highest=10"):
            betting_wealth([5], mean, highest=10)
    for bets in (0, 2.5):
        with pytest.raises(ValueError, match=f"bets={bets} must be a whole number, at least 1"):
            betting_wealth([5], 2, highest=10, bets=bets)


@pytest.mark.parametrize("interval", [bootstrap_interval, t_interval])
def test_an_interval_of_one_value_or_of_another_level(interval):
    assert np.isnan(interval([5.0])).all()
    for level in (95, -0.5, 1):
        with pytest.raises(ValueError, match=f"level={level} must lie between 0 and 1"):
            interval([1.0, 2, 3], level=level)


@pytest.mark.parametrize("interval", [bootstrap_interval, t_interval])
def test_masked_values_are_not_counted_in_silence(interval):
    with pytest.raises(ValueError, match="some of the values are masked"):
        interval(np.ma.masked_array([1.0, 2, 1000], mask=[0, 0, 1]))
    with pytest.raises(ValueError, match="resamples=0 must be at least 100"):
        bootstrap_interval([1.0, 2], resamples=0)
