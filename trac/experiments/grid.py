"""The points of a sweep, from texts such as "alpha=0.1,0.2" and "top + bottom <= 1"."""

import ast
import itertools
import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from pydantic import TypeAdapter

from trac.config import STRICT, ConfigError, CountOrZero, TracConfig, checked, field_types
from trac.data.tasks import check_name

SEEDS = TypeAdapter(tuple[CountOrZero, ...], config=STRICT)


def check_value(name: str, text: str, defaults: dict[str, Any], of: str = "the notebook") -> Any:
    """The value that a text stands for, of a parameter `of` something.

    Raises:
        ConfigError: the name is unknown, or the value is not one that TracConfig's field of that name takes; for any
            other parameter, not one of the default's type.
        UnknownTask: a task's name is nearly, but not quite, one of the 38.

    Example:
        >>> check_value("hidden", "(64, 64)", {"hidden": (128, 128)})
        [64, 64]
    """
    if name not in defaults:
        hint = " For several seeds write --seeds 0,1,2." if name == "seed" and "seeds" in defaults else ""
        raise ConfigError(f"{name!r} is not a parameter of {of}; it has {', '.join(sorted(defaults))}.{hint}")
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = math.inf if text == "inf" else text
    default = tuple(defaults[name]) if isinstance(defaults[name], list) else defaults[name]
    allowed = field_types(TracConfig) | {"seeds": SEEDS}
    if name in allowed or default is not None:
        value = checked(name, value, allowed.get(name) or TypeAdapter(type(default), config=STRICT))
    if name == "task":
        check_name(value)
    return list(value) if isinstance(value, tuple) else value


def plan(
    defaults: dict[str, Any], grid: Sequence[str], fixed: Sequence[str], where: str | None
) -> tuple[list[dict[str, Any]], int]:
    """All points of a grid, and the number of those that `where` removed.

    Args:
        defaults: of the notebook.
        grid: "name=value,value,...", one for each dimension; a value with commas is in brackets, "(64, 64)".
        fixed: "name=value".
        where: what must hold of a point: an expression in the parameters for `pandas.DataFrame.query`.

    Raises:
        ConfigError: a name is given twice; a point is no valid TracConfig, or has no scores; none is left; see also
            `check_value`.

    Example:
        >>> defaults = {"alpha": 0.2, "top": 0.5, "bottom": 0.0}
        >>> plan(defaults, ["top=0.5,0.8"], ["bottom=0.5"], "top + bottom <= 1")
        ([{'alpha': 0.2, 'top': 0.5, 'bottom': 0.5}], 1)
    """
    axes: dict[str, list[Any]] = {}
    for text, several in [*((g, True) for g in grid), *((f, False) for f in fixed)]:
        name, equals, values = text.partition("=")
        if not equals or not values:
            raise ConfigError(f"{text!r} must have the form name=value" + (",value,..." if several else "") + ".")
        if name in axes:
            raise ConfigError(f"{name} is given twice.")
        if name == "seeds" and several and values[0] not in "[(":
            raise ConfigError(f"{text!r}: each value of seeds is a list. For one list write --seeds {values}.")
        parts = _split(values) if several else [values]
        axes[name] = [check_value(name, part, defaults) for part in parts]
        for listed in [axes[name], axes[name][0]] if name == "seeds" else [axes[name]]:
            if again := [value for i, value in enumerate(listed) if value in listed[:i]]:
                raise ConfigError(f"{name} has {again[0]!r} twice.")
    points = [defaults | dict(zip(axes, choice, strict=True)) for choice in itertools.product(*axes.values())]
    kept = points if where is None else [points[i] for i in _rows_where(points, where)]
    if not kept:
        raise ConfigError(f"no point is left: --where {where!r} removes all {len(points)}.")
    for point in kept:
        if point.get("eval_episodes") == 0:
            raise ConfigError("eval_episodes=0: a point's result is its scores, and there would be none.")
        try:
            TracConfig().replace(**{name: point[name] for name in point if name in field_types(TracConfig)})
        except ConfigError as error:
            shown = ", ".join(f"{name}={point[name]!r}" for name in axes)
            raise ConfigError(f"the point {shown} cannot be run: {error} --where leaves such points out.") from error
    return kept, len(points) - len(kept)


def _split(values: str) -> list[str]:
    """The values between the commas that are in no bracket and no quotes."""
    try:
        entries = ast.parse(f"[{values}]", mode="eval").body
    except SyntaxError:
        return values.split(",")
    return [ast.get_source_segment(f"[{values}]", entry) or "" for entry in getattr(entries, "elts", [])]


def _rows_where(points: list[dict[str, Any]], expression: str) -> list[int]:
    table = pd.DataFrame({name: pd.Series([point[name] for point in points]) for name in points[0]})
    try:
        holds = table.eval(expression, engine="python")
        if not isinstance(holds, pd.Series) or holds.dtype != bool:
            raise TypeError("it is not true or false of each point")
        return list(holds.index[holds])
    except Exception as error:  # whatever the expression makes pandas raise
        raise ConfigError(
            f"--where {expression!r} cannot be evaluated ({error}). Write it as for pandas.DataFrame.query, in the "
            f"parameters {', '.join(table)}."
        ) from error
