"""The book's interactive figures: what runs in a page without a kernel and without the network."""

import json
from pathlib import Path


def explorer(name: str, data: object = None, *, book: Path = Path("../book")) -> str:
    """Markup, style, scripts and data of an interactive figure, as one piece of HTML.

    Args:
        name: of the files in `book`: partition_explorer, forces, labels_explorer or limit_explorer.
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

    # explorer.html, .css and .js have what all figures share; d3.js is the part of D3 that they use.
    parts = {
        "NAME": name.replace("_", "-"),
        "STYLE": text("explorer.css"),
        "BODY": text(f"{name}.html"),
        "SCRIPT": "\n".join(text(file) for file in ("d3.js", "explorer.js", f"{name}.js")),
        "DATA": json.dumps(data, allow_nan=False),
    }
    page = text("explorer.html")
    for part, content in parts.items():
        page = page.replace(f"EXPLORER_{part}", content)
    return page
