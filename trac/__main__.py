"""Command line: `python -m trac train --task BallCircle --cost-limit 20 --seed 0`, and `sweep`, `reproduce`."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

import trac

UNSAID = "of the source"  # a task that the command line does not say; --help shows it


def train(
    config: Annotated[trac.TracConfig, tyro.conf.arg(name="")] = trac.TracConfig(task=UNSAID),  # noqa: B008
    source: str = "packaged",
    out: Path | None = None,
    device: str | None = None,
    resume: bool = False,
) -> None:
    """Train TraC on a task's data and evaluate it in the simulator.

    Args:
        config: every field is a flag of its own.
        source: "packaged", "dsrl" (fetches DSRL's file), or the path of a file in DSRL's HDF5 form.
        out: folder for the finished run; runs/<task>-<cost limit>-<seed> without it.
        device: cpu or cuda; a GPU where there is one.
        resume: go on from the checkpoints in the folder.
    """
    task = "BallCircle" if config.task == UNSAID and source in ("packaged", "dsrl") else config.task
    data = trac.load(Path(source)) if task == UNSAID else trac.load(task, source)
    config = config.replace(task=data.task)
    print(data)
    folder = out or Path("runs") / f"{config.task}-{config.cost_limit:g}-{config.seed}"
    run = trac.train(data, config, device=device, out=folder, resume=resume)
    print(run.history.iloc[-1].to_string())
    print(f"saved in {folder}; read it with trac.load_run({str(folder)!r})")


def sweep(
    notebook: tyro.conf.Positional[Path],
    out: Path,
    grid: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    set: tuple[str, ...] = (),
    seeds: str | None = None,
    where: str | None = None,
    workers: int = 1,
    threads: int = 1,
    scheduler: str | None = None,
    dry_run: bool = False,
    collect: bool = False,
    redo_changed: bool = False,
) -> None:
    """Run a notebook over a grid of its parameters, on this machine or on a Dask cluster.

    Args:
        notebook: with a cell tagged "parameters", such as notebooks/ablation.ipynb.
        out: folder of the sweep; finished points in it are not run again.
        grid: name=value,value,...; once for each dimension.
        set: name=value, for all points.
        seeds: 0,1,2: the seeds of each point, trained as one stack.
        where: keep only points for which this holds, such as "top + bottom <= 1".
        workers: processes on this machine.
        threads: of each process.
        scheduler: address of a running Dask scheduler, in place of processes on this machine.
        dry_run: show the plan and stop.
        collect: only write results.csv from the results that are there.
        redo_changed: begin points anew that other code made or began.
    """
    from trac.experiments import grid as grids
    from trac.experiments import sweep as runner

    if not collect:
        defaults = runner.parameters(notebook)
        fixed = [*set, f"seeds=[{seeds}]"] if seeds else list(set)
        points, removed = grids.plan(defaults, grid, fixed, where)
        print(f"{len(points)} points" + (f", {removed} more removed by --where" if removed else ""))
        varied = [text.partition("=")[0] for text in grid]
        for point in points:
            print(f"  {runner.point_hash(point)}", *(f"{name}={point[name]}" for name in varied))
        if dry_run:
            return
        failed = runner.sweep(
            notebook, out, points, workers=workers, threads=threads, scheduler=scheduler, redo_changed=redo_changed
        )
        for name, error in failed.items():
            print(f"failed: {out / 'points' / name}: {error}", file=sys.stderr)
    table = runner.collect(out)
    print(f"{len(table)} rows in {out / 'results.csv'}")
    if not collect and failed:
        raise SystemExit(1)


def reproduce(
    task: str | None = None,
    tasks: Literal["bullet", "safety", "metadrive", "all"] | None = None,
    source: str = "dsrl",
    out: Path = Path("runs/reproduce"),
    segment_ratio: float | None = None,
    set: tuple[str, ...] = (),
    device: str | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
) -> None:
    """The paper's experiment on DSRL's data: our row beside the paper's. The same command goes on where it stopped.

    Args:
        task: name of a task: 3 cost limits, 3 seeds each.
        tasks: a whole suite, or all, in place of one task.
        source: "dsrl" fetches DSRL's file; "packaged" or a file's path try the command out on other data.
        out: folder for runs, runs.csv and table.csv.
        segment_ratio: for tasks whose ratio the paper does not print; the output says that it was assumed.
        set: name=value, fields of TracConfig that are not to be the paper's, such as steps=1000 bc_steps=300.
        device: cpu or cuda; a GPU where there is one.
        workers: processes on this machine, each for one limit at a time.
        scheduler: address of a running Dask scheduler, in place of processes on this machine.
    """
    from trac.experiments import reproduce as paper
    from trac.experiments.grid import check_value

    if (task is None) == (tasks is None):
        raise ValueError("pass one of --task and --tasks.")
    own = ("task", "cost_limit", "seed")  # the experiment's
    defaults = {field.name: field.default for field in dataclasses.fields(trac.TracConfig) if field.name not in own}
    pairs = [text.partition("=")[::2] for text in set]
    changes = {name: check_value(name, value, defaults, "TracConfig.paper()") for name, value in pairs}
    names = [task] if task else paper.in_suite(tasks or "all")
    failed = paper.reproduce(
        names,
        out,
        source=source,
        segment_ratio=segment_ratio,
        changes=changes,
        device=device,
        workers=workers,
        scheduler=scheduler,
    )
    for name, error in failed.items():
        print(f"failed: {name}: {error}", file=sys.stderr)
    if failed:
        raise SystemExit(1)


def main() -> None:
    try:
        commands: dict[str, Any] = {"train": train, "sweep": sweep, "reproduce": reproduce}
        tyro.extras.subcommand_cli_from_dict(commands, prog="python -m trac")
    except (ValueError, ImportError, OSError, RuntimeError, MemoryError) as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt as stop:
        print(f"\n{str(stop) or 'stopped; the same command goes on'}", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
