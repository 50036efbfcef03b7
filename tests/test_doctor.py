import os
import subprocess
import sys
from pathlib import Path

import joblib
import pytest
import torch

from trac import doctor
from trac.data import download
from trac.data.tasks import TASKS

HERE = dict(suite="bullet", task="BallRun")


def command(*arguments, **variables):
    words = [sys.executable, "-m", "trac", "doctor", *arguments]
    return subprocess.run(words, capture_output=True, text=True, env=os.environ | variables)


def below(text, line):
    """The line under the one that begins so."""
    lines = [line.strip() for line in text.splitlines()]
    return lines[next(i for i, found in enumerate(lines) if found.startswith(line)) + 1]


@pytest.fixture
def hidden(monkeypatch, tmp_path):
    """Bullet-Safety-Gym cannot be imported, by other processes either."""
    (tmp_path / "bullet_safety_gym.py").write_text("raise ImportError('hidden')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)


def test_a_simulator_that_is_missing(hidden):
    found, to_do = doctor._simulate(**HERE)
    assert found.startswith("bullet: BallRun cannot be simulated here (hidden). Training needs only the data")
    assert to_do.startswith("  to do: Bullet-Safety-Gym: pip install pybullet")


@pytest.mark.slow  # three processes that import torch
def test_the_command_with_one_thread(hidden):
    result = command(OMP_NUM_THREADS="1", TRAC_DSRL_MIRROR="https://name:secret@host.test/x")
    assert result.returncode == 0, result.stderr
    text = result.stdout
    parts = [line for line in text.splitlines() if not line.startswith(" ")]
    assert parts[0].startswith("trac 0.") and parts[1:] == ["installed", "simulators", "devices", "threads", "data"]
    assert f"torch {torch.__version__.partition('+')[0]}" in text and "h5py 3" in text
    assert below(text, "bullet: ").startswith("to do: Bullet-Safety-Gym: pip install pybullet")
    assert f"  1 of torch on {joblib.cpu_count()} cores, OMP_NUM_THREADS=1, OMP_WAIT_POLICY=" in text
    assert "mirrors: host.test, " in text and "secret" not in text


def test_a_simulator_that_runs_dies_or_hangs(monkeypatch):
    assert doctor._simulate(**HERE) == ["bullet: BallRun runs"]
    monkeypatch.setattr(doctor, "TRY", "import os; os.abort()")
    assert doctor._simulate(**HERE)[0] == "bullet: BallRun's process ended with status -6"
    monkeypatch.setattr(doctor, "TRY", "raise ValueError('of the simulator')")
    assert doctor._simulate(**HERE)[0] == "bullet: ValueError: of the simulator"
    monkeypatch.setattr(doctor, "TRY", "import time; time.sleep(60)")
    monkeypatch.setattr(doctor, "PATIENCE", 0.2)
    assert doctor._simulate(**HERE)[0] == "bullet: BallRun has not started within 0.2 s"


@pytest.fixture
def without_simulators(monkeypatch):
    monkeypatch.setattr(doctor, "_simulate", lambda suite, task: [f"{suite}: not tried"])


def test_a_folder_that_cannot_be_written_and_files_that_are_there(monkeypatch, tmp_path, without_simulators):
    name = TASKS["CarRun"].file
    (tmp_path / name).write_bytes(b"x" * 2**20)
    (tmp_path / f"{TASKS['BallRun'].file}.part").touch()
    (tmp_path / "private.hdf5").touch()
    monkeypatch.setenv("DSRL_DATASET_DIR", str(tmp_path))
    text = doctor.report()
    assert f"{name} (1.0 MiB)" in text and "940.hdf5.part (0.0 MiB)" in text and "private" not in text
    assert "GiB free there" in text
    monkeypatch.setenv("DSRL_DATASET_DIR", str(tmp_path / name / "below"))  # a file is no folder
    text = doctor.report()
    assert below(text, f"{tmp_path / name} cannot be written").startswith("to do: export DSRL_DATASET_DIR=")


def test_more_threads_than_cores(monkeypatch, without_simulators):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 4)  # of a container, say
    before = torch.get_num_threads()
    try:
        for threads, found in ((4, "data"), (5, "to do: export OMP_NUM_THREADS=4, for threads")):
            torch.set_num_threads(threads)
            assert below(doctor.report(), f"{threads} of torch on 4 cores, ").startswith(found)
    finally:
        torch.set_num_threads(before)


def test_home_is_a_tilde_and_a_broken_part_is_one_line(monkeypatch, without_simulators):
    folder = Path(doctor.__file__).parent
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.setattr(doctor, "processor", lambda: 1 / 0)
    text = doctor.report()
    assert text.startswith(f"trac {doctor.trac.__version__} in ~/trac\n") and f"{folder.parent}/" not in text
    assert "installed\n  could not be found out: ZeroDivisionError" in text
    monkeypatch.setenv("HOME", str(folder)[:-1])  # the beginning of a name is not the folder
    assert f" in {folder}\n" in doctor.report()
    monkeypatch.setenv("HOME", "/")
    assert f" in {folder}\n" in doctor.report()


def test_mirrors_are_asked_only_where_that_is_wanted(monkeypatch, without_simulators):
    monkeypatch.setattr(download, "MIRRORS", ("http://127.0.0.1:9/dead",))
    assert "ConnectionError" not in doctor.report()
    assert below(doctor.report(network=True), "127.0.0.1: ConnectionError").startswith("to do: put DSRL's file")
