"""The book's table of all eight offline methods on the packaged tasks, beside the paper's.

    python book/baselines_table.py                           # baselines_runs.csv, _table.csv and _paper.csv
    python book/baselines_table.py --only-tables             # the tables again from the runs

One row of baselines_runs.csv is one policy: the means of its 20 episodes. In baselines_table.csv _low and _high are
Student's t interval over seeds. Runs whose rows are there are not run again;
those of BC-All, BC-Safe and TraC are taken from quick_episodes.csv. At the limit 20 and the seeds 1 and 2 each method
has its best policy as well, by an evaluation every 1,000 updates in other episodes: baselines_best.csv.

The budget: 4,000 updates with hidden layers of 128-128, which is what TraC and cloning have, where the benchmark has
100,000 with 256-256. All that is missing takes two cores about 75 minutes. So as to learn anything in a 25th of the
updates, the critics' targets move ten times as fast (tau 0.05): a share of 0.005 over 4,000 updates is 20 of its time
constants, a fifth of a horizon of 100 steps. Tried on BallCircle at limit 20 and seed 100, normalised reward / cost:
BCQ-Lag 0.53 / 0.21; BEAR-Lag 0.56 / 0.00; COptiDICE 0.73 / 1.56; CPQ 0.24 / 0.00, and 0.16 / 1.58 with ten times the
actor's rate. The benchmark's own deviations from the methods' papers are kept: CPQ's penalty has no gradient (with one
-0.01 / 9.32 after 3,000 updates), and COptiDICE's limit is a hundred times as wide. CDT is asked for the best return
in the data within the limit; it is trained once for all limits, since those do not enter its loss.
"""

import os
import time
from itertools import pairwise, product
from typing import Any

import pandas as pd
import torch
import tyro
from quick_table import EVALUATION_SEED, METHODS, SEGMENT_RATIO
from tables import RESULTS, SCORES, read, run_missing, write

import trac
from trac.baselines.bcq_lag import BCQLag
from trac.baselines.bear_lag import BEARLag
from trac.baselines.cdt import CDT
from trac.baselines.coptidice import COptiDICE
from trac.baselines.cpq import CPQ
from trac.baselines.offline import OfflineLearner, train_offline
from trac.core.run import Run
from trac.data.trajectories import Trajectories
from trac.experiments.reproduce import paper_results
from trac.policy import layer_sizes
from trac.statistics import safe, summarize

STEPS = 4_000
# By the paper's names, the fastest first: the method, and changes from its quick settings.
SETTINGS: dict[str, tuple[type[OfflineLearner], dict]] = {
    "COptiDICE": (COptiDICE, dict(normalized_limit=False)),
    "BCQ-Lag": (BCQLag, dict(tau=0.05)),
    "CPQ": (CPQ, dict(tau=0.05, penalty=False)),
    "BEAR-Lag": (BEARLag, dict(tau=0.05)),
    "CDT": (CDT, {}),
}
CLONED = ("BC-All", "BC-Safe", "TraC")  # the methods of quick_episodes.csv
COMMAND = "python book/baselines_table.py"
KEYS = ["task", "cost_limit", "method", "seed"]
LOOKED_AT = (20.0, (1, 2))  # where runs are evaluated while they train: the limit and the seeds


def one_run(task: str, limits: tuple[float, ...], method: str, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train one policy on one thread and evaluate it: a row for each limit; and of its best policy, if there is one."""
    torch.set_num_threads(1)
    os.environ["LOKY_MAX_CPU_COUNT"] = "1"  # evaluations on the way stay in this process, which is one of several
    data, (limit, seeds) = trac.load(task), LOOKED_AT
    looked_at = limit in limits and seed in seeds
    if not looked_at:
        limit = limits[0]
    settings = dict(task=task, cost_limit=limit, seed=seed)
    settings |= dict(eval_every=1_000) if looked_at else dict(eval_episodes=0)
    started = time.process_time()
    run = train(data, method, SEGMENT_RATIO[task], **settings)
    costs = dict(updates=STEPS, parameters=sum(p.numel() for p in run.policy.parameters()))
    if not looked_at:
        costs["train_seconds"] = time.process_time() - started
    last, best = [], []
    for to, policy, at in ((last, run.policy, limits), (best, run.best, [limit] if run.best else [])):
        for bound in at:
            if method == "CDT":  # one policy for all limits
                policy.aim(float(data.returns[data.episode_costs <= bound].max()), bound)
            options = dict(task=task, cost_limit=bound, seed=EVALUATION_SEED + seed, workers=1)
            row = dict(zip(KEYS, (task, bound, method, seed), strict=True)) | costs
            to.append(row | scores(trac.evaluate(policy, **options).episodes))
    return pd.DataFrame(last), pd.DataFrame(best)


def train(data: Trajectories, method: str, segment_ratio: float, **settings: Any) -> Run:
    """A run of the method of that name, with the table's settings of it and these, which are the task's."""
    settings["steps"] = STEPS
    if method in SETTINGS:
        learner, changes = SETTINGS[method]
        return train_offline(learner, data, learner.Config(**settings | changes), progress=False, device="cpu")
    return METHODS[method](data, trac.TracConfig(**settings, segment_ratio=segment_ratio), progress=False)


def scores(episodes: pd.DataFrame) -> dict[str, float]:
    """Mean of each score over the episodes, and its standard error."""
    means, errors = episodes[SCORES].mean(), episodes[SCORES].sem().add_suffix("_se")
    return {"episodes": len(episodes)} | means.to_dict() | errors.to_dict()


def cloned(tasks, limits, seeds) -> pd.DataFrame:
    """The runs of quick_episodes.csv: the same evaluation seeds, updates and hidden layers; its times are not kept."""
    episodes = pd.read_csv(RESULTS / "quick_episodes.csv", comment="#")
    episodes = episodes[episodes.task.isin(tasks) & episodes.cost_limit.isin(limits) & episodes.seed.isin(seeds)]
    parameters = {}
    for task in tasks:
        data, config = trac.load(task), trac.TracConfig()
        sizes = layer_sizes(data.observations.shape[1], data.actions.shape[1], config.hidden, config.policy)
        parameters[task] = sum((inputs + 1) * outputs for inputs, outputs in pairwise(sizes))
    rows = []
    for keys, group in episodes[episodes.method.isin(CLONED)].groupby(KEYS):
        row = dict(zip(KEYS, keys, strict=True))
        rows.append(row | {"updates": STEPS, "parameters": parameters[row["task"]]} | scores(group))
    return pd.DataFrame(rows)


def beside_paper(runs: pd.DataFrame) -> pd.DataFrame:
    """Means over limits and seeds beside the paper's, and the rank of each method on its task in both.

    The safe methods (normalised cost of at most 1) come first, by reward; then the others, by cost.
    """
    ours = runs.groupby(["task", "method"], sort=False)[["normalized_reward", "normalized_cost"]].mean()
    ours.columns = ["reward", "cost"]
    paper = paper_results().set_index(["task", "method"])[["reward_mean", "cost_mean"]]
    table = ours.join(paper.set_axis(["paper_reward", "paper_cost"], axis=1)).reset_index()
    for of in ("", "paper_"):
        order = table[f"{of}reward"].where(safe(table[f"{of}cost"]), -table[f"{of}cost"] - 1)
        table[f"{of}rank"] = order.groupby(table.task).rank(ascending=False).astype(int)
    return table


def complete(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of the seeds with which every method has been run on every task at every limit."""
    counts = runs.groupby("seed").size()
    return runs[runs.seed.isin(counts.index[counts == counts.max()])]


def write_tables(runs: pd.DataFrame) -> None:
    """The means over seeds, and those beside the paper's."""
    runs = complete(runs)
    write(summarize(runs, ["task", "cost_limit", "method"]), RESULTS / "baselines_table.csv", COMMAND)
    table = beside_paper(runs)
    write(table, RESULTS / "baselines_paper.csv", COMMAND)
    print(table.round(2).to_string(index=False))
    for task, group in table.groupby("task", sort=False):
        pairs = {name: group[name].corr(group[f"paper_{name}"], method="spearman") for name in ("reward", "cost")}
        print(f"{task}: rank correlation with the paper: {pairs['reward']:.2f} reward, {pairs['cost']:.2f} cost")


def main(
    tasks: tuple[str, ...] = ("BallRun", "BallCircle", "CarCircle"),
    limits: tuple[float, ...] = (10.0, 20.0, 40.0),
    seeds: tuple[int, ...] = (0, 1, 2),
    workers: int = 2,
    only_tables: bool = False,
) -> None:
    """Run what is missing, one process for each processor core, and write the tables."""
    paths = [RESULTS / f"baselines_{name}.csv" for name in ("runs", "best")]
    tables = {path: read(path, KEYS) for path in paths}
    if not len(tables[paths[0]]):
        tables[paths[0]] = cloned(tasks, limits, seeds)
    # All of one seed before the next, so that an interrupted table has every method.
    jobs = []
    for seed, method, task in product(seeds, (*SETTINGS, *CLONED), tasks):
        for group in [limits] if method == "CDT" else [(limit,) for limit in limits]:
            keys = {(task, limit, method, seed) for limit in group}
            best = {key for key in keys if key[1] == LOOKED_AT[0] and seed in LOOKED_AT[1]}
            jobs.append(((task, group, method, seed), [keys, best]))
    if not only_tables:
        tables = run_missing(one_run, jobs, tables, KEYS, COMMAND, workers)
    write_tables(tables[paths[0]])


if __name__ == "__main__":
    tyro.cli(main)
