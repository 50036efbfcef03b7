"""All 38 tasks as far as this environment goes; `tests/safety` has those that need an environment of their own."""

import os
import sys
from types import ModuleType, SimpleNamespace

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
import suites

import trac
from trac import envs
from trac.core import fit
from trac.data import hdf5
from trac.envs import MissingSimulator, make, metadrive
from trac.train import TrainingError

# Dimensions of observations and actions, from the tables of the simulator's paper and its code.
BULLET = {
    "BallRun": (7, 2),
    "BallCircle": (8, 2),
    "CarRun": (7, 2),
    "CarCircle": (8, 2),
    "DroneRun": (17, 4),
    "DroneCircle": (18, 4),
    "AntRun": (33, 8),
    "AntCircle": (34, 8),
}
QUICK = ("BallRun", "CarRun")


@pytest.mark.parametrize(
    "task", [task if task in QUICK else pytest.param(task, marks=pytest.mark.slow) for task in BULLET]
)
def test_a_bullet_task_is_made_trained_and_evaluated(task):
    data = suites.random_data(task)
    assert (data.observations.shape[1], data.actions.shape[1]) == BULLET[task]
    run = trac.train(data, suites.settings(data), progress=False)
    assert run.history.loss.notna().all()
    scores = [
        trac.evaluate(run.policy, task=task, cost_limit=20, episodes=2, seed=seed, workers=1).episodes
        for seed in (1, 1, 2)
    ]
    pd.testing.assert_frame_equal(scores[0], scores[1], check_exact=True)
    assert not set(scores[2]["return"]) & set(scores[0]["return"])
    assert (scores[0].length <= trac.TASKS[task].max_episode_steps).all()
    assert scores[0]["return"].nunique() == 2


@pytest.mark.slow
@pytest.mark.parametrize("task", BULLET)
def test_a_bullet_task_is_drawn(task):
    env = make(task)
    env.reset(seed=0)
    frame = envs.render(env)
    assert frame.dtype == np.uint8 and frame.shape == (360, 480, 3) and frame.std() > 5
    env.close()


@pytest.mark.parametrize(
    ("task", "package", "words"),
    [
        ("CarGoal1", "safety_gymnasium", "make safety"),
        ("easydense", "metadrive.envs", "make safety.*HenryLHH/metadrive_clean"),
    ],
)
def test_a_missing_simulator_is_named_with_its_command(monkeypatch, task, package, words):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "dsrl.offline_metadrive.gym_envs", raising=False)
    with pytest.raises(MissingSimulator, match=f"{task} cannot be simulated here .*set eval_episodes=0.*{words}"):
        make(task)


@pytest.mark.parametrize("suite", ["safety_gymnasium", "metadrive"])
def test_training_needs_the_file_alone(suite, tmp_path):
    for task in (task for task in trac.TASKS.values() if task.suite == suite):
        hdf5.write(tmp_path / task.file, suites.made_up(task.name))
        data = trac.load(task.name, tmp_path / task.file)
        run = trac.train(data, suites.settings(data), progress=False)
        assert run.history.loss.notna().all() and run.best is None


class OldSimulator:
    """What dsrl's MetaDrive classes build on, in the signatures of the old gym: here a car on a line.

    The state is the car's position, and the traffic is one number.
    """

    running = None

    def default_config(self):
        return SimpleNamespace(update=lambda changes, allow_add_new_key: None)

    def __init__(self, config):
        self.config = config | dict(out_of_road_cost=1.0, crash_vehicle_cost=1.0)
        self.observation_space = self.action_space = SimpleNamespace(shape=(2,))
        self.engine = None

    def lazy_init(self):
        if OldSimulator.running is None:
            OldSimulator.running = self
            self.engine = SimpleNamespace(traffic_manager=SimpleNamespace(np_random=np.random.RandomState()))

    def reset(self, force_seed=None):
        # A road exists for the seeds that the config names, and for no other.
        assert force_seed in (None, self.config["start_seed"])
        self.position, self.steps = 0.0, 0
        self.traffic = self.engine.traffic_manager.np_random.rand()
        return np.array([self.position, self.traffic], dtype=np.float32)

    def step(self, action):
        self.position, self.steps = self.position + float(action[0]), self.steps + 1
        crash = self.position > self.traffic * 100
        ends = dict(crash=crash, out_of_road=False, arrive_dest=False, max_step=self.steps >= self.config["horizon"])
        info = ends | dict(velocity=10 + 100 * float(action[0]), cost=float(crash))
        observation = np.array([self.position, self.traffic], dtype=np.float32)
        return observation, float(action[0]), crash, info

    def render(self, mode, film_size):
        raise NotImplementedError

    def close(self):
        if OldSimulator.running is self:
            OldSimulator.running = None


@pytest.fixture
def old_simulator(monkeypatch):
    contents = {
        "gym": {},
        "gym.envs": {},
        "gym.envs.registration": dict(register=lambda **kwargs: None, registry={}),
        "metadrive": {},
        "metadrive.envs": dict(SafeMetaDriveEnv=OldSimulator),
        "metadrive.manager": {},
        "metadrive.manager.traffic_manager": dict(TrafficMode=SimpleNamespace(Hybrid="hybrid")),
        "metadrive.register": {},
    }
    for name, members in contents.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("float", "int", "bool"):
        monkeypatch.setattr(np, name, getattr(np, name, None), raising=False)
    for name in ("dsrl.offline_metadrive", "dsrl.offline_metadrive.gym_envs"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    metadrive._classes.cache_clear()
    yield
    for name in ("dsrl.offline_metadrive", "dsrl.offline_metadrive.gym_envs"):
        sys.modules.pop(name, None)
    metadrive._classes.cache_clear()


class Drive:
    def act(self, observation):
        return np.array([0.5, 0.0], dtype=np.float32)


def test_an_old_gym_simulator_is_evaluated(old_simulator):
    def episodes(seed):
        return trac.evaluate(Drive(), task="easydense", cost_limit=10, episodes=3, seed=seed, workers=1).episodes

    first, again, other = episodes(0), episodes(0), episodes(1)
    pd.testing.assert_frame_equal(first, again, check_exact=True)
    # By hand: half a metre a step to the traffic's place, with a cost of 0.01 for each m/s above 10 and 1 for the
    # crash; dsrl adds 0.01 (0.1 - nearest)^2 where the smallest of the last observations is below 0.1.
    for row in first.itertuples():
        traffic = np.random.RandomState(row.seed).rand()
        steps = int(traffic * 100 / 0.5) + 1
        near = sum(max(0, 0.1 - min(0.5 * t, np.float32(traffic))) ** 2 for t in range(1, steps + 1))
        assert row.length == steps and row._2 == pytest.approx(0.5 * steps)
        assert row.cost == pytest.approx(0.5 * steps + 1 + 1e-2 * near)
    assert set(first.length) != set(other.length)


def test_metadrive_has_one_simulator_at_a_time(old_simulator):
    one, two = make("hardmean"), make("hardmean")
    one.reset(seed=0)
    with pytest.raises(RuntimeError, match="one simulator in a process"):
        two.reset(seed=0)
    one.close()
    assert two.reset(seed=0)[0].shape == (2,)
    two.close()


def test_metadrive_is_evaluated_in_other_processes_than_the_learners(old_simulator, monkeypatch):
    pytest.importorskip("stable_baselines3")
    from trac.baselines.ppo_lag import PPOLagConfig, ppo_lag

    def note(policies, workers, **options):
        raise RuntimeError(f"{workers} workers")

    monkeypatch.setattr(fit, "evaluate_many", note)
    config = PPOLagConfig(task="easydense", steps=20, every=20, batch_size=10, hidden=(8,), eval_episodes=1)
    with pytest.raises(TrainingError, match="RuntimeError: 2 workers"):
        ppo_lag(config, progress=False)
    assert OldSimulator.running is None


def test_one_episode_can_be_another_processs():
    """Whose process id is the reward."""
    result = trac.evaluate(Drive(), env=ProcessId, reward_range=(0, 1), cost_limit=1, episodes=1, workers=2)
    assert result.episodes["return"][0] != os.getpid()
    result = trac.evaluate(Drive(), env=ProcessId, reward_range=(0, 1), cost_limit=1, episodes=1)
    assert result.episodes["return"][0] == os.getpid()


class ProcessId(gym.Env):
    observation_space = action_space = gym.spaces.Box(-1, 1, (2,))

    def reset(self, *, seed=None, options=None):
        return np.zeros(2), {}

    def step(self, action):
        return np.zeros(2), os.getpid(), True, False, {"cost": 0.0}
