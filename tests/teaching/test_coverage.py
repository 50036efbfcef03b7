from dataclasses import replace

import numpy as np
import pytest

from trac.data.trajectories import from_arrays
from trac.teaching.coverage import coverage


def test_coverage_counts_best_and_ratio():
    """Three episodes of two steps: two without a cost, and one in the middle of BallRun's 80."""
    data = from_arrays(
        "BallRun",
        observations=np.zeros((6, 1)),
        actions=np.zeros((6, 1)),
        rewards=[0, 220, 0, 110, 0, 330],
        costs=[0, 0, 0, 0, 0, 40],
        terminals=np.zeros(6),
        timeouts=[0, 1] * 3,
    )
    table = coverage(data)
    assert table.cost_from.tolist() == [0, 10, 20, 30, 40, 50, 60, 70] and table.cost_to.iloc[-1] == 80
    assert table.trajectories.tolist() == [2, 0, 0, 0, 1, 0, 0, 0]
    assert table.ratio[0] == pytest.approx(0.5)
    assert table.ratio[4] == pytest.approx(330 / 850)
    with pytest.raises(ValueError, match="no frontier is known for mine; there are BallRun, "):
        coverage(replace(data, task="mine"))
