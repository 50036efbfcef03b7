"""Gridworlds: constrained Markov decision processes from text, which can be drawn."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from trac.teaching.cmdp import CMDP, CMDPError

MOVES = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)])  # (row, column) of a gridworld's actions: up, right, down, left


@dataclass(frozen=True, eq=False)
class Gridworld(CMDP):
    """A CMDP that can be drawn: `layout` as given, and (S, 2) `cells`, the row and column of each state.

    >>> gridworld("S~G").cells.tolist()
    [[0, 0], [0, 1], [0, 2]]
    """

    layout: tuple[str, ...]
    cells: np.ndarray


def gridworld(layout: str | Sequence[str], *, slip: float = 0.1, gamma: float = 0.95) -> Gridworld:
    """A gridworld from text: `S` start, `G` goal, `~` costly, `#` wall, `.` free; states are numbered row by row.

    Actions are up, right, down, left. With probability `slip` the move goes to one of the two sides instead, each
    with half of it. A move into a wall or over the edge stays. A step in a costly cell costs 1; the step in a goal
    earns 1 and ends the episode. With several S, each is equally likely.

    >>> grid = gridworld("S~G ...", slip=0.0)
    >>> solution = trac.teaching.cmdp.solve(grid, cost_limit=0)  # around the costly cell
    >>> round(solution.expected_return, 4) == round(0.95**4, 4)
    True
    """
    rows = layout.split() if isinstance(layout, str) else list(layout)
    if len({len(row) for row in rows}) != 1 or not set("".join(rows)) <= set("SG~#."):
        raise CMDPError("a layout has rows of one length, of the letters S G ~ # and the point.")
    cells = np.array([(i, j) for i, row in enumerate(rows) for j, mark in enumerate(row) if mark != "#"])
    marks = np.array([rows[i][j] for i, j in cells])
    if not (marks == "S").any():
        raise CMDPError("the layout has no start: put an S in it.")
    if not 0 <= slip <= 1:
        raise CMDPError(f"slip={slip} must lie in [0, 1].")
    index = {tuple(cell): s for s, cell in enumerate(cells.tolist())}
    transitions = np.zeros((len(cells), 4, len(cells)))
    for s in np.flatnonzero(marks != "G"):
        for action in range(4):
            for turn, probability in ((0, 1 - slip), (1, slip / 2), (-1, slip / 2)):
                target = tuple((cells[s] + MOVES[(action + turn) % 4]).tolist())
                transitions[s, action, index.get(target, s)] += probability
    rewards, costs = (np.repeat((marks == mark)[:, None], 4, axis=1) for mark in "G~")
    start = (marks == "S") / (marks == "S").sum()
    return Gridworld(transitions, rewards, costs, start, gamma, tuple(rows), cells)


def draw(grid: Gridworld, ax: Axes, *, policy: np.ndarray | None = None, shade: np.ndarray | None = None) -> None:
    """Draw a gridworld on matplotlib axes.

    Args:
        policy: (S, A) arrows, as long as their action is likely.
        shade: (S,) numbers from 0 to 1: how strongly to tint each cell. Without it all are white.

    Example:
        >>> import matplotlib.pyplot as plt
        >>> draw(gridworld("S~G"), plt.figure().gca())
    """
    from matplotlib.patches import Rectangle

    height, width = len(grid.layout), len(grid.layout[0])
    ax.add_patch(Rectangle((-0.5, -0.5), width, height, color="0.25"))
    for s, (i, j) in enumerate(grid.cells):
        corner, mark, tint = (j - 0.5, i - 0.5), grid.layout[i][j], 0.0 if shade is None else float(shade[s])
        colour = (1 - 0.75 * tint, 1 - 0.45 * tint, 1.0)
        ax.add_patch(Rectangle(corner, 1, 1, facecolor=colour, edgecolor="0.7"))
        if mark == "~":
            ax.add_patch(Rectangle(corner, 1, 1, fill=False, hatch="///", edgecolor="#d55e00", linewidth=0))
        elif mark in "SG":
            ax.text(j - 0.43, i - 0.41, mark, fontweight="bold", va="top", color="0.2")
        if policy is not None and mark != "G":
            for (down, right), probability in zip(MOVES, policy[s], strict=True):
                if (length := 0.42 * probability) > 0.005:
                    head = dict(head_width=0.06 + 0.08 * probability, head_length=min(0.16, length))
                    step = (right * length, down * length)
                    ax.arrow(j, i, *step, color="0.1", width=0.02, length_includes_head=True, **head)
    ax.set(xlim=(-0.52, width - 0.48), ylim=(height - 0.48, -0.52), aspect="equal")
    ax.set_axis_off()
