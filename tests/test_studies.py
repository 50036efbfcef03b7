"""The committed study tables: complete, and one point of each made again."""

import pandas as pd
import pytest
import studies
import torch

import trac
from trac.runs import processor
from trac.sweep import point_hash

NAMES = [name for name in studies.STUDIES if (studies.RESULTS / f"study_{name}.csv").is_file()]


def points(name):
    return {point_hash(point): point for one in studies.STUDIES[name] for point in one.points()}


def table(name):
    return pd.read_csv(studies.RESULTS / f"study_{name}.csv", comment="#")


@pytest.mark.parametrize("name", NAMES)
def test_every_point_has_its_five_seeds_and_both_models(name):
    runs = table(name)
    counts = runs.groupby(["point", "model"]).seed.agg(list)
    assert set(counts.index) == {(point, model) for point in points(name) for model in ("last", "best")}
    assert all(seeds == [0, 1, 2, 3, 4] for seeds in counts)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_one_run_again(name):
    """The cheapest point on BallRun, seed 0: on the processor and torch of the table the same numbers."""
    todo = {key: point for key, point in points(name).items() if point["task"] == "BallRun"}
    key = min(todo, key=lambda k: (todo[k]["segment_ratio"] * todo[k]["batch_size"] * todo[k]["steps"], k))
    settings = {k: v for k, v in todo[key].items() if k != "seeds"}
    torch.set_num_threads(1)
    run = trac.train(
        trac.load("BallRun"), trac.TracConfig(**settings | {"eval_every": 0, "eval_episodes": 0}), progress=False
    )
    scores = trac.evaluate(run.policy, task="BallRun", cost_limit=settings["cost_limit"], seed=1_000_000, workers=1)
    row = table(name).set_index(["point", "model", "seed"]).loc[(key, "last", 0)]
    head = (studies.RESULTS / f"study_{name}.csv").read_text().splitlines()[:4]
    same = any(processor() in line and f"torch {torch.__version__}" in line for line in head)
    # Elsewhere the last bits differ and training amplifies them: the run is another draw of the same distribution.
    near = dict(rel=1e-4, abs=1e-6) if same else dict(abs=0.5)
    assert scores.episodes.normalized_reward.mean() == pytest.approx(row.normalized_reward, **near)
    assert scores.episodes["return"].mean() == pytest.approx(row["return"], **(near if same else dict(rel=0.7)))


def test_the_default_point_is_the_quick_run_of_the_results_chapter():
    """Two ways to the same run, a notebook's and a script's, on the same machine."""
    episodes = pd.read_csv(studies.RESULTS / "quick_episodes.csv", comment="#")
    quick = episodes[(episodes.method == "TraC") & (episodes.cost_limit == 20)]
    scores = ["normalized_reward", "normalized_cost"]
    quick = quick.groupby(["task", "seed"])[scores].mean()
    runs = table("partition_ratio")
    default = runs[(runs.model == "last") & (runs.top == 0.5) & (runs.bottom == 0) & (runs.kappa == 0.7)]
    default = default.set_index(["task", "seed"])[scores]
    assert len(default) == 10
    pd.testing.assert_frame_equal(quick.loc[default.index], default, rtol=1e-4, atol=1e-5)
