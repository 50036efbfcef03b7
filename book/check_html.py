"""Fail if the built book loads from another host or links to what it does not have: `check_html.py FOLDER`."""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = dict.fromkeys(("script", "img", "iframe", "video", "audio", "source", "embed"), "src") | {"link": "href"}
LINKS_NOT_LOADED = {"canonical", "search", "index", "next", "prev", "author", "license", "help"}


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.outside: list[str] = []  # what it loads from another host
        self.inside: dict[str, None] = {}  # the addresses within the book that it names, in order
        self.places: set[str | None] = set()  # what `page.html#place` may name
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.places |= {values.get("id"), values.get("name") if tag == "a" else None}
        address = values.get((LOADED | {"a": "href"}).get(tag, "")) or ""
        if re.match(r"(https?:)?//", address):
            if tag != "a" and not (tag == "link" and values.get("rel") in LINKS_NOT_LOADED):
                self.outside.append(f"<{tag}> {address}")
        elif address and not urlsplit(address).scheme:
            self.inside[address] = None


def check(folder: Path) -> list[str]:
    """What the pages and style sheets under a folder load from elsewhere, and their links that lead nowhere."""
    folder = folder.resolve()
    paths = [path for path in sorted(folder.rglob("*.html")) if "_static" not in path.relative_to(folder).parts]
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in paths}
    found = []
    for path, page in pages.items():
        found += [f"{path.relative_to(folder)}: leaves the host: {item}" for item in page.outside]
        for address in page.inside:
            parts = urlsplit(address)
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_relative_to(folder) or not target.is_file():
                found.append(f"{path.relative_to(folder)}: no such file: {address}")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].places:
                found.append(f"{path.relative_to(folder)}: no such place on the page: {address}")
    for path in sorted(folder.rglob("*.css")):
        urls = re.findall(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')]+)""", path.read_text(encoding="utf-8"))
        found += [f"{path.relative_to(folder)}: leaves the host: {url}" for url in urls]
    return found


if __name__ == "__main__":
    sys.exit("\n".join(check(Path(sys.argv[1]))) or 0)
