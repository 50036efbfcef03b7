"""What the tests of the offline baselines share: small runs, and a problem whose answer is known."""

import dataclasses

import numpy as np
import torch

from trac.baselines.bcq_lag import BCQLag, bcq_lag
from trac.baselines.bear_lag import BEARLag, bear_lag
from trac.baselines.cdt import CDT, cdt
from trac.baselines.coptidice import COptiDICE, coptidice
from trac.baselines.cpq import CPQ, cpq
from trac.data import trajectories
from trac.teaching import cmdp

CPU = torch.device("cpu")
TRAIN = dict(bcq_lag=bcq_lag, bear_lag=bear_lag, cdt=cdt, coptidice=coptidice, cpq=cpq)
METHODS = {method.algorithm: method for method in (BCQLag, BEARLag, CDT, COptiDICE, CPQ)}
SMALL = dict(cost_limit=8, steps=30, batch_size=16, eval_episodes=0, log_every=10)
LONG = dict(task="BallRun", seed=0, eval_episodes=0, reward_scale=1.0, batch_size=128, log_every=500)


def small(name, **changes):
    """A config with which the made-up data of conftest.py trains in a moment."""
    shape = dict(width=16, heads=2, layers=1) if name == "cdt" else dict(hidden=(16, 16))
    return METHODS[name].Config(**(SMALL | shape | changes))


def learner(name, data, **changes):
    return METHODS[name](small(name, **changes), data, CPU)


def limited(problem):
    """A limit halfway between the costs of the best policy and of the cheapest one, and the linear program's answer."""
    most = cmdp.solve(problem).expected_cost
    least = cmdp.solve(dataclasses.replace(problem, rewards=-problem.costs)).expected_cost
    return (most + least) / 2, cmdp.solve(problem, (most + least) / 2)


def one_state(reward=lambda a: a, cost=lambda a: np.maximum(a, 0) ** 2):
    """The same observation always; each of 60 episodes of 100 steps has an action of its own.

    Reward a, cost (a)+²: under a limit of 25 a step may cost 1/4, and the best action is 1/2. Without a limit it is 1.
    """
    generator = np.random.default_rng(0)
    centres = np.repeat(generator.uniform(-1, 1, 60), 100)
    actions = np.clip(centres + 0.1 * generator.standard_normal(6000), -1, 1)
    timeouts = (np.arange(6000) % 100 == 99).astype(float)
    return trajectories.from_arrays(
        "BallRun",
        observations=np.ones((6000, 1)),
        next_observations=np.ones((6000, 1)),
        actions=actions[:, None],
        rewards=reward(actions),
        costs=cost(actions),
        terminals=np.zeros(6000),
        timeouts=timeouts,
    )


def episode_cost(policy):
    """Mean over sampled actions of (a)+², times 100 steps."""
    costs = []
    for seed in range(50):
        if hasattr(policy, "start"):
            policy.start(seed)
        costs.append(max(float(policy.act(np.ones(1))[0]), 0.0) ** 2)
    return 100 * np.mean(costs)
