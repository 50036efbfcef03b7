import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from trac.config import ConfigError
from trac.core.checkpoint import find, locked
from trac.experiments import sweep
from trac.experiments.grid import plan
from trac.experiments.sweep import collect, on_dask, parameters

ROOT = Path(__file__).parents[2]
ABLATION = ROOT / "notebooks" / "ablation.ipynb"


def test_the_ablation_notebook_has_the_fields_of_the_config_and_their_defaults():
    import dataclasses

    from trac import TracConfig

    found = parameters(ABLATION)
    fields = {f.name: f.default for f in dataclasses.fields(TracConfig) if f.name != "seed"}
    assert found.pop("seeds") == [0, 1]
    assert {n: tuple(v) if isinstance(v, list) else v for n, v in found.items()} == fields


# A notebook that does in a second what the ablation does in a minute.
SMALL = """
import json, os, time
from pathlib import Path
from trac.data.files import write_file
with open(Path(folder, "calls"), "a") as file:
    file.write(f"{os.getpid()}\\n")
time.sleep(wait)
if alpha < 0:
    raise ValueError("alpha is negative")
if alpha == 99.0 and len(Path(folder, "calls").read_text().split()) == 1:
    os._exit(1)  # a kernel that dies the first time
result = {"parameters": dict(alpha=alpha, wait=wait, seeds=seeds), "code": "x", "threads": 1, "seconds": wait}
result["runs"] = [dict(seed=s, model="last", scores=dict(cost=alpha + s), episodes=[]) for s in seeds]
write_file(Path(folder, "result.json"), json.dumps(result).encode() + b" " * padding)
"""


@pytest.fixture
def small(tmp_path):
    notebook = nbformat.v4.new_notebook()
    first = nbformat.v4.new_code_cell("alpha = 0.5\nwait = 0.0\npadding = 0\nseeds = [0]\nfolder = None")
    first.metadata["tags"] = ["parameters"]
    notebook.cells = [first, nbformat.v4.new_code_cell(SMALL)]
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "small.ipynb")
    return tmp_path / "small.ipynb"


def command(notebook, out, *more):
    return [sys.executable, "-m", "trac", "sweep", str(notebook), "--out", str(out), *more]


def calls(out):
    return sum(len(path.read_text().split()) for path in out.glob("points/*/calls"))


@pytest.mark.slow
def test_points_run_once_a_failed_one_stops_no_other_and_is_tried_again(tmp_path, small):
    out = tmp_path / "out"
    points = [parameters(small) | dict(alpha=alpha, seeds=[3, 4]) for alpha in (-1.0, 0.5, 99.0)]
    failed = sweep.sweep(small, out, points, workers=2)
    bad = sweep.point_hash(points[0])
    assert failed == {bad: "ValueError: alpha is negative"}
    assert "alpha is negative" in (out / "points" / bad / "notebook.ipynb").read_text()
    assert calls(out) == 4  # the kernel that died was started again
    table = pd.read_csv(out / "results.csv")
    assert sorted(zip(table.alpha, table.seed, table.cost, strict=True)) == [
        *((0.5, 3, 3.5), (0.5, 4, 4.5), (99.0, 3, 102.0), (99.0, 4, 103.0))
    ]
    assert sweep.sweep(small, out, points, workers=2) == failed
    assert calls(out) == 5  # only the failed one again
    (out / "results.csv").unlink()
    pd.testing.assert_frame_equal(collect(out), table, check_like=True)


@pytest.fixture
def at_once(monkeypatch):
    """In place of Dask and papermill: the calls of `run_point`, each of which writes a result."""
    made = []

    def run(function, calls, workers, scheduler, retries=0):
        for name, (notebook, folder, point, threads) in calls.items():
            made.append(point)
            result = {"parameters": point, "code": "x", "threads": threads, "seconds": 1.0}
            result["runs"] = [dict(seed=seed, model="last", scores=dict(cost=seed)) for seed in point["seeds"]]
            Path(folder).mkdir(parents=True, exist_ok=True)
            made_by = {"parameters": point, "code": sweep.code_hash(Path(notebook))}
            Path(folder, "point.json").write_text(json.dumps(made_by))
            Path(folder, "result.json").write_text(json.dumps(result))
            yield name, None

    monkeypatch.setattr(sweep, "on_dask", run)
    return made


def test_more_seeds_train_those_alone_that_are_new(tmp_path, small, at_once):
    points = [parameters(small) | dict(alpha=alpha) for alpha in (0.1, 0.2)]
    sweep.sweep(small, tmp_path / "out", [point | dict(seeds=[0, 1]) for point in points])
    sweep.sweep(small, tmp_path / "out", [point | dict(seeds=[0, 1, 2, 3]) for point in points])
    sweep.sweep(small, tmp_path / "out", [point | dict(seeds=[3, 1]) for point in points])
    assert [point["seeds"] for point in at_once] == [[0, 1]] * 2 + [[2, 3]] * 2
    table = pd.read_csv(tmp_path / "out" / "results.csv")
    assert sorted(zip(table.alpha, table.seed, strict=True)) == [(a, s) for a in (0.1, 0.2) for s in range(4)]


@pytest.mark.parametrize("damage", ["", "[1]", "{}", '{"parameters": 1}'])
def test_a_damaged_result_is_named_left_out_and_made_again(tmp_path, small, at_once, damage):
    points = [parameters(small) | dict(alpha=alpha) for alpha in (0.1, 0.2)]
    sweep.sweep(small, tmp_path, points)
    place = tmp_path / "points" / sweep.point_hash(points[0])
    (place / "result.json").write_text(damage)
    with pytest.warns(UserWarning, match=rf"{place.name}.result.json is damaged .* the sweep makes it again"):
        assert collect(tmp_path).alpha.tolist() == [0.2]
    with pytest.warns(UserWarning, match="is damaged"):
        sweep.sweep(small, tmp_path, points)
    assert at_once[2:] == points[:1] and sorted(collect(tmp_path).alpha) == [0.1, 0.2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(alpha=0.2), "it has alpha=0.2, and its point alpha=0.1"),
        (dict(seeds=[1]), r"it has seeds=\[1\], and its point seeds=\[0\]"),
        (None, "it has no runs"),
    ],
)
def test_another_points_result_is_named_left_out_and_made_again(tmp_path, small, at_once, change, message):
    point = parameters(small) | dict(alpha=0.1)
    sweep.sweep(small, tmp_path, [point])
    path = tmp_path / "points" / sweep.point_hash(point) / "result.json"
    result = json.loads(path.read_text())
    path.write_text(json.dumps(result | {"parameters": point | change} if change else result | {"runs": []}))
    with pytest.warns(UserWarning, match=message):
        assert not len(collect(tmp_path))
    with pytest.warns(UserWarning, match=message):
        sweep.sweep(small, tmp_path, [point])
    assert at_once == [point] * 2 and collect(tmp_path).alpha.tolist() == [0.1]


def test_a_notebook_that_writes_another_points_result_is_told(tmp_path, small):
    small.write_text(small.read_text().replace("dict(alpha=alpha, wait", "dict(alpha=0.9, wait"))
    said = sweep.run_point(str(small), str(tmp_path / "point"), dict(alpha=0.3), 1)
    assert "result.json that is not this point's" in said and "it has alpha=0.9, and its point alpha=0.3" in said


@pytest.mark.slow
def test_a_copy_of_the_ablation_that_trains_other_settings_than_its_points_is_told(tmp_path):
    copy = tmp_path / "copy.ipynb"
    source, made = ABLATION.read_text(), "config = trac.TracConfig(**settings)"
    assert source.count(made) == 1
    copy.write_text(source.replace(made, f"{made}.replace(alpha=0.2)"))
    point = parameters(copy) | dict(alpha=0.5, steps=2, bc_steps=1, hidden=[8], eval_episodes=1, seeds=[0])
    said = sweep.run_point(str(copy), str(tmp_path / "point"), point, 1)
    assert "result.json that is not this point's" in said and "it has alpha=0.2, and its point alpha=0.5" in said
    assert sweep.run_point(str(copy), str(tmp_path / "right"), point | dict(alpha=0.2), 1) is None


@pytest.mark.parametrize(
    ("seeds", "message"), [([0, "0"], "entry 1 must be a valid integer"), ([0, False], "entry 1"), ([2, 2], "2 twice")]
)
def test_seeds_that_are_one_seed_twice_are_refused(tmp_path, small, at_once, seeds, message):
    with pytest.raises(ConfigError, match=message):
        sweep.sweep(small, tmp_path / "out", [parameters(small) | dict(seeds=seeds)])
    assert not at_once


def test_defaults_may_be_expressions_and_the_notebook_need_not_name_its_kernel(tmp_path):
    notebook = nbformat.v4.new_notebook()
    source = (
        "import math\nwidth = 64\nhidden = [width for _ in range(2)]\nsteps = 4 * 1000\nlimit = math.inf\nfolder = None"
    )
    notebook.cells = [nbformat.v4.new_code_cell(source, metadata={"tags": ["parameters"]})]
    nbformat.write(notebook, tmp_path / "it.ipynb")
    assert parameters(tmp_path / "it.ipynb") == dict(width=64, hidden=[64, 64], steps=4000, limit=float("inf"))
    place = tmp_path / "point"
    said = sweep.run_point(str(tmp_path / "it.ipynb"), str(place), dict(steps=10), 1)
    assert said == f"the notebook ended without writing its result, {place / 'result.json'}"
    assert "steps = 10" in (place / "notebook.ipynb").read_text()


def test_a_notebook_without_what_a_sweep_needs_is_named(tmp_path):
    notebook = nbformat.v4.new_notebook()
    nbformat.write(notebook, tmp_path / "none.ipynb")
    notebook.cells = [nbformat.v4.new_code_cell("steps = 1 / 0", metadata={"tags": ["parameters"]})]
    nbformat.write(notebook, tmp_path / "wrong.ipynb")
    (tmp_path / "text.ipynb").write_text("not JSON")
    for name, message in (
        ("missing", "missing.ipynb: no such notebook"),
        ("text", "text.ipynb is not a notebook"),
        ("none", "none.ipynb has no parameter `folder`"),
        ("wrong", "wrong.ipynb: its cell of parameters cannot be executed .*ZeroDivisionError"),
    ):
        with pytest.raises(ConfigError, match=message):
            parameters(tmp_path / f"{name}.ipynb")


@pytest.mark.slow
def test_one_seed_by_papermill_alone(tmp_path):
    settings = "steps=2 bc_steps=1 eval_episodes=1 seeds=0".split()
    flags = [word for text in settings for word in ("-p", *text.split("="))]
    call = [sys.executable, "-m", "papermill", str(ABLATION), str(tmp_path / "out.ipynb"), *flags, "-p", "folder"]
    result = subprocess.run([*call, str(tmp_path)], capture_output=True, text=True, cwd=ABLATION.parent)
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "result.json").read_text())["parameters"]["seeds"] == [0]


@pytest.mark.slow
def test_changed_data_is_said(tmp_path, small, capsys):
    log = tmp_path / "log.txt"
    log.write_text("one log")
    points = plan(parameters(small), ["alpha=0.5"], [], None)[0]
    points = [point | {"source": "log.txt"} for point in points]
    sweep.run_point(str(small), str(tmp_path / "out" / "points" / sweep.point_hash(points[0])), points[0], threads=1)
    for content, said in (("one log", False), ("another log", True)):
        log.write_text(content)
        assert sweep.sweep(small, tmp_path / "out", points) == {}
        assert ("1 points were made or begun by other code or data and are kept" in capsys.readouterr().out) == said


@pytest.mark.slow
def test_changed_code_is_said(tmp_path, small, capsys):
    out, points = tmp_path / "out", plan(parameters(small), ["alpha=0.5,0.6"], [], None)[0]
    assert sweep.sweep(small, out, points) == {}
    small.write_text(small.read_text().replace("a kernel that dies the first time", "changed"))
    assert sweep.sweep(small, out, points) == {} and calls(out) == 2
    assert "2 points were made or begun by other code or data and are kept" in capsys.readouterr().out
    for path in out.glob("points/*/result.json"):
        path.unlink()  # as if they had been killed before the end
    assert sweep.sweep(small, out, points[:1]) == {} and calls(out) == 3
    assert "1 points were made or begun by other code or data" in capsys.readouterr().out


def test_a_second_sweep_in_the_same_folder_is_refused(tmp_path, small):
    with locked(tmp_path / "out"):  # as a first one does
        second = subprocess.run(command(small, tmp_path / "out"), capture_output=True, text=True)
    assert second.returncode == 1 and "another process is training into" in second.stderr


@pytest.mark.slow
def test_a_sweep_killed_whole_goes_on_from_its_checkpoints(tmp_path):
    out = tmp_path / "out"
    settings = "steps=3000 bc_steps=1000 hidden=[32] segment_ratio=0.25 eval_episodes=2 log_every=10".split()
    call = command(ABLATION, out, "--grid", "alpha=0.1,0.2", "--seeds", "0", "--set", *settings)
    for kill in range(2):
        process = subprocess.Popen(call, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        before = [path.name for path in find_all(out)]
        while [path.name for path in find_all(out)] == before:
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not list(out.glob("points/*/result.json")) or kill
    last = subprocess.run(call, capture_output=True, text=True)
    assert last.returncode == 0, last.stderr
    table = pd.read_csv(out / "results.csv")
    assert len(table) == 2 and set(table.alpha) == {0.1, 0.2}
    whole = tmp_path / "whole"
    assert subprocess.run([*call[:6], str(whole), *call[7:]], capture_output=True).returncode == 0
    for path in whole.glob("points/*/run/*/weights.safetensors"):
        assert (out / path.relative_to(whole)).read_bytes() == path.read_bytes()


def find_all(out):
    return [path for folder in out.glob("points/*/run/checkpoints/*") for path in find(folder)]


@pytest.fixture
def cluster(tmp_path):
    """A scheduler and two workers, each a process: the scheduler's address, and the processes."""
    scheduler_file, processes = tmp_path / "scheduler.json", []

    def start(*arguments):
        call = [sys.executable, "-m", "distributed.cli." + arguments[0], *arguments[1:]]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        processes.append(subprocess.Popen(call, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

    try:
        start("dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(scheduler_file))
        while not scheduler_file.exists():
            time.sleep(0.1)
        address = json.loads(scheduler_file.read_text())["address"]
        for _ in range(2):
            start("dask_worker", address, "--nthreads", "1", "--no-nanny")
        yield address, processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.slow
def test_a_worker_of_a_real_cluster_may_be_killed(tmp_path, cluster):
    out, (address, processes) = tmp_path / "out", cluster
    settings = "steps=3000 bc_steps=1000 hidden=[32] segment_ratio=0.25 eval_episodes=2".split()
    more = ["--grid", "alpha=0.1,0.2", "--seeds", "0", "--scheduler", address, "--set", *settings]
    call = subprocess.Popen(command(ABLATION, out, *more), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while not find_all(out):
        assert call.poll() is None, call.communicate()
        time.sleep(0.05)
    processes[1].kill()
    output, _ = call.communicate()
    assert call.returncode == 0, output
    assert len(pd.read_csv(out / "results.csv")) == 2


@pytest.mark.slow
def test_a_lost_scheduler_is_said_of_each_call_that_is_not_finished(cluster):
    address, (scheduler, *_) = cluster
    answers = on_dask(time.sleep, {"a": (0,), "b": (60,), "c": (60,)}, 1, address)
    assert next(answers) == ("a", None)
    scheduler.kill()
    left = dict(answers)
    assert left.keys() == {"b", "c"}
    assert {repr(error) for error in left.values()} == {
        "ConnectionError('the scheduler was lost; the same command goes on')"
    }


@pytest.mark.slow
def test_a_full_disk_is_said_and_leaves_earlier_results_intact(tmp_path, small):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("this user may not mount a small tmpfs")
    try:
        out, (first, second) = disk / "out", plan(parameters(small), ["padding=0,9000000"], [], None)[0]
        assert sweep.sweep(small, out, [first]) == {}
        before = (out / "results.csv").read_text()
        failed = sweep.sweep(small, out, [first, second])
        assert list(failed) == [sweep.point_hash(second)]
        assert "No space left on device" in failed[sweep.point_hash(second)]
        assert (out / "results.csv").read_text() == before and len(collect(out)) == 1
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.slow
def test_the_folder_of_temporary_files_may_be_lost_between_two_points(tmp_path, small, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))  # as Python keeps it after its first use
    assert sweep.run_point(str(small), str(tmp_path / "point"), dict(alpha=0.3), 1) is None
    assert (tmp_path / "point" / "result.json").is_file()


def test_a_point_that_another_worker_finished_is_not_run_again(tmp_path, small):
    result = {"parameters": dict(alpha=0.5), "code": "x", "threads": 1, "seconds": 1.0}
    result["runs"] = [dict(seed=0, model="last", scores=dict(cost=1.0))]
    (tmp_path / "result.json").write_text(json.dumps(result))
    assert sweep.run_point(str(small), str(tmp_path), dict(alpha=0.5), 1) is None
    assert json.loads((tmp_path / "result.json").read_text()) == result and not (tmp_path / "calls").exists()


def test_a_missing_package_is_named_with_its_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "papermill", None)
    with pytest.raises(ImportError, match=r"importing papermill failed .*pip install 'trac-book\[sweep\]'"):
        sweep.sweep(ABLATION, tmp_path / "out", [])
    assert not (tmp_path / "out").exists()
    monkeypatch.setitem(sys.modules, "dask.distributed", None)
    with pytest.raises(ImportError, match="importing dask.distributed failed"):
        next(sweep.on_dask(len, {}, 1, None))


def test_no_workers_are_refused():
    with pytest.raises(ValueError, match="workers=0 must be at least 1"):
        next(on_dask(print, {"a": ()}, 0, None))
