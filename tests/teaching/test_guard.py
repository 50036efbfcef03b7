import numpy as np
import pytest

import trac
from trac.teaching.guard import Guard, distance_to


class Push:
    def __init__(self, strength: float) -> None:
        self.action = np.array([strength, 0.0], dtype=np.float32)

    def act(self, observation: np.ndarray) -> np.ndarray:
        return self.action


def test_the_distance_is_that_of_the_nearest_step_in_units_of_the_logs_spread() -> None:
    generator = np.random.default_rng(0)
    observations, actions = generator.normal(size=(50, 3)) * [1, 10, 0], generator.normal(size=(50, 2))
    steps = np.hstack([observations, actions])
    spread = np.where(steps.std(0) == 0, 1, steps.std(0))
    asked = generator.normal(size=(4, 5, 5))
    expected = np.linalg.norm((asked[..., None, :] - steps) / spread, axis=-1).min(-1)
    found = distance_to(observations, actions)(asked[..., :3], asked[..., 3:])
    np.testing.assert_allclose(found, expected)


def test_the_fallback_acts_once_the_budget_is_spent_and_each_episode_has_its_own() -> None:
    guard = Guard(Push(1), Push(-1), budget=2)
    for _ in range(2):
        guard.start(0)
        for cost, expected in ((1, 1), (0, 1), (1, 1), (0, -1), (0, -1)):
            assert guard.act(np.zeros(3))[0] == expected
            guard.observe(0.0, cost)
    assert guard.taken == [[False] * 3 + [True] * 2] * 2


def test_the_fallback_acts_only_in_the_steps_that_are_far_from_the_log() -> None:
    distance = distance_to(np.array([[-1.0], [1.0]]), np.array([[1.0, 0.0], [1.0, 0.0]]))
    guard = Guard(Push(1), Push(-1), distance=distance, threshold=0.5)
    guard.start(0)
    assert [float(guard.act(np.array([place]))[0]) for place in (1.0, 3.0, -1.2)] == [1, -1, 1]


def test_a_guard_is_evaluated_like_a_policy_and_one_that_never_acts_changes_nothing() -> None:
    options = dict(task="BallRun", cost_limit=20, episodes=2, seed=0, workers=1)
    alone = trac.evaluate(Push(1), **options).episodes
    guard = Guard(Push(1), Push(-1))
    watched = trac.evaluate(guard, **options).episodes
    assert alone.equals(watched) and np.shape(guard.taken) == (2, 100) and not np.any(guard.taken)
    spared = trac.evaluate(Guard(Push(1), Push(-1), budget=1), **options).episodes
    assert (spared["return"] < alone["return"]).all()


def test_a_guard_asks_no_policy_that_remembers() -> None:
    inner = Guard(Push(1), Push(-1))
    for policies in ((inner, Push(-1)), (Push(1), inner)):
        with pytest.raises(ValueError, match="a Guard remembers the episode, and a guard asks for single actions"):
            Guard(*policies)


def test_a_guard_that_no_episode_was_started_for_says_so() -> None:
    with pytest.raises(RuntimeError, match=r"call start\(seed\) at the beginning"):
        Guard(Push(1), Push(-1)).act(np.zeros(3))
