"""A number in prose stands in an output, a table or the code of its page; a reference names what it links."""

import json
import re
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
FREE = 24  # integers up to here are counted without a table
NUMBER = re.compile(r"(?<![\w.^_{/-])\d[\d,]*(?:\.\d+)?(?:\\?,? ?\\?%)?(?![\w/])")
ALLOWED = {  # definitions, and facts of a source that the sentence names
    "03_logs": {"0.0001"},
    "04_partition": {"1000"},
    "B_alpha": {"1000"},
    "N_offline_choice": {"95"},
    "core": {"100000", "68000", "0.75", "450", "750", "162", "135"},
    "dsrl": {"35", "180", "0.8", "1.02", "1234", "3.11", "3.12", "3.13"},
    "own_task": {"0.001", "10000", "38"},
}


def read(path: Path) -> tuple[list[str], set[float]]:
    """The paragraphs of a notebook without tables, code and targets of links, and the numbers that it shows."""
    prose, shown = [], ""
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            shown += source
            for output in cell["outputs"]:
                data = output.get("data", {})
                texts = [output.get("text", ""), *(data.get(f"text/{kind}", "") for kind in ("plain", "html"))]
                shown += " ".join(re.sub("<[^>]*>", " ", "".join(text)) for text in texts)
            continue
        lines = source.splitlines()
        shown += " ".join(line for line in lines if line.startswith("|"))
        text = "\n".join(line for line in lines if not line.startswith("|"))
        prose.append(re.sub(r"(?s)```.*?```|`[^`]*`|\$\$.*?\$\$|\]\([^)]*\)|\{\w+\}`[^`]*`", " ", text))
    return prose, {float(n.replace(",", "").replace("_", "")) for n in re.findall(r"\d[\d,_]*(?:\.\d+)?", shown)}


def unseen(path: Path) -> list[str]:
    prose, shown = read(path)
    found = []
    for match in (match for text in prose for match in NUMBER.finditer(text)):
        number = re.sub(r"[\\,% ]", "", match[0])
        value, half = float(number), 0.5000001 * 10.0 ** -len(number.partition(".")[2])
        percent = "%" in match[0]
        if ("." not in number and not percent and value <= FREE) or number in ALLOWED.get(path.stem, ()):
            continue
        if not any(abs(x - value) <= half or (percent and abs(100 * x - value) <= half) for x in shown):
            found.append(match.string[max(0, match.start() - 60) : match.end() + 30].replace("\n", " "))
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_numbers_in_prose_are_shown_on_the_page(path: Path) -> None:
    assert unseen(path) == []


def test_a_number_that_the_page_does_not_show_is_found(tmp_path: Path) -> None:
    cells = [
        {"cell_type": "code", "source": "print(0.582)", "outputs": [{"text": ["0.582\n"]}]},
        {"cell_type": "markdown", "source": "A reward of 0.58, 58 %, and in `x = 99` a cost of 1,234 or 0.59."},
    ]
    path = tmp_path / "x.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    assert len(unseen(path)) == 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_references_have_the_number_of_the_chapter_that_they_link(path: Path) -> None:
    text = "".join("".join(c["source"]) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "markdown")
    links = re.findall(r"\[(?:chapter|appendix) (\w+)\]\((\w+)\.ipynb", text, re.IGNORECASE)
    for number, target in links:
        assert target.split("_")[0].lstrip("0") == number, f"{number} links {target}"
    for number in re.findall(r"\bchapters? (\d+)", text, re.IGNORECASE):
        assert any(other.stem.startswith(f"{int(number):02d}_") for other in NOTEBOOKS), number
