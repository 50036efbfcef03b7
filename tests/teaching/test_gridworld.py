import numpy as np
import pytest

from trac.teaching.cmdp import CMDPError, policy_evaluation, solve
from trac.teaching.gridworld import draw, gridworld


def test_gridworld_by_hand():
    grid = gridworld(["S#", "~G"], slip=0.2, gamma=0.9)
    assert grid.cells.tolist() == [[0, 0], [1, 0], [1, 1]]
    assert grid.start.tolist() == [1, 0, 0]
    # Down from the start; a slip to the right meets the wall, one to the left the edge.
    assert np.allclose(grid.transitions[0, 2], [0.2, 0.8, 0])
    assert np.allclose(grid.transitions[1, 1], [0.1, 0.1, 0.8])
    assert (grid.transitions[2] == 0).all()  # the episode ends at the goal
    assert grid.costs[:, 0].tolist() == [0, 1, 0] and grid.rewards[:, 0].tolist() == [0, 0, 1]
    still = gridworld("S~G", slip=0)
    right = np.eye(4)[[1, 1, 1]]
    assert np.allclose(policy_evaluation(still, right), (0.95**2, 0.95))


def test_draw_makes_a_figure():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    grid = gridworld("....\nS~~G")
    fig, ax = plt.subplots()
    draw(grid, ax, policy=solve(grid, 1.0).policy, shade=np.linspace(0, 1, len(grid.start)))
    assert len(ax.patches) > len(grid.start)
    assert {text.get_text() for text in ax.texts} == {"S", "G"}
    plt.close(fig)


def test_layouts_without_a_meaning_are_refused():
    for layout, slip, message in (("...", 0, "no start"), ("S.\n...", 0, "one length"), ("SX", 0, "letters")):
        with pytest.raises(CMDPError, match=message):
            gridworld(layout, slip=slip)
    with pytest.raises(CMDPError, match="slip=2"):
        gridworld("SG", slip=2)
