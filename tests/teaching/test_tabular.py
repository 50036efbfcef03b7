"""TraC on a table against what can be said in closed form."""

import numpy as np
import pytest

import trac
from trac.teaching.cmdp import CMDP
from trac.teaching.tabular import as_log, learn, pairs_of, uniform_log

pytestmark = pytest.mark.filterwarnings("ignore:all .* safe segments have the same return")
# One state; the second action costs.
CHOICE = CMDP(np.ones((1, 2, 1)), [[1, 1]], [[0, 1]], [1], 0.9)


def test_a_log_holds_what_was_done():
    cmdp = CMDP(np.full((2, 2, 2), 0.5), [[1, 2], [3, 4]], [[0, 1], [2, 3]], [1, 0], 0.9)
    log = as_log(cmdp, np.array([[0, 1], [1, 1]]), np.array([[1, 0], [1, 0]]))
    assert log.rewards.tolist() == [2, 3, 4, 3] and log.costs.tolist() == [1, 2, 3, 2]
    assert log.lengths.tolist() == [2, 2]
    segments = trac.partition(log, cost_limit=3, top=1.0, segment_ratio=1.0)
    assert pairs_of(log, segments, 2).tolist() == [[1, 2], [3, 2]]
    drawn = uniform_log(cmdp, episodes=2000, steps=3, seed=0)
    assert drawn.actions.mean() == pytest.approx(0.5, abs=0.03)
    assert (drawn.rewards == cmdp.rewards[drawn.observations[:, 0].astype(int), drawn.actions[:, 0].astype(int)]).all()


def test_labels_of_steps_leave_the_action_that_costs():
    logs = [uniform_log(CHOICE, episodes=200, steps=5, seed=seed) for seed in range(2)]
    cuts = [trac.partition(log, cost_limit=0, top=1.0, level="step") for log in logs]
    policies, references = learn(CHOICE, logs, cuts, batch=160)
    for log, reference in zip(logs, references, strict=True):
        counts = np.bincount(log.actions[:, 0].astype(int)) + 0.5
        np.testing.assert_allclose(reference[0], counts / counts.sum())
    assert policies[:, 0, 0].min() > 0.99


@pytest.mark.parametrize("alpha", [0.2, 20.0])
def test_where_all_is_undesirable_the_temperature_decides(alpha):
    """The reference is a maximum of the loss for α below 2 and a minimum above it (appendix F)."""
    cmdp = CMDP(np.stack([np.eye(2)[[1, 1]], np.eye(2)[[1, 1]]]), [[1, 1], [1, 1]], [[0, 0], [1, 1]], [1, 0], 0.9)
    log = uniform_log(cmdp, episodes=400, steps=5, seed=0)
    cut = trac.partition(log, cost_limit=0, top=1.0, level="step")
    policies, references = learn(cmdp, [log], [cut], alpha=alpha, batch=160)
    gone = np.abs(policies - references)[0, 1].max()
    assert gone < 0.05 if alpha > 2 else gone > 0.4
