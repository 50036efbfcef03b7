import json

import core
import pandas as pd
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import trac


def test_the_products_are_counted_right():
    update = core.products(12, [3, 8, 5], torch.device("cpu"))
    with FlopCounterMode(display=False) as counter:
        update()
    assert counter.get_total_flops() == core.flops(12, [3, 8, 5]) == 2 * 12 * (3 * (24 + 40) - 24)


@pytest.mark.slow
def test_the_benchmark_runs_and_its_ratios_fit(tmp_path, monkeypatch):
    tiny = trac.TracConfig(task="BallRun", segment_ratio=0.25, batch_size=4, hidden=(8, 8))
    monkeypatch.setattr(core, "SHAPES", {"tiny": tiny})
    monkeypatch.setattr(core, "BLOCK", 0.01)
    core.main(rounds=1, device="cpu", out=tmp_path / "bench.json")
    table = pd.DataFrame(json.loads((tmp_path / "bench.json").read_text())["table"])
    assert set(table.phase) == {"cloning", "trac"} and len(table) == 14
    for _, rows in table.groupby("phase"):
        rows = rows.set_index("variant")
        assert rows.of_products["products"] == 1 and rows.over_textbook["textbook"] == 1
        ratio = rows.steps_per_second["ours"] / rows.steps_per_second["products"]
        assert ratio == pytest.approx(rows.of_products["ours"])
