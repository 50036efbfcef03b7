"""The packaged datasets hold what the book says of them, and the script that makes them is repeatable."""

import json
from dataclasses import asdict, replace

import collect
import h5py
import numpy as np
import pytest

from trac.data.packaged import FOLDER, packaged
from trac.data.tasks import get_task
from trac.data.trajectories import KEYS, read
from trac.teaching.coverage import DSRL_FRONTIER, coverage


@pytest.fixture(scope="module", params=collect.SETTINGS)
def task(request):
    return request.param


def path(task):
    return FOLDER / f"{task}.hdf5"


def test_each_packaged_dataset_has_its_settings():
    assert packaged() == sorted(collect.SETTINGS)


def test_packaged_file_has_dsrl_form(task):
    assert path(task).stat().st_size <= 8_000_000
    with h5py.File(path(task)) as file:
        assert set(file) == set(KEYS)
        assert {file[key].dtype for key in KEYS} == {np.dtype("float32")}
        assert all(np.isfinite(file[key][()]).all() for key in KEYS)
        assert np.abs(file["actions"][()]).max() <= 1
        assert set(np.unique(file["costs"][()])) == {0, 1}
        assert "torch" in json.loads(file.attrs["versions"])
        # A change of the settings calls for `make datasets`.
        assert json.loads(file.attrs["settings"]) == json.loads(json.dumps(asdict(collect.SETTINGS[task])))


def test_packaged_episodes_are_whole_and_in_range(task):
    data = read(path(task), task)
    assert (data.lengths == get_task(task).max_episode_steps).all()
    assert data.episode_costs.max() <= collect.SETTINGS[task].max_cost == DSRL_FRONTIER[task][0]
    inside = np.ones(len(data), dtype=bool)
    inside[data.starts + data.lengths - 1] = False
    np.testing.assert_array_equal(data.next_observations[inside], data.observations[1:][inside[:-1]])


def test_packaged_data_covers_the_cost_range(task):
    table = coverage(read(path(task), task))
    assert len(table) == 8
    assert (table.trajectories >= 40).all()
    assert (table.ratio >= 0.7).all()


def test_thinning_is_seeded_and_even():
    settings = replace(collect.SETTINGS["BallRun"], max_cost=80, trajectories=40, cost_bins=4, return_bins=5)
    rng = np.random.default_rng(0)
    costs, returns = rng.integers(0, 100, 3000), rng.normal(500, 100, 3000)
    kept = collect.thin(costs, returns, settings, seed=1)
    np.testing.assert_array_equal(kept, collect.thin(costs, returns, settings, seed=1))
    assert not np.array_equal(kept, collect.thin(costs, returns, settings, seed=2))
    assert costs[kept].max() <= 80
    assert np.bincount(np.minimum(costs[kept] // 20, 3)).tolist() == [10, 10, 10, 10]


def test_thinning_fills_the_bins_of_return_in_turn():
    # One bin of cost; 1 episode with return 0, 50 with return 10: two from the first bin do not exist.
    settings = replace(collect.SETTINGS["BallRun"], trajectories=4, cost_bins=1, return_bins=2)
    kept = collect.thin(np.zeros(51), np.array([0.0] + [10.0] * 50), settings, seed=0)
    assert len(kept) == 4
    assert kept[0] == 0


def test_a_small_collection_repeats_bit_for_bit():
    pytest.importorskip("stable_baselines3")
    pytest.importorskip("pybullet")
    settings = replace(
        collect.SETTINGS["BallRun"],
        steps=400,
        checkpoint_every=200,
        learning_starts=100,
        rollouts=1,
        batch_size=16,
        refill=0,
    )
    first, second = (collect.collect("BallRun", settings, seed=3) for _ in range(2))
    assert len(first) == 4 + 2
    for one, other in zip(first, second, strict=True):
        for key in KEYS:
            np.testing.assert_array_equal(one[key], other[key])
    data = collect.join("BallRun", first)
    assert data.timeouts.sum() == 6
    assert set(np.unique(data.costs)) <= {0, 1}
