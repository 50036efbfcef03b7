"""A grid of papermill runs on Dask: one machine or a cluster, and nothing computed twice.

    python -m trac sweep notebooks/ablation.ipynb --out runs/alpha --grid alpha=0.1,0.2,0.5 --set steps=6000

A point is one set of the notebook's parameters. Its folder, out/points/<hash of the parameters>, holds
the executed notebook, log.txt, the run's checkpoints and, when it is finished, result.json, which has the point's
parameters and its runs.
"""

import hashlib
import importlib
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock
from tqdm import tqdm

from trac.config import ConfigError, checked
from trac.core.checkpoint import locked
from trac.data.files import write_file
from trac.experiments.grid import SEEDS
from trac.experiments.source import source_hash

RETRIES = 2  # of a point whose kernel or worker died
_DAMAGED = (ValueError, LookupError, TypeError, AttributeError)  # what reading a file that is no result raises
POINTS = f"points/{'[0-9a-f]' * 12}"


def _import(name: str) -> Any:
    """One of the packages that sweeps alone need; an ImportError that has the command to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"Sweeps and workers need papermill and Dask, and importing {name} failed ({error}). Install them with: "
            f"pip install 'trac-book[sweep]', or -e '.[sweep]' in the repository"
        ) from error


def parameters(notebook: Path) -> dict[str, Any]:
    """Names and default values of the notebook's parameters, without `folder`, which is the sweep's own.

    The cell that is tagged "parameters" is executed for them.

    >>> parameters(Path("notebooks/ablation.ipynb"))["task"]
    'BallCircle'
    """
    try:
        cells = json.loads(notebook.read_text())["cells"]
    except FileNotFoundError:
        raise ConfigError(f"{notebook}: no such notebook.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{notebook} is not a notebook ({error!r}).") from error
    found: dict[str, Any] = {}
    for cell in cells:
        if "parameters" in cell["metadata"].get("tags", ()):
            try:
                exec("".join(cell["source"]), found)
            except Exception as error:  # whatever the cell raises
                raise ConfigError(f"{notebook}: its cell of parameters cannot be executed ({error!r}).") from error
    if "folder" not in found:
        raise ConfigError(
            f"{notebook} has no parameter `folder`, into which it writes result.json. Set it and the others in a cell "
            f'tagged "parameters".'
        )
    plain = (bool, int, float, str, list, tuple, dict, type(None))  # not what it imports
    return {k: v for k, v in found.items() if k != "folder" and not k.startswith("_") and isinstance(v, plain)}


def code_hash(notebook: Path | None = None) -> str:
    """Hash of what the package and, if there is one, the notebook do; see `source_hash`.

    >>> len(code_hash())
    12
    """
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(source_hash(path).encode())
    if notebook:
        cells = json.loads(notebook.read_text())["cells"]
        digest.update(json.dumps([cell["source"] for cell in cells if cell["cell_type"] == "code"]).encode())
    return digest.hexdigest()[:12]


def point_hash(point: dict[str, Any]) -> str:
    """Name of a point's folder.

    >>> len(point_hash({"alpha": 0.2}))
    12
    """
    return hashlib.sha256(json.dumps(point, sort_keys=True).encode()).hexdigest()[:12]


def run_point(notebook: str, folder: str, point: dict[str, Any], threads: int) -> str | None:
    """Execute one point in this process's folder of it; returns None, or what went wrong in one line.

    >>> point = parameters(Path("notebooks/ablation.ipynb")) | {"alpha": 0.1}
    >>> run_point("notebooks/ablation.ipynb", str(folder), point, threads=1)  # trains  # doctest: +SKIP
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    place = Path(folder)
    (place / "run").mkdir(parents=True, exist_ok=True)
    # A kernel whose worker was killed notices within seconds, and lets go of its run.
    with FileLock(place / "run" / ".lock", timeout=60):
        pass
    if _rows(place) is not None:  # by a worker that its scheduler had given up
        return None
    made_by = {"parameters": point, "code": code_hash(Path(notebook)), "source": _source_hash(Path(notebook), point)}
    write_file(place / "point.json", json.dumps(made_by, indent=1).encode())
    os.environ |= {"OMP_NUM_THREADS": str(threads), "LOKY_MAX_CPU_COUNT": str(threads), "TQDM_DISABLE": "1"}
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    tempfile.tempdir = None  # found anew for the kernel's connection: the disk of the last one may be full by now
    try:
        with (place / "log.txt").open("a") as log:
            papermill.execute_notebook(
                notebook,
                str(place / "notebook.ipynb"),
                parameters=point | {"folder": folder},
                cwd=str(Path(notebook).parent),
                kernel_name="python3",
                language="python",
                start_timeout=300,
                progress_bar=False,
                stdout_file=log,
                stderr_file=log,
                extra_arguments=["--log-level=CRITICAL"],  # what fails is raised here
            )
    except PapermillExecutionError as error:
        return f"{error.ename}: {error.evalue}"
    try:
        _result(place)
    except FileNotFoundError:
        return f"the notebook ended without writing its result, {place / 'result.json'}"
    except _DAMAGED as error:
        return f"the notebook wrote a result.json that is not this point's ({error!r})"
    return None


def collect(out: str | os.PathLike[str]) -> pd.DataFrame:
    """A sweep's results as a table, and as results.csv: one row for each point, seed and model (last, best).

    >>> place = folder / "points" / point_hash({"alpha": 0.2})
    >>> place.mkdir(parents=True)
    >>> run = dict(seed=0, model="last", scores=dict(cost=3.0))
    >>> result = dict(parameters=dict(alpha=0.2), code="", threads=1, seconds=9.0, runs=[run])
    >>> write_file(place / "result.json", json.dumps(result).encode())
    >>> collect(folder)[["alpha", "seed", "cost"]].values.tolist()
    [[0.2, 0.0, 3.0]]
    """
    out = Path(out)
    table = pd.DataFrame([row for place in sorted(out.glob(POINTS)) for row in _rows(place) or ()])
    write_file(out / "results.csv", table.to_csv(index=False).encode())
    return table


def _source_hash(notebook: Path, point: dict[str, Any]) -> str | None:
    """Hash of the file that a point's `source` names, as the notebook finds it; None where it names none."""
    path = notebook.parent / str(point.get("source"))
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12] if path.is_file() else None


def _rows(place: Path) -> list[dict[str, Any]] | None:
    """The rows of a finished point; None without a result. One that is none of its own is named, and counts as none."""
    try:
        return _result(place) if (place / "result.json").is_file() else None
    except _DAMAGED as error:
        found = f"{place / 'result.json'} is damaged ({error!r})"
        warnings.warn(f"{found} and left out; the sweep makes it again.", stacklevel=3)
        return None


def _result(place: Path) -> list[dict[str, Any]]:
    """The rows of a point's result.json; one of `_DAMAGED` where it is no result, or another point's."""
    result, made_by = json.loads((place / "result.json").read_text()), place / "point.json"
    point = json.loads(made_by.read_text())["parameters"] if made_by.is_file() else {}
    for name, found in result["parameters"].items():
        # As text, too, for nan is not itself.
        if name in point and found != point[name] and json.dumps(found) != json.dumps(point[name]):
            raise ValueError(f"it has {name}={found!r}, and its point {name}={point[name]!r}")
    if not result["runs"]:
        raise ValueError("it has no runs")
    common = {"point": place.name} | {k: v for k, v in result["parameters"].items() if k != "seeds"}
    common |= {key: result[key] for key in ("code", "threads", "seconds")}
    return [common | run["scores"] | {"seed": run["seed"], "model": run["model"]} for run in result["runs"]]


def sweep(
    notebook: Path,
    out: Path,
    points: Iterable[dict[str, Any]],
    *,
    workers: int = 1,
    threads: int = 1,
    scheduler: str | None = None,
) -> dict[str, str]:
    """Run the points that have no result yet; of a point that has one for some of its seeds, the other seeds.

    Args:
        notebook: with a parameters cell; it writes `folder`/result.json.
        out: folder of the sweep, which all workers must reach under the same path.
        points: parameters of each point, all of the notebook's but `folder`.
        workers: processes of a LocalCluster.
        threads: of each kernel.
        scheduler: address of a Dask scheduler to use in place of a LocalCluster.

    Returns:
        What went wrong, by point; empty when all are finished.

    Raises:
        CheckpointError: another process is at work in this folder.
        ConfigError: a point's seeds are not whole numbers, or one is there twice.

    Example:
        >>> from trac.experiments.grid import plan
        >>> notebook, out = Path("notebooks/ablation.ipynb"), Path("runs/alpha")
        >>> points, removed = plan(parameters(notebook), ["alpha=0.1,0.2"], [], None)
        >>> sweep(notebook, out, points, workers=2)  # trains  # doctest: +SKIP
        {}
    """
    if threads < 1:
        raise ValueError(f"threads={threads} must be at least 1.")
    _import("papermill")
    out, notebook, points = out.resolve(), notebook.resolve(), list(points)
    for point in points:
        seeds = checked("seeds", point.get("seeds", ()), SEEDS)
        if again := [seed for i, seed in enumerate(seeds) if seed in seeds[:i]]:
            raise ConfigError(f"seeds has {again[0]!r} twice.")
    failed: dict[str, str] = {}
    with locked(out):
        wanted = [(_setting(point), point) for point in points]
        settings, code = {setting for setting, _ in wanted}, code_hash(notebook)
        finished, changed = dict[str, set[int]](), []
        for path in sorted(out.glob(f"{POINTS}/point.json")):
            place, made_by = path.parent, json.loads(path.read_text())
            setting, source = _setting(made_by["parameters"]), _source_hash(notebook, made_by["parameters"])
            if setting in settings and (made_by["code"], made_by.get("source")) != (code, source):
                changed.append(place.name)
            if _rows(place) is not None:
                finished.setdefault(setting, set()).update(made_by["parameters"].get("seeds", ()))
        if changed:
            print(f"{len(changed)} points were made or begun by other code or data and are kept: {', '.join(changed)}")
            print("Delete a point's folder to begin it anew.")
        todo = {}
        for setting, point in wanted:
            if setting in finished and "seeds" in point:
                point = point | {"seeds": [seed for seed in point["seeds"] if seed not in finished[setting]]}
            if setting not in finished or point.get("seeds"):
                todo[point_hash(point)] = point
        print(f"{len(wanted)} points, {len(wanted) - len(todo)} finished, {len(todo)} to run", flush=True)
        if todo:
            calls = {name: (str(notebook), str(out / "points" / name), p, threads) for name, p in todo.items()}
            for name, error in on_dask(run_point, calls, workers, scheduler, retries=RETRIES):
                if error is not None:
                    failed[name] = repr(error) if isinstance(error, BaseException) else error
        collect(out)
    return failed


def _setting(point: dict[str, Any]) -> str:
    """What the seeds of a point have in common."""
    return json.dumps({name: value for name, value in point.items() if name != "seeds"}, sort_keys=True)


def on_dask(
    function: Callable[..., Any],
    calls: dict[str, tuple[Any, ...]],
    workers: int,
    scheduler: str | None,
    retries: int = 0,
) -> Iterator[tuple[str, Any]]:
    """Call a function once for each name, on a LocalCluster or the workers of a running scheduler.

    Args:
        function: of a module that the workers can import.
        calls: arguments by name.
        workers: processes of a LocalCluster.
        scheduler: address of a Dask scheduler to use in place of a LocalCluster.
        retries: how often a call that raises is made again.

    Yields:
        Name, and what the function returned or raised, in the order in which they finish. Where the scheduler is
        lost, a ConnectionError for each call that is not finished.

    Example:
        >>> dict(on_dask(abs, {"a": (-1,), "b": (2,)}, workers=2, scheduler=None))  # starts processes  # doctest: +SKIP
        {'a': 1, 'b': 2}
    """
    if workers < 1:
        raise ValueError(f"workers={workers} must be at least 1.")
    dask = _import("dask.distributed")
    local = dict(n_workers=workers, threads_per_worker=1, dashboard_address=":0")
    cluster = dask.LocalCluster(**local) if scheduler is None else nullcontext(scheduler)
    with cluster as where, dask.Client(where) as client:
        print(f"dashboard: {client.dashboard_link}", flush=True)
        futures = {
            # The time is in the key so that what failed is tried again on the next call.
            client.submit(function, *arguments, key=f"{name}-{time.time_ns()}", retries=retries): name
            for name, arguments in calls.items()
        }
        for future in tqdm(dask.as_completed(list(futures)), total=len(futures), desc="points"):
            if future.status == "cancelled":
                yield futures[future], ConnectionError("the scheduler was lost; the same command goes on")
            else:
                yield futures[future], future.exception() if future.status == "error" else future.result()
