"""Speed of the training core against the network's own matrix products and against a textbook loop.

    make bench                                   # all of it: _build/bench.json and a table
    .venv/bin/python benchmarks/core.py --rounds 3 --out /tmp/bench.json

The variants take turns, a few updates each, for many rounds, and medians are compared: the speed of a
shared machine drifts threefold from hour to hour, and only what is measured side by side counts.
"""

import itertools
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
import tyro
from torch import nn

import trac
from trac.core import fused_cpu
from trac.core.learner import learners
from trac.core.run import processor
from trac.data.files import write_file
from trac.partition import partition, segments_of

PAPER = dict(batch_size=96, hidden=(256, 256), dropout=0.25, learning_rate=1e-4)
SHAPES = {
    "96 x 100, 256-256": trac.TracConfig(task="BallRun", segment_ratio=1.0, **PAPER),
    "96 x 25, 256-256": trac.TracConfig(task="BallRun", segment_ratio=0.25, **PAPER),
    "16 x 200, 128-128": trac.TracConfig(task="BallCircle"),
}
FOREVER, CPU = 10**9, torch.device("cpu")
BLOCK = 0.15  # seconds that a variant runs before the next one's turn


def updates(data, config, *, models: int = 1, chunk: int = fused_cpu.CHUNK) -> Callable[[], None]:
    """Our update, of several runs one after the other."""
    configs = [config.replace(seed=seed, steps=FOREVER) for seed in range(models)]
    before, fused_cpu.CHUNK = fused_cpu.CHUNK, chunk
    made, steps = learners(data, [segments_of(data, c) for c in configs], configs), itertools.count(1)
    fused_cpu.CHUNK = before

    def update():
        step = next(steps)
        for one in made:
            one.advance(step)

    return update


class Copies(torch.utils.data.Dataset):
    """Segments copied out of the data, as a first implementation would."""

    def __init__(self, data, segments):
        rows = segments.starts[:, None] + np.arange(segments.length)
        self.observations, self.actions = data.observations[rows], data.actions[rows]
        self.labels, self.weights = segments.labels, segments.weights

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return self.observations[i], self.actions[i], self.labels[i], self.weights[i]


def textbook(data, config, device, cloning: bool) -> Callable[[], None]:
    """The update as a textbook would write it: DataLoader, nn.Dropout, autograd, reference recomputed, .item()."""
    segments = partition(data, cost_limit=config.cost_limit, top=config.top, segment_ratio=config.segment_ratio)
    copies = Copies(data, segments)
    loader = torch.utils.data.DataLoader(
        copies, config.batch_size, shuffle=True, num_workers=2, drop_last=True, persistent_workers=True
    )

    def network():
        sizes, layers = [data.observations.shape[1], *config.hidden], []
        for a, b in itertools.pairwise(sizes):
            layers += [nn.Linear(a, b), nn.ReLU(), nn.Dropout(config.dropout)]
        return nn.Sequential(*layers, nn.Linear(sizes[-1], data.actions.shape[1]), nn.Tanh()).to(device)

    policy, reference, log = network(), network().eval(), []
    optimizer = torch.optim.Adam(policy.parameters(), lr=config.learning_rate)
    discount = config.gamma ** torch.arange(segments.length, device=device)

    def batches():
        while True:
            yield from loader

    stream = batches()

    def update():
        observations, actions, label, weight = (x.to(device) for x in next(stream))
        log_prob = -(actions - policy(observations)).square().sum(-1)
        if cloning:
            loss = -log_prob.mean()
        else:
            with torch.no_grad():
                reference_log_prob = -(actions - reference(observations)).square().sum(-1)
            s = config.alpha * (discount * (log_prob - reference_log_prob)).sum(-1)
            ratio = config.eta * label.sum() / (1 - label).sum().clamp(min=1)
            loss = -(weight * (label * F.logsigmoid(s) + ratio * (1 - label) * F.logsigmoid(-s))).mean()
            log.append(((s > 0) == (label > 0.5)).float().mean().item())
            log.append(s.detach().mean().item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        log.append(loss.item())

    return update


def products(rows: int, sizes: list[int], device) -> Callable[[], None]:
    """The network's matrix products alone, forward and backward, into buffers that are there already."""
    pairs = list(itertools.pairwise(sizes))
    weights, gradients = ([torch.randn(b, a, device=device) for a, b in pairs] for _ in range(2))
    x, deltas = ([torch.randn(rows, size, device=device) for size in sizes] for _ in range(2))

    def update():
        for i, weight in enumerate(weights):
            torch.mm(x[i], weight.t(), out=x[i + 1])
        for i in reversed(range(len(weights))):
            torch.mm(deltas[i + 1].t(), x[i], out=gradients[i])
            if i > 0:  # nothing needs the gradient of the observations
                torch.mm(deltas[i + 1], weights[i], out=deltas[i])

    return update


def flops(rows: int, sizes: list[int]) -> int:
    """Floating-point operations of `products`."""
    work = [2 * rows * a * b for a, b in itertools.pairwise(sizes)]
    return 3 * sum(work) - work[0]


def seconds(
    variants: dict[Any, Callable[[], Any]], rounds: int, device: torch.device, clock=time.perf_counter
) -> dict[Any, float]:
    """Median seconds of one update of each variant, by that clock; they take turns."""

    def turn(update: Callable[[], Any], repeats: int) -> float:
        started = clock()
        for _ in range(repeats):
            update()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (clock() - started) / repeats

    for update in variants.values():
        turn(update, 8)
    repeats = {name: max(1, round(BLOCK / turn(update, 3))) for name, update in variants.items()}
    times: dict[Any, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, update in variants.items():
            times[name].append(turn(update, repeats[name]))
            if str(name).startswith("textbook"):
                time.sleep(0.1)  # its workers fill their queue again, which must not slow down the next one
    return {name: float(np.median(values)) for name, values in times.items()}


def measure(label: str, config, cloning: bool, rounds: int) -> list[dict]:
    """Rows of the table for one shape and one phase."""
    data = trac.load(config.task)
    config = config.replace(bc_steps=FOREVER if cloning else 0, warmup_steps=0, steps=FOREVER)
    length = int(data.lengths.max() * config.segment_ratio)
    rows = config.batch_size * length
    sizes = [data.observations.shape[1], *config.hidden, data.actions.shape[1]]
    variants = {
        "ours": updates(data, config),
        "ours, one chunk": updates(data, config, chunk=2**40),
        "textbook": textbook(data, config, CPU, cloning),
        "textbook, no dropout": textbook(data, config.replace(dropout=0.0), CPU, cloning),
        "products": products(rows, sizes, CPU),
        "ours, 8 runs": updates(data, config, models=8),
    }
    times = seconds(variants, rounds, CPU)
    table = []
    for name, value in times.items():
        models = 8 if "8" in name else 1
        table.append(
            {
                "shape": label,
                "phase": "cloning" if cloning else "trac",
                "variant": name,
                "steps_per_second": 1 / value,
                "gflop_per_second": models * flops(rows, sizes) / value / 1e9,
                "of_products": models * times["products"] / value,
                "over_textbook": models * times["textbook"] / value,
            }
        )
    return table


def main(rounds: int = 12, threads: int | None = None, out: Path = Path("_build/bench.json")):
    """Measure all shapes and phases.

    Args:
        rounds: turns of each variant.
        threads: of torch; its own choice without it.
        out: the table, with the machine's description.
    """
    if threads:
        torch.set_num_threads(threads)
    table = []
    for label, config in SHAPES.items():
        for cloning in (True, False):
            table += measure(label, config, cloning, rounds)
            rows = [row for row in table if (row["shape"], row["phase"]) == (label, table[-1]["phase"])]
            print(pd.DataFrame(rows).round(2).to_string(index=False), flush=True)
    machine = {
        "device": processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    write_file(out, json.dumps({"machine": machine, "table": table}, indent=1).encode())
    print(f"{machine}: {out}")


if __name__ == "__main__":
    tyro.cli(main)
