"""Films of one task of each of DSRL's suites: two policies from the same start, of which one keeps the limit.

    python book/suite_films.py                   # book/figures/film_bullet.svg
    .venv-safety/bin/python book/suite_films.py  # film_safety_gymnasium.svg and film_metadrive.svg

The policies have the settings of suite_table.py, and seed 0. They are trained anew, within minutes. A film shows one
of the evaluation's episodes, and who keeps the limit there need not keep it in the mean: BCQ-Lag does not.
"""

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from baselines_table import train
from quick_table import EVALUATION_SEED
from suite_table import here, segment_ratio

import trac
from trac.data.files import atomic
from trac.envs import make
from trac.teaching.film import Episode, animate, draw, episode, panels

FIGURES = Path(__file__).resolve().parent / "figures"
SEED, WIDTH, SECONDS = 0, 640, 8
STARTS = [int(seed) for seed in np.random.SeedSequence(EVALUATION_SEED + SEED).generate_state(20)]  # of the evaluation
FILMS = {  # the methods, and the start
    "AntRun": (("BC-Safe", "BC-All"), STARTS[3]),
    "PointCircle1": (("BCQ-Lag", "BC-All"), STARTS[0]),
    "easysparse": (("BC-Safe", "BC-All"), STARTS[0]),
}
AROUND = np.array([12, 6])  # what is shown of the road around the paths [m]
DOWN = [1, -1]  # MetaDrive's y points to the right of the driver who looks along x


def policies(task: str, limit: float) -> dict[str, Any]:
    """By the name of the method, trained on one thread."""
    torch.set_num_threads(1)
    data = trac.load(task)
    settings = dict(task=task, cost_limit=limit, seed=SEED, eval_episodes=0)
    ratio = segment_ratio(int(data.lengths.max()))
    return {method: train(data, method, ratio, **settings).policy for method in FILMS[task][0]}


def drive(policy: Any, task: str, start: int) -> tuple[Episode, list[np.ndarray]]:
    """An episode of MetaDrive, and where each car's rear and front were (L + 1, 2, 2) [m], the policy's own first."""
    cars: dict[str, list[np.ndarray]] = {}

    def look(env: Any) -> np.ndarray:
        own, others = env.simulator.vehicle, env.simulator.engine.traffic_manager.spawned_objects
        for name, car in {"own": own, **others}.items():
            half = car.LENGTH / 2 * np.array([np.cos(car.heading_theta), np.sin(car.heading_theta)])
            cars.setdefault(name, []).append(np.array([car.position - half, car.position + half]) * DOWN)
        return np.array(own.position) * DOWN

    return episode(policy, task=task, seed=start, look=look), [np.array(ends) for ends in cars.values()]


def road(task: str) -> list[tuple[str, np.ndarray]]:
    """The lines of MetaDrive's road in the car's direction, (n, 2) [m], and their kinds: middle and sides of lanes."""
    env = make(task)
    env.reset(seed=0)  # every seed has the same road
    unwrapped: Any = env.unwrapped
    found = []
    for lane in chain.from_iterable(unwrapped.simulator.current_map.road_network.get_positive_lanes()):
        along = np.linspace(0, lane.length, 2 + int(lane.length / 4))
        for kind, side in zip(("lane", *lane.line_types), (0, -lane.width / 2, lane.width / 2), strict=True):
            found.append((kind, np.array([lane.position(step, side) for step in along]) * DOWN))
    env.close()
    return found


def road_film(drives: dict[str, tuple[Episode, list[np.ndarray]]], lines: list, limit: float) -> str:
    """The film of MetaDrive: the road, the paths and the cars. An episode that is over waits for the longest one."""
    everywhere = np.concatenate([positions for (positions, _), _ in drives.values()])
    low, high = everywhere.min(0) - AROUND, everywhere.max(0) + AROUND
    scale = WIDTH / (high - low)[0]
    steps = max(len(costs) for (_, costs), _ in drives.values())

    def pixels(points: np.ndarray) -> np.ndarray:
        return (points - [low[0], high[1]]) * [scale, -scale]

    looks = {  # of the lines, from the bottom up; to touch a dashed one costs, and ends the episode
        "lane": f'stroke="#cfd8ea" stroke-width="{3.6 * scale:.1f}"',
        "broken": 'stroke="white" stroke-width="1.5" stroke-dasharray="10 10"',
        "continuous": 'stroke="#222" stroke-dasharray="6 4"',
        "side": 'stroke="#222" stroke-dasharray="6 4"',
    }
    drawn = []
    for kind, look in looks.items():
        paths = ["M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in pixels(line)) for found, line in lines if found == kind]
        drawn.append(f'<path d="{"".join(paths)}" fill="none" {look}/>')
    episodes, ground, size = {}, {}, scale * (high - low)
    for view, (name, ((positions, costs), cars)) in enumerate(drives.items()):
        wait = (0, steps - len(costs))
        episodes[name] = np.pad(positions, (wait, (0, 0)), mode="edge"), np.pad(costs, wait)
        clip = f'<clipPath id="view{view}"><rect width="{size[0]:.1f}" height="{size[1]:.1f}"/></clipPath>'
        ground[name] = [clip, f'<g clip-path="url(#view{view})">', *drawn]
        for car, ends in enumerate(cars):
            ends = pixels(np.pad(ends, (wait, (0, 0), (0, 0)), mode="edge")[::2])
            if not ((ends > 0) & (ends < size)).all(2).any():
                continue
            values = dict(zip(("x1", "y1", "x2", "y2"), ends.reshape(-1, 4).T.tolist(), strict=True))
            still = " ".join(f'{key}="{moves[-1]:.1f}"' for key, moves in values.items())
            moves = "".join(animate(key, moves, SECONDS) for key, moves in values.items())
            color = "#888" if car else "#222"
            ground[name].append(f'<line {still} stroke="{color}" stroke-width="{1.9 * scale:.1f}">{moves}</line>')
        ground[name].append("</g>")
    return panels(episodes, ground, low=low, high=high, scale=scale, columns=1, cost_limit=limit, seconds=SECONDS)


def main() -> None:
    """Write the films of the tasks that can be simulated here."""
    for task in [task for task in here() if task in FILMS]:
        suite, limit, start = trac.TASKS[task].suite, trac.TASKS[task].cost_limits[1], FILMS[task][1]
        found = policies(task, limit)
        if suite == "metadrive":
            drawing = road_film({name: drive(policy, task, start) for name, policy in found.items()}, road(task), limit)
        else:
            episodes = {name: episode(policy, task=task, seed=start) for name, policy in found.items()}
            drawing = draw(episodes, task=task, cost_limit=limit, seconds=SECONDS, width=WIDTH, columns=len(found))
        with atomic(FIGURES / f"film_{suite}.svg") as temporary:
            temporary.write_text(drawing)


if __name__ == "__main__":
    tyro.cli(main)
