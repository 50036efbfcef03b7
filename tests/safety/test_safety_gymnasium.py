"""The 21 tasks of Safety-Gymnasium: make test-safety."""

import gymnasium
import numpy as np
import pandas as pd
import pytest
import suites

pytest.importorskip("safety_gymnasium", reason="make test-safety runs these", exc_type=ImportError)

import trac
from trac import envs
from trac.envs import safety_gymnasium

# Dimensions of observations and actions: a robot's own senses and 16 lidar beams for each kind of object.
DIMENSIONS = {
    **{
        f"Car{name}{level}": (size, 2)
        for name, size in dict(Button=88, Circle=40, Goal=72, Push=88).items()
        for level in (1, 2)
    },
    **{
        f"Point{name}{level}": (size, 2)
        for name, size in dict(Button=76, Circle=28, Goal=60, Push=76).items()
        for level in (1, 2)
    },
    **dict(AntVelocity=(27, 8), HalfCheetahVelocity=(17, 6), HopperVelocity=(11, 3), SwimmerVelocity=(8, 2)),
    "Walker2dVelocity": (17, 6),
}
TASKS = [task.name for task in trac.TASKS.values() if task.suite == "safety_gymnasium"]


def steps(env, seed, count=30):
    """Observations, rewards and costs under random actions that depend on the seed."""
    observation, _ = env.reset(seed=seed)
    actions = np.random.RandomState(seed).uniform(-1, 1, (count, *env.action_space.shape)).astype(np.float32)
    found = [(observation, 0.0, 0.0)]
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        found.append((observation, reward, info["cost"]))
        if terminated or truncated:
            break
    env.close()
    return [np.array(column) for column in zip(*found, strict=True)]


@pytest.mark.parametrize("task", TASKS)
def test_a_step_is_that_of_dsrl(task):
    ours = steps(envs.make(task), seed=4)
    safety_gymnasium._classes()  # dsrl registers its environments, and Python 3.11 is able to make them
    name, version, *_ = trac.TASKS[task].file.removeprefix("Safety").split("-")
    theirs = steps(gymnasium.make(f"Offline{name}-{version}"), seed=4)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)
    assert ours[0].shape[1] == DIMENSIONS[task][0]


@pytest.mark.parametrize("task", TASKS)
def test_a_task_is_trained_evaluated_and_drawn(task):
    data = suites.random_data(task)
    assert (data.observations.shape[1], data.actions.shape[1]) == DIMENSIONS[task]
    run = trac.train(data, suites.settings(data), progress=False)
    assert run.history.loss.notna().all()
    np.random.seed(5)
    state = np.random.get_state()[1].copy()
    first, again = (
        trac.evaluate(run.policy, task=task, cost_limit=20, episodes=1, seed=1, workers=1).episodes for _ in range(2)
    )
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    pd.testing.assert_frame_equal(first, again, check_exact=True)
    horizon = trac.TASKS[task].max_episode_steps
    falls = task in ("AntVelocity", "HopperVelocity", "Walker2dVelocity")
    assert first.length[0] <= horizon if falls else first.length[0] == horizon

    env = envs.make(task)
    env.reset(seed=0)
    frame = envs.render(env)
    size = 480 if task.endswith("Velocity") else 256
    assert frame.dtype == np.uint8 and frame.shape == (size, size, 3) and frame.std() > 5
    env.close()


def test_the_sky_changes_no_step(monkeypatch):
    import yaml
    from safety_gymnasium import world

    plain = steps(envs.make("CarGoal2"), seed=0)
    monkeypatch.setattr(world, "yaml", yaml)
    pictures = steps(envs.make("CarGoal2"), seed=0)
    for one, other in zip(plain, pictures, strict=True):
        np.testing.assert_array_equal(one, other)


def test_episodes_are_the_same_for_any_number_of_workers():
    class Forward:
        def act(self, observation):
            return np.array([1.0, 0.2], dtype=np.float32)

    one, two = (
        trac.evaluate(Forward(), task="PointCircle1", cost_limit=20, episodes=2, seed=3, workers=workers).episodes
        for workers in (1, 2)
    )
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    assert one["return"].nunique() == 2


def test_a_library_that_draws_and_is_missing_is_named(monkeypatch):
    env = envs.make("PointGoal1")
    env.reset(seed=0)

    def fail():
        raise AttributeError("'NoneType' object has no attribute 'eglQueryString'")

    monkeypatch.setattr(env.unwrapped, "render", fail)
    with pytest.raises(RuntimeError, match="MUJOCO_GL=egl .*eglQueryString.*apt-get install libegl1"):
        envs.render(env)
