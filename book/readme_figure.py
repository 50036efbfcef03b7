"""Copy figures of executed chapters to where README and introduction show them: `python book/readme_figure.py`."""

from base64 import b64decode
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
FIGURES = {  # the copy: the chapter, the figure's name
    "our_results.png": ("J_our_results", "fig-ours-scores"),
    "film.svg": ("01_first_policy", "fig-quickstart-film"),
}


def figure(copy: str) -> bytes:
    """What the chapter's cell of that name shows."""
    chapter, name = FIGURES[copy]
    for cell in nbformat.read(ROOT / "notebooks" / f"{chapter}.ipynb", as_version=4).cells:
        if cell.metadata.get("mystnb", {}).get("figure", {}).get("name") == name:
            shown = next(output.data for output in cell.outputs if "data" in output)
            return shown["image/svg+xml"].encode() if copy.endswith("svg") else b64decode(shown["image/png"])
    raise SystemExit(f"{chapter}: no figure is named {name}.")


if __name__ == "__main__":
    for copy in FIGURES:
        (ROOT / "book" / "figures" / copy).write_bytes(figure(copy))
