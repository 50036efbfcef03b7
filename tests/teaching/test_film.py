from xml.etree import ElementTree

import numpy as np
import pytest

import trac
from trac.teaching.film import film

SVG = "{http://www.w3.org/2000/svg}"


class Straight:
    """Pushes to one side, at full strength."""

    def act(self, observation: np.ndarray) -> np.ndarray:
        return np.array([1.0, 0.0], dtype=np.float32)


def test_a_film_ends_with_the_cost_of_the_episode_that_evaluation_sees() -> None:
    episode = trac.evaluate(Straight(), task="BallCircle", cost_limit=20, episodes=1, seed=3).episodes.iloc[0]
    assert episode.cost > 20
    drawing = ElementTree.fromstring(
        film({"a < b": Straight()}, task="BallCircle", cost_limit=20, seed=int(episode.seed))
    )
    text = drawing.find(f".//{SVG}text")
    assert text is not None and text.text == f"a < b: cost {episode.cost:.0f} of 20, over the limit"
    width = float(drawing.findall(f".//{SVG}g/{SVG}rect")[-1].attrib["width"])
    assert width == pytest.approx(640)  # the costliest bar fills its view


def test_each_animation_has_one_value_for_each_drawn_step_and_ends_as_the_still() -> None:
    drawing = ElementTree.fromstring(film({"x": Straight()}, task="BallRun", cost_limit=20, seed=3))
    moves = {a.attrib["attributeName"]: a.attrib["values"].split(";") for a in drawing.iter(f"{SVG}animate")}
    assert len({len(values) for values in moves.values()}) == 1
    ball = drawing.find(f".//{SVG}circle")
    assert ball is not None and float(moves["cx"][-1]) == float(ball.attrib["cx"])
    assert float(moves["stroke-dashoffset"][-1]) == 0


def test_tasks_without_a_plan_view_are_refused() -> None:
    with pytest.raises(ValueError, match="CarGoal1: films are of"):
        film({"x": Straight()}, task="CarGoal1", cost_limit=20, seed=3)


def test_each_policy_is_held_to_its_own_limit() -> None:
    policies, limits = {"a": Straight(), "b": Straight()}, {"a": 20, "b": 1000}
    drawing = ElementTree.fromstring(film(policies, task="BallCircle", cost_limit=limits, seed=3))
    first, second = (text.text or "" for text in drawing.iter(f"{SVG}text"))
    assert first.endswith("of 20, over the limit") and second.endswith("of 1000")
