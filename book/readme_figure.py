"""Copy a figure of an executed chapter to where the README shows it: `python book/readme_figure.py`."""

from base64 import b64decode
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
CHAPTER, NAME = ROOT / "notebooks" / "J_our_results.ipynb", "fig-ours-scores"
COPY = ROOT / "book" / "figures" / "our_results.png"


def figure() -> bytes:
    """The PNG that the chapter's cell of that name shows."""
    for cell in nbformat.read(CHAPTER, as_version=4).cells:
        if cell.metadata.get("mystnb", {}).get("figure", {}).get("name") == NAME:
            return next(b64decode(o.data["image/png"]) for o in cell.outputs if "image/png" in o.get("data", {}))
    raise SystemExit(f"{CHAPTER}: no figure is named {NAME}.")


if __name__ == "__main__":
    COPY.write_bytes(figure())
