"""How the quick settings were chosen: candidates for TraC on seeds that no result uses.

    python book/quick_tuning.py                              # book/results/quick_tuning.csv

One row is one run: the means of its 20 episodes.
"""

import joblib
import pandas as pd
import tyro
from quick_table import RESULTS, one_run, write

# Changes from the quick settings with 8 windows a batch, one at a time, and then two.
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


def main(
    tasks: tuple[str, ...] = ("BallRun", "BallCircle", "CarCircle"),
    limit: float = 20.0,
    seeds: tuple[int, ...] = (100, 101, 102, 103, 104),
    candidates: tuple[str, ...] = tuple(CANDIDATES),
    workers: int = 2,
) -> None:
    """Run every candidate that the table does not have, and write it."""
    RESULTS.mkdir(exist_ok=True)
    path, keys = RESULTS / "quick_tuning.csv", ["candidate", "task", "seed"]
    done = pd.read_csv(path, comment="#") if path.is_file() else pd.DataFrame(columns=keys)
    known = set(done[keys].itertuples(index=False, name=None))
    jobs = [(c, t, s) for t in tasks for c in candidates for s in seeds if (c, t, s) not in known]
    results = joblib.Parallel(n_jobs=workers, return_as="generator")(
        joblib.delayed(one_run)(task, "TraC", (limit,), seed, CANDIDATES[candidate]) for candidate, task, seed in jobs
    )
    for (candidate, task, seed), frame in zip(jobs, results, strict=True):
        row = frame[["normalized_reward", "normalized_cost"]].mean().to_dict()
        row = pd.DataFrame([{"candidate": candidate, "task": task, "seed": seed} | row])
        done = pd.concat([done, row], ignore_index=True) if len(done) else row
        write(done, path, "python book/quick_tuning.py")
        print(row.to_string(index=False, header=False), flush=True)


if __name__ == "__main__":
    tyro.cli(main)
