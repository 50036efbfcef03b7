"""Where no simulator installs, all but live evaluation runs: what the page on DSRL's tasks promises."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys

for name in ("pybullet", "pybullet_utils", "bullet_safety_gym", "dsrl", "gym", "safety_gymnasium", "metadrive"):
    sys.modules[name] = None  # its import fails

import baseline_cases as cases
import matplotlib.pyplot as plt
import numpy as np
import pytest

import trac
from trac.baselines.ppo_lag import PPOLagConfig, ppo_lag
from trac.envs import MissingSimulator, open_env
from trac.teaching import plots

folder = sys.argv[1]
data = trac.load("BallCircle")
config = trac.TracConfig(task="BallCircle", cost_limit=20, hidden=(8,), bc_steps=2, warmup_steps=1, steps=4)
quick = config.replace(eval_episodes=0)
_, axes = plt.subplots(1, 2)
plots.cost_return(data, 20, axes[0])
plots.segments(trac.partition(data, cost_limit=20, segment_ratio=1.0), axes[1])
run = trac.train(data, quick, out=folder + "/out", progress=False)
run.save(folder + "/saved")
policy = trac.load_run(folder + "/saved").policy
assert np.array_equal(policy.act(data.observations[0]), run.policy.act(data.observations[0]))
for name, train in cases.TRAIN.items():
    train(data, cases.small(name, steps=2), progress=False)

for task in trac.TASKS.values():
    command = "pip install" if task.suite == "bullet" else "make safety"
    needs = f"{task.name} cannot be simulated here .*eval_episodes=0.*{command}.*notebooks/dsrl.ipynb"
    with pytest.raises(MissingSimulator, match=needs):
        open_env(task.name)
    with pytest.raises(MissingSimulator, match=needs):
        trac.evaluate(policy, task=task.name, cost_limit=20, episodes=1, seed=0, workers=1)
with pytest.raises(MissingSimulator, match="BallCircle cannot be simulated here"):
    trac.train(data, config)
with pytest.raises(MissingSimulator, match="BallCircle cannot be simulated here"):
    ppo_lag(PPOLagConfig(task="BallCircle", cost_limit=20), progress=False)
"""


def test_all_but_evaluation_runs_without_a_simulator(tmp_path):
    # In a process of its own, in which nothing has imported a simulator yet.
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path], cwd=ROOT / "tests", capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_the_page_that_the_message_names_has_the_section():
    assert "### Without a simulator" in (ROOT / "notebooks" / "dsrl.ipynb").read_text(encoding="utf-8")
