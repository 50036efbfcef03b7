"""The committed tables: complete, made from the committed episodes, and saying what the book says of them."""

from itertools import product

import baselines_table
import cluster
import numpy as np
import pandas as pd
import pytest
import quick_table
import suite_table
from scipy import stats

RESULTS = quick_table.RESULTS

EPISODES = pd.read_csv(RESULTS / "quick_episodes.csv", comment="#")
TABLE = pd.read_csv(RESULTS / "quick_table.csv", comment="#")
TASKS, LIMITS = ("BallRun", "BallCircle", "CarCircle"), (10, 20, 40)


def test_every_run_is_there_with_its_twenty_episodes():
    counts = EPISODES.groupby(quick_table.KEYS).size()
    expected = set(product(TASKS, LIMITS, quick_table.METHODS, range(5)))
    assert set(counts.index) == expected and (counts == 20).all()


def test_the_table_is_made_from_the_episodes():
    again = quick_table.table(EPISODES).set_index(["task", "cost_limit", "method"])
    table = TABLE.set_index(["task", "cost_limit", "method"]).loc[again.index]
    np.testing.assert_allclose(again.to_numpy(float), table.to_numpy(float), rtol=1e-4, atol=1e-6)


def test_the_tables_intervals_are_students_t_over_seeds():
    runs = pd.read_csv(RESULTS / "baselines_runs.csv", comment="#")
    means = EPISODES.groupby(quick_table.KEYS)[["normalized_reward", "normalized_cost"]].mean().reset_index()
    for name, of in (("quick_table", means), ("baselines_table", runs)):
        table = pd.read_csv(RESULTS / f"{name}.csv", comment="#").set_index(["task", "cost_limit", "method"])
        for keys, group in of.groupby(["task", "cost_limit", "method"]):
            for score in ("normalized_reward", "normalized_cost"):
                half = stats.t.ppf(0.975, len(group) - 1) * stats.sem(group[score])
                ends = [group[score].mean() - half, group[score].mean() + half]
                found = table.loc[keys, [f"{score}_low", f"{score}_high"]]
                np.testing.assert_allclose(found.to_numpy(float), ends, rtol=1e-4, atol=2e-5)


def test_the_committed_means_beside_the_papers_are_made_from_the_runs():
    runs = baselines_table.complete(pd.read_csv(RESULTS / "baselines_runs.csv", comment="#"))
    committed = pd.read_csv(RESULTS / "baselines_paper.csv", comment="#")
    pd.testing.assert_frame_equal(baselines_table.beside_paper(runs), committed, rtol=1e-4, atol=1e-5)


def test_a_mean_of_just_the_limit_ranks_among_the_safe():
    rows = [("BC-Safe", 0.9, 1.0), ("TraC", 0.5, 0.2), ("CPQ", 0.9, 1.01)]
    runs = pd.DataFrame(rows, columns=["method", "normalized_reward", "normalized_cost"]).assign(task="BallRun")
    assert baselines_table.beside_paper(runs)["rank"].tolist() == [1, 2, 3]


@pytest.mark.parametrize("task", TASKS)
def test_cloning_everything_is_unsafe_at_limit_20(task):
    row = TABLE[(TABLE.task == task) & (TABLE.cost_limit == 20) & (TABLE.method == "BC-All")]
    assert row.normalized_cost.item() > 1


def test_no_trial_on_slurm_lost_a_run_or_made_it_twice_and_the_page_has_the_table():
    trials = pd.read_csv(RESULTS / "cluster.csv", comment="#")
    assert trials.trial.tolist() == list(cluster.TRIALS)
    columns = ["exit", "runs", "twice", "same_weights", "same_scores"]
    assert (trials[columns] == [0, 8, 0, 8, True]).all(axis=None)
    page = (RESULTS.parent / "ablations.md").read_text()
    for row in trials.itertuples():
        assert f"| {row.trial} | {row.calls} | {row.trainings} |" in page


def test_the_page_on_reproduction_has_the_runs_of_both_codes_and_welchs_intervals():
    released = pd.read_csv(RESULTS / "released_code.csv", comment="#")
    ours = EPISODES[(EPISODES.method == "TraC") & (EPISODES.cost_limit == 20)]
    # Rounded, so that a last bit does not decide what half a hundredth becomes.
    ours = ours.groupby(["task", "seed"])[["normalized_reward", "normalized_cost"]].mean().round(6).reset_index()
    page = (RESULTS.parent / "reproduction.md").read_text(encoding="utf-8").replace("\N{MINUS SIGN}", "-")
    for task in TASKS:
        codes = [runs[runs.task == task] for runs in (ours, released)]
        pairs = [[f"{r.normalized_reward:.2f} / {r.normalized_cost:.2f}" for r in code.itertuples()] for code in codes]
        cells = [", ".join(pairs[1]), ", ".join(pairs[0])]
        for score in ("normalized_reward", "normalized_cost"):
            mine, theirs = (code[score] for code in codes)
            ends = stats.ttest_ind(mine, theirs, equal_var=False).confidence_interval()
            cells.append(f"{mine.mean() - theirs.mean():+.2f} [{ends.low:.2f}, {ends.high:.2f}]")
        assert f"| {task} | {' | '.join(cells)} |" in page


def test_a_row_of_the_three_suites_is_a_policys_under_a_limit_that_it_was_trained_for():
    runs = suite_table.runs()
    assert not runs.duplicated(suite_table.KEYS).any() and (runs.episodes == 20).all()
    assert set(runs.method) <= set(suite_table.SEEDS)
    np.testing.assert_allclose(runs.normalized_cost, runs.cost / runs.cost_limit, rtol=1e-4)
    assert (runs.score_desirable.notna() == runs.method.str.startswith("TraC")).all()


@pytest.mark.slow
def test_a_row_of_the_three_suites_is_made_again():
    runs = suite_table.runs().set_index(suite_table.KEYS)
    row = suite_table.one_run("AntRun", (20.0,), "BC-Safe", 0).iloc[0]
    for score in ("normalized_reward", "normalized_cost"):  # another machine has other last bits
        assert row[score] == pytest.approx(runs[score]["AntRun", 20, "BC-Safe", 0], abs=0.1)
