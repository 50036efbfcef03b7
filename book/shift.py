"""The book's table of changed simulators: policies trained on a task's data, evaluated in a changed task.

    python book/shift.py                                     # book/results/study_shift.csv

One row is one trained policy in one changed simulator: the means of its 20 episodes. Runs whose rows
are there are not run again.
"""

from itertools import product

import pandas as pd
import torch
import tyro
from quick_table import EVALUATION_SEED, METHODS
from tables import RESULTS, SCORES, read, run_missing

import trac

# By option of `trac.envs.OPTIONS`; a task without a speed limit leaves that one out.
CHANGES: dict[str, tuple[float, ...]] = {
    "none": (0,),
    "mass": (0.5, 0.8, 1.25, 2.0),
    "friction": (0.25, 0.5, 2.0),
    "motor_gain": (0.7, 0.85, 1.15, 1.3),
    "observation_noise": (0.01, 0.03, 0.1),
    "action_delay": (1, 2, 4),
    "boundary": (0.6, 0.8, 0.9, 1.2),
    "speed_limit": (0.6, 0.8, 0.9, 1.2),
}
KEYS = ["task", "method", "seed"]


def one_run(task: str, method: str, seed: int, limit: float) -> pd.DataFrame:
    """Train one policy on one thread and evaluate it in every changed simulator, from the same start states."""
    torch.set_num_threads(1)
    config = trac.TracConfig(task=task, cost_limit=limit, seed=seed, eval_episodes=0)
    policy = METHODS[method](trac.load(task), config, progress=False).policy
    rows = []
    for option, value in ((option, value) for option, values in CHANGES.items() for value in values):
        if option == "speed_limit" and not task.endswith("Run"):
            continue
        options = {} if option == "none" else {option: value}
        episodes = trac.evaluate(
            policy, task=task, cost_limit=limit, seed=EVALUATION_SEED + seed, workers=1, env_options=options
        ).episodes
        rows.append(dict(zip(KEYS, (task, method, seed), strict=True)) | {"option": option, "value": value})
        rows[-1] |= episodes[SCORES].mean().to_dict()
    return pd.DataFrame(rows)


def main(
    tasks: tuple[str, ...] = ("BallRun", "BallCircle"),
    limit: float = 20.0,
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4),
    workers: int = 2,
) -> None:
    """Run what is missing, and write the table."""
    path = RESULTS / "study_shift.csv"
    runs = [(task, method, seed) for task, seed, method in product(tasks, seeds, METHODS)]
    jobs = [((*run, limit), [{run}]) for run in runs]
    run_missing(one_run, jobs, {path: read(path, KEYS)}, KEYS, "python book/shift.py", workers)


if __name__ == "__main__":
    tyro.cli(main)
