"""Environments and logs that are not what they must be: one sentence each, in evaluation as in online learning."""

import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest

import trac
from trac.data import trajectories
from trac.data.trajectories import DatasetError
from trac.envs import checked, make, open_env
from trac.envs.checked import EnvError, check_log

pytest.importorskip("stable_baselines3")
from trac.baselines.ppo_lag import PPOLagConfig, ppo_lag
from trac.baselines.sac_lag import SACLagConfig, sac_lag

Box = gym.spaces.Box


class Line(gym.Env):
    """Five steps without reward; each attribute can be another one's."""

    observation_space: gym.Space = Box(-1, 1, (2,))
    action_space: gym.Space = Box(-1, 1, (1,))
    observation = np.zeros(2, dtype=np.float32)
    reward, cost, length = 0.0, 0.0, 5
    info = property(lambda self: {"cost": self.cost})

    def reset(self, seed=None, options=None):
        self.time = 0
        return self.observation, {}

    def step(self, action):
        self.time += 1
        return self.observation, self.reward, False, self.time == self.length, self.info


class SixValues(Line):
    def step(self, action):
        observation, reward, terminated, truncated, _ = super().step(action)
        return observation, reward, 0.0, terminated, truncated, {}


class CostAsAnEnd(Line):
    def step(self, action):
        observation, reward, _, truncated, info = super().step(action)
        return observation, reward, 0.0, truncated, info


class BareReset(Line):
    def reset(self, seed=None):
        return super().reset()[0]


class NoOptions(Line):
    def reset(self, seed=None):
        return super().reset(seed)


class ResetWithoutASeed(Line):
    def reset(self):
        return super().reset()


class OfTheOldGym:
    observation_space, action_space = Line.observation_space, Line.action_space


def like(**attributes):
    return type("Own", (Line,), attributes)


def limited(env, steps=5):
    return lambda: gym.wrappers.TimeLimit(env(), steps)


BAD = {
    "an instance": (Line(), r"env=<.*> must be a function that makes a fresh environment, such as lambda: gymn"),
    "an id": ("Pendulum-v1", "env='Pendulum-v1' must be a function"),
    "nothing": (lambda: None, "env= makes None, a NoneType: let it make a gymnasium.Env"),
    "the old gym": (OfTheOldGym, "a OfTheOldGym: let it make a gymnasium.Env"),
    "a vector": (lambda: gym.make_vec("Pendulum-v1", 2), "a vector of environments, .*: let it make a single one"),
    "an image": (like(observation_space=Box(0, 255, (8, 8, 3))), r"observations in a Box\(8, 8, 3\), .*Flatten"),
    "a dictionary": (like(observation_space=gym.spaces.Dict(a=Box(0, 1, (2,)))), "observations in a Dict, and not"),
    "discrete actions": (like(action_space=gym.spaces.Discrete(3)), "actions in a Discrete, and not in a Box"),
    "other bounds": (lambda: gym.make("Pendulum-v1"), r"Pendulum.* has actions in \[-2, 2\], .*RescaleAction\(env"),
    "no bounds": (like(action_space=Box(-np.inf, np.inf, (1,))), r"has actions in \[-inf, inf\], and policies"),
    "whole numbers": (like(action_space=Box(-1, 1, (1,), np.int8)), "has actions of type int8: policies here make no"),
    "statistics": (lambda: gym.wrappers.NormalizeObservation(Line()), "anew in each .*: leave out NormalizeObserv"),
    "info of None": (like(info=None), "reports no cost"),
    "six values": (SixValues, r"step\(\) of <SixValues instance> must return five values, .* in info\['cost'\]"),
    "six values, wrapped": (limited(SixValues), r"must return five values, .*the step's cost in info\['cost'\]"),
    "the cost as an end": (CostAsAnEnd, "returns the ends 0.0 and False: each must be True or False"),
    "no info from reset": (BareReset, r"reset\(\) of <BareReset instance> must return observation and info"),
    "no seed for reset": (ResetWithoutASeed, r"reset\(\) of <ResetWithoutASeed instance> must take seed=, as Gym"),
    "no cost": (like(info={}), r"reports no cost: let its step\(\) put the step's cost into info\['cost'\]"),
    "a reward of shape (1,)": (like(reward=np.ones(1)), r"returns the reward array\(\[1.\]\): it must be a finite num"),
    "a reward of NaN": (like(reward=np.nan), "returns the reward nan: it must be a finite number"),
    "a cost of shape (1,)": (like(cost=np.ones(1)), r"returns the cost array\(\[1.\]\): it must be a finite number, 0"),
    "a cost below 0": (like(cost=-1.0), "returns the cost -1.0: it must be a finite number, 0 or more"),
    "a cost of None": (like(cost=None), "returns the cost None: it must be a finite number"),
    "another shape": (
        like(observation=np.zeros(3)),
        r"returns an observation of shape \(3,\): it must be of its space's, \(2,\)",
    ),
    "a column": (
        like(observation=np.zeros((2, 1))),
        r"an observation of shape \(2, 1\): it must be of its space's, \(2,\)",
    ),
    "an observation of NaN": (like(observation=np.full(2, np.nan)), "returns an observation with a NaN .*in place 0"),
    "no end": (like(length=None), r"has gone on for 50 steps: give its episodes an end, with gymnasium.*TimeLimit\("),
}


class Coast:
    def act(self, observation):
        return np.zeros(1, dtype=np.float32)


def evaluated(env, policy=None):
    return trac.evaluate(policy or Coast(), env=env, reward_range=(0, 1), cost_limit=1, episodes=1, workers=1)


SMALL = dict(task="own", steps=100, every=100, hidden=(8,), batch_size=10, eval_episodes=0)
USES = {
    "evaluate": evaluated,
    "sac_lag": lambda env: sac_lag(SACLagConfig(**SMALL, learning_starts=10), env=env, progress=False),
    "ppo_lag": lambda env: ppo_lag(PPOLagConfig(**SMALL), env=env, progress=False),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("name", BAD)
def test_what_an_environment_lacks_is_said_in_a_sentence(name, use, monkeypatch):
    monkeypatch.setattr(checked, "MAX_STEPS", 50)
    env, message = BAD[name]
    with pytest.raises(EnvError, match=message) as caught:
        USES[use](env)
    assert len(str(caught.value)) < 400


def with_costs(costs):
    return like(length=len(costs), cost=property(lambda self: float(costs[self.time - 1])))


@pytest.mark.parametrize("use", USES)
def test_costs_that_are_sums_so_far_are_told(use):
    steps = np.array([0, 0, 1, 0, 1, 1, 1, 0, 1, 0])
    with pytest.warns(UserWarning, match=r"<Own instance>: info\['cost'\] rises again and again and never falls"):
        USES[use](with_costs(np.cumsum(steps)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for costs in (steps, np.sort(steps), np.arange(10) ** 2, np.sqrt(np.arange(10))):
            USES[use](with_costs(costs))


@pytest.mark.parametrize("use", USES)
def test_what_is_as_it_must_be_goes_through(use, monkeypatch):
    monkeypatch.setattr(checked, "MAX_STEPS", 50)
    USES[use](NoOptions)
    USES[use](frozen)
    USES[use](like(cost=np.bool_(True), reward=np.float32(1)))
    # A TimeLimit may be longer than the bound, and the bound is an episode's.
    USES[use](limited(like(length=None), 60))
    assert (evaluated(limited(like(length=None), 60)).episodes.length == 60).all()


def test_an_environment_is_fresh_or_refused():
    one = Line()
    for workers in (1, 2):
        with pytest.raises(EnvError, match="env= returns one <Line instance> again and again: let it make a fresh one"):
            trac.evaluate(Coast(), env=lambda: one, reward_range=(0, 1), cost_limit=1, episodes=2, workers=workers)


def frozen():
    env = gym.wrappers.NormalizeObservation(Line())
    env.update_running_mean = False
    return env


@pytest.mark.parametrize(
    "action", [np.zeros(2), np.zeros((1, 1)), np.full(1, np.nan), np.full(1, -5.0), (np.zeros(1), None)]
)
def test_an_action_that_is_none_is_refused(action):
    policy = type("Odd", (), {"act": lambda self, observation: action})()
    with pytest.raises(
        EnvError, match="the policy returns an action (of shape|with a NaN|of 5: let it act|that is a tuple of 2)"
    ):
        evaluated(Line, policy)


def test_episodes_that_are_all_the_same_are_told():
    with pytest.warns(UserWarning, match="the 3 episodes are all the same, and say as much as one"):
        trac.evaluate(Coast(), env=like(reward=1.0), reward_range=(0, 1), cost_limit=1, episodes=3, workers=1)


def test_no_bound_cuts_a_simulator_of_dsrls():
    assert max(task.max_episode_steps for task in trac.TASKS.values()) * 10 <= checked.MAX_STEPS
    assert open_env("BallRun").limited


# A script's own names are what other processes cannot know.
SCRIPT = """
import gymnasium as gym, numpy as np, trac
from test_checked import Coast, Line
gym.register("Own-v0", Line)
make = lambda: gym.make("Own-v0", disable_env_checker=True)
for workers in (1, 2):
    scores = trac.evaluate(Coast(), env=make, reward_range=(0, 1), cost_limit=1, episodes=2, workers=workers)
    print(len(scores.episodes))
"""


def test_an_environment_that_is_registered_in_the_script_alone(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == "2\n", done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "EnvError: other processes do not know the environment" in last and "Own" in last
    assert "Let env= itself register it, or pass workers=1" in last


def test_a_home_that_cannot_be_written_is_no_hindrance(tmp_path):
    (tmp_path / "file").touch()
    script = "import os, trac.envs; print(trac.envs.make('BallRun')); print(os.environ.get('DSRL_DATASET_DIR'))"
    for places in (dict(HOME=f"{tmp_path}/file"), dict(HOME="/proc", DSRL_DATASET_DIR=f"{tmp_path}/file/x")):
        environment = {"PYTHONPATH": ":".join(sys.path)} | places
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
        assert done.stdout.splitlines()[1:2] == [places.get("DSRL_DATASET_DIR", "None")], done.stderr


def test_a_log_is_compared_with_the_simulator_before_training(data, arrays, tmp_path):
    wide = trajectories.from_arrays("BallRun", **arrays)
    config = trac.TracConfig(task="BallRun", cost_limit=8, steps=10**9)
    with pytest.raises(
        DatasetError, match="observations of 8 and actions of 2 numbers, and the simulator of BallRun 7 "
    ):
        trac.train(wide, config, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    arrays["observations"][3, 5] = 1e5
    far = trajectories.from_arrays("BallCircle", **arrays)
    with pytest.raises(
        DatasetError, match=r"number 5 of the data's observations lies in \[.*, 100000\], and in the sim"
    ):
        trac.train(far, config.replace(task="BallCircle"))
    with pytest.raises(DatasetError, match="observations of 8"):
        sac_lag(SACLagConfig(**SMALL | dict(task="BallRun")), buffer=wide, progress=False)
    check_log(make("BallCircle"), data)
    for task in ("BallRun", "BallCircle", "CarCircle"):
        check_log(make(task), trac.load(task))
