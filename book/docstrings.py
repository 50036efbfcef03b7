"""Sphinx extension for the page of the module: mathematics in docstrings, and the settings of the configs."""

import dataclasses
import inspect
import re
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from trac.config import Settings

BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


def escape(app, what, name, obj, options, lines) -> None:
    """In docstrings, * and | are mathematics and Python, not markup of reStructuredText; examples stay as they are."""
    example = False
    for number, line in enumerate(lines):
        example = line.lstrip().startswith(">>>") or (example and bool(line.strip()))
        if example:
            continue
        parts = re.split(r"(``?[^`]+``?)", line)  # code keeps its characters
        parts[::2] = [re.sub(r"(?<!\\)([*|])", r"\\\1", part) for part in parts[::2]]
        lines[number] = "".join(parts)


def settings(app, what, name, obj, options, lines) -> None:
    """Under a config's docstring: each field with the values that it takes, its default, and its comment."""
    if what != "class" or not (issubclass(obj, Settings) and dataclasses.is_dataclass(obj)):
        return
    hints, comments = get_type_hints(obj, include_extras=True), {}
    for kind in reversed(obj.__mro__[:-1]):
        comments |= re.findall(r"^    (\w+): .+?  # (.+)$", inspect.getsource(kind), re.MULTILINE)
    lines.append("")
    for field in dataclasses.fields(obj):
        comment = f": {comments[field.name]}" if field.name in comments else ""
        lines.append(f"- ``{field.name}`` ({values(hints[field.name])}; ``{field.default!r}``){comment}")


def values(hint: Any) -> str:
    """The values of a type in words."""
    kind, *rest = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    if get_origin(kind) is Literal:
        return " or ".join(f"``{choice!r}``" for choice in get_args(kind))
    if get_origin(kind) is UnionType or NoneType in get_args(kind):
        return " or ".join("None" if part is NoneType else values(part) for part in get_args(kind))
    if get_origin(kind) is tuple:
        return f"tuple of {values(get_args(kind)[0])}"
    bounds = [
        f"{word} {getattr(bound, name):g}"
        for field in rest
        for bound in field.metadata
        for name, word in BOUNDS.items()
        if hasattr(bound, name)
    ]
    return " ".join([kind.__name__, " and ".join(bounds)]).strip()


def signature(app, what, name, obj, options, text, returns) -> tuple[str, str] | None:
    """Bounds are not repeated in a signature."""
    short = re.sub(r"Annotated\[(\w+), FieldInfo\((?:[^()]|\([^()]*\))*\)\]", r"\1", text or "")
    return (short, returns) if short != text else None


def setup(app):
    # Before napoleon (priority 500), which adds emphasis of its own.
    app.connect("autodoc-process-docstring", escape, priority=400)
    app.connect("autodoc-process-docstring", settings, priority=300)
    app.connect("autodoc-process-signature", signature)
    return {"parallel_read_safe": True}
