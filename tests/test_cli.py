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


def test_errors_are_one_line_without_a_traceback_in_the_words_of_the_command(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").touch()
    for arguments, message in (
        (["--task", "BallCirc"], "did you mean BallCircle"),
        (["--task", "AntRun"], "no packaged dataset"),
        (["--top", "2"], "--top 2.0: must be less than or equal to 1"),
        (["--steps", "9"], "--bc-steps 2000 must be at most --steps 9"),
        (["--task", "AntRun"], "--source dsrl fetches DSRL's file"),
        (["--out", str(tmp_path / "run"), "--eval-episodes", "0"], "holds a run already: pass --resume to go on"),
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
    assert "stopped after update" in errors and "; --resume goes on" in errors and "Traceback" not in errors
    result = subprocess.run([*command, "--resume"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert trac.load_run(tmp_path / "run").history.step.iloc[-1] == 1500


def test_a_plan_shows_what_set_set_and_leaves_nothing_behind(tmp_path):
    call = f"sweep notebooks/ablation.ipynb --out {tmp_path / 'out'} --set steps=6000 --seeds 2,3 --dry-run"
    result = run(*call.split(), "--grid", "hidden=(64,64),(32,)")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "2 points",
        "  hidden=[64, 64] steps=6000 seeds=[2, 3]",
        "  hidden=[32] steps=6000 seeds=[2, 3]",
    ]
    result = run(*call.split(), "--grid", "task=BallRun,BalRun")
    assert result.returncode == 1 and result.stderr == (
        "error: unknown task 'BalRun': did you mean BallRun? A task of your own needs a name less like it.\n"
    )
    assert not (tmp_path / "out").exists()
