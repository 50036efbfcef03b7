"""BC-All and BC-Safe: whom they clone, and the mean action where that is the answer."""

import dataclasses

import numpy as np
import pytest
from baseline_cases import one_state
from conftest import same

from trac.baselines import bc_all, bc_safe
from trac.config import TracConfig
from trac.partition import PartitionError

QUICK = TracConfig(steps=600, bc_steps=600, hidden=(16, 16), dropout=0.0, learning_rate=3e-3, eval_episodes=0)


def test_the_clone_of_one_state_takes_the_mean_action():
    data = one_state()
    config = QUICK.replace(task="BallRun", cost_limit=25)
    for train, cloned in ((bc_all, data.episode_costs >= 0), (bc_safe, data.episode_costs <= 25)):
        mean = data.actions[np.repeat(cloned, data.lengths)].mean()
        policy = train(data, config, device="cpu", progress=False).policy
        assert float(policy.act(np.ones(1))[0]) == pytest.approx(float(mean), abs=0.02)


def test_bc_clones_all_or_the_safe_episodes(data):
    config = QUICK.replace(cost_limit=8)
    everything, safe = bc_all(data, config, progress=False), bc_safe(data, config, progress=False)
    assert everything.record["algorithm"] == "bc_all" and set(everything.history.phase) == {"bc"}
    assert same(everything.policy, everything.reference)
    chosen = np.repeat(data.episode_costs <= 8, data.lengths)
    error = {
        name: ((run.policy.act(data.observations) - data.actions) ** 2).sum(-1)
        for name, run in (("all", everything), ("safe", safe))
    }
    assert error["safe"][chosen].mean() < error["all"][chosen].mean()
    assert error["safe"][~chosen].mean() > error["all"][~chosen].mean()


def test_bc_safe_without_a_safe_episode_is_refused(data):
    with pytest.raises(PartitionError, match="no episode is safe at cost_limit=0"):
        bc_safe(dataclasses.replace(data, costs=data.costs + 1), QUICK.replace(cost_limit=0))
