"""The book's comparison with online learners: what they reach, after how many steps, and what they pay on the way.

    python book/online_table.py                              # book/results/online_runs.csv, online_curves.csv

One row of online_curves.csv is one look at a run: the scores of its mean action in 20 episodes of their own, and the
cost of all steps of training so far. One row of online_runs.csv is one run at its end, its last and its best policy,
in 20 episodes that no look used. Runs whose rows are there are not run again.

The learners' settings were tried on seed 100, which appears in neither table. The cloned start is BC-Safe's, with the
quick settings; a safe start needs a penalty on cost from the beginning, so its multiplier starts at 10 (`PENALISED`).
"""

import time
from itertools import product

import pandas as pd
import torch
import tyro
from quick_table import EVALUATION_SEED
from tables import RESULTS, SCORES, read, run_missing

import trac
from trac.baselines import bc_safe
from trac.baselines.ppo_lag import PPOLagConfig, ppo_lag
from trac.baselines.sac_lag import SACLagConfig, sac_lag

KEYS = ["task", "cost_limit", "method", "seed"]
PPO = dict(
    steps=60_000,
    eval_every=6_000,
    learning_rate=1e-3,
    epochs=10,
    target_kl=0.05,
    integral_gain=0.05,
    proportional_gain=0.1,
    max_multiplier=20.0,
)
SAC = dict(steps=20_000, eval_every=2_000, integral_gain=0.1, proportional_gain=0.1)
PENALISED = dict(noise=0.2, initial_multiplier=10.0)
METHODS = ("PPO-Lag", "PPO-Lag, cloned", "PPO-Lag, cloned and penalised", "SAC-Lag, data")


def one_run(task: str, limit: float, method: str, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train one policy on one thread: its row at the end, and its looks on the way."""
    torch.set_num_threads(1)
    common = dict(task=task, cost_limit=limit, seed=seed)
    started = time.process_time()
    if method.startswith("PPO"):
        init, changes = None, {}
        if "cloned" in method:
            config = trac.TracConfig(**common, eval_episodes=0)
            init, changes = bc_safe(trac.load(task), config, progress=False).policy, dict(noise=0.2)
        if "penalised" in method:
            changes = PENALISED
        run = ppo_lag(PPOLagConfig(**common | PPO | changes), init=init, progress=False)
    else:
        buffer = trac.load(task) if method == "SAC-Lag, data" else None
        run = sac_lag(SACLagConfig(**common | SAC), buffer=buffer, progress=False)
    seconds = time.process_time() - started
    keys = dict(zip(KEYS, (task, limit, method, seed), strict=True))
    rows = []
    for model, policy in (("last", run.policy), ("best", run.best)):
        options = dict(task=task, cost_limit=limit, seed=EVALUATION_SEED + seed, workers=1)
        means = trac.evaluate(policy, **options).episodes[SCORES].mean()
        spent = dict(steps=run.config.steps, cumulative_cost=run.history.cumulative_cost.iloc[-1], cpu_seconds=seconds)
        rows.append(keys | {"model": model} | means.to_dict() | spent)
    looks = run.history.dropna(subset="return").drop(columns=["length"])
    for position, (name, value) in enumerate(keys.items()):
        looks.insert(position, name, value)
    return pd.DataFrame(rows), looks


def main(
    tasks: tuple[str, ...] = ("BallRun", "BallCircle"),
    limit: float = 20.0,
    seeds: tuple[int, ...] = (0, 1, 2),
    methods: tuple[str, ...] = METHODS,
    workers: int = 2,
) -> None:
    """Run what is missing, one process for each processor core, and write both tables."""
    paths = [RESULTS / f"online_{name}.csv" for name in ("runs", "curves")]
    # All of one seed before the next, so that an interrupted table has every method.
    runs = [(task, limit, method, seed) for seed, method, task in product(seeds, methods, tasks)]
    jobs = [(run, [{run}, {run}]) for run in runs]
    tables = {path: read(path, KEYS) for path in paths}
    run_missing(one_run, jobs, tables, KEYS, "python book/online_table.py", workers)


if __name__ == "__main__":
    tyro.cli(main)
