"""The book's table of quick runs: BC-All, BC-Safe and TraC on the packaged tasks.

    python book/quick_table.py                               # book/results/quick_episodes.csv, quick_table.csv
    python book/quick_table.py --only-tables                 # the table again from the episodes

One row of quick_episodes.csv is one evaluation episode. The intervals of quick_table.csv are Student's t over seeds,
of the means of each seed's episodes: columns _low and _high. Runs whose episodes are there are not run again.
"""

from itertools import product

import pandas as pd
import torch
import tyro
from tables import RESULTS, read, run_missing, write

import trac
from trac.baselines import bc_all, bc_safe
from trac.statistics import t_interval

COMMAND = "python book/quick_table.py"
METHODS = {"BC-All": bc_all, "BC-Safe": bc_safe, "TraC": trac.train}
KEYS = ["task", "cost_limit", "method", "seed"]
# The paper sets the segment ratio by task, and so do the quick settings; all else is TracConfig's defaults.
SEGMENT_RATIO = {"BallRun": 1.0, "BallCircle": 1.0, "CarCircle": 0.5}
# Episodes are drawn apart from those that `train` looks at, which use the run's own seed.
EVALUATION_SEED = 1_000_000


def one_run(task: str, method: str, limits: tuple[float, ...], seed: int, changes: dict) -> pd.DataFrame:
    """Train one policy on one thread and evaluate it: its episodes under each limit."""
    torch.set_num_threads(1)
    settings = dict(task=task, cost_limit=limits[0], seed=seed, eval_episodes=0, segment_ratio=SEGMENT_RATIO[task])
    config = trac.TracConfig(**settings | changes)
    run = METHODS[method](trac.load(task), config, progress=False)
    frames = []
    for limit in limits:
        episodes = trac.evaluate(
            run.policy, task=task, cost_limit=limit, seed=EVALUATION_SEED + seed, workers=1
        ).episodes
        frames.append(episodes.rename(columns={"seed": "episode_seed"}))
        frames[-1].insert(0, "seed", seed)
        frames[-1].insert(0, "method", method)
        frames[-1].insert(0, "cost_limit", limit)
        frames[-1].insert(0, "task", task)
    return pd.concat(frames).sort_values([*KEYS, "episode_seed"])


def table(episodes: pd.DataFrame) -> pd.DataFrame:
    """Mean and 95 % Student's t interval over seeds, one row for each task, limit and method."""
    rows = []
    for keys, group in episodes.groupby(["task", "cost_limit", "method"], sort=False):
        row = dict(zip(["task", "cost_limit", "method"], keys, strict=True))
        for column in ("normalized_reward", "normalized_cost", "return", "cost"):
            means = group.groupby("seed")[column].mean()
            row[column] = means.mean()
            row[f"{column}_low"], row[f"{column}_high"] = t_interval(means)
        rows.append(row | {"seeds": group.seed.nunique(), "episodes": len(group)})
    return pd.DataFrame(rows)


def main(
    tasks: tuple[str, ...] = ("BallRun", "BallCircle", "CarCircle"),
    limits: tuple[float, ...] = (10.0, 20.0, 40.0),
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4),
    workers: int = 2,
    only_tables: bool = False,
) -> None:
    """Run what is missing, one process for each processor core, and write both tables."""
    path, jobs = RESULTS / "quick_episodes.csv", []
    for task, seed in product(tasks, seeds):
        # Cloning everything does not depend on the limit: one run serves them all.
        groups = [("BC-All", limits), *((name, (limit,)) for limit in limits for name in ("BC-Safe", "TraC"))]
        jobs += [
            ((task, name, group, seed, {}), [{(task, limit, name, seed) for limit in group}]) for name, group in groups
        ]
    tables = {path: read(path, KEYS)}
    if not only_tables:
        tables = run_missing(one_run, jobs, tables, KEYS, COMMAND, workers)
    summary = table(tables[path])
    write(summary, RESULTS / "quick_table.csv", COMMAND)
    print(summary.round(2).to_string(index=False))


if __name__ == "__main__":
    tyro.cli(main)
