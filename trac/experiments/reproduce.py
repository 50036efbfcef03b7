"""The paper's experiment on its own data, and our row of its main table beside the paper's.

    python -m trac reproduce --task BallRun

A task is three cost limits with three seeds each. The seeds of a limit are one stack in the folder
<task>/limit-<limit>, which goes on from its checkpoints when the command is given again.
"""

import os
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from trac.config import ConfigError, TracConfig
from trac.core.checkpoint import CheckpointError
from trac.core.run import Run, load_run
from trac.data.download import fetch
from trac.data.files import write_file
from trac.data.load import load
from trac.data.tasks import TASKS, get_task
from trac.envs import MissingSimulator, make
from trac.evaluate import SCORES, evaluate_many, rank
from trac.experiments.sweep import on_dask
from trac.train import TrainingError, train

PLUS_MINUS = (
    "Δ / s.e. takes the paper's ± as a standard deviation over nine runs. That is an assumption, and 26 rows of BC-All "
    "in the paper's table are evidence against it (chapter 15): read Δ as a rough measure."
)
SEEDS = (0, 10, 20)
SUITES = {"bullet": "bullet", "safety": "safety_gymnasium", "metadrive": "metadrive"}


def paper_results() -> pd.DataFrame:
    """The paper's main table: suite, task, method, mean and standard deviation of both normalised scores."""
    with resources.as_file(resources.files("trac.experiments") / "paper_results.csv") as path:
        return pd.read_csv(path)


def in_suite(suite: str) -> list[str]:
    """The tasks of "bullet", "safety", "metadrive" or "all"."""
    return [name for name, task in TASKS.items() if suite == "all" or task.suite == SUITES[suite]]


def assumed(task: str) -> bool:
    """Whether the paper leaves the task's segment ratio out, so that one must be assumed."""
    return "segment_ratio" not in get_task(task).paper


def configs(
    task: str, cost_limit: float, segment_ratio: float | None, changes: dict[str, Any] | None
) -> list[TracConfig]:
    """The settings of each seed: the paper's, `segment_ratio` where it prints none, and the changes."""
    ratio = segment_ratio if assumed(task) else None
    return [TracConfig.paper(task, cost_limit, s, segment_ratio=ratio).replace(**(changes or {})) for s in SEEDS]


def run_limit(
    folder: str,
    source: str,
    task: str,
    cost_limit: float,
    segment_ratio: float | None = None,
    changes: dict[str, Any] | None = None,
    device: str | None = None,
    progress: bool = True,
) -> tuple[list[dict[str, Any]], str | None, str | None]:
    """Train and evaluate a task's seeds under one limit, in a folder of their own.

    Args:
        folder: holds checkpoints and finished runs.
        source: "dsrl", "packaged", or a file.
        task: name in `trac.TASKS`.
        cost_limit: l [cost per episode].
        segment_ratio: used where the paper prints none.
        changes: fields of TracConfig that are not to be the paper's.
        device: as for `trac.train`.
        progress: show a progress bar.

    Returns:
        One row for each seed and model ("last", and "best" by evaluation): task, cost_limit, segment_ratio,
        ratio_assumed, seed, model and the scores, NaN without evaluation. Why there was none, or None. Which
        runs failed, or None.

    Raises:
        ValueError: the settings or the data do not allow it; the message says why.
        CheckpointError: see `trac.train`.
    """
    wanted = configs(task, cost_limit, segment_ratio, changes)
    episodes, failed = wanted[0].eval_episodes, None
    missing = None if episodes else "eval_episodes=0"
    try:
        make(task).close()
    except MissingSimulator as error:
        missing = str(error)
    # What was trained where there was no simulator is evaluated where there is one.
    first = Path(folder) / "000"
    blind = missing or ((first / "run.json").is_file() and load_run(first).config.eval_episodes == 0)
    if blind:
        wanted = [config.replace(eval_episodes=0) for config in wanted]
    try:
        runs = train(load(task, source), wanted, out=folder, resume=True, device=device, progress=progress)
    except TrainingError as error:
        runs, failed = [run for run in error.runs if not run.record["failed_step"]], str(error)
    if blind and not missing and runs:
        limits, seeds = [cost_limit] * len(runs), [run.config.seed for run in runs]
        policies = [run.policy for run in runs]
        found = evaluate_many(policies, task=task, cost_limits=limits, episodes=episodes, seeds=seeds)
        scores = [{"last": result.episodes[[*SCORES]].mean().to_dict()} for result in found]
    else:
        scores = [_scores(run) for run in runs]
    common = {"task": task, "cost_limit": cost_limit, "segment_ratio": wanted[0].segment_ratio}
    common["ratio_assumed"] = assumed(task)
    rows = [
        common | {"seed": run.config.seed, "model": model} | values
        for run, models in zip(runs, scores, strict=True)
        for model, values in models.items()
    ]
    return rows, missing, failed


def _scores(run: Run) -> dict[str, dict[str, float]]:
    """Scores of a run's last policy and, with evaluations on the way, of its best."""
    if "normalized_reward" not in run.history:
        return {"last": dict.fromkeys(SCORES, np.nan)}
    found = run.history.dropna(subset=["normalized_reward"])[[*SCORES]].to_dict("records")
    best = {} if run.best is None else {"best": max(found, key=lambda scores: rank(scores, run.config.cost_limit))}
    return {"last": found[-1]} | best


def compare(rows: pd.DataFrame) -> pd.DataFrame:
    """Our means beside the paper's, one row for each task and model.

    Args:
        rows: of `run_limit`, of any number of tasks and limits.

    Returns:
        task; model; ratio_assumed; runs; and for reward and cost: our mean and standard deviation over the runs, the
        paper's, and `<score>_difference`: ours minus the paper's, in standard errors of that difference. The
        paper's standard deviation is taken to be over as many runs as a task has there, nine: see `PLUS_MINUS`.
    """
    paper = paper_results().query("method == 'TraC'").set_index("task")
    table = []
    for (task, model), group in rows.groupby(["task", "model"], sort=False):
        row: dict[str, Any] = {"task": task, "model": model}
        row |= {"ratio_assumed": group.ratio_assumed.iloc[0], "runs": len(group)}
        for score in ("reward", "cost"):
            values = group[f"normalized_{score}"]
            row |= {score: values.mean(), f"{score}_std": values.std()}
            theirs = {f"paper_{score}{end}": paper.loc[task, f"{score}_{name}"] for name, end in _ENDS}
            row |= theirs
            error = np.sqrt(values.var() / len(group) + theirs[f"paper_{score}_std"] ** 2 / 9)
            row[f"{score}_difference"] = (values.mean() - theirs[f"paper_{score}"]) / error if error > 0 else np.nan
        table.append(row)
    return pd.DataFrame(table)


_ENDS = (("mean", ""), ("std", "_std"))


def as_text(table: pd.DataFrame) -> str:
    """The table of `compare`, for a terminal."""

    def plus_minus(name: str) -> pd.Series:
        return table[name].map("{:.2f}".format) + " ± " + table[f"{name}_std"].map("{:.2f}".format)

    columns: dict[str, Any] = {"task": table.task, "model": table.model, "runs": table.runs}
    for score in ("reward", "cost"):
        columns |= {score: plus_minus(score), f"paper's {score}": plus_minus(f"paper_{score}")}
        columns[f"Δ {score} / s.e."] = table[f"{score}_difference"].map("{:+.1f}".format)
    return str(pd.DataFrame(columns).to_string(index=False))


def reproduce(
    tasks: Sequence[str],
    out: str | os.PathLike[str],
    *,
    source: str = "dsrl",
    segment_ratio: float | None = None,
    changes: dict[str, Any] | None = None,
    device: str | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
) -> dict[str, str]:
    """Run the paper's experiment; print and write our rows beside the paper's.

    Args:
        tasks: names in `trac.TASKS`.
        out: folder; runs.csv has each run's scores, table.csv the comparison.
        source: "dsrl", "packaged", or a file (of one task).
        segment_ratio: for tasks whose ratio the paper does not print; the output says that it was assumed.
        changes: fields of TracConfig that are not to be the paper's, to try things out; the output names them.
        device: as for `trac.train`.
        workers: run the limits in so many processes on this machine.
        scheduler: run them on the workers of this Dask scheduler, which must reach `out` under the same path.

    Returns:
        What failed, by task and limit; empty when all is finished.

    Raises:
        ConfigError: a segment ratio is needed and not given; a change makes no sense; one file for several tasks.
    """
    out = Path(out).resolve()
    if segment_ratio is None and (unknown := [task for task in tasks if assumed(task)]):
        raise ConfigError(
            f"the paper does not print its segment ratio for {', '.join(unknown)}: pass --segment-ratio (L / T, in "
            f"(0, 1]), and the output will say that it was assumed."
        )
    if source not in ("dsrl", "packaged"):
        source = str(Path(source).resolve())
        if len(tasks) > 1:
            raise ConfigError(f"{source} is the data of one task, and {len(tasks)} are asked for: pass --task.")
    for task in tasks:
        configs(task, get_task(task).cost_limits[0], segment_ratio, changes)  # a slip is said before anything runs
    failed: dict[str, str] = {}
    calls: dict[str, tuple[Any, ...]] = {}
    for task in tasks:
        try:
            if source == "dsrl":
                fetch(task)  # once, and not by each worker
        except ValueError as error:
            failed[task] = str(error)
            continue
        for limit in get_task(task).cost_limits:
            folder = out / task / f"limit-{limit:g}"
            calls[f"{task}, limit {limit:g}"] = (str(folder), source, task, limit, segment_ratio, changes, device)
    if workers or scheduler:
        results = on_dask(run_limit, {name: (*call, False) for name, call in calls.items()}, workers or 1, scheduler)
    else:
        results = ((name, _try(run_limit, call)) for name, call in calls.items())
    rows, notes = [], dict[str, str]()
    for name, result in results:
        if isinstance(result, BaseException):
            failed[name] = str(result)
            continue
        found, missing, problem = result
        rows += found
        if missing:
            notes[name] = f"not evaluated: {missing}"
        if problem:
            failed[name] = problem
    if rows:
        order = {name: number for number, name in enumerate(tasks)}
        runs = pd.DataFrame(rows).sort_values(["task", "cost_limit", "seed"], key=lambda c: c.replace(order))
        table = compare(runs)
        out.mkdir(parents=True, exist_ok=True)
        write_file(out / "runs.csv", runs.to_csv(index=False).encode())
        write_file(out / "table.csv", table.to_csv(index=False).encode())
        print(as_text(table), PLUS_MINUS, sep="\n")
        for task in filter(assumed, tasks):
            print(f"{task}: the segment ratio {segment_ratio:g} is assumed; the paper does not print its own")
    if changes:
        print("not the paper's settings:", ", ".join(f"{name}={value}" for name, value in changes.items()))
    if source != "dsrl":
        print(f"not DSRL's data: {source}")
    for name, note in notes.items():
        print(f"{name}: {note}")
    return failed


def _try(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        return function(*arguments)
    except (ValueError, CheckpointError) as error:
        return error
