import h5py
import numpy as np
import pytest

import trac
from trac.data import packaged, trajectories
from trac.data.tasks import TASKS, UnknownTask
from trac.data.trajectories import DatasetError, from_arrays, read, write


def write_raw(path, arrays):
    with h5py.File(path, "w") as file:
        for key, value in arrays.items():
            file[key] = value
    return path


def test_episodes_returns_and_costs_by_hand():
    data = from_arrays(
        "BallCircle",
        observations=np.zeros((5, 8)),
        actions=np.zeros((5, 2)),
        rewards=[1, 2, 3, 4, 5],
        costs=[0, 1, 1, 1, 0],
        terminals=[0, 1, 0, 0, 0],
        timeouts=[0, 0, 0, 0, 1],
    )
    assert data.starts.tolist() == [0, 2] and data.lengths.tolist() == [2, 3]
    assert data.returns.tolist() == [3, 12] and data.episode_costs.tolist() == [1, 2]


def test_a_file_comes_back_as_it_was(tmp_path, data):
    path = tmp_path / "new" / "data.hdf5"
    write(path, data, {"made_by": "a test"})
    again = read(path, "BallCircle")
    for name in (*trajectories.KEYS, "starts", "lengths", "returns", "episode_costs"):
        np.testing.assert_array_equal(getattr(again, name), getattr(data, name))
    assert [p.name for p in path.parent.iterdir()] == ["data.hdf5"]
    with h5py.File(path) as file:
        assert file.attrs["made_by"] == "a test" and file["terminals"].dtype == np.float32


def test_columns_of_shape_n_1_are_read(arrays):
    arrays["rewards"] = arrays["rewards"][:, None]
    assert from_arrays("BallCircle", **arrays).rewards.shape == (240,)


def test_a_trailing_piece_is_dropped_and_counted(arrays):
    arrays["timeouts"][-1] = 0
    with pytest.warns(UserWarning, match="dropped the last 20 transitions"):
        data = from_arrays("BallCircle", **arrays)
    assert len(data) == 220 and len(data.starts) == 11 and data.next_observations.shape == (220, 8)


def broken(key, change):
    def apply(arrays):
        arrays[key] = change(arrays[key])

    return apply


def with_value(value, row=7):
    def change(array):
        array = np.array(array, dtype=np.float32)
        array[row] = value
        return array

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (broken("rewards", lambda a: a[:-1]), "different lengths .*'rewards': 239"),
        (broken("observations", with_value(np.nan)), "observations has a NaN or infinite value, first in row 7"),
        (broken("costs", with_value(np.inf)), "costs has a NaN or infinite value, first in row 7"),
        (broken("next_observations", with_value(np.nan)), "next_observations has a NaN"),
        (broken("actions", with_value(1.5)), r"actions must lie in \[-1, 1\]; the largest is 1.5, first in row 7"),
        (broken("timeouts", np.zeros_like), "no episode ends"),
        (broken("terminals", with_value(2)), "terminals must hold only 0 and 1"),
        (broken("observations", lambda a: a[:, 0]), r"observations has shape \(240,\)"),
        (broken("actions", lambda a: a[:, :0]), r"actions has shape \(240, 0\)"),
        (broken("costs", with_value(-1)), "costs must be 0 or more; the smallest is -1, first below 0 in row 7"),
        (
            broken("next_observations", lambda a: a[:, :3]),
            r"next_observations has shape \(240, 3\), obs",
        ),
        (broken("rewards", lambda a: ["a"] * 240), "rewards is not an array of numbers"),
        (broken("observations", lambda a: [[1, 2], [3]]), "observations is not an array of numbers"),
    ],
)
def test_bad_arrays_are_refused_with_the_reason(arrays, change, message):
    change(arrays)
    with pytest.raises(DatasetError, match=message):
        from_arrays("BallCircle", **arrays)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path, arrays: None, "no such file"),
        (lambda path, arrays: path.write_bytes(b""), "the file is empty"),
        (lambda path, arrays: path.write_bytes(b"PK not an HDF5 file" * 99), "not a readable HDF5 file"),
        (lambda path, arrays: truncate(write_raw(path, arrays)), "truncated"),
        (lambda path, arrays: write_raw(path, drop(arrays, "costs")), r"the keys \['costs'\] are missing"),
        (
            lambda path, arrays: write_raw(path, arrays | {"costs": np.array(["a"] * 240, object)}),
            "costs is not a plain",
        ),
        (lambda path, arrays: write_raw(path, arrays | {"costs": h5py.ExternalLink("x", "y")}), "costs"),
        (
            lambda path, arrays: write_raw(path, arrays | {"next_observations": h5py.ExternalLink("x", "y")}),
            "next_observations is not a plain",
        ),
        (
            lambda path, arrays: write_raw(path, arrays | {"next_observations": np.array([["a"] * 8] * 240, object)}),
            "next_observations is not a plain",
        ),
        (
            lambda path, arrays: write_raw(path, arrays | {"next_observations": np.zeros((9, 8))}),
            "next_observations has",
        ),
    ],
)
def test_bad_files_are_refused_with_the_reason(tmp_path, arrays, make, message):
    path = tmp_path / "bad.hdf5"
    make(path, arrays)
    with pytest.raises(DatasetError, match=message) as error:
        trac.load("BallCircle", path)
    assert "bad.hdf5" in str(error.value)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-3000])


def drop(arrays, key):
    return {name: value for name, value in arrays.items() if name != key}


def test_next_observations_are_read_when_asked_for(tmp_path, arrays):
    path = write_raw(tmp_path / "a.hdf5", arrays)
    data = read(path, "BallCircle")
    np.testing.assert_allclose(data.next_observations, arrays["next_observations"])
    arrays.pop("next_observations")
    with pytest.raises(DatasetError, match="without next observations"):
        _ = from_arrays("BallCircle", **arrays).next_observations


def test_a_compact_file_has_the_last_observations_only(tmp_path, arrays):
    path, ends = tmp_path / "data.hdf5", np.flatnonzero(arrays["timeouts"])
    arrays["next_observations"] = np.roll(arrays["observations"], -1, axis=0)
    arrays["next_observations"][ends] = final = np.random.default_rng(0).normal(size=(12, 8)).astype(np.float32)
    write(path, from_arrays("BallCircle", **arrays), compact=True)
    with h5py.File(path) as file:
        assert "next_observations" not in file
        np.testing.assert_array_equal(file[trajectories.FINAL], final)
    again = read(path, "BallCircle")
    np.testing.assert_array_equal(again.next_observations, arrays["next_observations"])
    with h5py.File(path, "r+") as file:
        del file[trajectories.FINAL]
        file[trajectories.FINAL] = final[1:]
    with pytest.raises(DatasetError, match="final_observations has shape .* a row for each episode"):
        read(path, "BallCircle")


def test_next_observations_that_are_not_the_next_rows_are_kept(tmp_path, arrays):
    path = tmp_path / "data.hdf5"
    data = from_arrays("BallCircle", **arrays | {"next_observations": arrays["observations"] + 1})
    write(path, data, compact=True)
    np.testing.assert_array_equal(read(path, "BallCircle").next_observations, data.next_observations)


def test_next_observations_that_are_not_finite_are_refused_when_read(tmp_path, arrays):
    arrays["next_observations"] = with_value(np.nan)(arrays["next_observations"])
    data = read(write_raw(tmp_path / "a.hdf5", arrays), "BallCircle")
    with pytest.raises(DatasetError, match=r"a\.hdf5: next_observations has a NaN or infinite value, first in row 7"):
        _ = data.next_observations


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path, data, monkeypatch):
    monkeypatch.setattr(h5py.Group, "create_dataset", lambda *a, **k: (_ for _ in ()).throw(OSError(28, "disk full")))
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path / "data.hdf5", data)
    assert not list(tmp_path.iterdir())


def test_an_unknown_task_names_the_nearest():
    with pytest.raises(UnknownTask, match="did you mean BallCircle"):
        trac.load("ballcircel")
    with pytest.raises(UnknownTask, match="the tasks are AntCircle"):
        trac.load("zzzz")
    with pytest.raises(UnknownTask, match="unknown task None"):
        trac.load(None)


def test_a_task_without_packaged_data_says_what_to_do():
    with pytest.raises(
        DatasetError, match=r"CarPush1 has no packaged dataset .*book/data.*SafetyCarPush1Gymnasium-v0-200-2871\.hdf5"
    ):
        trac.load("CarPush1")


def test_a_log_of_the_repository_is_found_by_its_task(tmp_path, arrays, monkeypatch):
    monkeypatch.setattr(packaged, "REPOSITORY", tmp_path)
    write(tmp_path / "CarPush1.hdf5", from_arrays("CarPush1", **arrays))
    assert len(trac.load("CarPush1")) == 240 and "CarPush1" not in packaged.packaged()


def test_tasks_are_those_of_dsrl():
    infos = pytest.importorskip("dsrl.infos")
    assert set(TASKS) == set(infos.DATASET_URLS)
    for name, task in TASKS.items():
        assert infos.DATASET_URLS[name].endswith("/" + task.file)
        assert task.max_episode_steps == infos.DEFAULT_MAX_EPISODE_STEPS[name]
        assert task.min_return == infos.MIN_EPISODE_REWARD[name]
        assert task.max_return == infos.MAX_EPISODE_REWARD[name]
    assert [sum(task.suite == s for task in TASKS.values()) for s in ("bullet", "safety_gymnasium", "metadrive")] == [
        8,
        21,
        9,
    ]


def test_normalised_scores_by_hand():
    task = TASKS["BallRun"]
    assert task.normalized_reward(task.min_return) == 0 and task.normalized_reward(task.max_return) == 1
    assert task.normalized_cost(5.0, 20) == 0.25
    assert task.normalized_cost(0.0, 0) == 1 and task.normalized_cost(3.0, 0) == 4
    assert np.isnan(task.normalized_cost(3.0, float("inf")))
