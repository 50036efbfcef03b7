"""A whole HDF5 file with some of its bytes changed: it is read, or refused by the named error.

In another process, because the HDF5 library itself hangs on one such file in some thousands.
"""

import subprocess
import sys
from collections import Counter

import h5py
import numpy as np
import pytest
from conftest import make_arrays
from hypothesis import given, settings
from hypothesis import strategies as st

READER = """
import resource, signal, sys, warnings
from trac.data.hdf5 import read
from trac.data.trajectories import DatasetError

warnings.simplefilter("ignore")
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))  # [bytes]
print("ready", flush=True)
for path in sys.stdin:
    signal.alarm(5)
    try:
        read(path.strip(), "own").next_observations
        print("read", flush=True)
    except DatasetError as error:
        print("refused", len(str(error)), flush=True)
    except BaseException as error:
        print(repr(error), flush=True)
"""


class Reader:
    """A process that reads files and says what came of it, started again when it dies."""

    process = None

    def __call__(self, path):
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-c", READER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            assert self.process.stdout.readline() == "ready\n"
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        return answer or self.close()

    def close(self):
        if self.process:
            self.process.stdin.close()
            code, self.process = self.process.wait(), None
            return f"died of signal {-code}"


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """The bytes of a small file with chunks, a filter, attributes and an array without either."""
    path = tmp_path_factory.mktemp("whole") / "a.hdf5"
    with h5py.File(path, "w") as file:
        for key, values in make_arrays(episodes=3, length=5, task_dims=(3, 2)).items():
            options = {} if key == "costs" else dict(compression="gzip", shuffle=True)
            file.create_dataset(key, data=np.asarray(values, dtype=np.float32), **options)
        file.attrs["task"] = "own"
    return path.read_bytes()


@pytest.fixture(scope="module")
def reader():
    reader = Reader()
    yield reader
    reader.close()


@pytest.mark.slow
def test_changed_bytes_are_read_or_refused(content, reader, tmp_path):
    # Most of a small file is zeros between its parts, which nobody reads.
    places = st.sampled_from(np.flatnonzero(np.frombuffer(content, np.uint8)).tolist()) | st.integers(
        0, len(content) - 1
    )
    changes = st.lists(st.tuples(places, st.sampled_from([0, 1, 127, 128, 255]) | st.integers(0, 255)), max_size=8)
    path, outcomes = tmp_path / "changed.hdf5", Counter()

    @given(changes, st.none() | st.integers(0, len(content)))
    @settings(max_examples=1500, deadline=None, database=None, derandomize=True)
    def fuzz(changes, cut):
        changed = bytearray(content)
        for place, byte in changes:
            changed[place] = byte
        path.write_bytes(changed[:cut])
        answer = reader(path)
        outcomes[answer.split()[0]] += 1
        assert answer == "read" or answer.startswith("died") or int(answer.removeprefix("refused")) < 700, answer

    fuzz()
    assert set(outcomes) >= {"read", "refused"} and outcomes["died"] <= 3, outcomes
