"""The tables in book/results: where they are, how they are written, and the making of the runs that they lack."""

import platform
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
import torch

from trac.core.run import processor
from trac.data.files import atomic

RESULTS = Path(__file__).parent / "results"
SCORES = ["normalized_reward", "normalized_cost", "return", "cost"]  # of a run, the means of its episodes

Job = tuple[tuple, Sequence[set[tuple]]]  # arguments of a run, and for each table the keys of the rows that it makes


def read(path: Path, keys: Sequence[str]) -> pd.DataFrame:
    """A table that `write` wrote; where there is none, one without rows."""
    return pd.read_csv(path, comment="#") if path.is_file() else pd.DataFrame(columns=list(keys))


def write(frame: pd.DataFrame, path: Path, command: str) -> None:
    """CSV with the command, commit and machine that made it in the first lines."""
    # Tables that were written just before are no change of what makes them.
    changes = _git("status", "--porcelain", "--untracked-files=no", "--", ":(top,exclude)book/results")
    commit = _git("rev-parse", "--short", "HEAD") + ("-dirty" if changes else "")
    machine = f"{processor()}, Python {platform.python_version()}, torch {torch.__version__}"
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(f"# {command}\n# commit {commit}\n# {machine}\n")
        frame.to_csv(file, index=False, float_format="%.6g")


def run_missing(
    one_run: Callable[..., Any],
    jobs: Iterable[Job],
    tables: dict[Path, pd.DataFrame],
    keys: Sequence[str],
    command: str,
    workers: int,
    sort: bool = True,
) -> dict[Path, pd.DataFrame]:
    """Make the runs whose rows are not there, side by side, and write the tables after each.

    Args:
        one_run: called with a job's arguments; returns a frame of rows for each table, of one table the frame itself.
        jobs: all runs, in the order in which they are made; see `Job`.
        tables: the rows so far by path. They stay as they are.
        keys: columns that tell runs apart.
        command: see `write`.
        workers: processes.
        sort: sort the tables by `keys`, where a run's rows stay in their order; False: put new rows at the end.

    Returns:
        The tables with the new rows. Where there are none, nothing is written.
    """
    tables = dict(tables)
    known = [set(_keys(table, keys)) for table in tables.values()]
    todo = [run for run, rows in jobs if any(new - there for new, there in zip(rows, known, strict=True))]
    results = joblib.Parallel(n_jobs=workers, return_as="generator_unordered")(
        joblib.delayed(one_run)(*run) for run in todo
    )
    for count, result in enumerate(results, start=1):
        frames = result if isinstance(result, tuple) else (result,)
        for path, frame, there in zip(tables, frames, known, strict=True):
            new = frame[[key not in there for key in _keys(frame, keys)]] if len(frame) else frame
            if len(new):
                there.update(_keys(new, keys))
                table = pd.concat([tables[path], new], ignore_index=True) if len(tables[path]) else new
                tables[path] = table.sort_values(list(keys), kind="stable", ignore_index=True) if sort else table
                write(tables[path], path, command)
        scores = frames[0].groupby(list(keys))[["normalized_reward", "normalized_cost"]].mean().round(2)
        print(f"{count}/{len(todo)}\n{scores.to_string(header=count == 1)}", flush=True)
    return tables


def _keys(table: pd.DataFrame, keys: Sequence[str]) -> list[tuple]:
    """Of each row."""
    return list(table[list(keys)].itertuples(index=False, name=None))


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], capture_output=True, text=True).stdout.strip()
