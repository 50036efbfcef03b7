"""The page on the methods: its map is what its script draws, its table what the runs say, its code exists."""

import re
from pathlib import Path

import methods_map
import pandas as pd
import pytest

BOOK = Path(__file__).parents[2] / "book"
PAGE = (BOOK / "methods.md").read_text(encoding="utf-8")


def test_map_is_what_the_script_draws():
    assert methods_map.FIGURE.read_text() == methods_map.draw(), "python book/methods_map.py"


def test_page_and_alternative_text_name_every_method_of_the_map():
    alternative = re.search(r":alt: (.*)", PAGE)[1]
    rest = PAGE.replace(alternative, "")
    for name in " ".join(f"{training} {use}" for *_, training, use in methods_map.ROWS).split():
        assert name in alternative and name in rest, name


def test_table_has_the_costs_of_the_runs():
    runs = pd.read_csv(BOOK / "results" / "baselines_table.csv", comment="#")
    for method, of in runs.groupby("method"):
        cells = re.search(rf"^\| {method} \| (.*) \|$", PAGE, re.MULTILINE)[1].split(" | ")
        of = of.sort_values("cost_limit")
        costs = (of.normalized_cost * of.cost_limit).groupby(of.task)
        for cell, task in zip(cells, ("BallCircle", "BallRun", "CarCircle"), strict=False):
            assert [float(x) for x in cell.split(", ")] == pytest.approx(costs.get_group(task).to_list(), abs=0.51)
        assert [int(x) for x in cells[3:]] == [(of.normalized_cost <= 1).sum(), of.safe.sum()], method
