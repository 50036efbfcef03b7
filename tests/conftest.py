"""Small made-up trajectories that several tests use."""

import numpy as np
import pytest
import torch

from trac import trajectories

# The networks here are tiny: a second thread only waits, and waits long on a busy machine.
torch.set_num_threads(1)


def make_arrays(episodes=12, length=20, task_dims=(8, 2), seed=0):
    """Flat arrays in which costly episodes also have high returns, as in DSRL's data."""
    generator = np.random.default_rng(seed)
    n = episodes * length
    risk = np.repeat(np.linspace(0, 1, episodes), length)
    timeouts = np.zeros(n)
    timeouts[length - 1 :: length] = 1
    observations = generator.standard_normal((n, task_dims[0])).astype(np.float32)
    return dict(
        observations=observations,
        next_observations=observations + 1,
        actions=np.tanh(observations[:, : task_dims[1]] + risk[:, None]),
        rewards=generator.random(n) + risk,
        costs=(generator.random(n) < risk).astype(np.float32),
        terminals=np.zeros(n),
        timeouts=timeouts,
    )


@pytest.fixture
def arrays():
    return make_arrays()


@pytest.fixture
def data():
    return trajectories.from_arrays("BallCircle", **make_arrays())
