"""How the quick settings were chosen: candidates for TraC on seeds that no result uses.

    python book/quick_tuning.py                              # book/results/quick_tuning.csv

One row is one run: the means of its 20 episodes.
"""

from itertools import product

import pandas as pd
import quick_table
import tyro
from tables import RESULTS, read, run_missing

KEYS = ["candidate", "task", "seed"]
# Changes from the quick settings with 8 segments a batch, one at a time, and then two.
CANDIDATES: dict[str, dict] = {
    "segment_ratio=1": dict(segment_ratio=1.0, batch_size=8),
    "segment_ratio=0.5": dict(segment_ratio=0.5, batch_size=8),
    "segment_ratio=0.25": dict(segment_ratio=0.25, batch_size=8),
    "batch_size=16": dict(batch_size=16),
    "steps=6000": dict(steps=6_000, batch_size=8),
    "lr_multiplier=0.3": dict(lr_multiplier=0.3, batch_size=8),
    "lr_multiplier=0.03": dict(lr_multiplier=0.03, batch_size=8),
    "learning_rate=0.0003": dict(learning_rate=3e-4, batch_size=8),
    "segment_ratio=1, batch_size=16": dict(segment_ratio=1.0, batch_size=16),
}


def one_run(candidate: str, task: str, seed: int, limit: float) -> pd.DataFrame:
    """Train and evaluate one policy: its row."""
    episodes = quick_table.one_run(task, "TraC", (limit,), seed, CANDIDATES[candidate])
    means = episodes[["normalized_reward", "normalized_cost"]].mean().to_dict()
    return pd.DataFrame([dict(zip(KEYS, (candidate, task, seed), strict=True)) | means])


def main(
    tasks: tuple[str, ...] = ("BallRun", "BallCircle", "CarCircle"),
    limit: float = 20.0,
    seeds: tuple[int, ...] = (100, 101, 102, 103, 104),
    candidates: tuple[str, ...] = tuple(CANDIDATES),
    workers: int = 2,
) -> None:
    """Run every candidate that the table does not have, and write it."""
    path = RESULTS / "quick_tuning.csv"
    runs = [(candidate, task, seed) for task, candidate, seed in product(tasks, candidates, seeds)]
    jobs = [((*run, limit), [{run}]) for run in runs]
    tables = {path: read(path, KEYS)}
    run_missing(one_run, jobs, tables, KEYS, "python book/quick_tuning.py", workers, sort=False)


if __name__ == "__main__":
    tyro.cli(main)
