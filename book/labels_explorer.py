"""What the interactive figure of the chapter on labels shows: 27 policies for BallCircle, an episode of each.

    python book/labels_explorer.py                           # book/results/labels_explorer.json

Takes a quarter of an hour on one thread. Stopped and called again, it goes on from the last checkpoint.
"""

import json
from itertools import product
from pathlib import Path

import numpy as np
import torch
from quick_table import EVALUATION_SEED
from tables import RESULTS

import trac
from trac.core.run import Run
from trac.data.files import write_file
from trac.data.trajectories import Trajectories
from trac.teaching.film import episode, measures

TASK, SEED = "BallCircle", 0
RUNS = Path(__file__).resolve().parents[1] / "runs" / "labels_explorer"
LENGTHS = {0.25: 64, 0.5: 32, 1.0: 16}  # L / T, and the batch size that has as many steps in a batch
TOPS, LIMITS = (0.25, 0.5, 1.0), (5, 20, 60)


def labels(data: Trajectories, config: trac.TracConfig) -> dict:
    """What the labels are made of, in shares of the desirable segments; `start`: how many episodes begin with one."""
    chosen = {name: getattr(config, name) for name in ("cost_limit", "top", "segment_ratio")}
    segments = trac.partition(data, **chosen)
    good = segments.labels == 1
    first = segments.starts == data.starts[segments.episodes]
    reckless = data.episode_costs[segments.episodes] > config.cost_limit
    return dict(desirable=int(good.sum()), reckless=reckless[good].mean(), start=int((good & first).sum()))


def shown(data: Trajectories, run: Run) -> dict:
    """The first of the policy's 20 evaluation episodes as a path, and the means of all."""
    config = run.config
    options = dict(task=TASK, cost_limit=config.cost_limit, seed=EVALUATION_SEED + SEED, workers=1)
    episodes = trac.evaluate(run.policy, **options).episodes
    first, means = episodes.iloc[0], episodes.mean()
    positions, costs = episode(run.policy, task=TASK, seed=int(first.seed))
    assert costs.sum() == first.cost
    return dict(
        ratio=config.segment_ratio,
        x=config.top,
        limit=int(config.cost_limit),
        path=positions.round(2).ravel().tolist(),
        costs="".join(str(int(cost)) for cost in costs),
        reward=round(float(first.normalized_reward), 3),
        mean_reward=round(float(means.normalized_reward), 3),
        mean_cost=round(float(means.cost), 2),
        **{name: round(float(value), 3) for name, value in labels(data, config).items()},
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    data, runs = trac.load(TASK), []
    for ratio, batch in LENGTHS.items():
        base = trac.TracConfig(task=TASK, segment_ratio=ratio, batch_size=batch, seed=SEED, eval_episodes=0)
        configs = [base.replace(top=x, cost_limit=float(limit)) for x, limit in product(TOPS, LIMITS)]
        found = trac.train(data, configs, out=RUNS / str(ratio), resume=True, progress=False)
        runs += [shown(data, run) for run in found]
    total = dict(episodes=len(data.starts), steps=int(np.max(data.lengths)))
    content = json.dumps(total | measures(TASK) | dict(runs=runs), separators=(",", ":"))
    write_file(RESULTS / "labels_explorer.json", content.encode())
