"""Command line: `python -m trac train --task BallCircle --cost-limit 20 --seed 0`."""

import sys
from pathlib import Path
from typing import Annotated

import tyro

import trac
from trac.checkpoint import CheckpointError
from trac.train import TrainingError


def train(
    config: Annotated[trac.TracConfig, tyro.conf.arg(name="")] = trac.TracConfig(),  # noqa: B008 (frozen)
    source: str = "packaged",
    out: Path | None = None,
    device: str | None = None,
    resume: bool = False,
) -> None:
    """Train TraC on a task's data and evaluate it in the simulator.

    Args:
        config: every field is a flag of its own.
        source: "packaged", or the path of a file in DSRL's HDF5 form.
        out: folder for the finished run; runs/<task>-<cost limit>-<seed> without it.
        device: cpu or cuda; a GPU where there is one.
        resume: go on from the checkpoints in the folder.
    """
    data = trac.load(config.task, source)
    print(data)
    folder = out or Path("runs") / f"{config.task}-{config.cost_limit:g}-{config.seed}"
    run = trac.train(data, config, device=device, out=folder, resume=resume)
    print(run.history.iloc[-1].to_string())
    print(f"saved in {folder}; read it with trac.load_run({str(folder)!r})")


def main() -> None:
    try:
        tyro.extras.subcommand_cli_from_dict({"train": train}, prog="python -m trac")
    except (ValueError, ImportError, FileNotFoundError, CheckpointError, TrainingError) as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt as stop:
        print(f"\n{stop}", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
