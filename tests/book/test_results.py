"""The committed tables: complete, made from the committed episodes, and saying what the book says of them."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
import quick_table

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


@pytest.mark.parametrize("task", TASKS)
def test_cloning_everything_is_unsafe_at_limit_20(task):
    row = TABLE[(TABLE.task == task) & (TABLE.cost_limit == 20) & (TABLE.method == "BC-All")]
    assert row.normalized_cost.item() > 1
