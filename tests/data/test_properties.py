"""Whatever comes in, it is loaded and labelled right or refused by the named error."""

import math
import tempfile
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from trac.config import ConfigError
from trac.data.hdf5 import read
from trac.data.trajectories import KEYS, DatasetError, from_arrays
from trac.partition import PartitionError, partition

# The same examples every time, so that a failure is seen by whoever looks next.
settings.register_profile("trac", deadline=None, database=None, derandomize=True, max_examples=60)
settings.load_profile("trac")

DTYPES = st.sampled_from(["f2", "f4", "f8", ">f4", "i1", "i8", "u8", "?", "c16", "U3", "S3", "M8[s]", "O", "i4,f4"])
SHAPES = arrays_of.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)
ANYTHING = st.one_of(
    arrays_of.arrays(DTYPES.filter(lambda kind: kind not in ("O", "i4,f4")), SHAPES),
    st.lists(st.lists(st.one_of(st.floats(), st.integers(), st.booleans(), st.none(), st.text()), max_size=3)),
    st.one_of(st.none(), st.text(), st.binary(), st.integers(), st.floats(), st.dictionaries(st.text(), st.integers())),
)


@st.composite
def logs(draw):
    """A log that is right: some episodes of small whole numbers, in any type, layout and order of memory."""
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=6))
    n, widths = sum(lengths), draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    ends = np.zeros(n)
    ends[np.cumsum(lengths) - 1] = 1
    timed = draw(arrays_of.arrays("?", n))
    whole = st.integers(0, 5)
    log = dict(
        observations=draw(arrays_of.arrays("f8", (n, widths[0]), elements=st.integers(-9, 9))),
        next_observations=draw(arrays_of.arrays("f8", (n, widths[0]), elements=st.integers(-9, 9))),
        actions=draw(arrays_of.arrays("f8", (n, widths[1]), elements=st.integers(-1, 1))),
        rewards=draw(arrays_of.arrays("f8", n, elements=whole)),
        costs=draw(arrays_of.arrays("f8", n, elements=whole)),
        terminals=ends * timed,
        timeouts=ends * ~timed,
    )
    for key in log:
        kinds = ["f4", "f8", ">f4", "i2", "f2"] + (["?", "u1"] if key in ("terminals", "timeouts") else [])
        log[key] = log[key].astype(draw(st.sampled_from(kinds)))
        if log[key].ndim == 1 and draw(st.booleans()):
            log[key] = log[key][:, None]
        if draw(st.booleans()):
            log[key] = np.repeat(np.asfortranarray(log[key]), 2, axis=0)[::2]
    return log, lengths


def check(data, log, lengths):
    assert data.lengths.tolist() == lengths
    assert data.starts.tolist() == [sum(lengths[:i]) for i in range(len(lengths))]
    for key in KEYS:
        values = getattr(data, key)
        np.testing.assert_array_equal(values, np.asarray(log[key], dtype=np.float64).reshape(values.shape))
        assert values.dtype == (bool if key in ("terminals", "timeouts") else np.float32) and values.flags.c_contiguous
    costs = np.asarray(log["costs"], dtype=float).ravel()
    assert data.episode_costs.tolist() == [costs[a : a + n].sum() for a, n in zip(data.starts, lengths, strict=True)]


@given(logs())
def test_a_log_that_is_right_is_read_right(log):
    log, lengths = log
    data = from_arrays("own", **log)
    check(data, log, lengths)
    for key in KEYS:
        log[key][...] = 1
    assert data.lengths.tolist() == lengths and np.isin(data.actions, (-1, 0, 1)).all()
    assert not np.shares_memory(data.observations, log["observations"])


@given(logs(), st.sampled_from(KEYS), ANYTHING)
def test_any_array_is_read_right_or_refused(log, key, value):
    log, _ = log
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # steps after the last end
        try:
            data = from_arrays("own", **log | {key: value})
        except DatasetError as error:
            assert key in str(error) or "no episode ends" in str(error)
            assert len(str(error)) < 700
            return
    if not (key == "next_observations" and value is None):
        given = np.asarray(value, dtype=np.float64)
        read_back = getattr(data, key)
        np.testing.assert_allclose(read_back, given.reshape(len(given), *read_back.shape[1:])[: len(data)], rtol=1e-6)
        assert np.isfinite(read_back).all()


@given(logs(), st.data())
def test_any_file_is_read_right_or_refused(log, data):
    """One key of a right file is something else: of another type or shape, not there, a group, a link."""
    log, lengths = log
    key = data.draw(st.sampled_from(KEYS))
    how = data.draw(st.sampled_from(["as it is", "gone", "group", "soft", "external", "empty", "array"]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.hdf5"
        with h5py.File(path, "w") as file:
            for name, values in log.items():
                file.create_dataset(name, data=values, **data.draw(st.sampled_from([{}, dict(compression="gzip")])))
            if how != "as it is":
                del file[key]
            if how == "group":
                file.create_group(key).create_dataset("inside", data=log[key])
            elif how in ("soft", "external"):
                file["elsewhere"] = log[key]
                file[key] = h5py.SoftLink("/elsewhere") if how == "soft" else h5py.ExternalLink("other.h5", "/x")
            elif how == "empty":
                file[key] = h5py.Empty("f4")
            elif how == "array":
                kind = data.draw(DTYPES.filter(lambda kind: kind[0] not in "UMO"))
                file[key] = np.zeros(data.draw(SHAPES), kind)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = read(path, "own")
            if how != "gone" or key != "next_observations":
                _ = found.next_observations
        except DatasetError as error:
            assert how != "as it is" and "a.hdf5" in str(error) and len(str(error)) < 700
            assert key in str(error) or "no episode ends" in str(error)
            return
    assert how in ("as it is", "array") or (how, key) == ("gone", "next_observations")
    if how == "as it is":
        check(found, log, lengths)


@given(st.binary(max_size=300), st.booleans())
def test_bytes_that_are_no_dataset_are_refused(content, signature):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.hdf5"
        path.write_bytes(b"\x89HDF\r\n\x1a\n" * signature + content)
        with pytest.raises(DatasetError, match="a.hdf5: (not a readable HDF5 file|the file is empty)"):
            read(path, "own")


def expected(lengths, rewards, costs, config):
    """Labels and weights by the definition, one segment after the other; None for what is in neither class."""
    horizon = max(lengths)
    length = 1 if config["level"] == "step" else int(horizon * config["segment_ratio"] * (1 + 1e-12))
    found, start = [], 0
    for steps in lengths:
        for begin in range(start, start + steps - length + 1):
            inside = slice(begin, begin + length)
            found.append((begin, float(rewards[inside].sum()), float(costs[inside].sum())))
        start += steps
    limit = config["cost_limit"] * length / horizon if length else 0
    safe = sorted((gain, begin) for begin, gain, cost in found if cost <= limit)
    best = {begin for _, begin in safe[len(safe) - math.ceil(config["top"] * len(safe) * (1 - 1e-12)) :]}
    worst = {begin for _, begin in safe[: math.ceil(config["bottom"] * len(safe) * (1 - 1e-12))]}
    low, high = (safe[0][0], safe[-1][0]) if safe else (0, 0)
    labels, weights = {}, {}
    for begin, gain, cost in found:
        if cost > limit or begin in worst or begin in best:
            labels[begin] = int(cost <= limit and begin not in worst)
            q = (gain - low) / (high - low) if high > low else 1.0
            q = q if labels[begin] or high == low else 1 - q
            weights[begin] = 1.0 if cost > limit else (1 - config["kappa"]) * q + config["kappa"]
    return length, labels, weights


share = st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.5, 0.7, 1.0])


@given(
    logs(),
    st.fixed_dictionaries(
        dict(cost_limit=st.sampled_from([0, 1, 2.5, 4, 9, 30]), top=share, bottom=share, kappa=share)
        | dict(segment_ratio=share, level=st.sampled_from(["trajectory", "step"]))
    ),
)
def test_segments_are_labelled_as_defined_or_refused(log, config):
    log, lengths = log
    data = from_arrays("own", **log)
    rewards, costs = (np.asarray(log[name], dtype=float).ravel() for name in ("rewards", "costs"))
    length, labels, weights = expected(lengths, rewards, costs, config)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            segments = partition(data, **config)
        except PartitionError:
            assert length == 0 or set(labels.values()) != {0, 1}
            return
        except ConfigError:
            assert not config["top"] or not config["segment_ratio"] or config["top"] + config["bottom"] > 1
            return
    assert dict(zip(segments.starts.tolist(), segments.labels.tolist(), strict=True)) == labels
    np.testing.assert_allclose(segments.weights, [weights[begin] for begin in segments.starts], rtol=1e-6)
    short = sum(steps < length for steps in lengths)
    assert segments.length == length and segments.too_short == short
    assert any("have no segment" in str(one.message) for one in caught) == (short > 0.1 * len(lengths))
