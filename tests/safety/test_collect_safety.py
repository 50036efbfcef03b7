"""Logs of the tasks of Safety-Gymnasium and MetaDrive: make test-safety."""

from dataclasses import replace

import collect
import collect_learning
import numpy as np
import pytest

from trac.data.trajectories import KEYS

pytest.importorskip("safety_gymnasium", reason="make test-safety runs these", exc_type=ImportError)

SMALL = dict(steps=600, checkpoint_every=200, learning_starts=100, rollouts=1, batch_size=16, max_cost=1000, refill=0)


@pytest.mark.parametrize("task", ["HopperVelocity", "PointGoal1", "easysparse"])
def test_a_killed_collection_goes_on_to_the_same_bits(task, tmp_path, monkeypatch):
    settings, course = replace(collect.SETTINGS[task], **SMALL), tmp_path / "course"
    whole = collect_learning.collect(task, settings, seed=3)
    monkeypatch.setattr(collect_learning, "SAVE_EVERY", 0)
    real, calls = collect_learning.relabel, []

    def killed_in_the_second(*args):
        calls.append(real(*args))
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(collect_learning, "relabel", killed_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        collect_learning.collect(task, settings, seed=3, state=course)
    again = collect_learning.collect(task, settings, seed=3, state=course)
    assert len(calls) == 2 + 2 and len(again) == len(whole) >= 3
    for one, other in zip(whole, again, strict=True):
        for key in KEYS:
            np.testing.assert_array_equal(one[key], other[key])


def test_random_search_repeats_bit_for_bit():
    settings = replace(collect.SETTINGS["SwimmerVelocity"], steps=16_000, max_cost=1000, refill=0)
    first, second = (collect_learning.collect("SwimmerVelocity", settings, seed=3) for _ in range(2))
    assert len(first) == len(second) == 16 + settings.rollouts
    for one, other in zip(first, second, strict=True):
        for key in KEYS:
            np.testing.assert_array_equal(one[key], other[key])
    assert len({episode["costs"].sum() for episode in first}) > 1
