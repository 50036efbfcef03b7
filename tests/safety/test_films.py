"""Films of the tasks of Safety-Gymnasium and MetaDrive: make test-safety."""

import numpy as np
import pytest
import suite_films

pytest.importorskip("safety_gymnasium", reason="make test-safety runs these", exc_type=ImportError)

import trac
from trac.teaching.film import film, measures


class Forward:
    def act(self, observation):
        return np.array([0.1, 1.0], dtype=np.float32)


@pytest.mark.parametrize("task", ["PointCircle1", "CarCircle1"])
def test_a_film_of_a_circle_has_the_cost_that_evaluation_sees(task):
    assert measures(task) == {"x_lim": 1.125, "radius": 1.5}
    episode = trac.evaluate(Forward(), task=task, cost_limit=20, episodes=1, seed=3, workers=1).episodes.iloc[0]
    assert f"x: cost {episode.cost:.0f} of 20" in film(
        {"x": Forward()}, task=task, cost_limit=20, seed=int(episode.seed)
    )


def test_a_film_of_a_road_has_the_cost_that_evaluation_sees_and_starts_in_a_lane():
    episode = trac.evaluate(Forward(), task="easysparse", cost_limit=1, episodes=1, seed=3, workers=1).episodes.iloc[0]
    drive = suite_films.drive(Forward(), "easysparse", int(episode.seed))
    (positions, costs), (own, *others) = drive
    assert costs.sum() == pytest.approx(episode.cost) and len(costs) == episode.length
    np.testing.assert_allclose(own.mean(1), positions)
    assert others and all(len(ends) == len(positions) for ends in others)
    road = suite_films.road("easysparse")
    assert min(np.linalg.norm(line - positions[0], axis=1).min() for kind, line in road if kind == "lane") < 3
    assert f"x: cost {episode.cost:.0f} of 1" in suite_films.road_film({"x": drive}, road, limit=1)
