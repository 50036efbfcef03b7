"""Simulators that are made, missing, and changed."""

import os
import threading

import numpy as np
import pytest

import trac
from trac.envs import MissingSimulator, OptionError, bullet, make
from trac.envs.randomness import PROCESS
from trac.evaluate import rollout

TASK = dict(task="BallRun", cost_limit=20)


class Push:
    def act(self, observation):
        return np.array([1.0, 0.3], dtype=np.float32)


def test_a_missing_package_is_named_with_its_command(monkeypatch):
    def fail(name, *rest):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(bullet.importlib, "import_module", fail)
    with pytest.raises(MissingSimulator, match="BallRun cannot be .*Bullet-Safety-Gym: pip install pybullet"):
        make("BallRun")


@pytest.mark.parametrize("task", ["BallRun", "BallCircle", "CarCircle"])
def test_a_fresh_simulator_repeats_its_start(task):
    assert rollout(Push(), task, 3) == rollout(Push(), task, 3)


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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded")
def test_a_fork_waits_for_a_thread_that_has_lent_the_generators():
    held, free = threading.Event(), threading.Event()

    def hold():
        with PROCESS:
            held.set()
            free.wait(0.3)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    child = os.fork()
    if not child:
        os._exit(0 if PROCESS.acquire(timeout=5) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    thread.join()
