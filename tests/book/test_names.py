"""The names of the module that its docstrings and the book's pages mention exist."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

import trac

ROOT = Path(__file__).parents[2]
# In code between backticks: a dotted name that begins with the module's, and not the end of another one or of a path.
NAME = re.compile(r"(?<![\w./-])trac(?:\.[A-Za-z_]\w*)+")
DIRECTIVE = re.compile(r"^\.\. auto\w+:: (trac[\w.]*)", re.MULTILINE)


def mentioned(text):
    """The dotted names between backticks; a fence of three opens a block, in which directives name modules."""
    blocks = text.split("```")
    spans = [span for part in blocks[::2] for span in re.findall(r"`([^`]+)`", part)]
    return {name for span in spans for name in NAME.findall(span)} | set(DIRECTIVE.findall(text))


def docstrings(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return "\n".join(ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds))


def find(name):
    """What a dotted name stands for: a module as deep as there is one, and attributes from there on."""
    parts = name.split(".")
    found, depth = trac, 1
    for depth in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:depth]))
            break
        except ModuleNotFoundError as error:
            if not name.startswith(error.name or "?"):  # a package that is missing here, and not the name
                raise
    for part in parts[depth:]:
        if inspect.isclass(found) and part in inspect.get_annotations(found):
            return None  # a field without a default
        found = getattr(found, part)
    return found


SOURCES = {path: docstrings(path) for path in sorted((ROOT / "trac").rglob("*.py"))}
SOURCES |= {path: path.read_text(encoding="utf-8") for path in sorted((ROOT / "book").glob("*.md"))}
NAMES = {str(path.relative_to(ROOT)): names for path, text in SOURCES.items() if (names := mentioned(text))}


@pytest.mark.parametrize("path", NAMES)
def test_every_name_that_is_mentioned_exists(path):
    missing = []
    for name in sorted(NAMES[path]):
        try:
            find(name)
        except (AttributeError, ImportError) as error:
            missing.append(f"{name} ({error})")
    assert not missing, f"{path} mentions what is not there: {'; '.join(missing)}"


def test_names_are_found():
    """What the other test finds nothing in, it passes."""
    assert {"trac/core/fit.py", "trac/data/load.py", "book/api.md"} <= set(NAMES)
    assert sum(map(len, NAMES.values())) > 60
    text = (
        "see `trac.train` and `f(trac.evaluate.rank, x)`, not `trac/train.py`, `a.trac.b` or trac.nothing, `trac.a\nb`"
    )
    assert mentioned(text) == {"trac.train", "trac.evaluate.rank", "trac.a"}
    assert mentioned("```{eval-rst}\n.. automodule:: trac.config\n   :members:\n```\n`trac.x`") == {
        "trac.config",
        "trac.x",
    }


def test_names_that_are_not_there_are_not_found():
    for name in ("trac.no_such", "trac.train.no_such", "trac.TracConfig.no_such", "trac.core.run.Run.no_such"):
        with pytest.raises(AttributeError):
            find(name)
    assert find("trac.core.run.Run") and find("trac.data.trajectories.Trajectories.returns")
    assert find("trac.core.run.Run.history") is None
