"""The book's interactive figures: what runs in a page without a kernel and without the network."""

import json
from pathlib import Path


def explorer(name: str, data: object = None, *, book: Path = Path("../book")) -> str:
    """Markup, style, scripts and data of an interactive figure, as one piece of HTML.

    Args:
        name: of the files in `book`: explorer, limit_explorer or forces.
        data: what its script draws, as JSON has it.
        book: the book's folder, seen from a notebook.

    Without these files, as where a notebook stands alone, a sentence that says where the figure is.

    Example:
        >>> explorer("forces", book=Path("elsewhere"))
        "<p>This figure is on the chapter's page of the book.</p>"
    """
    if not (book / f"{name}.html").is_file():
        return "<p>This figure is on the chapter's page of the book.</p>"

    def text(file: str) -> str:
        return (book / file).read_text(encoding="utf-8").strip()

    scripts = dict.fromkeys(("explorer.js", f"{name}.js"))  # once each; the first has what all share
    page = text(f"{name}.html").replace("EXPLORER_STYLE", text("explorer.css"))
    page = page.replace("EXPLORER_SCRIPT", "\n".join(map(text, scripts)))
    return page.replace("EXPLORER_DATA", json.dumps(data, allow_nan=False))
