"""The tables of appendices M, N and O: complete, and one run of each made again."""

import deployment
import every_limit
import offline_choice
import pandas as pd
import pytest
import torch
from tables import RESULTS, SCORES
from test_studies import made_here

import trac


def read(name):
    return pd.read_csv(RESULTS / f"{name}.csv", comment="#")


def near(name):
    """On another processor a run is another draw: only its reward is compared there, and not closely."""
    return dict(check_dtype=False, check_index_type=False) | (
        dict(rtol=1e-4, atol=1e-5) if made_here(name) else dict(atol=0.5)
    )


def compared(name):
    return SCORES if made_here(name) else ["normalized_reward"]


def test_every_form_was_asked_for_every_limit():
    table = read("every_limit")
    assert not table.duplicated(every_limit.KEYS).any()
    bullet = ["BallCircle", "BallRun", "CarCircle"]
    four = [*bullet, "HalfCheetahVelocity"]
    expected = {"balanced": four, "balanced, products": bullet, "balanced, seven limits": bullet, "TraC": four}
    for method, tasks in expected.items():
        asked = table[table.method == method].groupby(["task", "seed"]).limit.agg(list)
        assert list(asked.index) == [(task, seed) for task in tasks for seed in range(5)], method
        assert all(limits == list(every_limit.LIMITS) for limits in asked), method


def test_every_guard_drove_in_every_world():
    counts = read("study_deployment").groupby(["driver", "world"]).seed.agg(["nunique", "size"])
    assert len(counts) == 8 * len(deployment.WORLDS) and (counts["nunique"] == 5).all()
    assert counts.loc[("TraC", "none"), "size"] == 500 and counts["size"].min() == 50


@pytest.mark.slow
def test_one_policy_for_every_limit_again():
    again = every_limit.one_run("BallRun", "balanced", 0, (10.0, 40.0)).set_index(every_limit.KEYS)
    rows = read("every_limit").set_index(every_limit.KEYS).loc[again.index]
    columns = compared("every_limit")
    pd.testing.assert_frame_equal(again[columns], rows[columns], **near("every_limit"))


@pytest.mark.slow
def test_one_estimate_again(tmp_path, monkeypatch):
    monkeypatch.setattr(offline_choice, "POLICIES", tmp_path)
    again = offline_choice.one_run("BallRun", "300 updates", 0)[0].set_index(offline_choice.KEYS)
    rows = read("offline_choice").set_index(offline_choice.KEYS).loc[again.index]
    columns = [*compared("offline_choice"), *(["fqe_return", "fqe_cost"] if made_here("offline_choice") else [])]
    pd.testing.assert_frame_equal(again[columns], rows[columns], **near("offline_choice"))


@pytest.mark.slow
def test_one_guard_again(tmp_path, monkeypatch):
    monkeypatch.setattr(deployment, "RUNS", tmp_path)
    torch.set_num_threads(1)
    world, driver = "motor_gain 0.85", "budget 5, BC-Safe"
    episodes = trac.evaluate(
        deployment.drivers(0)[driver],
        task=deployment.TASK,
        cost_limit=deployment.LIMIT,
        episodes=10,
        seed=deployment.EVALUATION_SEED,
        workers=1,
        env_options=deployment.WORLDS[world],
    ).episodes
    rows = read("study_deployment").query("seed == 0 and world == @world and driver == @driver").reset_index(drop=True)
    columns = compared("study_deployment")
    pd.testing.assert_frame_equal(episodes[columns], rows[columns], **near("study_deployment"))
