"""What the book's logs hold, one row and one small picture for each file that is there.

    python book/logs_table.py        # book/results/logs.csv and book/figures/logs.png

Run it again when `book/collect.py` has made another log.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from tables import RESULTS, write

import trac
from trac.data.packaged import find
from trac.data.trajectories import Trajectories
from trac.teaching import plots
from trac.teaching.coverage import DSRL_FRONTIER, coverage

FIGURE = Path(__file__).parent / "figures" / "logs.png"
COLUMNS = 4  # of small pictures


def row(data: Trajectories, size: int) -> dict[str, object]:
    """Counts, safe and unsafe episodes, and the best return over DSRL's in each eighth of the cost range.

    Args:
        size: of the file [bytes].
    """
    limits, eighths = trac.TASKS[data.task].cost_limits, coverage(data)
    return {
        "task": data.task,
        "episodes": len(data.starts),
        "transitions": len(data),
        "megabytes": round(size / 1e6, 1),
        "limits": " ".join(f"{limit:g}" for limit in limits),
        **{f"safe_{i}": int((data.episode_costs <= limit).sum()) for i, limit in enumerate(limits, start=1)},
        "unsafe": int((data.episode_costs > limits[-1]).sum()),
        **{f"episodes_{i}": n for i, n in enumerate(eighths.trajectories, start=1)},
        **{f"ratio_{i}": round(r, 2) for i, r in enumerate(eighths.ratio.where(eighths.trajectories > 0), start=1)},
    }


def draw(logs: list[Trajectories]) -> None:
    """Every episode of every log, cost against return, with the suite's limits and DSRL's best."""
    plots.style()
    rows = -(-len(logs) // COLUMNS)
    fig, axes = plt.subplots(rows, COLUMNS, figsize=(10, 2.1 * rows), layout="constrained", squeeze=False)
    for ax, data in zip(axes.flat, logs, strict=False):
        table = coverage(data)
        ax.scatter(data.episode_costs, data.returns, s=3, color=plots.COLORS["desirable"], alpha=0.5, linewidth=0)
        edges = [*table.cost_from, table.cost_to.iloc[-1]]
        ax.stairs(table.dsrl_frontier, edges, baseline=None, color=plots.COLORS["undesirable"])
        for limit in trac.TASKS[data.task].cost_limits:
            ax.axvline(limit, color=plots.COLORS["limit"], linestyle=":", linewidth=0.8)
        ax.set_title(data.task, fontsize=10)
        ax.tick_params(labelsize=8)
    for ax in axes.flat[len(logs) :]:
        ax.set_visible(False)
    fig.supxlabel("episode cost", fontsize=10)
    fig.supylabel("episode return", fontsize=10)
    fig.savefig(FIGURE, dpi=90)


def main() -> None:
    """Read every log that is there, and write the table and the picture."""
    found = {task: path for task in DSRL_FRONTIER if (path := find(task))}
    logs = [trac.load(task) for task in found]
    rows = [row(data, path.stat().st_size) for data, path in zip(logs, found.values(), strict=True)]
    table = pd.DataFrame(rows)
    write(table, RESULTS / "logs.csv", "python book/logs_table.py")
    draw(logs)
    print(table.T.to_string())


if __name__ == "__main__":
    main()
