"""The training core on a GPU: right, and how fast. One command, which writes what it has after each part.

    make bench-gpu                                            # all of it, in some 5 minutes: book/results/gpu.json
    python benchmarks/gpu.py --device cpu --rehearse --out _build/gpu.json    # in Triton's interpreter, in small
    python benchmarks/gpu.py --scores-of book/results/gpu.safetensors   # later, where the simulators are

Only what is measured side by side, in turns, is compared. The parts: `checks` (an update against the CPU's, stacks
against runs alone, graphs against single launches, precision); `table` (the quick results' 45 runs, for their
scores); `speed` (updates per second); `runs` (whole runs of the paper's size); `large` (the shape of DSRL's largest
tasks); `profile` (the kernels of an update).
"""

import itertools
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import core
import numpy as np
import pandas as pd
import safetensors.torch
import torch
import tyro
from torch import Tensor

import trac
from trac.baselines.bcq_lag import BCQLag
from trac.baselines.bear_lag import BEARLag
from trac.baselines.coptidice import COptiDICE
from trac.baselines.cpq import CPQ
from trac.core.capture import Captured
from trac.core.learner import TracLearner
from trac.data.files import write_file
from trac.data.trajectories import from_arrays
from trac.partition import segments_of
from trac.policy import Policy

RESULTS = Path(__file__).parents[1] / "book" / "results"
QUICK = {"BallRun": 1.0, "BallCircle": 1.0, "CarCircle": 0.5}  # segment ratio; see book/quick_table.py
LIMITS, SEEDS = (10.0, 20.0, 40.0), range(5)
FOREVER = 10**8


def learner(data, configs, device, **options):
    """One learner with the kernels for a GPU."""
    return TracLearner(data, [segments_of(data, c) for c in configs], configs, device=device, stacked=True, **options)


def advance(one, steps: range) -> None:
    for step in steps:
        one.advance(step)


def products_as(precision: str) -> None:
    torch.set_float32_matmul_precision({"tf32": "high", "float32": "highest"}[precision])


def error(a: Tensor, b: Tensor) -> float:
    """Largest difference over the largest entry."""
    return float((a.cpu() - b.cpu()).abs().max() / b.abs().max())


def checks(device: torch.device, small: bool, found: dict[str, Any]) -> dict[str, Any]:
    """What must hold: `found` gets a figure for each, and whether it is within its bound."""
    data = trac.load("BallRun")
    config = trac.TracConfig(task="BallRun", bc_steps=6, steps=12, bottom=0.2)
    if small:
        config = config.replace(bc_steps=2, steps=4, batch_size=3, hidden=(16, 16), segment_ratio=0.1)
    others = [config.replace(seed=seed, alpha=alpha, top=top) for seed, alpha, top in ((1, 0.5, 0.25), (2, 0.2, 0.5))]
    cuda = device.type == "cuda"

    products_as("float32")
    plain = config.replace(dropout=0.0)
    ours, cpu = learner(data, [plain], device), TracLearner(data, [segments_of(data, plain)], [plain])
    worst = 0.0
    for step in range(1, config.steps + 1):
        for name in ("weights", "mean", "square"):
            cpu.state[name].copy_(ours.state[name][:, : ours.parameters])
        ours.advance(step)
        cpu.advance(step)
        worst = max(worst, error(ours.gradient[:, : ours.parameters], cpu.gradient))
    found["gradient_against_cpu"] = dict(value=worst, bound=1e-4, holds=worst <= 1e-4)

    configs = [config, *others]
    stack, alone = learner(data, configs, device), [learner(data, [c], device) for c in configs]
    same = True
    for step in range(1, config.steps + 1):
        for m, one in enumerate(alone):
            for name in ("weights", "mean", "square"):
                one.state[name].copy_(stack.state[name][m : m + 1])
        stack.advance(step)
        for m, one in enumerate(alone):
            one.advance(step)
            # Without a unit near 0 that rounding may switch, what is 0 is what was dropped or off.
            differ = [(a[m] > 0) != (b[0] > 0) for a, b in zip(stack.stack.x[1:-1], one.stack.x[1:-1], strict=True)]
            same &= all(bool(x.float().mean() < 1e-4) for x in differ)
    found["masks_of_stack_and_alone"] = dict(value=same, holds=same)

    long = configs if small else [c.replace(bc_steps=150, steps=300) for c in configs]
    for precision in ("float32", "tf32"):
        products_as(precision)
        stack, alone = learner(data, long, device), [learner(data, [c], device) for c in long]
        for one in (stack, *alone):
            advance(one, stack.steps)
        apart = max(error(stack.state["weights"][m], one.state["weights"][0]) for m, one in enumerate(alone))
        found[f"stack_against_alone_{precision}"] = dict(value=apart, updates=stack.steps[-1])

    products_as("tf32")
    eager, captured = learner(data, long, device, capture=False), learner(data, long, device)
    for one in (eager, captured):
        advance(one, eager.steps)
    equal = all(torch.equal(value, captured.state[name]) for name, value in eager.state.items())
    recorded = all(one.graph is not None for one in captured.captured.values()) or not cuda
    found["graph_against_launches"] = dict(value=equal, recorded=recorded, holds=equal and recorded)

    half = len(eager.steps) // 2
    first, second = learner(data, long, device), learner(data, long, device)
    advance(first, range(1, half + 1))
    second.load_state({name: value.cpu() for name, value in first.state.items()})
    advance(second, range(half + 1, len(eager.steps) + 1))
    equal = all(torch.equal(value, second.state[name]) for name, value in captured.state.items())
    found["resumed_against_whole"] = dict(value=equal, holds=equal)

    found |= precision_of_the_score(data, long[0], device)
    for method in () if small else (CPQ, BCQLag, BEARLag, COptiDICE):
        pair = [method(method.Config(task="BallRun", steps=20), data, device, capture) for capture in (False, True)]
        for one in pair:
            advance(one, range(1, 21))
        equal = all(torch.equal(value, pair[1].state[name]) for name, value in pair[0].state.items())
        recorded = pair[1].captured.graph is not None
        found[f"graph_of_{method.algorithm}"] = dict(value=equal, recorded=recorded, holds=equal and recorded)

    if cuda and torch.cuda.device_count() > 1:
        products_as("float32")
        pair = [learner(data, long, torch.device("cuda", i)) for i in (0, 1)]
        for one in pair:
            advance(one, one.steps)
        apart = error(pair[1].state["weights"], pair[0].state["weights"])
        found["another_device"] = dict(value=apart, bound=1e-3, holds=apart <= 1e-3)
    return found


def precision_of_the_score(data, config, device) -> dict[str, Any]:
    """Error of segments' scores by TF32's products beside what dropout does to them, after some training."""
    trained = learner(data, [config], device)
    advance(trained, trained.steps)

    def scores(dropout: float, update: int) -> Tensor:
        one = learner(data, [config.replace(dropout=dropout)], device)
        one.load_state(trained.state)
        one._cache_reference()
        one._send_batches(update)
        one.block["index"][0] = trained.batch_index  # the same segments each time, with other masks
        one.stack.forward()
        one.stack.differentiate(one.reference)
        return one.stack.parts[2, 0].clone()

    products_as("float32")
    exact = scores(0.0, config.steps)
    noisy = torch.stack([scores(config.dropout, config.steps + i) for i in range(8)])
    products_as("tf32")
    tf32 = float((scores(0.0, config.steps) - exact).square().mean().sqrt())
    dropout = float(noisy.std(0).square().mean().sqrt())
    return {"score_by_tf32": dict(value=tf32, by_dropout=dropout, scores=float(exact.std()), holds=tf32 < dropout / 10)}


def seconds(variants: dict[str, Callable[[], Any]], rounds: int, block: float, device) -> dict[str, float]:
    """Median seconds of one call of each; they take turns."""

    def turn(call: Callable[[], Any], repeats: int) -> float:
        started = time.perf_counter()
        for _ in range(repeats):
            call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (time.perf_counter() - started) / repeats

    repeats = dict.fromkeys(variants, 1)
    if block:  # [s] that each has at a time
        for name, call in variants.items():
            turn(call, 5)
            repeats[name] = max(1, round(block / turn(call, 3)))
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, call in variants.items():
            times[name].append(turn(call, repeats[name]))
    return {name: float(np.median(values)) for name, values in times.items()}


def endless(one) -> Callable[[], None]:
    """The update of a learner, again and again."""
    one.advance(1)
    steps = iter(range(2, FOREVER))
    return lambda: one.advance(next(steps))


def products(models: int, rows: int, sizes: Sequence[int], device) -> Callable[[], None]:
    """The networks' matrix products alone, forward and backward, into buffers that are there already."""
    weights, gradients = ([torch.randn(models, b, a, device=device) for a, b in pairs(sizes)] for _ in range(2))
    x, deltas = ([torch.randn(models, rows, size, device=device) for size in sizes] for _ in range(2))

    def update() -> None:
        for i, weight in enumerate(weights):
            torch.bmm(x[i], weight.transpose(1, 2), out=x[i + 1])
        for i in reversed(range(len(weights))):
            torch.bmm(deltas[i + 1].transpose(1, 2), x[i], out=gradients[i])
            if i > 0:  # nothing needs the gradient of the observations
                torch.bmm(deltas[i + 1], weights[i], out=deltas[i])

    return update


def pairs(sizes: Sequence[int]) -> list[tuple[int, int]]:
    return list(itertools.pairwise(sizes))


def traffic(rows: int, sizes: Sequence[int]) -> int:
    """Bytes that one run's update reads and writes, if nothing stays in a cache between two kernels."""
    hidden, other = sum(sizes[1:-1]), sizes[0] + sizes[-1]
    # Hidden: product, activation (2), read by two products; gradient: product, mask (3), read by two products, of the
    # first layer by one.
    return 4 * rows * (11 * hidden - sum(sizes[1:-1][:1]) + 4 * other)


def kernels(call: Callable[[], Any], device) -> dict[str, Any]:
    """How many kernels a call launches, and those that take the longest [µs]."""
    if device.type != "cuda":
        return {}
    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiled:
            for _ in range(5):
                call()
            torch.cuda.synchronize(device)
    except RuntimeError as error:  # some machines do not let a program read these counters
        return {"profile": str(error)}
    events = [event for event in profiled.key_averages() if event.self_device_time_total > 0]
    time_of = {event.key[:60]: round(event.self_device_time_total / 5, 1) for event in events}
    longest = dict(sorted(time_of.items(), key=lambda item: -item[1])[:8])
    return dict(kernels=sum(event.count for event in events) / 5, device_us=sum(time_of.values()), longest_us=longest)


class Memory:
    """What tensors take on a GPU from here on at most [MB], without a graph's pool and cuBLAS's workspace."""

    def __init__(self, device):
        self.device, self.before = device, 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.before = torch.cuda.memory_allocated(device)

    def used(self) -> int:
        most = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else 0
        return round((most - self.before) / 2**20)


def profile(device, small: bool) -> dict[str, Any]:
    """The kernels of an update at the paper's and the quick shape. Last of all, for a profiler slows what follows."""
    products_as("tf32")
    found = {}
    for label, models in (("96 x 100, 256-256", 1), ("96 x 100, 256-256", 32), ("16 x 200, 128-128", 1)):
        config = core.SHAPES[label].replace(bc_steps=0, warmup_steps=0, steps=FOREVER)
        if not small:
            configs = [config.replace(seed=seed) for seed in range(models)]
            call = endless(learner(trac.load(config.task), configs, device, capture=False))
            found[f"{label}, {models} runs"] = kernels(call, device)
    return found


def bandwidth(device) -> float:
    """Bytes read and written per second by a copy of 1 GiB [GB/s]."""
    source = torch.empty(2**28 if device.type == "cuda" else 2**20, device=device)
    target = torch.empty_like(source)
    return 8 * len(source) / seconds({"copy": lambda: target.copy_(source)}, 3, 0.02, device)["copy"] / 1e9


def speed(device, small: bool, rounds: int, block: float, write: Callable[[list[dict]], None]) -> list[dict]:
    """Updates per second of a textbook loop, of ours launched one by one, as graphs, and of the products alone."""
    products_as("tf32")
    table: list[dict] = []
    for label, shape in core.SHAPES.items():
        data = trac.load(shape.task)
        if small:
            shape = shape.replace(batch_size=3, hidden=(32, 32), segment_ratio=0.1)
        length = int(data.lengths.max() * shape.segment_ratio)
        rows, sizes = shape.batch_size * length, [data.observations.shape[1], *shape.hidden, data.actions.shape[1]]
        for models in (1, 2) if small else (1, 8, 32, 128):
            config = shape.replace(bc_steps=0, warmup_steps=0, steps=FOREVER)
            configs = [config.replace(seed=seed) for seed in range(models)]
            captured, variants = None, {}  # the last ones' memory
            memory = Memory(device)
            captured = learner(data, configs, device)
            row: dict[str, Any] = dict(shape=label, models=models, memory_mb=memory.used())
            variants = {
                "ours": endless(captured),
                "ours, launched one by one": endless(learner(data, configs, device, capture=False)),
                "products": Captured(products(models, rows, sizes, device), device),
            }
            if models == 1:
                variants["textbook"] = core.textbook(data, config, device, cloning=False)
            times = seconds(variants, rounds, block, device)
            row |= {f"{name}, updates/s": models / value for name, value in times.items()}
            row["of_products"] = times["products"] / times["ours"]
            row["gflop_per_second"] = models * core.flops(rows, sizes) / times["ours"] / 1e9
            row["gbyte_per_second"] = models * traffic(rows, sizes) / times["ours"] / 1e9
            table.append(row)
            write(table)
            print({name: round(v, 3) if isinstance(v, float) else v for name, v in row.items()}, flush=True)
    return table


def runs(device, small: bool) -> dict[str, float]:
    """Seconds of one run of the paper's size, of the nine of a table's row, and, from those, of the table."""
    data, paper = trac.load("BallRun"), trac.TracConfig.paper("BallRun", 20).replace(eval_episodes=0)
    if small:
        paper = paper.replace(steps=6, bc_steps=3, batch_size=4, hidden=(32, 32), segment_ratio=0.1)
    nine = [paper.replace(cost_limit=limit, seed=seed) for limit in (20.0, 40.0, 80.0) for seed in range(3)]
    times = {}
    for name, config in (("one", paper), ("nine", nine)):
        started = time.perf_counter()
        trained = trac.train(data, config, device=device, progress=False)
        times[name] = time.perf_counter() - started
        last = (trained if name == "one" else trained[0]).history.iloc[-1]
        print(f"{name}: {times[name]:.1f} s, last loss {last.loss:.4f}, accuracy {last.accuracy:.3f}", flush=True)
    return times | {"updates": paper.steps, "table_of_342_hours": 38 * times["nine"] / 3600}


def table(device, small: bool, path: Path) -> dict[str, float]:
    """Train the quick results' runs of TraC, a stack for each task, and save their policies in one file."""
    policies, times = {}, {}
    for task, ratio in QUICK.items():
        config = trac.TracConfig(task=task, eval_episodes=0, segment_ratio=ratio)
        if small:
            config = config.replace(steps=4, bc_steps=2, warmup_steps=1, batch_size=2, hidden=(16,))
        kinds = [(limit, seed) for limit in LIMITS for seed in SEEDS][: 2 if small else None]
        started = time.perf_counter()
        configs = [config.replace(cost_limit=limit, seed=seed) for limit, seed in kinds]
        trained = trac.train(trac.load(task), configs, device=device, progress=False)
        times[task] = time.perf_counter() - started
        for (limit, seed), run in zip(kinds, trained, strict=True):
            for name, value in run.policy.state_dict().items():
                policies[f"{task}/{limit:g}/{seed}/{name}"] = value.contiguous()
    write_file(path, safetensors.torch.save(policies))
    return {f"seconds_{task}": value for task, value in times.items()}


def scores(path: Path) -> list[dict]:
    """Evaluate the policies that `table` saved, beside the CPU's in book/results/quick_episodes.csv."""
    states: dict[tuple[str, str, str], dict[str, Tensor]] = {}
    for name, value in safetensors.torch.load_file(path).items():
        task, limit, seed, parameter = name.split("/")
        states.setdefault((task, limit, seed), {})[parameter] = value
    cpu = pd.read_csv(RESULTS / "quick_episodes.csv", comment="#").query("method == 'TraC'")
    means = cpu.groupby(["task", "cost_limit", "seed"])[["normalized_reward", "cost"]].mean()
    found: dict[tuple[str, float], list[tuple[float, float]]] = {}
    for (task, limit, seed), state in states.items():
        first, last = state["layers.0.weight"], state[max(name for name in state if name.endswith("weight"))]
        hidden = [value.shape[0] for name, value in state.items() if name.endswith("weight")][:-1]
        policy = Policy(first.shape[1], last.shape[0], hidden=hidden)
        policy.load_state_dict(state)
        options = dict(task=task, cost_limit=float(limit), seed=1_000_000 + int(seed))
        episodes = trac.evaluate(policy, **options).episodes
        found.setdefault((task, float(limit)), []).append(tuple(episodes[["normalized_reward", "cost"]].mean()))
    rows = []
    for (task, limit), values in found.items():
        ours, theirs = np.array(values), means.loc[(task, limit)].to_numpy()
        row: dict[str, Any] = dict(task=task, cost_limit=limit)
        for i, name in enumerate(("normalized_reward", "cost")):
            row |= {f"{name}_gpu": ours[:, i].mean(), f"{name}_cpu": theirs[:, i].mean()}
            row[f"{name}_spread_cpu"] = theirs[:, i].std(ddof=1)
        rows.append(row)
    return rows


def large(device, small: bool, rounds: int, block: float) -> dict[str, Any]:
    """2 million transitions of 60 observations, segments of 750 steps, the paper's batch."""
    length = 100 if small else 1000
    episodes = 20 if small else 2000
    generator, n = np.random.default_rng(0), length * episodes
    data = from_arrays(
        "large",
        observations=generator.standard_normal((n, 60), dtype=np.float32),
        next_observations=np.zeros((n, 60), dtype=np.float32),
        actions=generator.uniform(-1, 1, (n, 2)),
        rewards=generator.random(n),
        costs=np.repeat(generator.random(episodes) < 0.5, length) * (generator.random(n) < 0.1),
        terminals=np.zeros(n),
        timeouts=np.arange(n) % length == length - 1,
    )
    config = trac.TracConfig(
        **dict(task="large", segment_ratio=0.75, batch_size=96, hidden=(256, 256)),
        **dict(bottom=0.2, bc_steps=0, steps=FOREVER),
    )
    if small:
        config = config.replace(batch_size=2, hidden=(16, 16))
    products_as("tf32")
    row: dict[str, Any] = dict(transitions=n)
    for models in (1, 2) if small else (1, 8):
        memory = Memory(device)
        one = learner(data, [config.replace(seed=seed) for seed in range(models)], device)
        row[f"memory_mb, {models} runs"] = memory.used()
        row[f"updates/s, {models} runs"] = models / seconds({"ours": endless(one)}, rounds, block, device)["ours"]
        del one
    return row


def machine(device) -> dict[str, Any]:
    import triton  # after TRITON_INTERPRET is set

    versions = dict(torch=torch.__version__, triton=triton.__version__, python=platform.python_version())
    found: dict[str, Any] = dict(device=str(device), copy_gbyte_per_second=bandwidth(device)) | versions
    if device.type == "cuda":
        found |= dict(card=torch.cuda.get_device_name(device), cuda=torch.version.cuda)
        try:
            found["driver"] = Path("/proc/driver/nvidia/version").read_text().split("\n")[0]
        except OSError:
            found["driver"] = "unknown"
    return found


def main(
    device: str = "cuda", rehearse: bool = False, out: Path = RESULTS / "gpu.json", scores_of: Path | None = None,
    parts: Sequence[str] = ("checks", "table", "speed", "runs", "large", "profile"),
) -> None:  # fmt: skip
    """Run the parts, write `out` after each, and say what does not hold; the exit status is 1 then."""
    if scores_of is not None:
        found = json.loads(out.read_text()) | {"scores": scores(scores_of)}
        out.write_text(json.dumps(found, indent=1))
        return
    where, started = torch.device(device), time.perf_counter()
    if where.type == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
    rounds, block = (1, 0.0) if rehearse else (5, 0.05)
    found: dict[str, Any] = {"machine": machine(where) | {"rehearsal": rehearse}}

    def write(name: str, value: Any) -> None:
        found[name] = value
        found["seconds"] = round(time.perf_counter() - started, 1)
        out.parent.mkdir(parents=True, exist_ok=True)
        write_file(out, json.dumps(found, indent=1).encode())

    calls: dict[str, Callable[[], Any]] = {
        "checks": lambda: checks(where, rehearse, found.setdefault("checks", {})),
        "speed": lambda: speed(where, rehearse, rounds, block, lambda rows: write("speed", rows)),
        "runs": lambda: runs(where, rehearse),
        "table": lambda: table(where, rehearse, out.with_suffix(".safetensors")),
        "large": lambda: large(where, rehearse, rounds, block),
        "profile": lambda: profile(where, rehearse),
    }
    failed = []
    for name in parts:
        try:
            write(name, calls[name]())
        except Exception as error:  # the parts after it are wanted all the same, and a card is rare
            failed.append(f"{name}: {type(error).__name__}: {error}")
            so_far = found.get(name, {})
            write(name, (so_far if isinstance(so_far, dict) else {"rows": so_far}) | {"error": traceback.format_exc()})
        print(f"{name}: {found['seconds']} s so far", flush=True)
    failed += [
        name
        for name, value in found.get("checks", {}).items()
        if isinstance(value, dict) and value.get("holds") is False
    ]
    print(json.dumps(found.get("checks"), indent=1), *(f"does not hold: {name}" for name in failed), f"{out}", sep="\n")
    sys.exit(bool(failed))


if __name__ == "__main__":
    tyro.cli(main)
