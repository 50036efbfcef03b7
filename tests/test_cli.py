import signal
import subprocess
import sys

import trac
from trac.data import trajectories


def run(*arguments):
    return subprocess.run([sys.executable, "-m", "trac", *arguments], capture_output=True, text=True)


def test_train_saves_a_run_that_can_be_read(tmp_path, data):
    trajectories.write(tmp_path / "data.hdf5", data)
    short = "--cost-limit 8 --steps 20 --bc-steps 10 --hidden 16 --eval-episodes 0 --seed 3".split()
    result = run("train", "--source", str(tmp_path / "data.hdf5"), "--out", str(tmp_path / "run"), *short)
    assert result.returncode == 0, result.stderr
    assert "saved in" in result.stdout and "%" in result.stderr  # the progress bar
    config = trac.load_run(tmp_path / "run").config
    assert (config.seed, config.cost_limit, config.hidden) == (3, 8, (16,))


def test_errors_are_one_line_without_a_traceback():
    for arguments, message in (
        (["--task", "BallCirc"], "did you mean BallCircle"),
        (["--task", "AntVelocity"], "no packaged dataset"),
        (["--top", "2"], "top=2.0: must be less than or equal to 1"),
    ):
        result = run("train", *arguments)
        assert result.returncode == 1 and result.stderr.startswith("error: ") and message in result.stderr


def test_ctrl_c_says_how_to_go_on_and_resume_goes_on(tmp_path, data):
    trajectories.write(tmp_path / "data.hdf5", data)
    settings = "--cost-limit 8 --steps 1500 --bc-steps 10 --hidden 64 --eval-episodes 0 --log-every 10".split()
    command = [sys.executable, "-m", "trac", "train", "--source", str(tmp_path / "data.hdf5"), *settings]
    command += ["--out", str(tmp_path / "run")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("run/checkpoints/*/*.safetensors")) and process.poll() is None:
        pass
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert "stopped after update" in errors and "resume" in errors and "Traceback" not in errors
    result = subprocess.run([*command, "--resume"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert trac.load_run(tmp_path / "run").history.step.iloc[-1] == 1500
