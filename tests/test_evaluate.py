import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import trac
from trac.envs import MissingSimulator, OptionError, make
from trac.evaluate import Evaluation, differences, interval, rollout, summarize
from trac.simulators import bullet

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
one = [torch.Generator().manual_seed(0)]
policy = Policy.untrained(7, 2, hidden=(64, 64), dropout=0.0, kind="deterministic", generators=one)
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


def test_the_interval_covers_the_mean_as_often_as_it_says():
    generator = np.random.default_rng(0)
    trials = generator.exponential(size=(400, 40))
    covered = [low <= 1.0 <= high for low, high in (interval(row, resamples=1000) for row in trials)]
    assert 0.88 < np.mean(covered) < 0.97  # a percentile bootstrap of a skewed mean falls a little short of 0.95


def test_the_interval_over_seeds_counts_their_spread():
    values = np.repeat([[0.0], [1.0], [2.0]], 50, axis=1)  # all spread lies between the seeds
    low, high = interval(values)
    assert low <= 0.4 and high >= 1.6
    low, high = interval(values.ravel())
    assert low > 0.8 and high < 1.2


def test_a_missing_package_is_named_with_its_command(monkeypatch):
    def fail(name, *rest):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(bullet.importlib, "import_module", fail)
    with pytest.raises(MissingSimulator, match="BallRun cannot be .*Bullet-Safety-Gym: pip install pybullet"):
        make("BallRun")


def test_no_episodes_is_refused():
    with pytest.raises(ValueError, match="episodes=0 must be at least 1"):
        trac.evaluate(Steer(), **TASK, episodes=0)


def test_what_cannot_be_scored_is_refused():
    for limit in (-3, float("nan")):
        with pytest.raises(ValueError, match=f"cost_limit={limit} must be 0 or more"):
            trac.evaluate(Steer(), **TASK | dict(cost_limit=limit))
    with pytest.raises(ValueError, match="dict has no act"):
        trac.evaluate({}, **TASK)


@pytest.mark.parametrize("task", ["BallRun", "BallCircle", "CarCircle"])
def test_a_fresh_simulator_repeats_its_start(task):
    assert rollout(Steer(), task, 3) == rollout(Steer(), task, 3)


def test_training_evaluates_and_keeps_the_best(data):
    config = trac.TracConfig(
        cost_limit=8, batch_size=8, hidden=(16,), bc_steps=20, steps=40, eval_episodes=2, eval_every=20, log_every=20
    )
    run = trac.train(data, config, progress=False)
    rows = run.history.dropna(subset=["normalized_cost"])
    assert rows.step.tolist() == [20, 40] and run.best is not None
    last = trac.evaluate(run.policy, task="BallCircle", cost_limit=8, episodes=2, seed=config.seed).summary()
    assert rows["return"].iloc[-1] == last["return"]


def runs_of_two_settings():
    """Seeds far apart, and a change of exactly +0.1 / -0.5 in each."""
    base = pd.DataFrame({"task": "T", "alpha": 0.2, "seed": range(5)})
    base = base.assign(normalized_reward=base.seed / 5, normalized_cost=base.seed / 2)
    changed = base.assign(alpha=1.0, normalized_reward=base.normalized_reward + 0.1)
    changed["normalized_cost"] -= 0.5
    return pd.concat([base, changed.sample(frac=1, random_state=0)], ignore_index=True)


def test_a_summary_over_seeds_by_hand():
    table = summarize(runs_of_two_settings(), ["task", "alpha"]).set_index("alpha")
    assert table.loc[0.2, ["runs", "safe"]].tolist() == [5, 2] and table.loc[1.0, "safe"] == 3
    assert table.normalized_reward.tolist() == pytest.approx([0.4, 0.5])
    assert table.loc[0.2, "normalized_reward_low"] < 0.4 < table.loc[0.2, "normalized_reward_high"]


def test_differences_are_taken_within_each_seed():
    row = differences(runs_of_two_settings(), ["task"], "alpha", 0.2).iloc[0]
    assert row.alpha == 1.0 and row.runs == 5
    # The same in every seed, however far apart the seeds are: an interval of no width.
    assert row[["normalized_reward_low", "normalized_reward", "normalized_reward_high"]].tolist() == pytest.approx(
        [0.1] * 3
    )
    assert row[["normalized_cost_low", "normalized_cost", "normalized_cost_high"]].tolist() == pytest.approx([-0.5] * 3)


def test_a_difference_without_its_baseline_is_refused():
    runs = runs_of_two_settings()
    with pytest.raises(ValueError, match="alpha=0.2 must have one run"):
        differences(runs.drop(index=3), ["task"], "alpha", 0.2)
    with pytest.raises(ValueError, match="alpha=0.3"):
        differences(runs, ["task"], "alpha", 0.3)


def speeds(**options):
    """Speed of the ball after 1, 2, 3, ... steps at full force along x, from rest."""
    env = make("BallRun", options)
    env.reset(seed=0)
    found = []
    for _ in range(5):
        env.step(np.array([1.0, 0.0], dtype=np.float32))
        found.append(env.unwrapped.agent.get_linear_velocity()[0])
    env.close()
    return np.array(found)


def test_mass_and_motor_gain_scale_the_acceleration():
    plain = speeds()
    # F = m a: rolling friction is small against the force in the first step.
    assert speeds(mass=2.0)[0] / plain[0] == pytest.approx(0.5, rel=0.05)
    assert speeds(motor_gain=1.5)[0] / plain[0] == pytest.approx(1.5, rel=0.05)
    assert speeds(mass=2.0, motor_gain=2.0)[0] / plain[0] == pytest.approx(1.0, rel=0.05)
    assert np.array_equal(speeds(mass=1.0, friction=1.0, boundary=1.0), plain)


def test_a_delayed_action_takes_effect_later():
    plain, late = speeds(), speeds(action_delay=2)
    np.testing.assert_allclose(late[:2], 0, atol=0.02)
    np.testing.assert_allclose(late[2:], plain[:3], rtol=0.05)


def test_friction_decides_how_a_car_gets_going():
    def distance(**options):
        env = make("CarRun", options)
        env.reset(seed=0)
        start = env.unwrapped.agent.get_position()[0]
        for _ in range(20):
            env.step(np.array([1.0, 0.0], dtype=np.float32))
        moved = abs(env.unwrapped.agent.get_position()[0] - start)
        env.close()
        return moved

    assert distance(friction=0.05) < 0.8 * distance()
    assert distance(motor_gain=0.5) < 0.8 * distance()


def test_observation_noise_has_its_size_and_a_seed():
    def first(seed, **options):
        env = make("BallCircle", options)
        observation, _ = env.reset(seed=seed)
        env.close()
        return observation

    errors = np.array([first(s, observation_noise=0.1) - first(s) for s in range(60)])
    assert errors.std() == pytest.approx(0.1, rel=0.1) and abs(errors.mean()) < 0.02
    assert np.array_equal(first(3, observation_noise=0.1), first(3, observation_noise=0.1))


@pytest.mark.parametrize(("boundary", "cost"), [(1.0, 0.0), (0.5, 1.0)])
def test_a_moved_boundary_costs_where_it_stands(boundary, cost):
    env = make("BallCircle", {"boundary": boundary})
    env.reset(seed=0)
    env.unwrapped.agent.set_position((4.0, 0.0, 0.5))  # the boundary is at 6 m, or at 3 m
    assert env.step(np.zeros(2, dtype=np.float32))[-1]["cost"] == cost
    assert env.unwrapped.task.bound_2.get_position()[0] == pytest.approx(6 * boundary)
    env.close()


def test_a_lower_speed_limit_costs_earlier():
    class Roll:
        def act(self, observation):
            return np.array([0.25, 0.0], dtype=np.float32)

    costs = [
        trac.evaluate(Roll(), **TASK, episodes=1, workers=1, env_options=options).episodes.cost[0]
        for options in ({}, {"speed_limit": 0.5}, {"speed_limit": 100.0})
    ]
    assert costs[1] > costs[0] >= costs[2] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mas": 1.2}, "did you mean mass"),
        ({"mass": 0.0}, "mass=0.0 must be above 0"),
        ({"mass": "2"}, "mass='2' must be a number"),
        ({"mass": float("inf")}, "mass=inf"),
        ({"observation_noise": -0.1}, "0 or more"),
        ({"action_delay": 1.5}, "whole number"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        trac.evaluate(Push(), **TASK, env_options=options)


def test_options_belong_to_tasks():
    with pytest.raises(OptionError, match="BallCircle has no speed limit"):
        make("BallCircle", {"speed_limit": 0.5})
    with pytest.raises(OptionError, match="belongs to metadrive"):
        make("easydense", {"mass": 2.0})
