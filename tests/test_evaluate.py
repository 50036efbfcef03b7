import importlib
import os
import signal
import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
from baseline_cases import TRAIN, small
from conftest import same

import trac
from trac.core import fit
from trac.envs import bullet
from trac.evaluate import Evaluation, rank
from trac.train import TrainingError

TASK = dict(task="BallRun", cost_limit=20)


class Steer:
    """Push forward, and back to the middle of the lane."""

    def act(self, observation):
        return np.array([0.5, -2 * observation[1]], dtype=np.float32)


class Push:
    def act(self, observation):
        return np.array([1.0, 0.3], dtype=np.float32)


def test_the_same_seed_gives_the_same_episodes_for_any_number_of_workers():
    np.random.seed(5)
    state = np.random.get_state()[1].copy()
    one = trac.evaluate(Steer(), **TASK, episodes=4, seed=3, workers=1).episodes
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    np.random.seed(77)
    four = trac.evaluate(Steer(), **TASK, episodes=4, seed=3, workers=4).episodes
    pd.testing.assert_frame_equal(one, four, check_exact=True)
    other = trac.evaluate(Steer(), **TASK, episodes=4, seed=4, workers=1).episodes
    assert not set(other["return"]) & set(one["return"])


# A network, because it is the network's last bits that threads and processes could change. It is made on
# one thread everywhere: the orthogonal initialisation's own last bits depend on the number of threads.
SCRIPT = """
import torch, trac
from trac.policy import Policy
torch.set_num_threads(1)
policy = Policy(7, 2, hidden=(64, 64)).initialise(torch.Generator().manual_seed(0))
episodes = trac.evaluate(policy, task="BallRun", cost_limit=20, episodes=3, seed=1, workers={workers}).episodes
print([float(v).hex() for v in episodes["return"]], episodes["cost"].tolist())
"""


def test_a_script_a_kernel_and_pytest_see_the_same_episodes():
    from nbclient import NotebookClient
    from nbformat.v4 import new_code_cell, new_notebook

    script = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(workers=1)], capture_output=True, text=True, check=True
    ).stdout
    notebook = new_notebook(cells=[new_code_cell(SCRIPT.format(workers=4))])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    kernel = "".join(o["text"] for o in notebook.cells[0].outputs if o.get("name") == "stdout")
    printed = []
    exec(SCRIPT.format(workers=1), {"print": lambda *values: printed.append(" ".join(map(str, values)))})
    assert kernel.strip() == script.strip() == printed[0]


def test_scores_are_those_of_dsrl():
    episodes = trac.evaluate(Push(), **TASK, episodes=2, workers=1).episodes
    bullet._classes()
    from dsrl import infos
    from dsrl.offline_env import OfflineEnv

    theirs = OfflineEnv(
        max_episode_reward=infos.MAX_EPISODE_REWARD["BallRun"], min_episode_reward=infos.MIN_EPISODE_REWARD["BallRun"]
    )
    theirs.set_target_cost(20)
    for row in episodes.itertuples():
        reward, cost = theirs.get_normalized_score(row._2, row.cost)
        assert (row.normalized_reward, row.normalized_cost) == (reward, cost)
    assert list(episodes) == ["seed", "return", "cost", "length", "normalized_reward", "normalized_cost"]
    assert (episodes["length"] == 100).all() and (episodes["cost"] > 20).all()


def test_an_infinite_limit_reports_raw_cost_only():
    result = trac.evaluate(Push(), task="BallRun", cost_limit=float("inf"), episodes=2, workers=1)
    assert result.summary()["cost"] > 0 and np.isnan(result.summary()["normalized_cost"])
    assert "safe" not in repr(result)


def test_a_summary_by_hand():
    frame = pd.DataFrame({"seed": [1, 2], "return": [2.0, 4.0], "cost": [0.0, 30.0], "length": [100, 100]})
    frame["normalized_reward"], frame["normalized_cost"] = frame["return"] / 10, frame["cost"] / 20
    summary = Evaluation("BallRun", 20, frame).summary()
    assert summary["return"] == 3 and summary["normalized_cost"] == 0.75 and summary["length"] == 100
    assert summary["cost_interval"] == (0.0, 30.0)


@pytest.mark.parametrize(
    ("limit", "costs", "verdict"),
    [(0, [0, 0], ", safe)"), (10, [16, 13, 14, 7, 0], ", safe)"), (20, [10, 31], ", unsafe)")],
)
def test_safe_is_at_most_the_limit(limit, costs, verdict):
    frame = pd.DataFrame({"return": 3.0, "cost": costs, "length": 100, "normalized_reward": 0.3})
    frame["normalized_cost"] = trac.TASKS["BallRun"].normalized_cost(frame["cost"], limit)
    result = Evaluation("BallRun", limit, frame)
    assert repr(result).endswith(verdict)
    means = result.summary()
    # Of safe policies the higher reward is the better one; an unsafe one is below them all.
    better_cost = {"normalized_cost": 0.0, "normalized_reward": 0.1}
    assert (rank(means, limit) > rank(better_cost, limit)) == (verdict == ", safe)")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(episodes=0), "episodes=0 must be a whole number, at least 1"),
        (dict(episodes=2.5), "episodes=2.5 must be a whole number, at least 1"),
        (dict(seed=None), "seed=None must be a whole number, at least 0"),
        (dict(seed=-1), "seed=-1 must be a whole number, at least 0"),
        (dict(seed=True), "seed=True must be a whole number, at least 0"),
        (dict(workers=0), "workers=0 must be a whole number, at least 1"),
        (dict(cost_limit="20"), "cost_limit='20' must be 0 or more, or inf"),
        (dict(policy=Steer), r"type has no act\(observation\): pass a policy"),
    ],
)
def test_what_is_no_number_of_episodes_seed_or_policy_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        trac.evaluate(**dict(policy=Steer()) | TASK | changes)


def test_what_cannot_be_scored_is_refused():
    for limit in (-3, float("nan")):
        with pytest.raises(ValueError, match=f"cost_limit={limit} must be 0 or more"):
            trac.evaluate(Steer(), **TASK | dict(cost_limit=limit))
    with pytest.raises(ValueError, match="dict has no act"):
        trac.evaluate({}, **TASK)


def test_training_evaluates_and_keeps_the_best(data):
    config = trac.TracConfig(
        cost_limit=8, batch_size=8, hidden=(16,), bc_steps=20, steps=40, eval_episodes=2, eval_every=20, log_every=20
    )
    run = trac.train(data, config, progress=False)
    rows = run.history.dropna(subset=["normalized_cost"])
    assert rows.step.tolist() == [20, 40] and run.best is not None
    last = trac.evaluate(run.policy, task="BallCircle", cost_limit=8, episodes=2, seed=config.seed).summary()
    assert rows["return"].iloc[-1] == last["return"]


SHORT = trac.TracConfig(
    **dict(cost_limit=8, batch_size=8, hidden=(16,), bc_steps=20, steps=60),
    **dict(eval_episodes=1, eval_every=20, log_every=10),
)


def at_evaluation(monkeypatch, number, act):
    """Let the n-th evaluation of trainings call `act` in place of itself; returns what puts all as it was."""
    evaluate, calls = fit.evaluate_many, [0]

    def replacement(*arguments, **options):
        calls[0] += 1
        return act() if calls[0] == number else evaluate(*arguments, **options)

    monkeypatch.setattr(fit, "evaluate_many", replacement)
    return lambda: monkeypatch.setattr(fit, "evaluate_many", evaluate)


def crash():
    raise RuntimeError("the simulator is gone")


@pytest.mark.parametrize("number", [2, 3])
def test_a_run_whose_evaluation_fails_is_kept_and_goes_on(data, tmp_path, monkeypatch, number):
    whole = trac.train(data, SHORT, progress=False)
    for out in (tmp_path, None):
        repair = at_evaluation(monkeypatch, number, crash)
        message = rf"evaluation after update {20 * number} failed \(RuntimeError: the simulator is gone\)"
        with pytest.raises(TrainingError, match=message) as caught:
            trac.train(data, SHORT, out=out, progress=False)
        repair()
        assert isinstance(caught.value.__cause__, RuntimeError)
        [kept] = caught.value.runs
        assert kept.record["failed_step"] == kept.history.step.iloc[-1] == 20 * number
        assert "gone" in kept.record["failed_evaluation"] and len(kept.history["return"].dropna()) == number - 1
    assert same(trac.load_run(tmp_path).policy, kept.policy)
    assert (number == 3) == same(kept.policy, whole.policy)
    resumed = trac.train(data, SHORT, out=tmp_path, resume=True, progress=False)
    pd.testing.assert_frame_equal(resumed.history, whole.history)
    assert same(resumed.policy, whole.policy) and same(resumed.best, whole.best)
    assert resumed.record["failed_evaluation"] is resumed.record["failed_step"] is None


def test_other_methods_runs_are_kept_too(data, tmp_path, monkeypatch):
    at_evaluation(monkeypatch, 2, crash)
    configs = [small("cpq", cost_limit=8, eval_episodes=1, seed=seed) for seed in (0, 1, 2)]
    with pytest.raises(TrainingError, match=r"kept as they were then, in this error's .runs and in .*\.") as caught:
        TRAIN["cpq"](data, configs, progress=False, device="cpu", out=tmp_path)
    failed = [run.record["failed_step"] for run in caught.value.runs]
    assert failed == [None, configs[1].steps] and trac.load_run(tmp_path / "001").record["failed_evaluation"]


def press_and_lose_a_worker():
    os.kill(os.getpid(), signal.SIGINT)
    raise RuntimeError("a worker process was terminated")


def press():
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("act", [press, press_and_lose_a_worker])
def test_ctrl_c_in_an_evaluation_loses_no_update(data, tmp_path, monkeypatch, act):
    repair = at_evaluation(monkeypatch, 2, act)
    with pytest.raises(KeyboardInterrupt, match="stopped after update 40 of 60; saved in .*; go on with resume=True"):
        trac.train(data, SHORT, out=tmp_path, progress=False)
    repair()
    resumed, whole = (trac.train(data, SHORT, out=out, resume=bool(out), progress=False) for out in (tmp_path, None))
    pd.testing.assert_frame_equal(resumed.history, whole.history)
    assert same(resumed.policy, whole.policy) and same(resumed.best, whole.best)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_environment_of_ones_own_is_as_it_is_now(tmp_path, monkeypatch):
    module = tmp_path / "walled.py"
    text = """
import gymnasium
import gymnasium as gym
import numpy as np
class Env(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (1,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))
    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}
    def step(self, action):
        return np.zeros(1, np.float32), REWARD, True, False, {"cost": 0.0}
"""
    module.write_text("REWARD = 1.0" + text)
    monkeypatch.syspath_prepend(tmp_path)
    walled = importlib.import_module("walled")
    one = dict(env=lambda: walled.Env(), reward_range=(0, 1), cost_limit=1, episodes=2)
    policy = trac.policy.Policy(1, 1, hidden=(4,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both episodes are the same
        assert trac.evaluate(policy, **one, workers=2).summary()["normalized_reward"] == 1
        module.write_text("REWARD = 20.0" + text)
        importlib.reload(walled)
        found = [
            trac.evaluate(policy, **one, workers=workers).summary()["normalized_reward"] for workers in (None, 1, 2)
        ]
    assert found == [20, 20, 20]


def test_threads_leave_the_output_as_it_was():
    script = """
import os, trac
from concurrent.futures import ThreadPoolExecutor
policy = trac.policy.Policy(7, 2, hidden=(4,))
score = lambda seed: trac.evaluate(policy, task="BallRun", cost_limit=20, episodes=1, seed=seed, workers=1)
with ThreadPoolExecutor(4) as pool:
    list(pool.map(score, range(8)))
print("here")
"""
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "here\n"


def test_episodes_of_a_known_task_that_are_cut_short_are_told():
    def short():
        return gym.wrappers.TimeLimit(trac.envs.make("BallRun"), 50)

    with pytest.warns(UserWarning, match="cut off after 50 steps, and those of BallRun have 100"):
        trac.evaluate(trac.policy.Policy(7, 2, hidden=(8,)), task="BallRun", env=short, cost_limit=20, episodes=2)


def test_options_beside_an_environment_of_ones_own_say_where_they_go():
    with pytest.raises(trac.envs.OptionError, match="make the changes in your env= itself"):
        trac.evaluate(Steer(), env=lambda: None, reward_range=(0, 1), cost_limit=1, env_options={"mass": 2.0})
