"""A hash of what a Python file does: comments, docstrings and layout leave it as it is."""

import ast
import hashlib
from pathlib import Path
from typing import Any


def source_hash(path: Path) -> str:
    """Hash of the file's syntax tree without docstrings, the same on every version of Python that can parse it.

    >>> (folder / "a.py").write_text("x = 1"), (folder / "b.py").write_text("x = 1  # a comment")
    (5, 18)
    >>> source_hash(folder / "a.py") == source_hash(folder / "b.py")
    True
    """
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    return hashlib.sha256(repr(_plain(tree)).encode()).hexdigest()


def _plain(node: Any) -> Any:
    """Nested tuples of a node's type and its fields; those that are empty, as newer versions' are, are left out."""
    if isinstance(node, list):
        return tuple(_plain(entry) for entry in node)
    if not isinstance(node, ast.AST):
        return node
    fields = dict(ast.iter_fields(node))
    if (
        isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and ast.get_docstring(node, clean=False) is not None
    ):
        fields["body"] = node.body[1:]
    return type(node).__name__, *((name, _plain(value)) for name, value in fields.items() if value not in (None, []))
