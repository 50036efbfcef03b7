"""A task that is not one of DSRL's: Gymnasium's Pendulum with a cost, from its data to its scores."""

import sys
import threading

import gymnasium as gym
import numpy as np
import pytest
from baseline_cases import METHODS, TRAIN, small

import trac
from trac.__main__ import main
from trac.config import ConfigError
from trac.data.hdf5 import write
from trac.data.tasks import UnknownTask
from trac.data.trajectories import DatasetError, from_arrays
from trac.envs import MissingSimulator, OptionError
from trac.envs.checked import EnvError

LENGTH = 40


class FastCosts(gym.Wrapper):
    """A step costs 1 when the pendulum turns faster than 2 rad/s."""

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, info | {"cost": float(abs(observation[2]) > 2)}


def make_pendulum():
    pendulum = gym.make("Pendulum-v1", max_episode_steps=LENGTH)
    return FastCosts(gym.wrappers.RescaleAction(pendulum, np.float32(-1), np.float32(1)))


def collect(episodes=30):
    """Pushes of a constant size for each episode, and some noise."""
    generator, steps = np.random.default_rng(0), []
    env = make_pendulum()
    for episode in range(episodes):
        observation, _ = env.reset(seed=episode)
        push = generator.uniform(-1, 1)
        truncated = False
        while not truncated:
            action = np.clip(push + 0.1 * generator.standard_normal(1), -1, 1).astype(np.float32)
            upcoming, reward, _, truncated, info = env.step(action)
            steps.append((observation, upcoming, action, reward, info["cost"], False, truncated))
            observation = upcoming
    names = ("observations", "next_observations", "actions", "rewards", "costs", "terminals", "timeouts")
    return {name: np.array(values) for name, values in zip(names, zip(*steps, strict=True), strict=True)}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "pendulum.hdf5"
    write(path, from_arrays("pendulum", **collect()))
    return path


QUICK = trac.TracConfig(
    **dict(task="pendulum", cost_limit=10, segment_ratio=0.5, bottom=0.25, hidden=(16,), batch_size=8),
    **dict(bc_steps=30, steps=60, warmup_steps=5, eval_episodes=0),
)


class Coast:
    def act(self, observation):
        return np.zeros(1, dtype=np.float32)


def test_data_training_and_scores(path, tmp_path):
    data = trac.load(path, reward_range=(-400, 0))
    assert data.task == "pendulum" and data.reward_range == (-400, 0) and len(data.starts) == 30
    trac.train(data, QUICK, out=tmp_path / "run", progress=False)
    run = trac.load_run(tmp_path / "run")
    assert run.config.task == "pendulum" and np.isfinite(run.history.loss).all()
    settings = dict(env=make_pendulum, reward_range=data.reward_range, cost_limit=10, episodes=3, seed=1)
    result = trac.evaluate(run.policy, **settings, workers=1)
    np.testing.assert_allclose(result.episodes.normalized_reward, (result.episodes["return"] + 400) / 400)
    np.testing.assert_allclose(result.episodes.normalized_cost, result.episodes.cost / 10)
    assert (result.episodes.length == LENGTH).all()
    # The wrapper's class stands in a test module, the pendulum in a closure: both reach other processes.
    speed = 2.0
    shared = trac.evaluate(run.policy, **settings | dict(env=lambda: make_pendulum() if speed else None), workers=2)
    np.testing.assert_array_equal(shared.episodes, result.episodes)


@pytest.mark.parametrize("name", METHODS)
def test_the_baselines_train_on_it(name, path, tmp_path):
    data = trac.load(path, reward_range=(-400, 0))
    run = TRAIN[name](data, small(name, task="pendulum", cost_limit=30), progress=False, device="cpu", out=tmp_path)
    loaded = trac.load_run(tmp_path)
    settings = dict(env=make_pendulum, reward_range=data.reward_range, cost_limit=30, episodes=2, workers=1)
    one, two = (trac.evaluate(policy, **settings).episodes for policy in (run.policy, loaded.policy))
    assert (one.length == LENGTH).all() and one.equals(two)


def test_the_command_line_trains_it(path, tmp_path, monkeypatch):
    flags = "--task swing_up --cost-limit 10 --bottom 0.25 --steps 4 --bc-steps 2 --hidden 8 --eval-episodes 0".split()
    monkeypatch.setattr(sys, "argv", ["trac", "train", *flags, "--source", str(path), "--out", str(tmp_path / "run")])
    main()
    assert trac.load_run(tmp_path / "run").config.task == "swing_up"


def test_scores_by_hand():
    """Nothing pushed: the episode is what the bare pendulum does from the same seed."""
    result = trac.evaluate(Coast(), env=make_pendulum, reward_range=(-100, 0), cost_limit=5, episodes=2, workers=1)
    env = make_pendulum()
    env.reset(seed=int(result.episodes.seed[0]))
    steps = [env.step(np.zeros(1, dtype=np.float32)) for _ in range(LENGTH)]
    assert result.episodes["return"][0] == pytest.approx(sum(step[1] for step in steps))
    assert result.episodes.cost[0] == sum(step[4]["cost"] for step in steps)
    assert result.task == "own"
    named = trac.evaluate(Coast(), task="pendulum", env=make_pendulum, reward_range=(-100, 0), cost_limit=5, episodes=1)
    assert named.task == "pendulum" and "pendulum" in repr(named)


def test_the_range_is_the_datas_unless_given(path):
    data = trac.load(path)
    assert data.reward_range == pytest.approx((data.returns.min(), data.returns.max()))
    named = trac.load("swing_up", path, reward_range=(-1, 1))
    assert (named.task, named.reward_range) == ("swing_up", (-1, 1))


def test_dsrls_own_file_names_are_known(path, tmp_path):
    for name in ("SafetyCarRun-v0-40-651.hdf5", "CarRun.hdf5"):
        (tmp_path / name).write_bytes(path.read_bytes())
        data = trac.load(tmp_path / name)
        assert (data.task, data.reward_range) == ("CarRun", (204.28726196289062, 574.6533203125))


def test_names_and_ranges_that_make_no_sense_are_refused(path, tmp_path):
    with pytest.raises(UnknownTask, match="did you mean BallRun"):
        trac.load("ballrun", path)
    with pytest.raises(UnknownTask, match="did you mean CarRun. A task of your own needs a name less like it"):
        trac.TracConfig(task="CarRun1")
    with pytest.raises(UnknownTask, match="no name"):
        trac.TracConfig(task="")
    with pytest.raises(ValueError, match="CarRun has DSRL's reward range"):
        trac.load("CarRun", path, reward_range=(0, 1))
    with pytest.raises(ValueError, match=r"reward_range=\(1, 1\) must be"):
        trac.load(path, reward_range=(1, 1))
    with pytest.raises(DatasetError, match="is a file, and source="):
        trac.load(path, "dsrl")
    with pytest.raises(DatasetError, match="no such file"):
        trac.load("missing.h5")


def test_training_wants_the_datas_task_and_no_evaluation(path):
    data = trac.load(path)
    with pytest.raises(ConfigError, match="the config is for swing_up and the data is of pendulum"):
        trac.train(data, QUICK.replace(task="swing_up"), progress=False)
    with pytest.raises(MissingSimulator, match="pendulum is a task of your own.* eval_episodes=0, then trac.evaluate"):
        trac.train(data, QUICK.replace(eval_episodes=2, steps=10**9), progress=False)


def test_an_environment_that_cannot_be_scored_is_refused():
    without = dict(env=lambda: make_pendulum().env, reward_range=(-1, 0), cost_limit=5, episodes=2)
    for workers in (1, 2):
        with pytest.raises(EnvError, match=r"Pendulum.* reports no cost: .*info\['cost'\]"):
            trac.evaluate(Coast(), **without, workers=workers)
    for arguments, message in (
        (dict(env=make_pendulum), "env= needs reward_range"),
        (dict(env=make_pendulum, task="pendulum"), "env= needs reward_range"),
        (dict(env=make_pendulum, reward_range=(0, 0)), r"reward_range=\(0, 0\)"),
        (dict(env=make_pendulum, reward_range=(0, 1, 2)), r"reward_range=\(0, 1, 2\) must be the \(lowest, highest"),
        (dict(env=make_pendulum, task="BallRun", reward_range=(0, 1)), "BallRun has DSRL's reward range"),
        (dict(), "pass task=, a name in trac.TASKS, or env="),
        (dict(task="pendulum", reward_range=(0, 1)), "pass task=, a name in trac.TASKS, or env="),
    ):
        with pytest.raises(ValueError, match=message):
            trac.evaluate(Coast(), cost_limit=5, **arguments)
    with pytest.raises(OptionError, match="env_options"):
        trac.evaluate(Coast(), env=make_pendulum, task="BallRun", cost_limit=5, env_options=dict(mass=2.0))
    lock = threading.Lock()
    with pytest.raises(ValueError, match="env= cannot be sent to other processes .*workers=1"):
        trac.evaluate(
            Coast(),
            env=lambda: make_pendulum() if lock else None,
            reward_range=(0, 1),
            cost_limit=5,
            episodes=2,
            workers=2,
        )


def test_a_simulator_of_ones_own_for_a_known_task_keeps_dsrls_range():
    result = trac.evaluate(Coast(), env=make_pendulum, task="CarRun", cost_limit=5, episodes=1)
    expected = trac.TASKS["CarRun"].normalized_reward(result.episodes["return"][0])
    assert result.episodes.normalized_reward[0] == expected
