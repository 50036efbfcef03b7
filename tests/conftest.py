"""Small made-up trajectories that several tests use, and what compares policies."""

import os
import signal

import numpy as np
import pytest
import torch

from trac.data import hdf5, trajectories

# The networks here are tiny: a second thread only waits, and waits long on a busy machine.
torch.set_num_threads(1)

# A background job of a shell starts with Ctrl-C ignored, and its children, too.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Triton reads it when it is imported: without a GPU its kernels run on CPU tensors.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


def make_arrays(episodes=12, length=20, task_dims=(8, 2), seed=0):
    """Flat arrays in which costly episodes also have high returns, as in DSRL's data."""
    generator = np.random.default_rng(seed)
    n = episodes * length
    risk = np.repeat(np.linspace(0, 1, episodes), length)
    timeouts = np.zeros(n)
    timeouts[length - 1 :: length] = 1
    observations = generator.standard_normal((n, task_dims[0])).astype(np.float32)
    upcoming = np.roll(observations, -1, axis=0)
    upcoming[length - 1 :: length] += 1
    return dict(
        observations=observations,
        next_observations=upcoming,
        actions=np.tanh(observations[:, : task_dims[1]] + risk[:, None]),
        rewards=generator.random(n) + risk,
        costs=(generator.random(n) < risk).astype(np.float32),
        terminals=np.zeros(n),
        timeouts=timeouts,
    )


def stand_in(path, task="CarRun", episodes=651, largest_cost=40.0, dims=(7, 2)):
    """A file with DSRL's form, number of episodes and costs, but of noise, with two steps an episode: its bytes."""
    generator = np.random.default_rng(0)
    n = 2 * episodes
    data = trajectories.from_arrays(
        task,
        observations=generator.standard_normal((n, dims[0])),
        next_observations=generator.standard_normal((n, dims[0])),
        actions=generator.uniform(-1, 1, (n, dims[1])),
        rewards=generator.random(n),
        costs=np.repeat(np.linspace(0, largest_cost / 2, episodes), 2),
        terminals=np.zeros(n),
        timeouts=np.tile([0, 1], episodes),
    )
    hdf5.write(path, data)
    return path.read_bytes()


def same(a, b):
    """Whether two policies have the same weights, bit by bit."""
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def arrays():
    return make_arrays()


@pytest.fixture
def data():
    return trajectories.from_arrays("BallCircle", **make_arrays())
