"""A row of Safety-Gymnasium's and of MetaDrive's results, made again: make test-safety."""

import pytest
import suite_table

pytest.importorskip("safety_gymnasium", reason="make test-safety runs these", exc_type=ImportError)


@pytest.mark.parametrize(("task", "limit"), [("HalfCheetahVelocity", 40), ("easysparse", 20)])
def test_a_row_of_the_three_suites_is_made_again(task, limit):
    runs = suite_table.runs().set_index(suite_table.KEYS)
    row = suite_table.one_run(task, (float(limit),), "BC-Safe", 0).iloc[0]
    for score in ("normalized_reward", "normalized_cost"):  # another machine has other last bits
        assert row[score] == pytest.approx(runs[score][task, limit, "BC-Safe", 0], abs=0.1)
