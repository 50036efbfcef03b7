import sys

import numpy as np
import pandas as pd
import pytest
from conftest import stand_in

import trac
from trac import envs
from trac.__main__ import main
from trac.config import ConfigError
from trac.core import checkpoint
from trac.data import download
from trac.envs import MissingSimulator
from trac.experiments import reproduce
from trac.experiments.reproduce import compare, in_suite, paper_results, run_limit

FEW = "steps=20 bc_steps=10 warmup_steps=2 hidden=[8] batch_size=4 eval_every=10 eval_episodes=2".split()
CHANGES = dict(steps=20, bc_steps=10, warmup_steps=2, hidden=(8,), batch_size=4, eval_every=10, eval_episodes=2)


@pytest.fixture
def ball_run(tmp_path, monkeypatch):
    """A stand-in for DSRL's file where DSRL would keep it, and no mirror."""
    monkeypatch.setenv("DSRL_DATASET_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "MIRRORS", ())
    monkeypatch.delenv("TRAC_DSRL_MIRROR", raising=False)
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")  # processes for two short episodes take longer than these
    (tmp_path / "cache").mkdir()
    return stand_in(tmp_path / "cache" / trac.TASKS["BallRun"].file, "BallRun", 940, 80.0)


@pytest.fixture
def command(monkeypatch, capsys):
    """`python -m trac reproduce`, in this process: what it prints and with what it exits."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["trac", "reproduce", *arguments])
        try:
            main()
        except SystemExit as stop:
            return capsys.readouterr(), stop.code
        return capsys.readouterr(), 0

    return call


def test_the_papers_table_has_all_tasks_and_its_averages():
    table = paper_results()
    assert set(table.task) == set(trac.TASKS) and (table.groupby("method").size() == 38).all()
    ours = table[table.method == "TraC"].groupby("suite")[["reward_mean", "cost_mean"]].mean().round(2)
    assert ours.loc["SafetyGym"].tolist() == [0.38, 0.90]  # the paper prints 0.40 and 0.92 over the same rows
    assert [len(in_suite(suite)) for suite in ("bullet", "safety", "metadrive", "all")] == [8, 21, 9, 38]


def test_differences_by_hand():
    paper = paper_results().query("task == 'BallRun' and method == 'TraC'").iloc[0]
    values = paper.reward_mean + 0.1 * np.array([1.0, 2.0, 3.0, 2.0])
    rows = pd.DataFrame(
        dict(task="BallRun", model="last", ratio_assumed=False, normalized_reward=values, normalized_cost=0.25)
    )
    (row,) = compare(rows).to_dict("records")
    assert row["runs"] == 4 and row["reward"] == pytest.approx(paper.reward_mean + 0.2)
    # Ours: variance of (1, 2, 3, 2) tenths is 2/3 of 0.01, over four runs; the paper's over nine.
    error = np.sqrt(0.01 * 2 / 3 / 4 + paper.reward_std**2 / 9)
    assert row["reward_difference"] == pytest.approx(0.2 / error)
    assert row["cost"] == 0.25 and row["cost_std"] == 0 and row["paper_cost"] == paper.cost_mean


def test_a_task_from_its_file_to_the_row_beside_the_papers(ball_run, tmp_path, command):
    out = tmp_path / "out"
    call = ["--task", "BallRun", "--out", str(out), "--set", *FEW]
    first, code = command(*call)
    assert code == 0, first.err
    runs, table = pd.read_csv(out / "runs.csv"), pd.read_csv(out / "table.csv")
    assert [*zip(runs.cost_limit, runs.seed, runs.model, strict=True)] == [
        (limit, seed, model) for limit in (10, 20, 40) for seed in (0, 10, 20) for model in ("last", "best")
    ]
    for model in ("last", "best"):
        chosen, row = runs[runs.model == model], table[table.model == model].iloc[0]
        assert row.reward == pytest.approx(chosen.normalized_reward.mean()) and row.runs == 9
        assert row.cost_std == pytest.approx(chosen.normalized_cost.std())
    run = trac.load_run(out / "BallRun" / "limit-20" / "001")
    assert (run.config.seed, run.config.cost_limit, run.config.alpha, run.config.sampling) == (10, 20, 0.2, "released")
    scores = trac.evaluate(run.policy, task="BallRun", cost_limit=20, episodes=2, seed=10)
    last = runs.query("cost_limit == 20 and seed == 10 and model == 'last'").iloc[0]
    assert last["return"] == pytest.approx(scores.episodes["return"].mean())
    best = runs.query("cost_limit == 20 and seed == 10 and model == 'best'").iloc[0]
    found = trac.evaluate(run.best, task="BallRun", cost_limit=20, episodes=2, seed=10)
    assert best["return"] == pytest.approx(found.episodes["return"].mean())
    paper = paper_results().query("task == 'BallRun' and method == 'TraC'").iloc[0]
    assert f"{paper.reward_mean:.2f} ± {paper.reward_std:.2f}" in first.out
    assert "not the paper's settings: steps=20" in first.out and "assumed" not in first.out

    seconds = run.record["seconds"]
    again, _ = command(*call)
    assert again.out == first.out and trac.load_run(out / "BallRun/limit-20/001").record["seconds"] == seconds
    other, code = command(*call, "alpha=0.5")
    assert code == 1 and "failed: BallRun, limit 40: " in other.err and "alpha of run 0 was 0.2, now 0.5" in other.err


def test_a_task_without_simulator_is_trained_and_evaluated_where_there_is_one(ball_run, tmp_path, monkeypatch, capsys):
    def missing(task, env_options=None):
        raise MissingSimulator("install the simulator")

    with monkeypatch.context() as patch:
        patch.setattr(reproduce, "make", missing)
        assert reproduce.reproduce(["BallRun"], tmp_path / "out", changes=CHANGES) == {}
    printed = capsys.readouterr().out
    assert "BallRun, limit 10: not evaluated: install the simulator" in printed and "nan" in printed
    wanted = reproduce.configs("BallRun", 10.0, None, CHANGES)
    rows, note, failed = run_limit(str(tmp_path / "out/BallRun/limit-10"), "dsrl", wanted, progress=False)
    assert note is None and failed is None and [row["model"] for row in rows] == ["last"] * 3
    policy = trac.load_run(tmp_path / "out/BallRun/limit-10/002").policy
    scores = trac.evaluate(policy, task="BallRun", cost_limit=10, episodes=2, seed=20)
    assert rows[2]["return"] == pytest.approx(scores.episodes["return"].mean())


def test_what_was_killed_without_simulator_goes_on_with_one_and_the_other_way_round(ball_run, tmp_path, monkeypatch):
    def missing(task, env_options=None):
        raise MissingSimulator("install the simulator")

    class Killed(BaseException):
        pass

    def killed(folder, step, *arguments, save=checkpoint.save):
        save(folder, step, *arguments)
        raise Killed

    wanted = reproduce.configs("BallRun", 10.0, None, CHANGES)
    for first, second, models in ((missing, reproduce.make, ["last"]), (reproduce.make, missing, None)):
        folder = str(tmp_path / first.__name__)
        with monkeypatch.context() as patch:
            patch.setattr(reproduce, "make", first)
            patch.setattr(checkpoint, "save", killed)
            with pytest.raises(Killed):
                run_limit(folder, "dsrl", wanted, progress=False)
        with monkeypatch.context() as patch:
            patch.setattr(reproduce, "make", second)
            patch.setattr(envs, "make", second)
            if models is None:
                with pytest.raises(MissingSimulator, match="install the simulator"):
                    run_limit(folder, "dsrl", wanted, progress=False)
                continue
            rows, note, failed = run_limit(folder, "dsrl", wanted, progress=False)
            assert note is None and failed is None and [row["model"] for row in rows] == models * 3
            assert all(np.isfinite(row["normalized_reward"]) for row in rows)


def test_a_printed_ratio_is_not_assumed_to_be_another(tmp_path):
    with pytest.raises(ConfigError, match="prints the segment ratio of BallRun: .* --set segment_ratio=0.5"):
        reproduce.reproduce(["BallRun"], tmp_path, segment_ratio=0.5)


def test_an_assumed_ratio_is_asked_for_and_said(tmp_path, capsys):
    with pytest.raises(ConfigError, match="does not print its segment ratio for AntCircle, AntRun, BallCircle"):
        reproduce.reproduce(in_suite("bullet"), tmp_path)
    path = tmp_path / "CarRun.hdf5"
    stand_in(path, "CarRun", largest_cost=80.0)  # a cost above each limit, for the segments are whole episodes
    changes = CHANGES | dict(eval_episodes=0)
    failed = reproduce.reproduce(["CarRun"], tmp_path / "o", source=str(path), segment_ratio=1.0, changes=changes)
    printed = capsys.readouterr().out
    assert failed == {} and "CarRun: the segment ratio 1 is assumed" in printed and "not DSRL's data" in printed
    assert (
        "not evaluated: eval_episodes=0" in printed and "± as a standard deviation over nine runs. That is" in printed
    )
    runs, table = (pd.read_csv(tmp_path / "o" / name) for name in ("runs.csv", "table.csv"))
    assert set(runs.segment_ratio) == {1.0} and runs.ratio_assumed.all() and table.ratio_assumed.all()
    # A printed ratio is kept: --segment-ratio is for the others of a suite.
    assert reproduce.configs("BallRun", 10, 0.5, None)[0].segment_ratio == 1.0


def test_one_task_without_data_does_not_stop_the_others(ball_run, tmp_path, capsys):
    changes = CHANGES | dict(eval_episodes=0)
    failed = reproduce.reproduce(["easydense", "BallRun"], tmp_path / "out", changes=changes)
    assert list(failed) == ["easydense"] and "could not be fetched" in failed["easydense"]
    assert "BallRun" in capsys.readouterr().out


def test_slips_are_said_before_anything_runs(tmp_path, command):
    for arguments, message in (
        ([], "pass one of --task and --tasks"),
        (["--task", "BallRun", "--tasks", "all"], "pass one of --task and --tasks"),
        (["--task", "BalRun"], "did you mean BallRun"),
        (["--task", "BallRun", "--set", "alfa=1"], "'alfa' is not a parameter of TracConfig.paper()"),
        (["--task", "BallRun", "--set", "bc_steps=200000"], "bc_steps=200000 must be at most"),
        (["--tasks", "bullet", "--segment-ratio", "1", "--source", "x.hdf5"], "x.hdf5 is the data of one task"),
        (["--tasks", "safety"], "does not print its segment ratio for CarButton1"),
    ):
        _, stopped = command(*arguments, "--out", str(tmp_path / "out"))
        assert stopped.startswith("error: ") and message in stopped
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_workers_give_the_same_scores(ball_run, tmp_path, capsys):
    changes = CHANGES | dict(eval_every=0)
    assert reproduce.reproduce(["BallRun"], tmp_path / "one", changes=changes) == {}
    assert reproduce.reproduce(["BallRun"], tmp_path / "two", changes=changes, workers=2) == {}
    one, two = (pd.read_csv(tmp_path / name / "runs.csv") for name in ("one", "two"))
    pd.testing.assert_frame_equal(one, two)
