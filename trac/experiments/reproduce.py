"""The paper's experiment on its own data, and our row of its main table beside the paper's.

    python -m trac reproduce --task BallRun

A task is three cost limits with three seeds each. The seeds of a limit are one stack in the folder
<task>/limit-<limit>, which goes on from its checkpoints when the command is given again.
"""

import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from trac.config import ConfigError, TracConfig
from trac.core import checkpoint
from trac.core.checkpoint import CheckpointError
from trac.core.run import Run
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
    "in the paper's table are evidence against it (appendix I): read Δ as a rough measure."
)
SEEDS = (0, 10, 20)
SUITES = {"bullet": "bullet", "safety": "safety_gymnasium", "metadrive": "metadrive"}


def paper_results() -> pd.DataFrame:
    """The paper's main table: suite, task, method, mean and standard deviation of both normalised scores.

    >>> paper_results().query("task == 'BallRun' and method == 'TraC'")[["reward_mean", "cost_mean"]].values.tolist()
    [[0.27, 0.49]]
    """
    with resources.as_file(resources.files("trac.experiments") / "paper_results.csv") as path:
        return pd.read_csv(path)


def in_suite(suite: str) -> list[str]:
    """The tasks of "bullet", "safety", "metadrive" or "all".

    >>> in_suite("metadrive")[:3]
    ['easysparse', 'easymean', 'easydense']
    """
    return [name for name, task in TASKS.items() if suite == "all" or task.suite == SUITES[suite]]


def assumed(task: str) -> bool:
    """Whether the paper leaves the task's segment ratio out, so that one must be assumed.

    >>> assumed("BallRun"), assumed("BallCircle")
    (False, True)
    """
    return "segment_ratio" not in get_task(task).paper


def configs(
    task: str, cost_limit: float, segment_ratio: float | None, changes: dict[str, Any] | None
) -> list[TracConfig]:
    """The settings of each seed: the paper's, `segment_ratio` where it prints none, and the changes.

    >>> [config.seed for config in configs("BallRun", 20, None, None)]
    [0, 10, 20]
    """
    ratio = segment_ratio if assumed(task) else None
    return [TracConfig.paper(task, cost_limit, s, segment_ratio=ratio).replace(**(changes or {})) for s in SEEDS]


def run_limit(
    folder: str,
    source: str,
    wanted: Sequence[TracConfig],
    device: str | None = None,
    progress: bool = True,
) -> tuple[list[dict[str, Any]], str | None, str | None]:
    """Train and evaluate a task's seeds under one limit, in a folder of their own.

    Args:
        folder: holds checkpoints and finished runs.
        source: "dsrl", "packaged", or a file.
        wanted: from `configs`.
        device: as for `trac.train`.
        progress: show a progress bar.

    Returns:
        One row for each seed and model ("last", and "best" by evaluation): task, cost_limit, segment_ratio,
        ratio_assumed, seed, model and the scores, NaN without evaluation. Why there was none, or None. Which
        runs failed, or None.

    Raises:
        ValueError: the settings or the data do not allow it; the message says why.
        MissingSimulator: what was begun with evaluations goes on without a simulator.
        CheckpointError: see `trac.train`.

    Example:
        >>> short = dict(steps=4, bc_steps=2, warmup_steps=1, eval_every=0, eval_episodes=0)
        >>> wanted = configs("BallRun", 20, None, short)
        >>> rows, missing, failed = run_limit(str(folder), "packaged", wanted, progress=False)
        >>> len(rows), missing, failed
        (3, 'eval_episodes=0', None)
    """
    config = wanted[0]
    missing, failed = None if config.eval_episodes else "eval_episodes=0", None
    try:
        make(config.task).close()
    except MissingSimulator as error:
        missing = str(error)
    # What was begun where there was no simulator goes on without evaluations, and has one at the end if it can.
    begun = checkpoint.load(Path(folder, "checkpoints", "00"))
    blind = missing is not None if begun is None else begun[1]["identity"]["configs"][0]["eval_episodes"] == 0
    asked = [c.replace(eval_episodes=0) for c in wanted] if blind else list(wanted)
    try:
        runs = train(load(config.task, source), asked, out=folder, resume=True, device=device, progress=progress)
    except TrainingError as error:
        runs, failed = [run for run in error.runs if not run.record["failed_step"]], str(error)
    scores = [_scores(run) for run in runs]
    if blind and not missing and runs:
        found = evaluate_many(
            [run.policy for run in runs],
            task=config.task,
            cost_limits=[config.cost_limit] * len(runs),
            episodes=config.eval_episodes,
            seeds=[run.config.seed for run in runs],
        )
        scores = [{"last": result.episodes[[*SCORES]].mean().to_dict()} for result in found]
    common = {name: getattr(config, name) for name in ("task", "cost_limit", "segment_ratio")}
    rows = [
        common | {"ratio_assumed": assumed(config.task), "seed": run.config.seed, "model": model} | values
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

    Example:
        >>> scores = dict(normalized_reward=[0.2, 0.3, 0.4], normalized_cost=0.5)
        >>> runs = pd.DataFrame(dict(task="BallRun", model="last", ratio_assumed=False, seed=SEEDS, **scores))
        >>> compare(runs)[["runs", "reward", "paper_reward"]].round(2).values.tolist()
        [[3.0, 0.3, 0.27]]
    """
    paper = paper_results().query("method == 'TraC'").set_index("task")
    groups = rows.groupby(["task", "model"], sort=False)
    table = groups.agg(ratio_assumed=("ratio_assumed", "first"), runs=("model", "size")).reset_index()
    for score in ("reward", "cost"):
        ours = groups[f"normalized_{score}"]
        table[score], table[f"{score}_std"] = ours.mean().values, ours.std().values
        table[f"paper_{score}"] = table.task.map(paper[f"{score}_mean"])
        table[f"paper_{score}_std"] = table.task.map(paper[f"{score}_std"])
        error = np.sqrt(table[f"{score}_std"] ** 2 / table.runs + table[f"paper_{score}_std"] ** 2 / 9)
        table[f"{score}_difference"] = (table[score] - table[f"paper_{score}"]) / error.where(error > 0)
    return table


def as_text(table: pd.DataFrame) -> str:
    """The table of `compare`, for a terminal.

    >>> scores = dict(normalized_reward=[0.2, 0.3, 0.4], normalized_cost=0.5)
    >>> runs = pd.DataFrame(dict(task="BallRun", model="last", ratio_assumed=False, seed=SEEDS, **scores))
    >>> "0.30 ± 0.10" in as_text(compare(runs))
    True
    """
    text = table[["task", "model", "runs"]].copy()
    for score in ("reward", "cost"):
        for title, name in ((score, score), (f"paper's {score}", f"paper_{score}")):
            mean, std = (table[column].map("{:.2f}".format) for column in (name, f"{name}_std"))
            text[title] = mean + " ± " + std
        text[f"Δ {score} / s.e."] = table[f"{score}_difference"].map("{:+.1f}".format)
    return str(text.to_string(index=False))


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
        out: folder; runs.csv has each run's scores, table.csv the comparison. Both are of this call's tasks: one with
            others replaces them, and leaves the runs.
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

    Example:
        >>> reproduce(["BallRun"], "runs/reproduce")  # downloads, and trains for hours  # doctest: +SKIP
        {}
    """
    out = Path(out).resolve()
    if segment_ratio is not None and not any(map(assumed, tasks)):
        raise ConfigError(
            f"the paper prints the segment ratio of {', '.join(tasks)}: leave segment_ratio out, or change the paper's "
            f"setting, on the command line with --set segment_ratio={segment_ratio:g}."
        )
    if segment_ratio is None and (unknown := [task for task in tasks if assumed(task)]):
        raise ConfigError(
            f"the paper does not print its segment ratio for {', '.join(unknown)}: pass --segment-ratio (L / T, in "
            f"(0, 1]), and the output will say that it was assumed."
        )
    if source not in ("dsrl", "packaged"):
        source = str(Path(source).resolve())
        if len(tasks) > 1:
            raise ConfigError(f"{source} is the data of one task, and {len(tasks)} are asked for: pass --task.")
    failed: dict[str, str] = {}
    calls: dict[str, tuple[Any, ...]] = {}
    for task in tasks:
        for limit in get_task(task).cost_limits:
            wanted = configs(task, limit, segment_ratio, changes)
            calls[f"{task}, limit {limit:g}"] = (str(out / task / f"limit-{limit:g}"), source, wanted, device)
    if source == "dsrl":
        for task in tasks:
            try:
                fetch(task)  # once, and not by each worker
            except ValueError as error:
                failed[task] = str(error)
                calls = {name: call for name, call in calls.items() if call[2][0].task != task}
    if workers or scheduler:
        quiet = {name: (*call, False) for name, call in calls.items()}
        results = dict(on_dask(run_limit, quiet, workers or 1, scheduler))
    else:
        results = {name: _try(call) for name, call in calls.items()}
    rows, notes = list[dict[str, Any]](), list[str]()
    for name in calls:
        result = results[name]
        found, missing, problem = ([], None, str(result)) if isinstance(result, BaseException) else result
        rows += found
        if missing:
            notes.append(f"{name}: not evaluated: {missing}")
        if problem:
            failed[name] = problem
    if rows:
        runs = pd.DataFrame(rows)
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
    for note in notes:
        print(note)
    return failed


def _try(call: tuple[Any, ...]) -> Any:
    try:
        return run_limit(*call)
    except (ValueError, ImportError, CheckpointError) as error:
        return error
