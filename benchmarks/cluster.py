"""What a sweep on Slurm does when workers, jobs, disks or the scheduler fail: book/results/cluster.csv.

    .venv/bin/python benchmarks/cluster.py   # as root, on a machine with a Slurm of its own, in half an hour

Each trial is a small sweep by book/slurm.py on two jobs, something that goes wrong while a point trains, and the same
command again until it ends well. The results are compared with those of one process.
"""

import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import psutil
import tyro

sys.path.append(str(Path(__file__).parents[1] / "book"))
from tables import RESULTS, read, write

ROOT = Path(__file__).parents[1]
GRID = "--grid alpha=0.1,0.2,0.3,0.4 --seeds 0,1 --set task=BallRun steps=1100 bc_steps=400"
GRID += " warmup_steps=50 hidden=[32] segment_ratio=0.25 eval_episodes=2"
JOB = dict(cores=1, processes=1, memory="4GB", walltime="00:30:00")
SLURM = "import sys; sys.path.insert(0, 'book'); import slurm; slurm.JOBS = 2; slurm.JOB |= {}; slurm.main()"
OWN = "test $((SLURM_JOB_ID % 2)) = 0 && export TMPDIR={}"  # one of the two jobs
TRIALS = (
    "a worker is killed",
    "a job is killed, kernel and all",
    "a node stands still for 40 seconds",
    "the shared disk fills up",
    "a node's own disk fills up",
    "the scheduler is killed",
)


def start(out: Path, log: Path, program: list[str]) -> subprocess.Popen:
    call = [sys.executable, *program, "notebooks/ablation.ipynb", "--out", str(out), *GRID.split()]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with log.open("a") as file:
        return subprocess.Popen(call, cwd=ROOT, env=environment, stdout=file, stderr=file)


def training(out: Path) -> psutil.Process | None:
    """The kernel of a point that has a checkpoint."""
    for process in psutil.process_iter():
        try:
            if "ipykernel_launcher" in " ".join(process.cmdline()):
                locks = [Path(file.path) for file in process.open_files() if file.path.startswith(str(out / "points"))]
                if any(list(path.parent.glob("checkpoints/*/step-*")) for path in locks if path.name == ".lock"):
                    return process
        except psutil.Error:
            pass
    return None


def disturb(trial: str, out: Path, sweep: subprocess.Popen, kernel: psutil.Process) -> None:
    worker, job = kernel.parent(), kernel.environ()["SLURM_JOB_ID"]
    if trial == "a worker is killed":
        worker.kill()
    elif trial.startswith("a job is killed"):
        subprocess.run(["scancel", "--full", "--signal=KILL", job], check=True)
    elif trial == "a node stands still for 40 seconds":
        for process in (worker, kernel):
            process.suspend()
        time.sleep(40)
        for process in (worker, kernel):
            process.resume()
    elif trial == "the shared disk fills up":
        fill(out.parent / "filler")
        sweep.wait()
        (out.parent / "filler").unlink()
    elif trial == "a node's own disk fills up":
        fill(out.parent / "own" / "filler")
    elif trial == "the scheduler is killed":
        sweep.kill()


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(512)):
                pass
        except OSError:
            pass


def run(trial: str, out: Path, reference: Path) -> dict[str, object]:
    """One row of the table."""
    began, calls, code = time.perf_counter(), 0, 1
    job = dict(JOB)
    if trial == "a node's own disk fills up":
        job["job_script_prologue"] = [OWN.format(shlex.quote(str(out.parent / "own")))]
    while code and calls < 5:
        calls += 1
        sweep = start(out, out.parents[1] / "log", ["-c", SLURM.format(job)])
        if calls == 1:
            while not (kernel := training(out)) and sweep.poll() is None:
                time.sleep(0.1)
            if kernel is None:
                raise SystemExit(f"{trial}: the sweep ended before a point had a checkpoint: {out.parents[1] / 'log'}")
            disturb(trial, out, sweep, kernel)
        code = sweep.wait()
    table = pd.read_csv(out / "results.csv")
    files = [path.relative_to(reference) for path in reference.glob("points/*/run/*/weights.safetensors")]
    same = [(out / path).is_file() and (out / path).read_bytes() == (reference / path).read_bytes() for path in files]
    scores = table.drop(columns="seconds").equals(pd.read_csv(reference / "results.csv").drop(columns="seconds"))
    logs = [path.read_text() for path in out.glob("points/*/log.txt")]
    return {
        "trial": trial,
        "calls": calls,
        "exit": code,
        "runs": len(table),
        "twice": int(table.duplicated(["point", "seed", "model"]).sum()),
        "same_weights": sum(same),
        "same_scores": scores,
        "trainings": sum(text.count("changed from the defaults") for text in logs),
        "seconds": time.perf_counter() - began,
    }


def main(only: str | None = None, folder: Path | None = None) -> None:
    """Run the trials, and write the row of each.

    Args:
        only: the name of one trial.
        folder: keep the sweep on one process, and what the others print, there.
    """
    folder = (folder or Path(tempfile.mkdtemp())).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    reference = folder / "reference"
    if not (reference / "results.csv").is_file() and start(reference, folder / "log", ["-m", "trac", "sweep"]).wait():
        raise SystemExit(f"the sweep on one process failed: {folder / 'log'}")
    for trial in TRIALS if only is None else [only]:
        place = folder / trial.replace(" ", "-")
        for name, size in (("disk", "60m"), ("disk/own", "2m")):
            (place / name).mkdir(parents=True)
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place / name], check=True)
        try:
            row = run(trial, place / "disk" / "out", reference)
        finally:
            subprocess.run(["umount", "-l", place / "disk" / "own"], check=True)
            subprocess.run(["umount", "-l", place / "disk"], check=True)
        before = read(RESULTS / "cluster.csv", list(row))
        rows = pd.concat([before[before.trial != trial], pd.DataFrame([row])])
        rows = rows.sort_values("trial", key=lambda names: names.map(TRIALS.index))
        write(rows, RESULTS / "cluster.csv", "benchmarks/cluster.py")


if __name__ == "__main__":
    tyro.cli(main)
