"""What the films of the suites draw of MetaDrive, whose simulator is not needed here."""

from xml.etree import ElementTree

import numpy as np
from suite_films import road_film

SVG = "{http://www.w3.org/2000/svg}"


def drawing(lengths=(40, 20)):
    """Episodes of such lengths in a lane, with a car ahead and another far away."""
    drives = {}
    for name, steps in zip("ab", lengths, strict=True):
        positions = np.column_stack([np.linspace(0, 50, steps + 1), np.zeros(steps + 1)])
        own, ahead, far = (positions[:, None] + [[x - 2, 0], [x + 2, 0]] for x in (0, 8, 500))
        drives[name] = (positions, np.ones(steps)), [own, ahead, far]
    lane = [(kind, np.array([[-5.0, y], [99, y]])) for kind, y in (("lane", 0), ("broken", -1.8), ("side", 1.8))]
    return ElementTree.fromstring(road_film(drives, lane, limit=30))


def test_each_episode_has_its_cost_and_the_cars_in_sight():
    views = drawing().findall(f"{SVG}g")
    assert [view.findtext(f"{SVG}text") for view in views] == ["a: cost 40 of 30, over the limit", "b: cost 20 of 30"]
    for view in views:
        assert [line.attrib["stroke"] for line in view.iter(f"{SVG}line")] == ["#222", "#888"]


def test_an_episode_that_is_over_waits_at_its_end():
    moves = [
        line.find(f"{SVG}animate").attrib["values"].split(";")
        for view in drawing().findall(f"{SVG}g")
        for line in view.iter(f"{SVG}line")
    ]
    assert {len(values) for values in moves} == {21 + 5}  # every second step, and a quarter more
    assert len(set(moves[0][10:21])) == 11 and len(set(moves[2][10:])) == 1
