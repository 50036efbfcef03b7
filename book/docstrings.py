"""Sphinx extension: in docstrings, * and | are mathematics and Python, not markup of reStructuredText."""

import re


def escape(app, what, name, obj, options, lines) -> None:
    for number, line in enumerate(lines):
        parts = re.split(r"(``?[^`]+``?)", line)  # code keeps its characters
        parts[::2] = [re.sub(r"(?<!\\)([*|])", r"\\\1", part) for part in parts[::2]]
        lines[number] = "".join(parts)


def setup(app):
    # Before napoleon (priority 500), which adds emphasis of its own.
    app.connect("autodoc-process-docstring", escape, priority=400)
    return {"parallel_read_safe": True}
