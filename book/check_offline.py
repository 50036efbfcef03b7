"""Fail if a page of the built book would load something from another host: `check_offline.py FOLDER`."""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

LOADED = dict.fromkeys(("script", "img", "iframe", "video", "audio", "source", "embed"), "src") | {"link": "href"}
LINKS_NOT_LOADED = {"canonical", "search", "index", "next", "prev", "author", "license", "help"}


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        if tag == "link" and values.get("rel") in LINKS_NOT_LOADED:
            return
        address = values.get(LOADED.get(tag, "")) or ""
        if re.match(r"(https?:)?//", address):
            self.outside.append(f"<{tag}> {address}")


def outside(folder: Path) -> list[str]:
    """What the pages and style sheets under a folder load from elsewhere."""
    found = []
    for path in sorted(folder.rglob("*.html")):
        page = Page()
        page.feed(path.read_text(encoding="utf-8"))
        found += [f"{path.relative_to(folder)}: {item}" for item in page.outside]
    for path in sorted(folder.rglob("*.css")):
        text = path.read_text(encoding="utf-8")
        found += [
            f"{path.relative_to(folder)}: {url}"
            for url in re.findall(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')]+)""", text)
        ]
    return found


if __name__ == "__main__":
    found = outside(Path(sys.argv[1]))
    sys.exit("\n".join(["These requests would leave the host:", *found]) if found else 0)
