import subprocess
import sys

import trac
from trac import trajectories


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
        (["--task", "AntRun"], "no packaged dataset"),
        (["--top", "2"], "top=2.0 must lie in (0, 1]"),
    ):
        result = run("train", *arguments)
        assert result.returncode == 1 and result.stderr.startswith("error: ") and message in result.stderr
