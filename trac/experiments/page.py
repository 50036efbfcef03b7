"""A table of results as one HTML file that needs nothing else, with sorting and filters."""

import html
from pathlib import Path

import pandas as pd

from trac.config import ConfigError
from trac.data.files import write_file

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
  body {{ font: 15px/1.4 system-ui, sans-serif; margin: 1rem }}
  table {{ border-collapse: collapse }}
  th, td {{ border: 1px solid #ccc; padding: .2rem .5rem; text-align: right; font-variant-numeric: tabular-nums }}
  th {{ background: #eee; vertical-align: top; position: sticky; top: 0 }}
  th button {{ font: inherit; font-weight: bold; border: 0; background: none; cursor: pointer }}
  th input {{ display: block; width: 6rem; margin-left: auto }}
</style>
<h1>{title}</h1>
<p><span id="count" role="status"></span> rows. A filter is a part of the text, or a comparison such as &lt;=1.</p>
{table}
<script>
const body = document.querySelector("tbody"), rows = [...body.rows], filters = []
const text = (row, i) => row.cells[i].textContent
const tests = {{
  "<=": (a, b) => a <= b, ">=": (a, b) => a >= b, "<": (a, b) => a < b, ">": (a, b) => a > b, "=": (a, b) => a == b
}}
function keeps(cell, wanted) {{
  const found = wanted.match(/^(<=|>=|<|>|=)\\s*(-?[\\d.]+(?:e-?\\d+)?)$/)
  if (found) return cell !== "" && tests[found[1]](Number(cell), Number(found[2]))
  return cell.toLowerCase().includes(wanted.toLowerCase())
}}
function filter() {{
  for (const row of rows) row.hidden = !filters.every((field, i) => keeps(text(row, i), field.value.trim()))
  document.getElementById("count").textContent = rows.filter(row => !row.hidden).length + " of " + rows.length
}}
document.querySelectorAll("thead th").forEach((head, i) => {{
  const button = document.createElement("button"), field = document.createElement("input")
  const name = button.textContent = head.textContent
  let up = false
  field.setAttribute("aria-label", "filter " + name)
  field.addEventListener("input", filter)
  button.addEventListener("click", () => {{
    up = !up
    const compare = (a, b) => (up ? 1 : -1) * ((a - b) || (a > b) - (a < b))
    const order = (a, b) => a === "" || b === "" ? (a === "") - (b === "") : compare(a, b)
    body.append(...rows.sort((a, b) => order(text(a, i), text(b, i))))
    document.querySelectorAll("thead th").forEach(other => other.removeAttribute("aria-sort"))
    head.setAttribute("aria-sort", up ? "ascending" : "descending")
  }})
  head.replaceChildren(button, field)
  filters.push(field)
}})
filter()
</script>
"""


def page(table: pd.DataFrame, title: str) -> str:
    """The HTML of a table; all its text is escaped.

    >>> "&lt;b&gt;" in page(pd.DataFrame({"alpha": [0.2], "note": ["<b>"]}), "runs/alpha")
    True
    """
    written = table.to_html(index=False, escape=True, border=0, na_rep="", float_format="{:.6g}".format)
    return PAGE.format(title=html.escape(title), table=written)


def write_page(results: Path, out: Path | None = None) -> Path:
    """The page of a CSV file, such as a sweep's results.csv, beside it or as `out`; # begins a line above the table.

    >>> write_file(folder / "results.csv", b"# a comment\\nalpha,cost\\n0.2,3.5\\n")
    >>> write_page(folder / "results.csv").name
    'results.html'
    """
    out = out or results.with_suffix(".html")
    if out.resolve() == results.resolve():
        raise ConfigError(f"{results} is the table itself, which the page would replace: choose another name by --out.")
    comments = 0
    with results.open(encoding="utf-8") as file:
        while file.readline().startswith("#"):
            comments += 1
    table = pd.read_csv(results, skiprows=comments, index_col=False)
    if len(table.columns) == 1 and (sign := next((sign for sign in (";", "\t") if sign in table.columns[0]), None)):
        raise ConfigError(f"{results} separates its columns by {sign!r}: write it with commas and decimal points.")
    write_file(out, page(table, results.stem).encode())
    return out
