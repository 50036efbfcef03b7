import dataclasses
import re
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
from conftest import make_arrays
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import trac
from trac import __main__ as cli
from trac.config import ConfigError
from trac.data import hdf5, trajectories
from trac.data.tasks import UnknownTask
from trac.experiments import reproduce


def run(*arguments):
    return subprocess.run([sys.executable, "-m", "trac", *arguments], capture_output=True, text=True)


def test_train_saves_a_run_that_can_be_read(tmp_path, data):
    hdf5.write(tmp_path / "data.hdf5", data)
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
        (["--task", "AntVelocity"], "no packaged dataset"),
        (["--top", "2"], "--top 2.0: must be less than or equal to 1"),
        (["--steps", "9"], "--bc-steps 2000 must be at most --steps 9"),
        (["--task", "AntVelocity"], "--source dsrl fetches DSRL's file"),
        (["--out", str(tmp_path / "run"), "--eval-episodes", "0"], "choose another folder, or pass --resume"),
    ):
        result = run("train", *arguments)
        assert result.returncode == 1 and result.stderr.startswith("error: ") and message in result.stderr


def test_ctrl_c_says_how_to_go_on_and_resume_goes_on(tmp_path, data):
    hdf5.write(tmp_path / "data.hdf5", data)
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


def test_the_task_is_the_files_where_the_command_line_does_not_say(tmp_path, data):
    hdf5.write(tmp_path / "SafetyBallRun-v0-80-940.hdf5", data)
    source = ["--source", str(tmp_path / "SafetyBallRun-v0-80-940.hdf5"), "--out", str(tmp_path / "run")]
    # The file says what it is, and has the eight numbers of BallCircle's observation.
    result = run("train", *source)
    assert result.returncode == 1 and "it says that it is a log of BallCircle" in result.stderr
    with h5py.File(source[1], "a") as file:
        del file.attrs["task"]
    result = run("train", *source)
    assert result.returncode == 1 and "the simulator of BallRun 7 and 2: load it under the name" in result.stderr
    short = "--cost-limit 8 --steps 20 --bc-steps 10 --hidden 16".split()
    swings = ["--source", str(tmp_path / "swings.hdf5")]
    (tmp_path / "swings.hdf5").write_bytes((tmp_path / "SafetyBallRun-v0-80-940.hdf5").read_bytes())
    result = run("train", *swings, *source[2:], *short, "--task", "BallCircle", "--eval-episodes", "1")
    assert result.returncode == 0, result.stderr
    assert trac.load_run(tmp_path / "run").config.task == "BallCircle"
    result = run("train", *swings, *short, "--out", str(tmp_path / "own"))
    assert result.returncode == 1 and "swings is a task of your own, without a simulator" in result.stderr


class Trained(Exception):
    """What the stand-in for a training was called with."""


def call(monkeypatch, *arguments):
    """The arguments of the work that a command line asks for, or the status and the message that it ends with."""

    def stand_in(*values, **options):
        raise Trained(values, options)

    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["trac", *arguments])
        patch.setattr(trac, "train", stand_in)
        patch.setattr(reproduce, "reproduce", stand_in)
        patch.setattr(trac, "load", lambda task, *rest: trajectories.from_arrays(str(task), **make_arrays()))
        try:
            cli.main()
        except Trained as trained:
            return trained.args
        except SystemExit as end:
            return end.code
    return 0


FIELDS = dataclasses.fields(trac.TracConfig)
whole, real = st.integers(-3, 2**70), st.floats()
shared = settings(
    deadline=None,
    derandomize=True,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
# What a shell can hand over.
words = st.text(st.characters(exclude_characters="\0"), max_size=8)
values = words | whole.map(str) | real.map(str) | st.sampled_from(["BallRun", "inf", "None", "released", "=", "--"])
flags = st.sampled_from([f"--{field.name.replace('_', '-')}" for field in FIELDS])
other = st.sampled_from(
    ["--source", "--out", "--device", "--resume", "--grid", "--set", "--seeds", "--where", "--tasks"]
)


def value_of(field):
    """Values of the field's type, in its bounds and out of them."""
    if field.name == "task":
        return st.sampled_from(["BallRun", "CarCircle", "swings", "BalRun"])
    if isinstance(field.default, str):
        return st.sampled_from(["exact", "released", "step", "bc", "none", "both", "fresh", "gaussian"])
    if isinstance(field.default, tuple):
        return st.lists(st.integers(-1, 300), max_size=3).map(tuple)
    return whole if isinstance(field.default, int) else real


@shared
@given(chosen=st.lists(st.sampled_from(FIELDS), unique=True, max_size=5), draw=st.data())
def test_settings_are_what_the_flags_say(monkeypatch, capsys, chosen, draw):
    asked = {field.name: draw.draw(value_of(field), label=field.name) for field in chosen}
    arguments = ["train"]
    for name, value in asked.items():
        entries = value if isinstance(value, tuple) else (value,)
        arguments += [f"--{name.replace('_', '-')}", *map(str, entries)]
    found = call(monkeypatch, *arguments)
    try:
        expected = trac.TracConfig(**asked)
    except ConfigError as error:
        assert found == 2 or (found.startswith("error: ") and str(error)[-20:] in found)
    except UnknownTask as error:
        assert found == f"error: {error}"
    else:
        (_, config), _ = found
        assert config == expected


@shared
@given(
    command=st.sampled_from(["train", "sweep", "reproduce", "trian", ""]),
    arguments=st.lists(st.one_of(flags, other, values), max_size=8),
)
def test_any_command_line_runs_or_ends_with_a_message(monkeypatch, capsys, command, arguments):
    found = call(monkeypatch, command, *arguments)
    said = capsys.readouterr()
    if isinstance(found, tuple):
        return
    if isinstance(found, str):
        assert found.startswith("error: ") and len(found) > 10
    else:
        # 0 after help, which argument parsers look for first.
        assert found == 2 or (found == 0 and {"-h", "--help"} & set(arguments))
        assert (said.err + said.out).strip() and "Traceback" not in said.err


NOTEBOOK = str(Path(__file__).parents[1] / "notebooks" / "ablation.ipynb")


@shared
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["--grid", "--set", "--seeds", "--where"]),
            values
            | st.builds(
                "{}={}".format,
                st.sampled_from(["alpha", "steps", "cost_limit", "hidden", "task", "sampling", "seeds"]),
                values,
            ),
        ),
        max_size=4,
    )
)
def test_any_plan_of_a_sweep_is_made_or_refused(monkeypatch, tmp_path, capsys, options):
    arguments = [word for option in options for word in option]
    found = call(monkeypatch, "sweep", NOTEBOOK, "--out", str(tmp_path), "--dry-run", *arguments)
    if found == 0:
        assert "points" in capsys.readouterr().out
    else:
        assert found == 2 or (found.startswith("error: ") and len(found) > 10)


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


def test_a_sweep_says_what_it_cannot_read(monkeypatch, tmp_path):
    options = ("sweep", NOTEBOOK, "--out", str(tmp_path / "typo"))
    assert "typo holds no points of a sweep: check --out." in call(monkeypatch, *options, "--collect")
    assert "--seeds 0-2: write whole numbers with commas" in call(monkeypatch, *options, "--dry-run", "--seeds", "0-2")


@pytest.mark.parametrize("command", ["train", "sweep", "reproduce", "page", "doctor"])
def test_help_explains_every_flag_and_has_an_example(monkeypatch, capsys, command):
    monkeypatch.setenv("COLUMNS", "400")  # a line for each flag
    assert call(monkeypatch, command, "--help") == 0
    text = capsys.readouterr().out
    (example,) = re.findall(r"^Example: python -m trac (.+?) *$", text, re.MULTILINE)
    assert example.split()[0] == command
    flags = re.findall(r"^\W*--\w.*$", text, re.MULTILINE)
    assert flags and not [line for line in flags if re.search(r" {2}\((default|required)", line)]
    if command in ("train", "reproduce"):  # the example is understood
        assert isinstance(call(monkeypatch, *example.split()), tuple)
    if command == "sweep":
        assert call(monkeypatch, *example.split(), "--dry-run") == 0


def test_a_tracker_by_its_name(monkeypatch):
    for name, command in (("tensorboard", "pip install tensorboard"), ("mlflow", "pip install mlflow-skinny")):
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard" if name == "tensorboard" else name, None)
        found = call(monkeypatch, "train", "--tracker", name)
        assert found.startswith("error: This needs ") and found.endswith(f"Install it with: {command}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["reproduce", "--task", "BallRun", "--set", "steps=4", "steps=2"], "steps is given twice"),
        (["sweep", "notebooks/ablation.ipynb", "--out", "b", "--set", "steps=4", "steps=5"], "steps is given twice"),
        (["train", "--capture", "--no-capture"], "--capture is given twice"),
    ],
)
def test_a_setting_given_twice_is_refused(monkeypatch, words, message):
    monkeypatch.chdir(Path(__file__).parents[1])
    assert message in call(monkeypatch, *words)


def test_a_flag_given_twice_is_refused():
    call = [sys.executable, "-m", "trac", "sweep", "a.ipynb", "--out", "b", "--set", "steps=4", "--set", "bc_steps=2"]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 1 and "error: --set is given twice, and only the last one would count" in done.stderr
