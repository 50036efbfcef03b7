"""The repository's address: `_config.yml` has it; `repository.py [URL]` writes the copies, and the set-up cells."""

import sys
from pathlib import Path

import nbformat
import yaml

ROOT = Path(__file__).resolve().parents[1]
COPIES = ("_config.yml", "README.md", "CITATION.cff", "pyproject.toml", "book/colab_setup.py")


def address() -> str:
    return yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]


def setup_cell() -> str:
    """Source of the cell, tagged "setup", that every notebook begins with."""
    return (ROOT / "book" / "colab_setup.py").read_text(encoding="utf-8").strip()


def main(new: str) -> None:
    old = address()
    for name in COPIES:
        path = ROOT / name
        path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if "setup" in cell.metadata.get("tags", []):
                cell.source = setup_cell()
        path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1].rstrip("/") if sys.argv[1:] else address())
