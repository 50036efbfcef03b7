"""The committed tables of choosing without a simulator: complete, and what the log alone decides is the log's."""

import offline_choice
import pandas as pd
import pytest

import trac
from trac.partition import segments_of

KEYS = offline_choice.KEYS
TABLE = pd.read_csv(offline_choice.RESULTS / "offline_choice.csv", comment="#").set_index(KEYS)
SIZES = pd.read_csv(offline_choice.RESULTS / "offline_choice_sizes.csv", comment="#")


def test_every_policy_is_there_once_with_all_its_estimates():
    plan = [(task, name) for task, names in offline_choice.PLAN.items() for name in names]
    wanted = {(task, name, seed) for task, name in plan for seed in offline_choice.SEEDS}
    assert set(TABLE.index) == wanted and TABLE.index.is_unique
    assert TABLE.drop(columns=["fqe_long_return", "fqe_long_cost"]).notna().all(axis=None)
    assert TABLE.fqe_long_cost.notna().loc[list(offline_choice.LONG)].all()


def test_at_most_all_episodes_count_and_at_least_one():
    for task in offline_choice.PLAN:
        episodes = len(trac.load(task).starts)
        assert SIZES[SIZES.task == task]["size"].between(1 - 1e-6, episodes).all()
    last = SIZES[SIZES.spread == "half"].sort_values("step").groupby(KEYS)["size"].last()
    pd.testing.assert_series_equal(last, TABLE.decision_half_size.loc[last.index], check_names=False, rtol=1e-4)


@pytest.mark.parametrize("setting", ["default", "x = 0.1", "limit 40", "segments T/4"])
def test_the_mean_of_the_desirable_episodes_is_that_of_the_log(setting):
    settings = offline_choice.BASE | offline_choice.SETTINGS[setting]
    data = trac.load("BallCircle")
    segments = segments_of(data, trac.TracConfig(task="BallCircle", **settings))
    times = data.lengths.max() / segments.length
    rows = TABLE.loc[("BallCircle", setting)]
    assert rows.predictor_cost.to_numpy() == pytest.approx(
        times * segments.costs[segments.labels == 1].mean(), rel=1e-5
    )
    assert rows.predictor_return.to_numpy() == pytest.approx(
        times * segments.returns[segments.labels == 1].mean(), rel=1e-5
    )
