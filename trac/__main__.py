"""Command line: `python -m trac train --task BallCircle --cost-limit 20`; `python -m trac --help` has the rest."""

import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

import trac
from trac.config import field_types
from trac.core.trackers import mlflow, tensorboard
from trac.train import Precision

UNSAID = "of the source"  # a task that the command line does not say; --help shows it


def train(
    config: Annotated[trac.TracConfig, tyro.conf.arg(name="")] = trac.TracConfig(task=UNSAID),  # noqa: B008
    source: str = "packaged",
    out: Path | None = None,
    device: str | None = None,
    resume: bool = False,
    capture: bool = True,
    precision: Precision = "tf32",
    tracker: Literal["tensorboard", "mlflow"] | None = None,
) -> None:
    """Train TraC on a task's data and evaluate it in the simulator.

    Example: python -m trac train --task BallCircle --cost-limit 20 --seed 0

    Args:
        config: every field is a flag of its own.
        source: "packaged", "dsrl" (fetches DSRL's file), or the path of a file in DSRL's HDF5 form.
        out: folder for the finished run; runs/<task>-<cost limit>-<seed> without it.
        device: cpu or cuda; a GPU where there is one.
        resume: go on from the checkpoints in the folder.
        capture: on a GPU, replay each update as one graph; --no-capture launches each kernel, to debug.
        precision: of the matrix products on a GPU.
        tracker: write the history to TensorBoard, in tensorboard/ of the folder, or to MLflow, as it is made.
    """
    task = "BallCircle" if config.task == UNSAID and source in ("packaged", "dsrl") else config.task
    data = trac.load(Path(source)) if task == UNSAID else trac.load(task, source)
    config = config.replace(task=data.task)
    print(data)
    folder = out or Path("runs") / f"{config.task}-{config.cost_limit:g}-{config.seed}"
    options: dict[str, Any] = dict(device=device, resume=resume, capture=capture, precision=precision)
    if tracker:
        options["tracker"] = tensorboard(folder / "tensorboard") if tracker == "tensorboard" else mlflow()
    run = trac.train(data, config, out=folder, **options)
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
) -> None:
    """Run a notebook over a grid of its parameters, on this machine or on a Dask cluster.

    Example: python -m trac sweep notebooks/ablation.ipynb --out runs/alpha --grid alpha=0.1,0.2 --seeds 0,1,2

    Args:
        notebook: with a cell tagged "parameters", such as notebooks/ablation.ipynb.
        out: folder of the sweep; finished points in it are not run again.
        grid: name=value,value,...; once for each dimension. A value with commas is in brackets: "hidden=(64,64),(32,)".
        set: name=value, for all points.
        seeds: 0,1,2: the seeds of each point, trained as one stack; with more than before, those alone that are new.
        where: keep only points for which this holds, such as "top + bottom <= 1".
        workers: processes on this machine.
        threads: of each process.
        scheduler: address of a running Dask scheduler, in place of processes on this machine.
        dry_run: show the plan and stop.
        collect: only write results.csv from the results that are there.
    """
    from trac.experiments import grid as grids
    from trac.experiments import sweep as runner

    failed: dict[str, str] = {}
    out = out.absolute()  # wherever the notebook's cell of parameters goes
    if seeds and not re.fullmatch(r"\d+(, *\d+)*", seeds):
        raise ValueError(f"--seeds {seeds}: write whole numbers with commas between them, such as 0,1,2.")
    if collect and not any(out.glob(runner.POINTS)):
        raise ValueError(f"{out} holds no points of a sweep: check --out.")
    if not collect:
        fixed = [*set, f"seeds=[{seeds}]"] if seeds else list(set)
        points, removed = grids.plan(runner.parameters(notebook), grid, fixed, where)
        print(f"{len(points)} points" + (f", {removed} more removed by --where" if removed else ""))
        names = [text.partition("=")[0] for text in (*grid, *fixed)]
        for point in points:
            print(" ", *(f"{name}={point[name]}" for name in names))
        if dry_run:
            return
        failed = runner.sweep(notebook, out, points, workers=workers, threads=threads, scheduler=scheduler)
    table = runner.collect(out)
    print(f"{len(table)} rows in {out / 'results.csv'}")
    _exit({str(out / "points" / name): error for name, error in failed.items()})


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

    Example: python -m trac reproduce --task BallRun

    Args:
        task: name of a task: 3 cost limits, 3 seeds each.
        tasks: a whole suite, or all, in place of one task.
        source: "dsrl" fetches DSRL's file; "packaged" or a file's path try the command out on other data.
        out: folder for runs, and for runs.csv and table.csv of the tasks last asked for.
        segment_ratio: for tasks whose ratio the paper does not print; the output says that it was assumed.
        set: name=value, fields of TracConfig that are not to be the paper's, such as
            steps=1000 bc_steps=300 warmup_steps=70.
        device: cpu or cuda; a GPU where there is one.
        workers: processes on this machine, each for one limit at a time.
        scheduler: address of a running Dask scheduler, in place of processes on this machine.
    """
    from trac.experiments import reproduce as paper
    from trac.experiments.grid import check_value

    if (task is None) == (tasks is None):
        raise ValueError("pass one of --task and --tasks.")
    defaults = {name: getattr(trac.TracConfig(), name) for name in field_types(trac.TracConfig)}
    for name in ("task", "cost_limit", "seed"):  # the experiment's
        del defaults[name]
    pairs = [text.partition("=")[::2] for text in set]
    names = [name for name, _ in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"--set: {twice[0]} is given twice.")
    changes = {name: check_value(name, value, defaults, "TracConfig.paper()") for name, value in pairs}
    _exit(
        paper.reproduce(
            [task] if task else paper.in_suite(tasks or "all"),
            out,
            source=source,
            segment_ratio=segment_ratio,
            changes=changes,
            device=device,
            workers=workers,
            scheduler=scheduler,
        )
    )


def page(results: tyro.conf.Positional[Path], out: Path | None = None) -> None:
    """Write a table of results as one HTML file, with sorting and filters, that needs no network.

    Example: python -m trac page runs/alpha/results.csv

    Args:
        results: a CSV file, such as a sweep's results.csv.
        out: the HTML file; the CSV file's name with .html without it.
    """
    from trac.experiments.page import write_page

    print(write_page(results, out))


def doctor(network: bool = False) -> None:
    """Say what is installed, what can be simulated, and what to do about each gap: the text for a bug report.

    Example: python -m trac doctor

    Args:
        network: ask DSRL's mirrors for an answer, too; without it nothing is sent.
    """
    from trac.doctor import report

    print(report(network))


def _exit(failed: dict[str, str]) -> None:
    for name, error in failed.items():
        print(f"failed: {name}: {error}", file=sys.stderr)
    if failed:
        raise SystemExit(1)


def as_flags(message: str) -> str:
    """A message of the module with the flags of `train` for the names of arguments: --bc-steps 5 for bc_steps=5."""
    message = message.replace("resume=True", "--resume")
    message = re.sub(r"trac\.load\('\w+', (?:source=)?'?(\w+)'?\)", r"--source \1", message)
    names = "|".join([*field_types(trac.TracConfig), "device"])
    # What follows a comma or a bracket is the argument of a call.
    return re.sub(rf"(?<!, )(?<!\()\b({names})=(?=\S)", lambda match: f"--{match[1].replace('_', '-')} ", message)


def main() -> None:
    words = [word.partition("=")[0].replace("_", "-") for word in sys.argv if word.startswith("--")]
    flags = [re.sub("^--no-", "--", word) for word in words]
    if twice := [flag for flag in flags if flags.count(flag) > 1 and flag != "--grid"]:
        raise SystemExit(f"error: {twice[0]} is given twice, and only the last one would count: give it once.")
    commands: dict[str, Any] = {"train": train, "sweep": sweep, "reproduce": reproduce, "page": page, "doctor": doctor}
    try:
        tyro.extras.subcommand_cli_from_dict(commands, prog="python -m trac")
    except (ValueError, ImportError, OSError, RuntimeError, MemoryError) as error:
        raise SystemExit(f"error: {as_flags(str(error)) if sys.argv[1] == 'train' else error}") from None
    except KeyboardInterrupt as stop:
        again = "--resume goes on" if sys.argv[1] == "train" else "the same command goes on"
        print(f"\n{str(stop).partition('; go on')[0] or 'stopped'}; {again}", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
