"""The 9 tasks of MetaDrive, on the release that the fork of DSRL's is built on: make test-safety."""

import numpy as np
import pandas as pd
import pytest
import suites

pytest.importorskip("panda3d", reason="make test-safety runs these")

import trac
from trac import envs
from trac.envs import metadrive

TASKS = [task.name for task in trac.TASKS.values() if task.suite == "metadrive"]


class Swerve:
    def act(self, observation):
        return np.array([0.2, 1.0], dtype=np.float32)


@pytest.mark.parametrize("task", TASKS)
def test_a_task_is_trained_evaluated_and_drawn(task):
    data = suites.random_data(task)
    assert (data.observations.shape[1], data.actions.shape[1]) == (259, 2)
    run = trac.train(data, suites.settings(data), progress=False)
    assert run.history.loss.notna().all()
    first, again = (
        trac.evaluate(Swerve(), task=task, cost_limit=10, episodes=2, seed=1, workers=1).episodes for _ in range(2)
    )
    pd.testing.assert_frame_equal(first, again, check_exact=True)
    assert first.length.max() <= 1000

    env = envs.make(task)
    env.reset(seed=0)
    frame = envs.render(env)
    assert frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3 and frame.std() > 5
    env.close()


def test_a_seed_is_the_traffic_and_not_the_road():
    def observations(seed):
        env = envs.make("easydense")
        found = [env.reset(seed=seed)[0]] + [env.step(Swerve().act(None))[0] for _ in range(60)]
        env.close()
        return np.array(found)

    one, again, other = observations(0), observations(0), observations(1)
    np.testing.assert_array_equal(one, again)
    # The last 240 numbers are the lidar, which sees the traffic; the rest is the car and its route.
    assert (one[:, -240:] != other[:, -240:]).any()
    np.testing.assert_array_equal(one[0, :-240], other[0, :-240])


def test_costs_are_speed_and_distance():
    env = envs.make("mediumsparse")
    env.reset(seed=0)
    for _ in range(40):
        observation, _, _, _, info = env.step(np.array([0.0, 1.0]))
        near = 1e-2 * max(0, 0.1 - observation[-240:].min()) ** 2
        crash = float(info["crash"] or info["out_of_road"])
        assert info["cost"] == pytest.approx(max(0, 1e-2 * (info["velocity"] - 10)) + near + crash)
    assert info["velocity"] > 10
    env.close()


@pytest.mark.parametrize(("task", "share"), [("easysparse", 0.99), ("mediumsparse", 0.95)])
def test_driving_to_the_end_of_the_road_has_the_return_of_dsrls_best_episode(task, share):
    """The simulator's own driver arrives on the same road that DSRL's data is from."""
    metadrive._classes()
    from metadrive.policy.idm_policy import IDMPolicy

    env = envs.make(task)
    env.unwrapped.simulator.config.force_update({"agent_policy": IDMPolicy})
    env.reset(seed=0)
    total, done = 0.0, False
    while not done:
        _, reward, terminated, truncated, info = env.step(np.zeros(2))
        total, done = total + reward, terminated or truncated
    env.close()
    assert info["arrive_dest"]
    assert share < trac.TASKS[task].normalized_reward(total) < 1
