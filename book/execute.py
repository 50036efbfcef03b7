"""Execute the stale notebooks with papermill and keep them in a form that compares well.

A notebook's metadata records, under "trac", the files of this repository that its last execution used
(modules loaded, data read) and a hash of its code and of those files' contents. It is stale when the
hash differs. Comments and docstrings of modules are not in it. What only a worker process loads or reads is not seen.
"""

import argparse
import csv
import hashlib
import json
import os
import re
import sys
import time
from base64 import b64decode
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import nullcontext
from pathlib import Path

import nbformat
import papermill
from nbformat import NotebookNode
from tqdm.auto import tqdm

from trac.data.files import write_file
from trac.experiments.source import source_hash

ROOT = Path(__file__).resolve().parents[1]
INPUTS = ("trac", "book", "notebooks")  # the folders whose files count as inputs
IMAGE_LIMIT, NOTEBOOK_LIMIT = 150_000, 1_000_000  # [bytes]
WIDTH_LIMIT = 88  # characters of a printed line that fit the page's column
CELL_TIMEOUT = 900  # [s]

# Two cells that exist only while a notebook runs: the first notes which files are opened, the last
# prints them with the modules loaded. HDF5 opens files in C, where no audit hook sees it.
WATCH = """
import os as _os, sys as _sys, h5py as _h5py
_opened = set()
def _note(event, args, _opened=_opened, _names=(str, _os.PathLike), _str=str, _is=isinstance):
    if event == "open" and _is(args[0], _names):
        _opened.add(_str(args[0]))
def _init(self, name, *args, _init=_h5py.File.__init__, **kwargs):
    _opened.add(str(name))
    _init(self, name, *args, **kwargs)
_sys.addaudithook(_note)
_h5py.File.__init__ = _init
"""
REPORT = """
import json as _json
_modules = {getattr(_module, "__file__", None) or "" for _module in list(_sys.modules.values())}
_paths = {_os.path.realpath(_name) for _name in _opened | _modules}
print(_json.dumps([_path for _path in _paths if _path.startswith(FOLDERS)]))
"""


class NotebookError(Exception):
    """A notebook that failed or is not fit to be kept; the message says why."""


def fingerprint(notebook: NotebookNode, inputs: list[str]) -> str:
    """Hash of the code cells and of the inputs' contents, without the set-up cell, which acts in Colab only."""
    digest = hashlib.sha256()
    for cell in notebook.cells:
        if cell.cell_type == "code" and "setup" not in cell.metadata.get("tags", []):
            digest.update(json.dumps(cell.source).encode())
    for name in inputs:
        path = ROOT / name
        digest.update(f"{name} {_content(path)}\n".encode())
    return digest.hexdigest()


def _content(path: Path) -> str:
    if not path.is_file():
        return "missing"
    return source_hash(path) if path.suffix == ".py" else hashlib.sha256(path.read_bytes()).hexdigest()


def is_stale(path: Path) -> bool:
    notebook = nbformat.read(path, as_version=4)
    record = notebook.metadata.get("trac", {})
    executed = all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip())
    return not executed or record.get("hash") != fingerprint(notebook, record.get("inputs", []))


def execute(path: Path, progress_bar: bool | dict = False) -> tuple[float, float]:
    """Run a notebook in its folder and replace it; return the time taken and its kernel's processor time [s].

    Raises:
        NotebookError: it failed or is too large. The notebook stays; the new copy is in _build/failed.
    """
    notebook = nbformat.read(path, as_version=4)
    # All of the virtual environment's files would make an output that takes a minute to coalesce.
    report = REPORT.replace("FOLDERS", repr(tuple(f"{ROOT / name}{os.sep}" for name in INPUTS)))
    for source, position in ((WATCH, 0), (report, len(notebook.cells) + 1)):
        notebook.cells.insert(position, nbformat.v4.new_code_cell(source, metadata={"tags": ["injected"]}))
    failing = ROOT / "_build" / "failed" / path.name
    failing.parent.mkdir(parents=True, exist_ok=True)
    started, before = time.time_ns(), os.times()
    try:
        notebook = papermill.execute_notebook(
            notebook,
            failing,
            cwd=path.parent,
            start_timeout=300,
            kernel_name="python3",
            progress_bar=progress_bar,
            execution_timeout=CELL_TIMEOUT,
            coalesce_streams=True,
            extra_arguments=["--log-level=CRITICAL"],  # what fails is raised here; the kernel says no more
        )
        used = json.loads(notebook.cells[-1].outputs[0].text)
        normalise(notebook)
        inputs = sorted(_inputs(used, started))
        notebook.metadata.trac = {"hash": fingerprint(notebook, inputs), "inputs": inputs}
        check(path.name, notebook)
    except Exception as error:
        if failing.is_file():
            copy = nbformat.read(failing, as_version=4)
            normalise(copy)
            write(failing, copy)
        raise NotebookError(f"{error}\n{path} is left as it was; the failing copy is {failing}") from error
    write(path, notebook)
    failing.unlink()
    after = os.times()
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    return after.elapsed - before.elapsed, processor


def _inputs(used: list[str], started: int) -> Iterator[str]:
    for file in map(Path, used):
        # A file newer than the start is one that the notebook wrote.
        if "__pycache__" not in file.parts and file.is_file() and file.stat().st_mtime_ns < started:
            yield file.relative_to(ROOT).as_posix()


def normalise(notebook: NotebookNode) -> None:
    """Take out what differs between two executions with the same results."""
    notebook.cells = [cell for cell in notebook.cells if "injected" not in cell.metadata.get("tags", [])]
    for key in ("papermill", "widgets"):
        notebook.metadata.pop(key, None)
    notebook.metadata.kernelspec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata.language_info = {"name": "python"}
    notebook.nbformat_minor = 5
    count = 0
    for cell in notebook.cells:
        for key in ("papermill", "execution", "ExecuteTime", "collapsed", "scrolled"):
            cell.metadata.pop(key, None)
        if not cell.metadata.get("tags", True):  # papermill adds an empty list
            del cell.metadata["tags"]
        if cell.cell_type == "code" and cell.execution_count:
            count += 1
            cell.execution_count = count
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = count


def check(name: str, notebook: NotebookNode) -> None:
    """Raise NotebookError where a notebook is too large, prints too wide, or shows a path of this machine."""
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            images = [b64decode(value) for kind, value in data.items() if re.match("image/(?!svg)", kind)]
            images += [data["image/svg+xml"].encode()] if "image/svg+xml" in data else []
            images += [
                b64decode(text)
                for text in re.findall(r"data:image/[\w+]+;base64,([\w+/=\s]+)", data.get("text/html", ""))
            ]
            for image in images:
                if len(image) > IMAGE_LIMIT:
                    raise NotebookError(
                        f"{name}, cell {number}: an image of {len(image) / 1000:.0f} kB, the limit is "
                        f"{IMAGE_LIMIT // 1000}. Lower its resolution or its number of frames."
                    )
            printed = output.get("text", "") + data.get("text/plain", "") * ("text/html" not in data)
            if wide := next((line for line in printed.splitlines() if len(line) > WIDTH_LIMIT), None):
                raise NotebookError(
                    f"{name}, cell {number}: a printed line of {len(wide)} characters, {WIDTH_LIMIT} fit: {wide!r}"
                )
            if str(ROOT) in json.dumps(output):
                raise NotebookError(f"{name}, cell {number}: the output names {ROOT}. Print a relative path instead.")
    if (size := len(nbformat.writes(notebook).encode())) > NOTEBOOK_LIMIT:
        raise NotebookError(f"{name}: {size / 1000:.0f} kB, the limit is {NOTEBOOK_LIMIT // 1000}. Show less.")


def write(path: Path, notebook: NotebookNode) -> None:
    write_file(path, (nbformat.writes(notebook) + "\n").encode())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Execute the stale notebooks.")
    parser.add_argument("paths", nargs="*", type=Path, help="notebooks; without any, all of notebooks/")
    parser.add_argument("--force", action="store_true", help="execute all, stale or not")
    parser.add_argument("--check", action="store_true", help="list the stale ones; exit status 1 if there is any")
    parser.add_argument("--jobs", type=int, default=2, help="notebooks that run at the same time")
    parser.add_argument("--times", type=Path, help="write the times of this call's notebooks to a CSV file")
    options = parser.parse_args(arguments)
    paths = [path.resolve() for path in options.paths] or sorted((ROOT / "notebooks").glob("*.ipynb"))
    stale = [path for path in paths if options.force or is_stale(path)]
    if options.check:
        for path in stale:
            print(f"stale: {path.name}")
        return int(bool(stale))
    print(f"{len(stale)} of {len(paths)} notebooks to execute")

    # The kernel is that of this environment, whatever the user has installed elsewhere.
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    os.environ.pop("JUPYTER_PATH", None)
    # Notebooks run two at a time, and a run's last bits depend on the number of threads.
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["TQDM_DISABLE"] = "1"  # in the kernels: bars show times, which differ in each execution
    jobs = min(options.jobs, len(stale))
    pool: Executor = ThreadPoolExecutor(1)
    if jobs > 1:  # processes, since papermill changes the working directory
        pool = ProcessPoolExecutor(jobs, initializer=tqdm.set_lock, initargs=(tqdm.get_lock(),))
    failed = False
    with pool, options.times.open("w", newline="") if options.times else nullcontext() as file:
        table = file and csv.writer(file, lineterminator="\n")
        if table:
            table.writerow(["notebook", "seconds", "processor seconds"])
        tasks = {}
        for position, path in enumerate(stale):
            bar = {"desc": path.stem, "position": position} if sys.stderr.isatty() else False
            tasks[pool.submit(execute, path, bar)] = path
        for task in as_completed(tasks):
            try:
                seconds = task.result()
            except NotebookError as error:
                failed = True
                tqdm.write(f"{tasks[task].name}: failed\n{error}", file=sys.stderr)
                continue
            tqdm.write(f"{tasks[task].name}: {seconds[0]:.0f} s")
            if table:
                table.writerow([tasks[task].stem, *map(round, seconds)])
                file.flush()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
