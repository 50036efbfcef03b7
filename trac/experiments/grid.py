"""The points of a sweep, from texts such as "alpha=0.1,0.2" and "top + bottom <= 1"."""

import ast
import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from trac.config import TracConfig


class SweepError(ValueError):
    """A sweep that cannot be run as it was asked for."""


def check_value(name: str, text: str, defaults: dict[str, Any], of: str = "the notebook") -> Any:
    """The value that a text stands for, of a parameter `of` something.

    Raises SweepError for an unknown name or another type than the default's.
    """
    if name not in defaults:
        raise SweepError(f"{name!r} is not a parameter of {of}; it has {', '.join(sorted(defaults))}.")
    default = defaults[name]
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = math.inf if text == "inf" else text
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    kind, wanted = type(value), type(default)
    if kind is not wanted and None not in (value, default) and {kind, wanted} != {list, tuple}:
        raise SweepError(f"{name}={text}: this is {kind.__name__}, and {of}'s default is {default!r}.")
    return list(value) if isinstance(value, tuple) else value


def plan(
    defaults: dict[str, Any], grid: Sequence[str], fixed: Sequence[str], where: str | None
) -> tuple[list[dict[str, Any]], int]:
    """All points of a grid, and the number of those that `where` removed.

    Args:
        defaults: of the notebook.
        grid: "name=value,value,...", one for each dimension.
        fixed: "name=value".
        where: what must hold of a point: an expression in the parameters for `pandas.DataFrame.query`.

    Raises:
        SweepError: a name is unknown, given twice or not of its type; a point is no valid TracConfig; none is left.
    """
    axes: dict[str, list[Any]] = {}
    for text, several in [*((g, True) for g in grid), *((f, False) for f in fixed)]:
        name, equals, values = text.partition("=")
        if not equals or not values:
            raise SweepError(f"{text!r} must have the form name=value" + (",value,..." if several else "") + ".")
        if name in axes:
            raise SweepError(f"{name} is given twice.")
        parts = values.split(",") if several else [values]
        axes[name] = [check_value(name, part, defaults) for part in parts]
    points = [defaults | dict(zip(axes, choice, strict=True)) for choice in itertools.product(*axes.values())]
    kept = points if where is None else [points[i] for i in _rows_where(points, where)]
    if not kept:
        raise SweepError(f"no point is left: --where {where!r} removes all {len(points)}.")
    fields = {field.name for field in dataclasses.fields(TracConfig)}
    for point in kept:
        try:
            TracConfig().replace(**{name: value for name, value in point.items() if name in fields})
        except ValueError as error:
            shown = ", ".join(f"{name}={point[name]!r}" for name in axes)
            raise SweepError(f"the point {shown} cannot be run: {error} Remove it, by --where for instance.") from error
    return kept, len(points) - len(kept)


def _rows_where(points: list[dict[str, Any]], expression: str) -> list[int]:
    table = pd.DataFrame({name: pd.Series([point[name] for point in points]) for name in points[0]})
    try:
        holds = table.eval(expression, engine="python")
        if not isinstance(holds, pd.Series) or holds.dtype != bool:
            raise TypeError("it is not true or false of each point")
        return list(holds.index[holds])
    except Exception as error:  # whatever the expression makes pandas raise
        raise SweepError(
            f"--where {expression!r} cannot be evaluated ({error}). Write it as for pandas.DataFrame.query, in the "
            f"parameters {', '.join(table)}."
        ) from error
