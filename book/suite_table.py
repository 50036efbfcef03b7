"""All eight offline methods on every task that has a log and is not in baselines_table.py, and TraC's settings there.

    python book/suite_table.py                   # the tasks of Bullet-Safety-Gym: suite_runs_bullet.csv
    .venv-safety/bin/python book/suite_table.py  # those of Safety-Gymnasium and MetaDrive: two more

One row of a suite_runs_*.csv is one policy under one limit: the means of its 20 episodes, and of TraC the mean score of
the desirable segments in its last updates. Runs whose rows are there are not run again.

No method was tuned on these tasks, nor looked at before the last update. Budget and settings are those of
baselines_table.py, where TraC had more tries than the baselines (quick_tuning.csv). One setting follows the task, by
this rule: the segment ratio is the largest of 1, 1/2 and 1/4 that leaves a segment at most 250 steps. TraC and the two
clones run under each of the suite's limits under which the log has unsafe episodes, the slower methods under the
middle one. CDT is asked for each limit, since it is trained once for all.

One run of TraC on HalfCheetahVelocity was seen before these predictions were written:

1. Of all pairs of a task and a limit, TraC keeps the limit in the mean over seeds in more than half, BC-Safe in fewer
   than TraC, BC-All in none where the mean cost of the log is above the limit.
2. Where both keep the limit, TraC has the higher reward in most pairs.
3. TraC fails most often under the lowest limit, where few segments are safe, and on HopperVelocity.
4. Under the middle limit TraC has a higher reward than any other method that keeps the limit on at most half of the
   tasks: CDT or BCQ-Lag is above it on some.

VARIANTS are TraC with one setting changed, under the middle limit. Two of them push harder. They were added after TraC
had been seen to be unsafe on AntRun with seed 0, with large scores of the desirable segments. Each was tried there,
with seed 100, and kept the limit of 20. A smaller weight of the undesirable class and α = 1 did not. The prediction was
then written, of the higher rate before its other runs, of the smaller α after six of those:

5. Both keep the middle limit on more tasks than the default, and cost less on every task on which the default costs
   more than its examples. Neither makes the drones fly. (The score adds log-ratios over steps and action dimensions.
   With eight dimensions it is large, and the loss nearly 0, after a small change of the policy.)

The others are settings of which chapters 8 and 9 say what they do on BallRun and BallCircle. On the six tasks of
CHANGED the prediction is that they do the same:

6. x = 0.1 raises the cost, x = 1 lowers the reward. α = 1 changes little. A fresh start loses reward and is unsafe; no
   reference changes little. Shorter segments raise the cost.

The rule of the verdict was written when half of the runs of seed 0 were there, before they were put together. An effect
is there on a task if the means over the seeds differ as predicted, the normalised reward by more than 0.05, the
normalised cost by more than 0.1. "Little" is a reward within 0.05 and the same side of the limit. A prediction holds
if its effect is there on five or six of the tasks, does not if on at most two, and otherwise we cannot tell.

AntCircle's log came last, when all other tasks had their rows. An ant has eight dimensions there, too, and the
prediction is what was seen on AntRun:

7. On AntCircle TraC breaks the middle limit, while the mean score of the desirable segments is above 1. Both stronger
   pushes cost less.
"""

import time
from collections.abc import Iterable
from itertools import product

import pandas as pd
import torch
import tyro
from baselines_table import CLONED, KEYS, SETTINGS, scores, train
from quick_table import EVALUATION_SEED, SEGMENT_RATIO
from tables import RESULTS, read, run_missing

import trac
from trac.data.packaged import find
from trac.data.tasks import TASKS
from trac.envs import MissingSimulator, open_env

LONGEST = 250  # steps of a segment
CHANGED = ("CarCircle", "AntRun", "PointCircle1", "HalfCheetahVelocity", "HopperVelocity", "easysparse")
STRONGER = {"TraC, lr × 10": dict(lr_multiplier=1.0), "TraC, α = 0.05": dict(alpha=0.05)}  # run on every task
VARIANTS: dict[str, dict] = {
    **STRONGER,
    "TraC, x = 0.1": dict(top=0.1),
    "TraC, x = 1": dict(top=1.0),
    "TraC, α = 1": dict(alpha=1.0),
    "TraC, fresh start": dict(init="fresh"),
    "TraC, no reference": dict(reference="none"),
    "TraC, L / 2": dict(shorter=2),
    "TraC, L / 4": dict(shorter=4),
}
SEEDS = dict.fromkeys(CLONED, 5) | dict.fromkeys(SETTINGS, 3) | dict.fromkeys(VARIANTS, 2)  # how many, by method


def segment_ratio(horizon: int) -> float:
    """The rule, for episodes of this many steps.

    >>> [segment_ratio(steps) for steps in (200, 300, 500, 1000)]
    [1.0, 0.5, 0.5, 0.25]
    """
    return next((ratio for ratio in (1.0, 0.5) if ratio * horizon <= LONGEST), 0.25)


def one_run(task: str, limits: tuple[float, ...], method: str, seed: int) -> pd.DataFrame:
    """Train one policy on one thread and evaluate it: a row for each limit."""
    torch.set_num_threads(1)
    data, began, rows = trac.load(task), time.process_time(), []
    settings = dict(task=task, cost_limit=limits[0], seed=seed, eval_episodes=0) | VARIANTS.get(method, {})
    ratio = segment_ratio(int(data.lengths.max())) / settings.pop("shorter", 1)
    run = train(data, method.split(",")[0], ratio, **settings)
    policy = run.policy
    # The mean score of the desirable segments at the end; only TraC has classes.
    score = run.history.score_desirable.iloc[-1] if method.startswith("TraC") else float("nan")
    seconds = time.process_time() - began
    for limit in limits:
        if method == "CDT":  # one policy for all limits, told which
            policy.aim(float(data.returns[data.episode_costs <= limit].max()), limit)
        if method == "CDT" or not rows:
            options = dict(task=task, cost_limit=limit, seed=EVALUATION_SEED + seed, workers=1)
            episodes = trac.evaluate(policy, **options).episodes
        row = dict(zip(KEYS, (task, limit, method, seed), strict=True), train_seconds=seconds, score_desirable=score)
        rows.append(row | scores(episodes.assign(normalized_cost=episodes.cost / limit)))
    return pd.DataFrame(rows)


def runs() -> pd.DataFrame:
    """All rows."""
    return pd.concat(pd.read_csv(path, comment="#") for path in sorted(RESULTS.glob("suite_runs_*.csv")))


def here(tasks: Iterable[str]) -> list[str]:
    """Those that have a log, and their simulator installed."""
    found = []
    for task in tasks:
        if find(task):
            try:
                open_env(task).close()
            except MissingSimulator:
                continue
            found.append(task)
    return found


def main(
    methods: tuple[str, ...] = tuple(SEEDS),
    seeds: tuple[int, ...] = tuple(range(5)),
    tasks: tuple[str, ...] = tuple(TASKS),
    workers: int = 1,
) -> None:
    """Run what is missing of the tasks that can be simulated here."""
    jobs: dict[str, list] = {}  # by suite: the two environments must not write the same file
    highest = {task: trac.load(task).episode_costs.max() for task in here(tasks)}
    for seed, method, task in product(seeds, methods, highest):
        if seed >= SEEDS[method]:
            continue
        if task in SEGMENT_RATIO and method not in VARIANTS:  # in baselines_runs.csv
            continue
        if task not in CHANGED and method in VARIANTS and method not in STRONGER:
            continue
        limits = tuple(float(limit) for limit in TASKS[task].cost_limits if limit < highest[task])
        middle = TASKS[task].cost_limits[1]
        groups = [limits] if method in ("BC-All", "CDT") else [(limit,) for limit in limits]
        for group in groups:
            if method in CLONED or middle in group:
                rows = {(task, limit, method, seed) for limit in group}
                jobs.setdefault(TASKS[task].suite, []).append(((task, group, method, seed), [rows]))
    for suite, missing in jobs.items():
        path = RESULTS / f"suite_runs_{suite}.csv"
        run_missing(one_run, missing, {path: read(path, KEYS)}, KEYS, "python book/suite_table.py", workers)


if __name__ == "__main__":
    tyro.cli(main)
