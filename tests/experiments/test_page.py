import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from trac.config import ConfigError
from trac.experiments.page import page, write_page

TABLE = pd.DataFrame(
    {
        "task": ["B", "A", "<script>alert(1)</script>", "C"],
        "cost": [10.0, 9.5, None, 2.0],
        "<i>": ["&amp;", '"', "x", "y"],
    }
)


class Cells(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.cells, self.inside = [], [], False

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.inside = tag in ("td", "th")
        if self.inside:
            self.cells.append("")

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.cells[-1] += data


def test_all_text_is_escaped_and_nothing_is_fetched():
    text = page(TABLE, "</title><script>")
    parsed = Cells()
    parsed.feed(text)
    assert parsed.tags.count("script") == 1 and "i" not in parsed.tags
    expected = [
        "task",
        "cost",
        "<i>",
        "B",
        "10",
        "&amp;",
        "A",
        "9.5",
        '"',
        "<script>alert(1)</script>",
        "",
        "x",
        "C",
        "2",
        "y",
    ]
    assert parsed.cells == expected
    assert not re.search(r"https?:|src=|@import|url\(", text)


def test_lines_above_the_table_are_left_out(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("# made by a command\n# commit\npoint,note\n01,a # b\n")
    written = write_page(path, tmp_path / "shown.html")
    assert written.name == "shown.html" and "<td>a # b</td>" in written.read_text()
    assert "made by" not in written.read_text()


@pytest.mark.parametrize("text", ["alpha;seed\n0,1;0\n0,2;0\n", "alpha\tseed\n0.1\t0\n"])
def test_a_table_that_is_separated_otherwise_is_refused(tmp_path, text):
    (tmp_path / "results.csv").write_text(text)
    with pytest.raises(ConfigError, match="separates its columns by .*: write it with commas and decimal points"):
        write_page(tmp_path / "results.csv")


def test_the_table_is_not_replaced_by_its_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("results.csv", "results.html"):  # the second would be its own page
        Path(name).write_text("a,b\n1,2\n")
        with pytest.raises(ValueError, match=f"{name} is the table itself, which the page would replace"):
            write_page(Path(name), tmp_path / name if name.endswith("csv") else None)
        assert Path(name).read_text() == "a,b\n1,2\n"


STEPS = """
<script>
const seen = () => [...document.querySelectorAll("tbody tr")].filter(r => !r.hidden).map(r => r.cells[0].textContent[0])
const out = [], buttons = document.querySelectorAll("th button"), inputs = document.querySelectorAll("th input")
buttons[1].click(); out.push(seen().join("")); buttons[1].click(); out.push(seen().join(""))
buttons[0].click(); out.push(seen().join(""))
const type = (i, words) => { inputs[i].value = words; inputs[i].dispatchEvent(new Event("input")) }
type(1, ">=9.5"); out.push(seen().join("")); type(0, "a"); out.push(seen().join(""))
document.body.setAttribute("data-out", out.join("|") + "|" + document.getElementById("count").textContent)
</script>
"""


@pytest.mark.browser
@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Chromium")
def test_sorting_and_filters(tmp_path: Path):
    (tmp_path / "page.html").write_text(page(TABLE, "runs") + STEPS)
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", f"file://{tmp_path}/page.html"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    # By cost: up and down, without a number last; by name; two with a cost of 9.5 or more; one of these with an a.
    assert 'data-out="CAB&lt;|BAC&lt;|&lt;ABC|AB|A|1 of 4"' in shown.replace("<|", "&lt;|").replace("|<", "|&lt;")
