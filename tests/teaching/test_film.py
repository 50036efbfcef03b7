from xml.etree import ElementTree

import numpy as np
import pytest

import trac
from trac.teaching.film import draw, film

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


def test_a_film_of_a_changed_simulator_has_the_cost_that_evaluation_sees_there() -> None:
    changed = {"boundary": 0.8}
    options = dict(task="BallCircle", cost_limit=20, env_options=changed)
    episode = trac.evaluate(Straight(), episodes=1, seed=3, workers=1, **options).episodes.iloc[0]
    drawing = film({"x": Straight()}, seed=int(episode.seed), **options)
    unchanged = film({"x": Straight()}, task="BallCircle", cost_limit=20, seed=int(episode.seed))
    assert f"x: cost {episode.cost:.0f} of 20" in drawing and f"x: cost {episode.cost:.0f} of 20" not in unchanged


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


def test_an_episode_of_known_positions_is_drawn_to_scale() -> None:
    positions = np.column_stack([np.linspace(0, 9, 11), np.zeros(11)])
    costs = (positions[1:, 0] > 6).astype(float)
    drawing = ElementTree.fromstring(draw({"x": (positions, costs)}, task="BallCircle", cost_limit=2))
    text = drawing.find(f".//{SVG}text")
    assert text is not None and text.text == f"x: cost {costs.sum():.0f} of 2, over the limit"
    ball, ground = drawing.findall(f".//{SVG}circle")[::-1]
    across = float(ball.attrib["cx"]) - float(ground.attrib["cx"])  # 9 m, and the circle's radius is 7 m
    assert across / float(ground.attrib["r"]) == pytest.approx(9 / 7, rel=0.01)


def test_a_film_without_a_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a policy"):
        film({}, task="BallCircle", cost_limit=20, seed=3)


def test_each_policy_is_held_to_its_own_limit() -> None:
    policies, limits = {"a": Straight(), "b": Straight()}, {"a": 20, "b": 1000}
    drawing = ElementTree.fromstring(film(policies, task="BallCircle", cost_limit=limits, seed=3))
    first, second = (text.text or "" for text in drawing.iter(f"{SVG}text"))
    assert first.endswith("of 20, over the limit") and second.endswith("of 1000")


def test_lanes_stand_side_by_side_when_asked() -> None:
    episodes = dict.fromkeys("ab", (np.array([[0.0, 0], [5, 1], [9, 0]]), np.zeros(2)))
    corners = [
        [g.attrib["transform"] for g in ElementTree.fromstring(drawing).findall(f"{SVG}g")]
        for columns in (None, 2)
        for drawing in [draw(episodes, task="BallRun", cost_limit=2, columns=columns)]
    ]
    assert corners[0][1].startswith("translate(0 ") and corners[1][1] == "translate(325 0)"
