import dataclasses
import inspect
import warnings

import numpy as np
import pytest

import trac
from trac.config import ConfigError, TracConfig
from trac.data.trajectories import from_arrays
from trac.partition import PartitionError, partition


def one_step_rewards(returns, costs, length=4, lengths=None):
    """Episodes whose reward and cost come in the first step."""
    lengths = lengths or [length] * len(returns)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    n = sum(lengths)
    rewards, cost, timeouts = np.zeros(n), np.zeros(n), np.zeros(n)
    rewards[starts], cost[starts] = returns, costs
    timeouts[np.cumsum(lengths) - 1] = 1
    zeros = np.zeros((n, 2))
    return from_arrays(
        "small",
        observations=zeros,
        actions=zeros,
        rewards=rewards,
        costs=cost,
        terminals=np.zeros(n),
        timeouts=timeouts,
    )


def test_ten_trajectories_by_hand():
    # Seven are safe at limit 2; ranked by return they are episodes 3 0 6 4 1 5 2.
    data = one_step_rewards(returns=[1, 5, 9, 0, 4, 6, 3, 20, 2, 7], costs=[0, 1, 2, 0, 0, 2, 1, 3, 5, 9])
    segments = partition(data, cost_limit=2, top=0.3, bottom=0.2, kappa=0.4, segment_ratio=1.0)
    assert segments.episodes.tolist() == [0, 1, 2, 3, 5, 7, 8, 9]  # ⌈0.3·7⌉ = 3 on top, ⌈0.2·7⌉ = 2 below, 3 unsafe
    assert segments.labels.tolist() == [0, 1, 1, 0, 1, 0, 0, 0]
    expected = [1 - 0.6 / 9, 0.4 + 0.6 * 5 / 9, 1.0, 1.0, 0.4 + 0.6 * 6 / 9, 1, 1, 1]
    np.testing.assert_allclose(segments.weights, expected, rtol=1e-6)
    assert segments.total == 10 and segments.length == 4


def test_segments_cover_every_start_once_and_scale_the_limit():
    data = one_step_rewards(returns=[1, 2, 3], costs=[0, 4, 4], lengths=[8, 8, 5])
    segments = partition(data, cost_limit=7, top=1.0, segment_ratio=0.5)
    assert segments.length == 4 and segments.cost_limit == 3.5
    assert sorted(segments.starts) == [0, 1, 2, 3, 4, 8, 9, 10, 11, 12, 16, 17]
    assert dict(zip(segments.starts.tolist(), segments.costs.tolist(), strict=True))[8] == 4  # over 3.5, under 7
    assert set(segments.starts[segments.labels == 0]) == {8, 16}


def test_episodes_that_are_too_short_are_counted():
    data = one_step_rewards(returns=[1, 2, 3], costs=[0, 9, 9], lengths=[8, 8, 5])
    with (
        pytest.warns(UserWarning, match="all 1 safe segments have the same return"),
        pytest.warns(UserWarning, match="1 of 3 episodes"),
    ):
        segments = partition(data, cost_limit=3, top=1.0, segment_ratio=1.0)
    assert (segments.too_short, segments.too_short_unsafe) == (1, 1)
    assert "1 episodes are too short, 1 of them unsafe" in repr(segments)


def test_ends_that_are_not_marked_are_told():
    """Four of 42 ends are missing, and two episodes have three times as many steps as the others."""
    data = one_step_rewards(np.arange(38.0), [0, 4] * 19, lengths=[4] * 36 + [12] * 2)
    message = (
        "36 of 38 episodes, 18 of them unsafe, are shorter than 12 steps and have no segment: lower segment_ratio, or "
        "mark an end that is missing inside episode 36, the longest with its 12 steps."
    )
    with pytest.warns(UserWarning, match=message), pytest.warns(UserWarning, match="the same return 36"):
        segments = partition(data, cost_limit=3)
    assert (segments.total, segments.too_short) == (2, 36)


@pytest.mark.parametrize("few", [0, 4, 5])
def test_up_to_a_tenth_of_short_episodes_is_no_news(few):
    lengths = [3] * few + [4] * (40 - few)
    data = one_step_rewards(np.arange(40.0), np.arange(40) % 5, lengths=lengths)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert partition(data, cost_limit=2).too_short == few
    assert [str(one.message)[:7] for one in caught] == (["5 of 40"] if few == 5 else [])


def test_overlap_by_rounding_is_undesirable():
    data = one_step_rewards(returns=[1, 2, 3], costs=[0, 0, 0])
    segments = partition(data, cost_limit=5, top=0.5, bottom=0.5, segment_ratio=1.0)
    assert segments.labels.tolist() == [0, 0, 1]  # two each, and the middle one is in both


def test_no_constraint_needs_and_uses_the_bottom():
    data = one_step_rewards(returns=[1, 2, 3, 4], costs=[0, 50, 0, 90])
    segments = partition(data, cost_limit=np.inf, top=0.5, bottom=0.5, segment_ratio=1.0)
    assert segments.labels.tolist() == [0, 0, 1, 1]


def test_equal_returns_get_weight_one_with_a_warning():
    data = one_step_rewards(returns=[2, 2, 9], costs=[0, 0, 9])
    with pytest.warns(UserWarning, match="all 2 safe segments have the same return 2"):
        segments = partition(data, cost_limit=1, segment_ratio=1.0)
    assert segments.weights.tolist() == [1] * len(segments)


def test_steps_are_labelled_by_their_own_cost(data):
    segments = partition(data, cost_limit=5, top=1.0, level="step")
    assert segments.length == 1 and len(segments) == len(data)
    np.testing.assert_array_equal(segments.labels == 0, data.costs > 5 / 20)


def test_released_sampling_leaves_the_global_generator_alone(data):
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    settings = dict(cost_limit=5, segment_ratio=0.25, sampling="released")
    first = partition(data, **settings, seed=1)
    np.testing.assert_array_equal(before, np.random.get_state()[1])
    assert first.starts.tolist() == partition(data, **settings, seed=1).starts.tolist()
    assert first.starts.tolist() != partition(data, **settings, seed=2).starts.tolist()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(cost_limit=-1), "cost_limit=-1: must be greater than or equal to 0"),
        (dict(cost_limit=float("nan")), "cost_limit=nan: must be greater than or equal to 0"),
        (dict(cost_limit=float("inf")), "set bottom above 0"),
        (dict(top=0.0), "top=0.0: must be greater than 0"),
        (dict(top=1.1), "top=1.1: must be less than or equal to 1"),
        (dict(bottom=-0.1), "bottom=-0.1: must be greater than or equal to 0"),
        (dict(bottom=1.5), "bottom=1.5: must be less than or equal to 1"),
        (dict(top=0.7, bottom=0.4), "top [+] bottom = 1.1 is more than 1"),
        (dict(kappa=2), "kappa=2: must be less than or equal to 1"),
        (dict(segment_ratio=0), "segment_ratio=0: must be greater than 0"),
        (dict(segment_ratio=1.01), "segment_ratio=1.01: must be less than or equal to 1"),
        (dict(sampling="some"), "sampling='some': must be 'exact' or 'released'"),
        (dict(level="some"), "level='some': must be 'trajectory' or 'step'"),
        (dict(cost_limit="5"), "cost_limit='5': must be a valid number"),
        (dict(kappa=None), "kappa=None: must be a valid number"),
        (dict(seed=-1), "seed=-1: must be greater than or equal to 0"),
    ],
)
def test_settings_out_of_range_are_refused(data, settings, message):
    with pytest.raises(ConfigError, match=message) as caught:
        partition(data, **{"cost_limit": 5, "segment_ratio": 0.25, **settings})
    assert not isinstance(caught.value, PartitionError)  # of no data would they be right


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(segment_ratio=0.01), "less than one step. Use at least 0.05"),
        (dict(segment_ratio=0.9, sampling="released"), "none for T=20, L=18"),
        (dict(cost_limit=500), "no segment is undesirable: none costs more than 125 and bottom is 0. Lower cost_limit"),
    ],
)
def test_settings_that_leave_a_class_of_this_data_empty_are_refused(data, settings, message):
    with pytest.raises(PartitionError, match=message):
        partition(data, **{"cost_limit": 5, "segment_ratio": 0.25, **settings})


def test_a_limit_below_every_segment_names_the_smallest_cost():
    data = one_step_rewards(returns=[1, 2], costs=[3, 5])
    with pytest.raises(PartitionError, match=r"smallest cost of a segment is 3\. Raise cost_limit to at least 3"):
        partition(data, cost_limit=2, segment_ratio=1.0)


def test_a_bottom_that_takes_every_safe_segment_is_refused():
    data = one_step_rewards(returns=[1, 2], costs=[0, 5])
    with pytest.raises(PartitionError, match="the bottom share took all 1 safe segments"):
        partition(data, cost_limit=2, top=0.5, bottom=0.5, segment_ratio=1.0)


def test_episodes_without_a_segment_are_named_where_a_class_is_empty():
    data = one_step_rewards(returns=[1, 2, 3], costs=[0, 9, 2], lengths=[8, 5, 5])
    message = (
        r"no segment is undesirable: none costs more than 3 and bottom is 0\. 2 of 3 episodes, 1 of them unsafe, are "
        r"shorter than 8 steps and have no segment: lower segment_ratio, .* or set bottom above 0"
    )
    with pytest.raises(PartitionError, match=message):
        partition(data, cost_limit=3)
    # Two episodes of 4 steps run together: the message leads to the mark, and not to the limit alone.
    joined = one_step_rewards(returns=[1, 2, 3, 4], costs=[0, 1, 5, 1], lengths=[4, 4, 8, 4])
    message = (
        r"3 of 4 episodes, 0 of them unsafe, .* inside episode 2, the longest with its 8 steps, or raise cost_limit"
    )
    with pytest.raises(PartitionError, match=message):
        partition(joined, cost_limit=2)


def test_data_without_costs_is_not_told_to_lower_the_limit():
    with pytest.raises(PartitionError, match=r"bottom is 0\. Set bottom above 0"):
        partition(one_step_rewards(returns=[1, 2], costs=[0, 0]), cost_limit=2)


def test_the_defaults_are_those_of_a_config():
    for name, parameter in inspect.signature(partition).parameters.items():
        if parameter.default is not inspect.Parameter.empty:
            assert parameter.default == getattr(TracConfig(), name), name


@pytest.mark.parametrize(("key", "value"), [("costs", 3.4e38), ("rewards", -1e20)])
def test_one_huge_value_changes_its_own_episode_alone(key, value):
    data = trac.load("BallRun")
    before = trac.partition(data, cost_limit=20)
    values = getattr(data, key).copy()
    values[data.starts[400] + 50] = value
    found = trac.partition(dataclasses.replace(data, **{key: values}), cost_limit=20)
    assert not (data.episode_costs[found.episodes[found.labels == 1]] > 20).any()
    sums = {
        name: dict(zip(s.episodes, getattr(s, key.replace("rewards", "returns")), strict=True))
        for name, s in (("before", before), ("found", found))
    }
    both = [e for e in sums["before"] if e in sums["found"] and e != 400]
    assert len(both) > 300 and all(sums["before"][e] == sums["found"][e] for e in both)


def test_a_cost_of_just_the_limit_in_float32_is_safe():
    data = one_step_rewards([1, 2, 3], [0, 0, 9], length=20)
    costs = data.costs.copy()
    costs[20:40] = 0.1
    assert data.episode_costs[1] == 0 and costs[20:40].sum(dtype=np.float64) > 2
    found = partition(dataclasses.replace(data, costs=costs), cost_limit=2, top=1.0, segment_ratio=1.0)
    assert found.labels.tolist() == [1, 1, 0]


@pytest.mark.parametrize(("ratio", "length"), [(0.29, 29), (0.57, 57), (0.295, 29), (0.01, 1), (1.0, 100)])
def test_lengths_are_those_of_decimal_numbers(ratio, length):
    assert trac.partition(trac.load("BallRun"), cost_limit=20, segment_ratio=ratio).length == length


def test_shares_are_those_of_decimal_numbers():
    arrays = dict(observations=np.zeros((101, 1)), actions=np.zeros((101, 1)), rewards=np.arange(101))
    costs = np.arange(101) == 100
    data = from_arrays("own", **arrays, costs=costs, terminals=np.ones(101), timeouts=np.zeros(101))
    segments = trac.partition(data, cost_limit=0, top=0.55)  # 0.55 * 100 is 55.00000000000001
    assert segments.labels.sum() == 55


def test_a_safe_segment_in_neither_class_is_no_warning_to_others():
    # Its cost is above the limit by float32's rounding, and its return between the two shares.
    costs = np.float32(0.1) * np.repeat([20, 20, 20, 30], 1)
    arrays = dict(observations=np.zeros((4, 1)), actions=np.zeros((4, 1)), rewards=[0, 1, 2, 3])
    data = from_arrays("own", **arrays, costs=costs, terminals=np.ones(4), timeouts=np.zeros(4))
    segments = trac.partition(data, cost_limit=2.0, top=0.3, bottom=0.3)
    assert segments.episodes.tolist() == [0, 2, 3] and segments.labels.tolist() == [0, 1, 0]
