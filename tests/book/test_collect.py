"""The book's datasets hold what it says of them, and the script that makes them is repeatable."""

import json
from dataclasses import asdict, replace

import collect
import collect_learning
import h5py
import logs_table
import numpy as np
import pytest
import tables
import torch
from scipy.spatial.transform import Rotation

from trac.data.hdf5 import FINAL, read
from trac.data.packaged import REPOSITORY, find, packaged
from trac.data.tasks import get_task
from trac.data.trajectories import KEYS
from trac.teaching.coverage import DSRL_FRONTIER, coverage

LOGS = [task for task in collect.SETTINGS if find(task)]


@pytest.fixture(scope="module", params=LOGS)
def task(request):
    return request.param


def test_each_dataset_has_its_settings():
    assert packaged() == sorted(collect.PACKAGED)
    assert {path.stem for path in REPOSITORY.glob("*.hdf5")} <= set(collect.SETTINGS)
    assert set(collect.SETTINGS) == set(DSRL_FRONTIER)


def test_all_files_together_stay_small():
    assert sum(find(task).stat().st_size for task in LOGS) <= 80_000_000


def test_file_has_dsrl_form(task):
    assert find(task).stat().st_size <= 8_000_000
    with h5py.File(find(task)) as file:
        wanted = {*KEYS} if task in collect.PACKAGED else {*KEYS, FINAL} - {"next_observations"}
        assert set(file) == wanted
        assert {file[key].dtype for key in file} == {np.dtype("float32")}
        assert all(np.isfinite(file[key][()]).all() for key in file)
        assert np.abs(file["actions"][()]).max() <= 1
        costs = set(np.unique(file["costs"][()]))
        assert costs == {0, 1} or get_task(task).suite != "bullet"
        assert "torch" in json.loads(file.attrs["versions"])
        # A change of the settings calls for another collection; one that is younger than a file has its default there.
        made = asdict(collect.Collection(**json.loads(file.attrs["settings"])))
        assert json.dumps(made) == json.dumps(asdict(collect.SETTINGS[task]))


def test_episodes_are_whole_and_in_range(task):
    data = read(find(task), task)
    ends = data.starts + data.lengths - 1
    assert ((data.lengths == get_task(task).max_episode_steps) | data.terminals[ends]).all()
    assert data.episode_costs.max() <= collect.SETTINGS[task].max_cost == DSRL_FRONTIER[task][0]
    inside = np.ones(len(data), dtype=bool)
    inside[ends] = False
    np.testing.assert_array_equal(data.next_observations[inside], data.observations[1:][inside[:-1]])


@pytest.mark.parametrize("task", collect.PACKAGED)
def test_packaged_data_covers_the_cost_range(task):
    table = coverage(read(find(task), task))
    assert len(table) == 8
    assert (table.trajectories >= 40).all()
    assert (table.ratio >= 0.7).all()


def test_the_table_of_logs_has_them_all():
    table = tables.read(tables.RESULTS / "logs.csv", ["task"]).set_index("task")
    assert list(table.index) == [task for task in DSRL_FRONTIER if find(task)]
    for task in table.index:
        data = read(find(task), task)
        row = logs_table.row(data, find(task).stat().st_size)
        assert {key: row[key] for key in ("episodes", "safe_1", "unsafe", "ratio_1")} == {
            key: table.loc[task, key] for key in ("episodes", "safe_1", "unsafe", "ratio_1")
        }


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


SMALL = replace(
    collect.SETTINGS["BallRun"],
    steps=800,
    checkpoint_every=200,
    learning_starts=100,
    rollouts=1,
    batch_size=16,
    max_cost=100,
    refill=1,
)


def same(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        for key in KEYS:
            np.testing.assert_array_equal(one[key], other[key])


def test_a_small_collection_repeats_bit_for_bit():
    pytest.importorskip("stable_baselines3")
    pytest.importorskip("pybullet")
    first, second = (collect_learning.collect("BallRun", replace(SMALL, steps=400), seed=3) for _ in range(2))
    same(first, second)
    data = collect.join("BallRun", first)
    assert data.timeouts.sum() == len(first) == 4 + 2 + 2
    assert set(np.unique(data.costs)) <= {0, 1}


# Resets that carry state over; episodes that end early; networks that see the task from the centre.
@pytest.mark.parametrize("task", ["CarRun", "DroneCircle", "AntCircle"])
def test_a_killed_collection_goes_on_to_the_same_bits(task, tmp_path, monkeypatch):
    pytest.importorskip("stable_baselines3")
    pytest.importorskip("pybullet")
    settings = replace(SMALL, polar=collect.SETTINGS[task].polar)
    whole = collect_learning.collect(task, settings, seed=3)
    monkeypatch.setattr(collect_learning, "SAVE_EVERY", 0)
    real, calls = collect_learning.relabel, []

    def killed_in_the_third(*args):
        calls.append(real(*args))
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(collect_learning, "relabel", killed_in_the_third)
    course = tmp_path / "course"
    with pytest.raises(KeyboardInterrupt):
        collect_learning.collect(task, settings, seed=3, state=course)
    same(whole, collect_learning.collect(task, settings, seed=3, state=course))
    assert len(calls) == 3 + 2  # two checkpoints were kept
    with pytest.raises(SystemExit, match="another seed"):
        collect_learning.collect(task, settings, seed=4, state=course)


def test_seen_from_the_centre_a_turned_world_is_the_same():
    pytest.importorskip("stable_baselines3")
    from collect_polar import Polar
    from gymnasium.spaces import Box

    rng = np.random.default_rng(0)
    turn = Rotation.from_euler("z", rng.uniform(-np.pi, np.pi, (50, 1)))
    position, velocity, spin, joints = (rng.normal(size=(50, n)) for n in (3, 3, 3, 4))
    orientation = Rotation.random(50, rng=rng)
    seen = Polar(Box(-np.inf, np.inf, (17,)))
    one, other = (
        seen(torch.tensor(np.concatenate((*moved, joints), axis=1)))
        for moved in (
            (position, velocity, orientation.as_quat(), spin),
            (turn.apply(position), turn.apply(velocity), (turn * orientation).as_quat(), turn.apply(spin)),
        )
    )
    torch.testing.assert_close(one[:, :-2], other[:, :-2])
    torch.testing.assert_close(one[:, 0], torch.zeros(50, dtype=one.dtype))
    torch.testing.assert_close(one[:, 1], torch.tensor(np.hypot(position[:, 0], position[:, 1])))
