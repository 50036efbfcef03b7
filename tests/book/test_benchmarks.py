import json
import subprocess
import sys

import core
import gpu
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
    core.main(rounds=1, out=tmp_path / "bench.json")
    table = pd.DataFrame(json.loads((tmp_path / "bench.json").read_text())["table"])
    assert set(table.phase) == {"cloning", "trac"} and len(table) == 12
    for _, rows in table.groupby("phase"):
        rows = rows.set_index("variant")
        assert rows.of_products["products"] == 1 and rows.over_textbook["textbook"] == 1
        ratio = rows.steps_per_second["ours"] / rows.steps_per_second["products"]
        assert ratio == pytest.approx(rows.of_products["ours"])


@pytest.mark.slow
def test_the_gpu_benchmark_runs_through_in_the_interpreter(tmp_path):
    pytest.importorskip("triton")
    command = [sys.executable, "benchmarks/gpu.py", "--device", "cpu", "--rehearse", "--out", tmp_path / "gpu.json"]
    shown = subprocess.run(command, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert not any("error" in part for part in found.values() if isinstance(part, dict))
    assert {"machine", "checks", "speed", "runs", "table", "large", "seconds"} <= set(found)
    gpu.main(out=tmp_path / "gpu.json", scores_of=tmp_path / "gpu.safetensors")
    scores = json.loads((tmp_path / "gpu.json").read_text())["scores"]
    assert len(scores) == 3 and all(row["cost_gpu"] >= 0 for row in scores)
