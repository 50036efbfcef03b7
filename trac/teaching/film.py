"""An episode as a film: what a policy did in a task of a circle or a lane, seen from above."""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any
from xml.sax.saxutils import escape

import numpy as np

from trac.data.tasks import get_task
from trac.envs import make

_INK, _RED, _PALE = "#222", "#d50000", "#cfd8ea"
_MARGIN = {"bullet": 1.5, "safety_gymnasium": 0.3}  # around what happens [m]
_GAP, _BAR = 10, 34  # between views, and the height of name and bar below each [pixels]

Episode = tuple[np.ndarray, np.ndarray]  # positions (L + 1, 2) [m], costs (L,)


def film(
    policies: Mapping[str, Any],
    *,
    task: str,
    cost_limit: float | Mapping[str, float],
    seed: int,
    seconds: float = 8,
    width: int = 640,
    env_options: Mapping[str, float] | None = None,
) -> str:
    """Policies in the simulator, each for one episode from the same start: an animated drawing (SVG).

    The dashed lines are the task's safety boundaries, the disc or lane is where reward is earned. The line is the path
    so far, thick and red where a step cost something; the bar below fills with the episode's cost, up to the limit's
    mark and beyond. A viewer that does not animate shows the end.

    Args:
        policies: name -> anything that `trac.evaluate` takes.
        cost_limit: one for all, or by name.
        seed: of the start state.
        seconds: the time that the episode takes; its end stays for a quarter more.
        width: of the drawing [pixels].
        env_options: changes of the simulator: see `trac.envs.OPTIONS`.

    Raises:
        ValueError: the task is neither a Circle nor a Run task of Bullet-Safety-Gym, nor Safety-Gymnasium's
            CarCircle1 or PointCircle1; there is no policy.

    Example:
        >>> policy = trac.policy.Policy(7, 2, hidden=(8,))
        >>> film({"idle": policy}, task="BallRun", cost_limit=20, seed=0)[:4]
        '<svg'
    """
    episodes = {n: episode(p, task=task, seed=seed, env_options=env_options) for n, p in policies.items()}
    return draw(episodes, task=task, cost_limit=cost_limit, seconds=seconds, width=width)


def draw(
    episodes: Mapping[str, Episode],
    *,
    task: str,
    cost_limit: float | Mapping[str, float],
    seconds: float = 8,
    width: int = 640,
    columns: int | None = None,
) -> str:
    """The film of episodes whose positions are known, as those of a log: see `film`.

    Args:
        columns: views side by side; by default all those of a circle, and one of a lane.

    >>> still = np.zeros((9, 2)), np.zeros(8)
    >>> draw({"still": still}, task="BallCircle", cost_limit=20)[:4]
    '<svg'
    """
    if not episodes:
        raise ValueError("a film needs a policy.")
    simulator = measures(task)
    circle = "Circle" in task
    everywhere = np.concatenate([positions for positions, _ in episodes.values()])
    edge = simulator["x_lim"] if circle else simulator["y_lim"]
    low, high = everywhere.min(0), everywhere.max(0)
    reach = np.array([max(simulator["radius"], edge)] * 2) if circle else np.array([0.0, edge])
    margin = _MARGIN[get_task(task).suite]
    low, high = np.minimum(low, -reach) - margin, np.maximum(high, reach) + margin
    columns = columns or (len(episodes) if circle else 1)
    scale = (width - _GAP * (columns - 1)) / columns / (high[0] - low[0])
    zero = np.array([-low[0], high[1]]) * scale
    ground = _ground(circle, zero, edge * scale, scale * (high - low), simulator.get("radius", 0) * scale)
    views = dict(low=low, high=high, scale=scale, columns=columns)
    return panels(episodes, dict.fromkeys(episodes, ground), **views, cost_limit=cost_limit, seconds=seconds)


def panels(
    episodes: Mapping[str, Episode],
    ground: Mapping[str, list[str]],
    *,
    low: np.ndarray,
    high: np.ndarray,
    scale: float,
    columns: int,
    cost_limit: float | Mapping[str, float],
    seconds: float = 8,
) -> str:
    """The film of episodes on any ground: what `draw` does once it knows the ground.

    Args:
        ground: by name, the SVG elements beneath the path, in pixels from the view's upper left corner.
        low: the lower left corner of the view (2,) [m].
        high: its upper right corner (2,) [m].
        scale: of the drawing [pixels / m].
        columns: views side by side.

    >>> still = np.zeros((9, 2)), np.zeros(8)
    >>> view = dict(low=np.array([-1, -1]), high=np.array([1, 1]), scale=100, columns=1)
    >>> panels({"still": still}, {"still": []}, **view, cost_limit=20)[:4]
    '<svg'
    """
    limits = cost_limit if isinstance(cost_limit, Mapping) else dict.fromkeys(episodes, cost_limit)
    view = scale * (high - low)
    width = columns * view[0] + _GAP * (columns - 1)
    rows = -(-len(episodes) // columns)
    height = rows * (view[1] + _BAR + _GAP) - _GAP
    most = max([*limits.values(), *(costs.sum() for _, costs in episodes.values())])
    parts = []
    for place, (name, (positions, costs)) in enumerate(episodes.items()):
        points = (positions - [low[0], high[1]]) * [scale, -scale]
        corner = ((place % columns) * (view[0] + _GAP), (place // columns) * (view[1] + _BAR + _GAP))
        parts.append(f'<g transform="translate({corner[0]:.0f} {corner[1]:.0f})">')
        parts += ground[name]
        parts += _path(points, costs, seconds)
        parts += _bar(name, costs, limits[name], most, view, seconds)
        parts.append("</g>")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'font-family="sans-serif" font-size="13"><rect width="100%" height="100%" rx="4" fill="white"/>'
        + "".join(parts)
        + "</svg>"
    )


def _position(simulator: Any) -> np.ndarray:
    return np.array(simulator.agent.get_position() if hasattr(simulator, "agent") else simulator.task.agent.pos)[:2]


def episode(
    policy: Any,
    *,
    task: str,
    seed: int,
    env_options: Mapping[str, float] | None = None,
    look: Callable[[Any], np.ndarray] | None = None,
) -> Episode:
    """Positions (L + 1, 2) [m] and costs (L,) of a policy's episode in the simulator.

    Args:
        look: the position in a simulator (`env.unwrapped`), called at the start and after each step; for other tasks
            than those of `film`.

    >>> episode(trac.policy.Policy(7, 2, hidden=(8,)), task="BallRun", seed=0)[0].shape
    (101, 2)
    """
    if look is None:
        _check(task)
        look = _position
    env = make(task, env_options)
    observation, _ = env.reset(seed=seed)
    simulator: Any = env.unwrapped
    positions, costs, done = [look(simulator)], [], False
    if hasattr(policy, "start"):  # with a memory of the episode, or random actions: see `rollout` in trac/evaluate.py
        policy.start(seed)
    while not done:
        observation, reward, terminated, truncated, info = env.step(policy.act(observation))
        if hasattr(policy, "observe"):
            policy.observe(float(reward), float(info["cost"]))
        positions.append(look(simulator))
        costs.append(float(info["cost"]))
        done = terminated or truncated
    env.close()
    return np.array(positions), np.array(costs)


def measures(task: str) -> dict[str, float]:
    """Where a task's boundaries are, `x_lim` or `y_lim`, and a circle's `radius` [m].

    >>> measures("BallCircle")
    {'x_lim': 6.0, 'radius': 7.0}
    """
    _check(task)
    env = make(task)
    env.reset(seed=0)
    simulator: Any = env.unwrapped
    found = {name: float(getattr(simulator.task, name)) for name in ("x_lim", "y_lim") if hasattr(simulator.task, name)}
    if hasattr(simulator.task, "sigwalls"):  # Safety-Gymnasium's
        found["x_lim"] = float(simulator.task.sigwalls.locate_factor)
    if hasattr(simulator.task, "circle"):
        found["radius"] = float(simulator.task.circle.radius)
    env.close()
    return found


def _check(task: str) -> None:
    if not task.endswith(("Circle", "Run", "Circle1")):
        raise ValueError(f"{task}: films are of Bullet-Safety-Gym's Circle and Run tasks, CarCircle1 and PointCircle1.")


def _ground(circle: bool, zero: np.ndarray, edge: float, view: np.ndarray, radius: float) -> list[str]:
    x, y = zero
    if circle:
        ground = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{_PALE}" stroke="none"/>'
        walls = f"M{x - edge:.1f} 0V{view[1]:.1f}M{x + edge:.1f} 0V{view[1]:.1f}"
    else:
        ground = f'<rect y="{y - edge:.1f}" width="{view[0]:.1f}" height="{2 * edge:.1f}" fill="{_PALE}"/>'
        walls = f"M0 {y - edge:.1f}H{view[0]:.1f}M0 {y + edge:.1f}H{view[0]:.1f}"
    return [ground, f'<path d="{walls}" stroke="{_INK}" stroke-dasharray="6 4" fill="none"/>']


def animate(name: str, values: Sequence[float], seconds: float) -> str:
    """An attribute of an SVG element through the values at equal times; the last stays for a quarter more.

    >>> animate("cx", [10, 20, 30, 40], seconds=8)[:61]
    '<animate attributeName="cx" values="10.0;20.0;30.0;40.0;40.0"'
    """
    held = [*values, *[values[-1]] * (len(values) // 4)]
    listed = ";".join(f"{value:.3g}" if abs(value) < 1 else f"{value:.1f}" for value in held)
    return f'<animate attributeName="{name}" values="{listed}" dur="{1.25 * seconds:g}s" repeatCount="indefinite"/>'


def _path(points: np.ndarray, costs: np.ndarray, seconds: float) -> list[str]:
    """The line so far, its costly pieces, and where the agent is. Every second step is drawn."""
    parts = [_piece(points, 0, len(points) - 1, _INK, 1.2, seconds)]
    for costly, steps in groupby(range(len(costs)), key=lambda step: costs[step] > 0):
        first, *rest = steps
        if costly:
            parts.append(_piece(points, first, rest[-1] + 1 if rest else first + 1, _RED, 3.5, seconds))
    x, y = points[::2].T
    moves = animate("cx", x.tolist(), seconds) + animate("cy", y.tolist(), seconds)
    return [*parts, f'<circle cx="{x[-1]:.1f}" cy="{y[-1]:.1f}" r="5" fill="{_INK}">{moves}</circle>']


def _piece(points: np.ndarray, first: int, last: int, color: str, width: float, seconds: float) -> str:
    """The line from one point to another, drawn while the agent moves along it: a dash that grows."""
    there = np.clip(np.arange(0, len(points), 2), first, last)  # the end of the piece at each drawn step
    lengths = np.append(0, np.linalg.norm(np.diff(points[first : last + 1], axis=0), axis=1).cumsum())
    whole = max(lengths[-1], 1e-9)
    line = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points[first : last + 1])
    return (
        f'<path d="{line}" stroke="{color}" stroke-width="{width}" fill="none" pathLength="1" stroke-dasharray="1 1">'
        f"{animate('stroke-dashoffset', (1 - lengths[there - first] / whole).tolist(), seconds)}</path>"
    )


def _bar(name: str, costs: np.ndarray, limit: float, most: float, view: np.ndarray, seconds: float) -> list[str]:
    total, y = costs.sum(), view[1]
    color = _RED if total > limit else _INK
    verdict = f"{escape(name)}: cost {total:.0f} of {limit:g}" + (", over the limit" if total > limit else "")
    widths = np.append(0, costs.cumsum())[::2] / most * view[0]
    mark = min(limit / most, 1) * view[0]
    return [
        f'<text x="0" y="{y + 15:.1f}" fill="{color}">{verdict}</text>',
        f'<rect y="{y + 22:.1f}" width="{total / most * view[0]:.1f}" height="8" fill="{color}">'
        f"{animate('width', widths.tolist(), seconds)}</rect>",
        f'<path d="M{mark:.1f} {y + 19:.1f}v14" stroke="{_INK}" stroke-width="2"/>',
    ]
