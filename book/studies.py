"""The book's studies: what one setting of TraC does when nothing else changes.

    python book/studies.py alpha --workers 2                 # book/results/study_alpha.csv
    python book/studies.py alpha --dry-run                   # the points, as commands of the sweep runner

Every study is a list of sweeps of notebooks/ablation.ipynb over a few settings, all others at their
defaults. A point that several studies share runs once; points that are finished are not run again.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

import pandas as pd
import tyro
from tables import RESULTS, SCORES, write

from trac.experiments import grid, sweep

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK, POINTS = ROOT / "notebooks" / "ablation.ipynb", ROOT / "runs" / "studies"
SEEDS = "0,1,2,3,4"


@dataclass(frozen=True)
class Sweep:
    """One grid, in the words of `python -m trac sweep`."""

    grid: tuple[str, ...]
    set: tuple[str, ...] = ()
    where: str | None = None
    tasks: str = "BallRun,BallCircle"

    def points(self) -> list[dict]:
        """Parameters of every point."""
        fixed = [*self.set, f"seeds=[{SEEDS}]"]
        return grid.plan(sweep.parameters(NOTEBOOK), [f"task={self.tasks}", *self.grid], fixed, self.where)[0]

    def command(self) -> str:
        """What runs it without this file."""
        words = ["python -m trac sweep notebooks/ablation.ipynb --out runs/studies"]
        words += [f"--grid {quote(axis)}" for axis in (f"task={self.tasks}", *self.grid)]
        words += [f"--set {' '.join(self.set)}"] * bool(self.set) + [f"--where {quote(self.where or '')}"] * bool(
            self.where
        )
        return " ".join([*words, f"--seeds {SEEDS}"])


BEST = ("eval_every=1000",)  # so that there is a best model to report beside the last
STUDIES: dict[str, list[Sweep]] = {
    "partition_ratio": [
        Sweep(("top=0.1,0.25,0.5,0.75,1.0", "bottom=0.0,0.25,0.5"), BEST, "top + bottom <= 1"),
        Sweep(("kappa=0.0,0.7,1.0",), BEST),
    ],
    "alpha": [
        Sweep(("alpha=0.05,0.1,0.2,0.5,1.0",), BEST),
        Sweep(("gamma=0.9,0.99,1.0",), BEST),
        Sweep(("eta=0.05,0.25,1.0",), BEST),
    ],
    "reference": [
        Sweep(("reference=bc,initial,none", "init=reference,fresh"), BEST),
        Sweep(("bc_steps=0,500,1000,2000", "steps=2000,2500,3000,4000"), BEST, "steps == bc_steps + 2000"),
        Sweep(("reference=bc,none",), (*BEST, "policy=gaussian")),
    ],
    "classes": [
        Sweep(("use=both,desirable,undesirable", "init=reference,fresh"), BEST),
        Sweep(("use=both,desirable,undesirable",), (*BEST, "bottom=0.25")),
    ],
    # Segment length times batch size is the same in the second sweep: as many transitions in every update.
    "segment_length": [
        Sweep(("segment_ratio=0.1,0.25,0.5,0.75,1.0",), ("eval_every=500",)),
        Sweep(
            ("segment_ratio=0.1,0.25,0.5,0.75", "batch_size=160,64,32,21"),
            ("eval_every=500",),
            "segment_ratio * batch_size >= 15.7 and segment_ratio * batch_size <= 16",
        ),
    ],
    "cost_limit": [
        Sweep(("cost_limit=5,10,20,40,60", "top=0.25,0.5", "bottom=0.0,0.25"), BEST),
        Sweep(("cost_limit=inf", "top=0.25,0.5"), (*BEST, "bottom=0.25")),
    ],
    # A batch of single steps is as large as 16 episodes; a step's score has one term, so α is raised as well.
    "level": [
        Sweep(("level=trajectory",), BEST),
        Sweep(("alpha=0.2,2.0,20.0",), (*BEST, "level=step", "batch_size=1600"), tasks="BallRun"),
        Sweep(("alpha=0.2,2.0,20.0",), (*BEST, "level=step", "batch_size=3200"), tasks="BallCircle"),
        Sweep(("level=step",), (*BEST, "batch_size=256")),
    ],
    "failures": [
        Sweep(("lr_multiplier=0.1,1.0,3.0",), ("eval_every=500",)),
        Sweep(("batch_size=4",), ("eval_every=500", "lr_multiplier=1.0")),
        Sweep(("warmup_steps=0",), ("eval_every=500", "lr_multiplier=3.0")),
    ],
}


def rows(points: dict[str, dict]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores of every finished point, seed and model; and each run's evaluations while it trained."""
    every = pd.DataFrame(points.values()).astype(str)
    varied = ["task", *(name for name in every if name != "task" and every[name].nunique() > 1)]
    scores, curves = [], []
    for name, point in points.items():
        place = POINTS / "points" / name
        if not (place / "result.json").is_file():
            continue
        result = json.loads((place / "result.json").read_text())
        common = {"point": name} | {key: point[key] for key in varied}
        made = {key: result[key] for key in ("code", "threads", "train_seconds")}
        for run in result["runs"]:
            scores.append(common | {"model": run["model"], "seed": run["seed"]} | run["scores"] | made)
        for index, seed in enumerate(point["seeds"]):
            history = pd.read_csv(place / "run" / f"{index:03d}" / "history.csv")
            kept = history.dropna(subset="return")[["step", *SCORES]]
            curves += [common | {"seed": seed} | row for row in kept.to_dict("records")]
    return pd.DataFrame(scores), pd.DataFrame(curves)


def main(study: tyro.conf.Positional[str], workers: int = 2, dry_run: bool = False, only_tables: bool = False) -> None:
    """Run the points of a study that have no result yet, and write its tables.

    Args:
        study: its name; "all" for every one.
        workers: points at a time, each on one thread.
        dry_run: only print the commands.
        only_tables: only write the tables, of the points that are finished; refused where none of a study is.
    """
    if study not in (*STUDIES, "all"):
        raise SystemExit(f"error: there is no study {study!r}; there are {', '.join(STUDIES)}, and all.")
    for name in STUDIES if study == "all" else [study]:
        if dry_run:
            print(*(one.command() for one in STUDIES[name]), sep="\n")
            continue
        points = {sweep.point_hash(point): point for one in STUDIES[name] for point in one.points()}
        failed = {} if only_tables else sweep.sweep(NOTEBOOK, POINTS, points.values(), workers=workers)
        for point, error in failed.items():
            print(f"failed: {POINTS / 'points' / point}: {error}")
        command = f"python book/studies.py {name}"
        scores, curves = rows(points)
        if scores.empty:
            raise SystemExit(
                f"error: no point of {name} is finished in {POINTS}: study_{name}.csv stays as it is. Run the points "
                f"first, without --only-tables."
            )
        write(scores, RESULTS / f"study_{name}.csv", command)
        if name in ("segment_length", "failures"):
            write(curves, RESULTS / f"study_{name}_curves.csv", command)
        print(f"{name}: {len(points)} points, {len(failed)} failed")


if __name__ == "__main__":
    tyro.cli(main)
