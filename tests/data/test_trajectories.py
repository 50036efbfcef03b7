import dataclasses
import warnings

import numpy as np
import pytest

import trac
from trac.baselines import sac_lag
from trac.baselines.bc import bc_safe
from trac.baselines.cpq import CPQConfig, cpq
from trac.data.filters import filtered
from trac.data.hdf5 import read, write
from trac.data.packaged import REPOSITORY, packaged
from trac.data.signs import sums_so_far
from trac.data.tasks import TASKS, UnknownTask
from trac.data.trajectories import KEYS, DatasetError, from_arrays
from trac.ope import fitted_q, importance_sampling


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
        (
            broken("actions", with_value(1.5)),
            r"actions must lie in \[-1, 1\]; the largest is 1.5, first in row 7. Rescale them as 2 \(a - low\) / .*"
            r"RescaleAction\(env, -1, 1\)",
        ),
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
        (broken("timeouts", lambda a: [[1, 2], [3]]), "timeouts is not an array of numbers"),
        (broken("rewards", lambda a: a + 1j), "rewards is not an array of numbers .its type is complex128"),
        (broken("rewards", lambda a: np.ma.masked_greater(a, 1)), "rewards is not .* .some entries are masked"),
        (broken("rewards", lambda a: a.astype(str)), "rewards is not an array of numbers .its type is <U"),
        (broken("rewards", lambda a: np.where(a > 1, 1e300, a)), "rewards has a NaN or infinite value"),
        (broken("next_observations", lambda a: 5), r"next_observations has shape \(\), observations \(240, 8\)"),
    ],
)
def test_bad_arrays_are_refused_with_the_reason(arrays, change, message):
    change(arrays)
    with pytest.raises(DatasetError, match=message):
        from_arrays("BallCircle", **arrays)


def test_the_callers_arrays_are_copied(arrays):
    arrays = {key: np.asarray(value, dtype=np.float32) for key, value in arrays.items()}
    data = from_arrays("BallCircle", **arrays)
    for key in KEYS:
        before = getattr(data, key).copy()
        arrays[key][...] = 7
        np.testing.assert_array_equal(getattr(data, key), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: dict(costs=d.costs[:, None]), r"costs has shape \(240, 1\), and the episodes have 240 steps in all"),
        (lambda d: dict(rewards=d.rewards[:-1]), r"rewards has shape \(239,\)"),
        (lambda d: dict(costs=-d.costs), "costs must be 0 or more; the smallest is -1"),
        (lambda d: dict(costs=d.costs * np.nan), "costs has a NaN or infinite value, first in row 0"),
        (lambda d: dict(actions=d.actions * 3), r"actions must lie in \[-1, 1\]"),
        (
            lambda d: dict(timeouts=np.roll(d.timeouts, 1)),
            "the episodes do not end where terminals or timeouts are true",
        ),
        (lambda d: dict(_next=d.observations[:3]), "next_observations has shape"),
    ],
)
def test_replaced_arrays_are_checked_too(data, change, message):
    with pytest.raises(DatasetError, match=f"BallCircle: {message}"):
        dataclasses.replace(data, **change(data))


def test_sums_follow_what_is_changed_in_place(data):
    before = data.returns + data.episode_costs
    data.rewards[:] += 1
    data.costs[:] += 1
    np.testing.assert_allclose(data.returns + data.episode_costs, before + 40, rtol=1e-6)


def test_costs_that_are_sums_so_far_are_told(arrays):
    sums = np.cumsum(arrays["costs"].reshape(12, 20), axis=1).ravel()
    with pytest.warns(UserWarning, match="the arrays: costs rise within episodes and never fall"):
        from_arrays("BallCircle", **arrays | {"costs": sums})
    late = (np.arange(240) % 20 > 15).astype(float)  # outside to the end
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        arrays.pop("next_observations")
        for costs in (arrays["costs"], late, np.ones(240), np.zeros(240)):
            from_arrays("own", **arrays | {"costs": costs})


def in_every_third(change):
    """The costs with every third of the episodes of 100 steps changed."""

    def changed(costs):
        third = np.repeat(np.arange(len(costs) // 100) % 3 == 0, 100)
        return np.where(third, change(costs), costs)

    return changed


def so_far(costs):
    return np.cumsum(costs.reshape(-1, 100), axis=1).ravel()


def to_go(costs):
    return np.cumsum(costs.reshape(-1, 100)[:, ::-1], axis=1)[:, ::-1].ravel()


def standardised(values):
    return (values - values.mean(axis=0)) / values.std(axis=0)


def to_unit(values):
    return (values - values.min(axis=0)) / np.ptp(values, axis=0)


def emptied(values):
    """With the last two episodes of 100 steps 0 in each step."""
    return np.concatenate([values[:-200], 0 * values[-200:]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(costs=lambda a: 0 * a["costs"]), "no step costs anything"),
        (dict(timeouts=lambda a: np.arange(64400) % 10 == 9), "the longest episode has 10 steps, .* BallRun have 100"),
        (
            dict(rewards=lambda a: 0.01 * a["rewards"]),
            r"the returns lie in \[.*, 13\.\d+\], and DSRL's range",
        ),
        (
            dict(observations=lambda a: a["observations"] + 1.7e9),
            r"column 0 .* reaches 1\.7e\+09 .* steps of 128",
        ),
        (dict(rewards=lambda a: a["rewards"] + 1e7), "column 0 of the rewards reaches 1e.07 and is only"),
        (
            dict(observations=lambda a: a["observations"] * 1e3),
            "has a standard deviation of .*, and networks",
        ),
        (dict(costs=lambda a: to_go(a["costs"])), "costs fall within episodes and never rise"),
        (dict(costs=lambda a: np.where(a["timeouts"], 0, so_far(a["costs"]))), "costs rise within episodes and never"),
        (
            dict(costs=lambda a: in_every_third(so_far)(a["costs"])),
            "in 193 of 588 episodes with costs, these rise again and again and never fall, as sums of the costs so far",
        ),
        (dict(costs=lambda a: in_every_third(to_go)(a["costs"])), "these fall again and again and never rise, as sums"),
        (
            dict(timeouts=lambda a: 0 * a["timeouts"], terminals=lambda a: np.arange(64400) % 10 == 9),
            "the longest episode has 10 steps, .* BallRun have 100",
        ),
        (dict(costs=lambda a: np.repeat(to_go(a["costs"])[::100], 100)), "costs are the same within each episode"),
        (
            dict(observations=lambda a: a["next_observations"], next_observations=lambda a: a["observations"]),
            "next_observations are not the observations of the rows that follow",
        ),
        (dict(next_observations=lambda a: a["observations"]), "next_observations are not the observations"),
        (dict(observations=lambda a: standardised(a["observations"])), "each column .* scaled to the same width"),
        (dict(observations=lambda a: to_unit(a["observations"])), "each column .* scaled to the same width"),
        (dict(actions=lambda a: 0 * a["actions"]), "the actions are the same in every row"),
        (
            {key: lambda a: np.repeat(a["observations"][99::100], 100, axis=0) for key in KEYS[:2]},
            "the observations are the same in all steps of an episode",
        ),
        (
            dict(terminals=lambda a: 1 - a["timeouts"], timeouts=lambda a: 0 * a["timeouts"]),
            "most episodes have one step",
        ),
        (dict(actions=lambda a: (a["actions"] + 1) / 2), r"all actions lie in \[0, 1\]"),
        (
            dict(rewards=lambda a: np.repeat(to_go(a["rewards"])[::100], 100)),
            "rewards are the same within each episode",
        ),
        (
            {key: lambda a, key=key: emptied(a[key]) for key in ("observations", "actions", "rewards", "costs")},
            "2 of 644 episodes are 0 in every step",
        ),
        (dict(next_observations=lambda a: a["next_observations"][::-1]), "next_observations are not the observations"),
    ],
)
def test_a_log_that_is_hardly_what_it_was_meant_to_be_is_told(change, message):
    data = trac.load("BallRun")
    arrays = {name: getattr(data, name) for name in KEYS}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from_arrays("BallRun", **arrays)
    with pytest.warns(UserWarning, match=message):
        from_arrays("BallRun", **arrays | {name: make(arrays) for name, make in change.items()})


def test_costs_of_each_step_that_rise_for_a_while_are_not_taken_for_sums(arrays):
    """Speeds above a limit, distances to an obstacle in whole numbers, and episodes of three steps."""
    arrays.pop("next_observations")
    time, first = np.tile(np.arange(20.0), 12), np.arange(240) < 40
    speeding, near = np.maximum(np.sqrt(time) - 2, 0), np.maximum(time - 16, 0)
    short = dict(costs=np.tile([1.0, 2.0, 4.0], 80), timeouts=np.tile([0, 0, 1], 80))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for costs in (speeding, near):
            from_arrays("own", **arrays | {"costs": np.where(first, costs, arrays["costs"])})
        assert not sums_so_far(short["costs"], np.full(80, 3)).any()


def test_few_short_episodes_that_ended_early_are_not_called_pieces():
    data = trac.load("HopperVelocity")
    short = data.lengths < 500
    rows = np.repeat(short, data.lengths)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        few = from_arrays("HopperVelocity", **{name: getattr(data, name)[rows] for name in KEYS})
    assert not said and 0 < len(few.starts) == short.sum()


@pytest.mark.parametrize("task", sorted({*packaged(), *(path.stem for path in REPOSITORY.glob("*.hdf5"))}))
def test_no_log_of_the_book_is_told_to_be_another_than_it_is(task):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        data = trac.load(task)
    assert [str(warning.message) for warning in said] == [] and data.task == task


def test_observations_that_were_changed_without_the_next_ones_are_refused(tmp_path, arrays):
    write(tmp_path / "a.hdf5", from_arrays("BallCircle", **arrays))
    lazy = read(tmp_path / "a.hdf5", "BallCircle")
    assert lazy.next_observations is lazy.next_observations
    policy = trac.policy.Policy(8, 2, hidden=(8,))
    for data in (from_arrays("BallCircle", **arrays), lazy):
        data.check_next()
        data.observations[:] -= 1
        for use in (
            lambda data: cpq(data, CPQConfig(cost_limit=5, eval_episodes=0)),
            lambda data: fitted_q(data, policy, updates=1),
            lambda data: filtered(data, noise_scale=0.1),
            lambda data: write(tmp_path / "b.hdf5", data),
            lambda data: sac_lag.fill(None, data),
        ):
            with pytest.raises(DatasetError, match="observations were changed in place, and next_observations were"):
                use(data)
        trac.partition(data, cost_limit=5)  # reads neither
        data.next_observations[:] -= 1
        data.check_next()


def test_observations_scaled_in_place_are_told_before_they_are_used():
    data = trac.load("BallRun")
    data.observations[:] = standardised(data.observations + 0)
    with pytest.warns(UserWarning, match="BallRun: each column of the observations is scaled to the same width"):
        trac.partition(data, cost_limit=20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trac.partition(data, cost_limit=20)  # once is enough


def test_the_range_of_a_known_task_is_dsrls(data):
    for changes in (dict(task="CarRun"), dict(reward_range=(0, 1))):
        with pytest.raises(DatasetError, match=r"reward_range is .*, and DSRL's for (CarRun|BallCircle) is .*from_arr"):
            dataclasses.replace(data, **changes)
    assert dataclasses.replace(data, task="mine").reward_range == data.reward_range


def test_a_range_that_is_not_the_returns_is_told(arrays):
    for wrong in ((1000, 2000), (0, 1)):
        with pytest.warns(UserWarning, match="and reward_range is"):
            from_arrays("own", **arrays, reward_range=wrong)


def test_single_wrong_next_observations_are_told_after_a_replacement_too():
    data = trac.load("BallRun")
    wrong = data.next_observations.copy()
    wrong[[5, 7, 99]] += 1  # the last one ends an episode, where anything may follow
    with pytest.warns(UserWarning, match="in 2 of 63756 rows within episodes, first in row 5"):
        dataclasses.replace(data, _next=wrong)


def test_arrays_changed_in_place_are_checked_before_they_are_used(data):
    data.costs[7] = -1
    for use, config in ((trac.train, trac.TracConfig()), (bc_safe, trac.TracConfig()), (cpq, CPQConfig())):
        with pytest.raises(DatasetError, match="costs must be 0 or more; the smallest is -1"):
            use(data, config.replace(cost_limit=5, eval_episodes=0))
    with pytest.raises(DatasetError, match="costs must be 0 or more; the smallest is -1"):
        trac.partition(data, cost_limit=5)
    for use in (
        lambda: fitted_q(data, trac.policy.Policy(8, 2, hidden=(8,)), updates=1),
        lambda: importance_sampling(data, np.zeros(len(data))),
        lambda: filtered(data, noise_scale=0.1),
        lambda: sac_lag.fill(None, data),
    ):
        with pytest.raises(DatasetError, match="costs must be 0 or more; the smallest is -1"):
            use()


def test_an_unknown_task_names_the_nearest():
    with pytest.raises(UnknownTask, match="did you mean BallCircle"):
        trac.load("ballcircel")
    with pytest.raises(UnknownTask, match="there are AntCircle"):
        trac.load("zzzz")
    with pytest.raises(UnknownTask, match="unknown task None"):
        trac.load(None)


def test_a_task_without_packaged_data_says_what_to_do():
    with pytest.raises(
        DatasetError, match=r"CarPush1 has no packaged dataset .*book/data.*SafetyCarPush1Gymnasium-v0-200-2871\.hdf5"
    ):
        trac.load("CarPush1")


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
