"""Memory and time on data of Safety-Gymnasium's size, and the cost of many segments.

    make bench-scale                             # _build/scale.json and a table

The synthetic file has DSRL's form: 2,000 episodes of 1,000 steps, 60 observations and 2 actions,
480 MB of observations. Peak memory is that of a process of its own, which reads the file, cuts
segments of 750 steps, and makes 100 updates of the paper's size.
"""

import json
import resource
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import torch
import tyro
from core import CPU, FOREVER, PAPER, seconds, updates

import trac
from trac.core.learner import TracLearner
from trac.core.run import processor
from trac.data.files import write_file
from trac.data.hdf5 import read
from trac.data.trajectories import from_arrays
from trac.partition import partition, segments_of

EPISODES, STEPS, OBS_DIM, ACT_DIM = 2_000, 1_000, 60, 2
TASK = "PointGoal1"


def synthetic(path: Path) -> None:
    """Write the file, episode by episode; costly episodes have high returns, as in DSRL's data."""
    generator = np.random.default_rng(0)
    rows = EPISODES * STEPS
    shapes = dict(observations=(rows, OBS_DIM), next_observations=(rows, OBS_DIM), actions=(rows, ACT_DIM))
    names = ("rewards", "costs", "terminals", "timeouts")
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        sets = {name: file.create_dataset(name, shapes.get(name, (rows,)), np.float32) for name in (*shapes, *names)}
        for episode in range(EPISODES):
            at, risk = slice(episode * STEPS, (episode + 1) * STEPS), episode / EPISODES
            sets["observations"][at] = generator.standard_normal((STEPS, OBS_DIM), dtype=np.float32)
            sets["actions"][at] = generator.uniform(-1, 1, (STEPS, ACT_DIM))
            sets["rewards"][at] = generator.random(STEPS) + risk
            sets["costs"][at] = generator.random(STEPS) < 0.1 * risk
            sets["timeouts"][at.stop - 1] = 1


def peak() -> float:
    """Largest resident memory of this process so far [MB]."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)


def big(path: Path) -> dict[str, float]:
    """Read, partition, and make 100 updates of the second phase; megabytes and seconds."""
    row, started = {"import_mb": peak()}, time.perf_counter()
    data = read(path, TASK)
    row |= {"read_s": time.perf_counter() - started, "read_mb": peak()}
    config = trac.TracConfig(task=TASK, cost_limit=20, segment_ratio=0.75, bc_steps=0, steps=FOREVER, **PAPER)
    learner = TracLearner(data, [segments_of(data, config)], [config])
    row |= {"segments": len(learner.table["starts"]), "partitioned_s": time.perf_counter() - started}
    learner.advance(1)
    row |= {"first_step_s": time.perf_counter() - started, "first_step_mb": peak()}
    for step in range(2, 101):
        learner.advance(step)
    return row | {"all_s": time.perf_counter() - started, "all_mb": peak()}


def many(segments: int):
    """Data with about so many segments of 25 of 100 steps."""
    episodes = -(-segments // 76)
    generator, n = np.random.default_rng(0), episodes * 100
    risk = np.repeat(np.linspace(0, 1, episodes), 100)
    return from_arrays(
        "BallRun",
        observations=generator.standard_normal((n, 7), dtype=np.float32),
        actions=generator.uniform(-1, 1, (n, 2)),
        rewards=generator.random(n) + risk,
        costs=generator.random(n) < risk,
        terminals=np.zeros(n),
        timeouts=np.arange(1, n + 1) % 100 == 0,
    )


def curve(rounds: int = 12) -> list[dict[str, float]]:
    """Seconds to partition, and updates a second at batch 96 x 25, for 10^3 to 10^6 segments; they take turns."""
    config = trac.TracConfig(task="BallRun", segment_ratio=0.25, bc_steps=0, **PAPER)
    partitions, updaters = {}, {}
    for segments in (10**3, 10**4, 10**5, 10**6):
        data = many(segments)
        partitions[segments] = partial(partition, data, cost_limit=20, segment_ratio=0.25)
        updaters[segments] = updates(data, config)
    slow = seconds(partitions, 3, CPU)
    fast = seconds(updaters, rounds, CPU)
    return [{"segments": number, "partition_s": slow[number], "steps_per_second": 1 / fast[number]} for number in fast]


def main(out: Path = Path("_build/scale.json"), child: Path | None = None) -> None:
    """Measure both.

    Args:
        out: where the figures go.
        child: a file to measure in this process, used by the script itself.
    """
    if child:
        print(json.dumps(big(child)))
        return
    path = out.parent / "synthetic.hdf5"
    synthetic(path)
    command = [sys.executable, __file__, "--child", str(path)]
    memory = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    path.unlink()
    size = EPISODES * STEPS * OBS_DIM * 4 / 1e6
    memory["peak_over_data"] = memory["all_mb"] * 1024**2 / 1e6 / size
    print(pd.Series(memory).round(2).to_string())
    table = curve()
    print(pd.DataFrame(table).round(4).to_string(index=False))
    machine = {"device": processor(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    write_file(
        out, json.dumps({"machine": machine, "data_mb": size, "memory": memory, "curve": table}, indent=1).encode()
    )


if __name__ == "__main__":
    tyro.cli(main)
