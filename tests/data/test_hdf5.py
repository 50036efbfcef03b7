import dataclasses
import errno
import os
import subprocess
import sys
import tempfile
import warnings

import h5py
import numpy as np
import pytest
from conftest import make_arrays

import trac
from trac.data import packaged
from trac.data.hdf5 import FINAL, DatasetUnavailable, read, write
from trac.data.tasks import TASKS
from trac.data.trajectories import KEYS, DatasetError, from_arrays


def write_raw(path, arrays):
    with h5py.File(path, "w") as file:
        for key, value in arrays.items():
            file[key] = value
    return path


def test_a_file_comes_back_as_it_was(tmp_path, data):
    path = tmp_path / "new" / "data.hdf5"
    write(path, data, {"made_by": "a test"})
    again = read(path, "BallCircle")
    for name in (*KEYS, "starts", "lengths", "returns", "episode_costs"):
        np.testing.assert_array_equal(getattr(again, name), getattr(data, name))
    assert [p.name for p in path.parent.iterdir()] == ["data.hdf5"]
    with h5py.File(path) as file:
        assert file.attrs["made_by"] == "a test" and file["terminals"].dtype == np.float32


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
    with pytest.raises(DatasetError, match="BallCircle: these trajectories have no next_observations"):
        _ = from_arrays("BallCircle", **arrays).next_observations


def test_next_observations_come_from_the_file_that_was_read(tmp_path, arrays, monkeypatch):
    path = write_raw(tmp_path / "a.hdf5", arrays)
    monkeypatch.chdir(tmp_path)
    data = read("a.hdf5", "BallCircle")
    monkeypatch.chdir("/")
    np.testing.assert_allclose(data.next_observations, arrays["next_observations"])
    shorter = {name: values[:120] for name, values in arrays.items()}
    for other in (arrays | {"next_observations": arrays["observations"]}, shorter):
        data = read(path, "BallCircle")
        write_raw(path, other)
        with pytest.raises(DatasetError, match=r"a\.hdf5: the file has changed since .* Load it again"):
            _ = data.next_observations
    # Neither size nor time tells these two apart.
    data, before = read(path, "BallCircle"), path.stat()
    write_raw(path, shorter | {"rewards": shorter["rewards"] + 1})
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    with pytest.raises(DatasetError, match="the file has changed"):
        _ = data.next_observations


def test_a_file_without_next_observations_is_read_and_written(tmp_path, arrays):
    path = write_raw(tmp_path / "a.hdf5", drop(arrays, "next_observations"))
    data = read(path, "BallCircle")
    write(tmp_path / "b.hdf5", data)
    np.testing.assert_array_equal(read(tmp_path / "b.hdf5", "BallCircle").rewards, data.rewards)
    with pytest.raises(DatasetError, match="have no next_observations, which the method reads"):
        _ = data.next_observations


def test_rows_that_were_never_written_are_told(tmp_path, arrays):
    path = write_raw(tmp_path / "a.hdf5", drop(arrays, "costs"))
    with h5py.File(path, "a") as file:
        file.create_dataset("costs", shape=(240,), dtype="f4", chunks=(50,))[:100] = arrays["costs"][:100]
    with pytest.warns(UserWarning, match="a.hdf5: part of costs was never written, and is read as 0."):
        assert read(path, "BallCircle").costs[150:].sum() == 0


def test_swapped_observations_of_a_file_are_told_when_they_are_read(tmp_path):
    data = trac.load("BallRun")
    arrays = {name: getattr(data, name) for name in KEYS}
    arrays |= dict(observations=arrays["next_observations"], next_observations=arrays["observations"])
    path = write_raw(tmp_path / "a.hdf5", arrays)
    with pytest.warns(UserWarning, match=r"a\.hdf5: next_observations are not the observations"):
        read(path, "BallRun")


def test_a_whole_array_that_was_never_written_is_told(tmp_path, arrays):
    path = write_raw(tmp_path / "a.hdf5", drop(arrays, "costs"))
    with h5py.File(path, "a") as file:
        file.create_dataset("costs", shape=(240,), dtype="f4")
    with pytest.warns(UserWarning, match="a.hdf5: part of costs was never written, and is read as 0."):
        read(path, "own")


def test_a_task_written_as_bytes_is_read(tmp_path):
    write(tmp_path / "a.hdf5", trac.load("BallRun"))
    with h5py.File(tmp_path / "a.hdf5", "a") as file:
        file.attrs["task"] = np.bytes_("BallRun")
    with pytest.raises(DatasetError, match="it says that it is a log of BallRun"):
        read(tmp_path / "a.hdf5", "BallCircle")


def test_ends_that_do_not_agree_with_next_observations_are_told(tmp_path):
    data = trac.load("BallRun")
    arrays = {name: getattr(data, name) for name in KEYS} | {"timeouts": np.zeros(len(data), dtype=bool)}
    for ends, messages in (
        (np.s_[198::100], ["in 643 of 63756 rows within episodes, first in row 99", "at 642 of 642 ends"]),  # early
        (np.s_[100::100], ["in 643 of 63658 rows within episodes, first in row 99", "at 642 of 642 ends"]),  # late
        (np.s_[199::200], ["in 322 of 64078 rows within episodes, first in row 99"]),  # every second one is lost
    ):
        arrays["timeouts"] = np.zeros(len(data), dtype=bool)
        arrays["timeouts"][ends] = True
        path = write_raw(tmp_path / "a.hdf5", arrays)
        for load in (lambda path=path: read(path, "own"), lambda: from_arrays("own", **arrays)):
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                load()
            told = [str(w.message) for w in told if "next_obs" in str(w.message)]
            assert len(told) == len(messages) and all(m in t for m, t in zip(messages, told, strict=True)), told


def test_next_observations_of_other_rows_are_refused(tmp_path):
    write(tmp_path / "a.hdf5", trac.load("BallRun"))
    data = read(tmp_path / "a.hdf5", "BallRun")
    rows = np.repeat(np.arange(644) != 560, data.lengths)
    arrays = {name: getattr(data, name)[rows] for name in KEYS if name != "next_observations"}
    lengths = np.delete(data.lengths, 560)
    fewer = dataclasses.replace(data, **arrays, lengths=lengths, starts=np.cumsum(lengths) - lengths)
    with pytest.raises(DatasetError, match="the observations are no longer those of the file's first rows"):
        fewer.next_observations  # noqa: B018


def test_a_file_that_dsrl_calls_after_another_task_is_refused(tmp_path, arrays):
    path = write_raw(tmp_path / TASKS["BallRun"].file, arrays)
    with pytest.raises(DatasetError, match="it says that it is a log of BallRun"):
        trac.load("BallCircle", path)
    assert trac.load("own", path).task == "own"


def test_an_episode_longer_than_the_task_is_refused(tmp_path, arrays):
    arrays = make_arrays(episodes=30)
    arrays["timeouts"][40:-1] = 0
    for load in (
        lambda task: from_arrays(task, **arrays),
        lambda task: read(write_raw(tmp_path / "a.hdf5", arrays), task),
    ):
        with pytest.raises(DatasetError, match="episode 2 has 560 steps, and those of BallCircle have at most 200"):
            load("BallCircle")
        assert load("own").lengths.tolist() == [20, 20, 560]


class Writer:
    """Another process that has a file open for writing."""

    def __init__(self, path, libver="earliest"):
        script = (
            f"import h5py; f = h5py.File({str(path)!r}, 'r+', libver={libver!r}); f.flush(); print(flush=True); input()"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.process.stdout.readline()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()


def test_a_file_that_another_process_writes_is_not_called_damaged(tmp_path, arrays):
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w", libver="latest") as file:
        file.update(arrays)
    with Writer(path, "latest"), pytest.raises(DatasetUnavailable, match="another process is writing it"):
        read(path, "BallCircle")
    # It was killed, and left its mark.
    with pytest.raises(DatasetUnavailable, match="if it died, run h5clear -s"):
        read(path, "BallCircle")


@pytest.mark.parametrize("protected", ["file", "folder"])
def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path, arrays, protected):
    folder = tmp_path / "folder"
    folder.mkdir()
    path = write_raw(folder / "a.hdf5", arrays)
    (path if protected == "file" else folder).chmod(0)
    root = os.geteuid() == 0
    try:
        if root:  # who may read everything
            for parent in tmp_path.parents[:3]:
                if parent.owner() == "root" and parent.is_relative_to(tempfile.gettempdir()):
                    parent.chmod(0o755)
            tmp_path.chmod(0o755)
            os.seteuid(65534)
        with pytest.raises(DatasetUnavailable, match="a.hdf5: there is no permission to read it"):
            read(path, "BallCircle")
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOLCK, "its file system has no locks. Set .*HDF5_USE_FILE_LOCKING=FALSE"),
        (errno.EACCES, "no permission"),
        (errno.EIO, "the system could not read it .Input/output error"),
    ],
)
def test_what_the_system_says_is_not_the_files_fault(tmp_path, arrays, monkeypatch, number, message):
    path = write_raw(tmp_path / "a.hdf5", arrays)
    monkeypatch.setattr(h5py, "File", lambda *a, **k: (_ for _ in ()).throw(OSError(number, os.strerror(number))))
    with pytest.raises(DatasetUnavailable, match=message):
        read(path, "BallCircle")


def test_a_filter_that_is_not_installed_is_named(tmp_path, arrays):
    path = write_raw(tmp_path / "a.hdf5", drop(arrays, "rewards"))
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((240,))
    properties.set_filter(32123, h5py.h5z.FLAG_OPTIONAL, ())  # nobody's
    with h5py.File(path, "a") as file:
        space = h5py.h5s.create_simple((240,))
        made = h5py.h5d.create(file.id, b"rewards", h5py.h5t.NATIVE_FLOAT, space, properties)
        made.write_direct_chunk((0,), b"squeezed", 0)
    with pytest.raises(DatasetUnavailable, match=r"rewards is compressed by HDF5's filter 32123 .* hdf5plugin"):
        read(path, "BallCircle")


def test_other_layouts_and_names_are_told(tmp_path, arrays):
    path = tmp_path / "main_data.hdf5"
    with h5py.File(path, "w") as file:
        for episode in range(2000):
            file.create_group(f"episode_{episode}")
    with pytest.raises(DatasetError, match="Minari's layout, a group for each episode. Join each array") as caught:
        read(path, "BallCircle")
    assert len(str(caught.value)) < 500
    with h5py.File(path, "w") as file:
        for number in range(2000):
            file[f"array_{number:04d}"] = 0
    with pytest.raises(DatasetError, match="are missing; the file has .*'array_0009'. and 1990 more. DSRL's form"):
        read(path, "BallCircle")
    arrays["terminations"], arrays["truncations"] = arrays.pop("terminals"), arrays.pop("timeouts")
    message = r"\['terminals', 'timeouts'\] are missing: rename terminations to terminals, truncations to timeouts"
    with pytest.raises(DatasetError, match=message):
        read(write_raw(path, arrays), "BallCircle")


def test_paths_of_every_ending_are_paths(tmp_path, arrays, monkeypatch):
    np.savez(tmp_path / "a.npz", **arrays)
    for arguments in ((str(tmp_path / "a.npz"),), ("BallCircle", tmp_path / "a.npz")):
        with pytest.raises(DatasetError, match=r"a\.npz: NumPy's format, not HDF5. Pass its arrays to .*from_arrays"):
            trac.load(*arguments)
    (tmp_path / "x.csv").write_text("1,2\n")
    with pytest.raises(DatasetError, match=r"x\.csv: not a readable HDF5 file"):
        trac.load(str(tmp_path / "x.csv"))
    with pytest.raises(DatasetError, match=f"{tmp_path.name}: a folder, not a file. Pass the path of a file in it"):
        trac.load("BallCircle", tmp_path)
    data = from_arrays("made_up", **np.load(tmp_path / "a.npz"))
    write_raw(tmp_path / "mine.HDF5", arrays)
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in (str(tmp_path / "mine.HDF5"), "~/mine.HDF5"):
        loaded = trac.load(path)
        assert loaded.task == "mine" and len(loaded) == len(data)


def test_several_files_at_once_are_refused(tmp_path):
    for given in ((["a.hdf5", "b.hdf5"],), ("mine", [tmp_path / "a.hdf5", tmp_path / "b.hdf5"])):
        with pytest.raises(DatasetError, match=r"neither a name nor the path of one file\. To join several logs"):
            trac.load(*given)


def test_a_compact_file_has_the_last_observations_only(tmp_path, arrays):
    path, ends = tmp_path / "data.hdf5", np.flatnonzero(arrays["timeouts"])
    arrays["next_observations"] = np.roll(arrays["observations"], -1, axis=0)
    arrays["next_observations"][ends] = final = np.random.default_rng(0).normal(size=(12, 8)).astype(np.float32)
    write(path, from_arrays("BallCircle", **arrays), compact=True)
    with h5py.File(path) as file:
        assert "next_observations" not in file
        np.testing.assert_array_equal(file[FINAL], final)
    again = read(path, "BallCircle")
    np.testing.assert_array_equal(again.next_observations, arrays["next_observations"])
    with h5py.File(path, "r+") as file:
        del file[FINAL]
        file[FINAL] = final[1:]
    with pytest.raises(DatasetError, match="final_observations has shape .* a row for each episode"):
        read(path, "BallCircle")
    with h5py.File(path, "r+") as file:
        file["next_observations"] = arrays["next_observations"]
    with pytest.raises(DatasetError, match="it has both next_observations and final_observations"):
        read(path, "BallCircle")


@pytest.mark.parametrize("compact", [False, True])
def test_the_range_of_a_task_of_ones_own_comes_back(tmp_path, arrays, compact):
    path = tmp_path / "a.hdf5"
    write(path, from_arrays("own", **arrays, reward_range=(0, 50)), compact=compact)
    assert read(path, "own").reward_range == (0, 50) == trac.load("own", path).reward_range
    assert read(path, "own", reward_range=(0, 40)).reward_range == (0, 40)
    assert read(path, "BallCircle").reward_range == (TASKS["BallCircle"].min_return, TASKS["BallCircle"].max_return)
    for wrong in ((1, 1), (0, np.nan), (1, 2, 3), "wide"):
        with h5py.File(path, "a") as file:
            file.attrs["reward_range"] = wrong
        with pytest.raises(DatasetError, match=r"a\.hdf5: its attribute reward_range=.* must be the \(lowest, highest"):
            read(path, "own")
        assert read(path, "own", reward_range=(0, 40)).reward_range == (0, 40)
    write(path, from_arrays("BallCircle", **arrays))
    with h5py.File(path) as file:
        assert "reward_range" not in file.attrs


def test_next_observations_that_are_not_the_next_rows_are_kept(tmp_path, arrays):
    path = tmp_path / "data.hdf5"
    data = from_arrays("BallCircle", **arrays | {"next_observations": arrays["observations"] + 1})
    write(path, data, compact=True)
    np.testing.assert_array_equal(read(path, "BallCircle").next_observations, data.next_observations)


def test_next_observations_that_are_not_finite_are_refused_when_read(tmp_path, arrays):
    arrays["next_observations"][7] = np.nan
    data = read(write_raw(tmp_path / "a.hdf5", arrays), "BallCircle")
    with pytest.raises(DatasetError, match=r"a\.hdf5: next_observations has a NaN or infinite value, first in row 7"):
        _ = data.next_observations


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path, data, monkeypatch):
    monkeypatch.setattr(h5py.Group, "create_dataset", lambda *a, **k: (_ for _ in ()).throw(OSError(28, "disk full")))
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path / "data.hdf5", data)
    assert not list(tmp_path.iterdir())


def test_a_log_of_the_repository_is_found_by_its_task(tmp_path, arrays, monkeypatch):
    monkeypatch.setattr(packaged, "REPOSITORY", tmp_path)
    write(tmp_path / "CarPush1.hdf5", from_arrays("CarPush1", **arrays))
    assert len(trac.load("CarPush1")) == 240 and "CarPush1" not in packaged.packaged()
