import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from baseline_cases import TRAIN, small
from conftest import make_arrays, same

import trac
from trac.baselines import bc_all, bc_safe
from trac.config import ConfigError, TracConfig
from trac.core import checkpoint
from trac.core.checkpoint import CheckpointError
from trac.core.learner import TracLearner
from trac.data import trajectories
from trac.data.trajectories import KEYS

CONFIG = TracConfig(
    cost_limit=8,
    segment_ratio=0.25,
    batch_size=8,
    hidden=(16, 16),
    bc_steps=30,
    steps=60,
    warmup_steps=10,
    eval_episodes=0,
    log_every=10,
)
STACK = [CONFIG, CONFIG.replace(seed=1, alpha=0.5), CONFIG.replace(batch_size=4)]


def train(data, config=STACK, **options):
    return trac.train(data, config, progress=False, checkpoint_every=7, **options)


def assert_same(one, other):
    assert same(one.policy, other.policy) and same(one.reference, other.reference)
    assert (one.best is None) == (other.best is None)
    assert one.best is None or same(one.best, other.best)
    pd.testing.assert_frame_equal(one.history, other.history)


class PowerCut(Exception):
    pass


def cut_at(monkeypatch, update):
    """The n-th call of `advance` from here on raises, in the middle of things."""
    advance, calls = TracLearner.advance, [0]

    def cut(self, step):
        calls[0] += 1
        if calls[0] == update:
            raise PowerCut
        advance(self, step)

    monkeypatch.setattr(TracLearner, "advance", cut)
    return lambda: monkeypatch.setattr(TracLearner, "advance", advance)


@pytest.mark.parametrize("update", [1, 9, 29, 60, 61, 62, 100, 150])
def test_a_run_that_was_cut_ends_in_the_same_bits(tmp_path, data, monkeypatch, update):
    whole = train(data)
    repair = cut_at(monkeypatch, update)
    with pytest.raises(PowerCut):
        train(data, out=tmp_path)
    repair()
    for one, other in zip(train(data, out=tmp_path, resume=True), whole, strict=True):
        assert_same(one, other)
    # Once more: everything is there, nothing is trained.
    cut_at(monkeypatch, 1)
    for one, other in zip(train(data, out=tmp_path, resume=True), whole, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize(
    "change", [dict(init="fresh"), dict(reference="initial"), dict(policy="gaussian", dropout=0.1)]
)
def test_every_kind_of_run_goes_on_to_the_same_bits(tmp_path, data, monkeypatch, change):
    config = CONFIG.replace(**change)
    repair = cut_at(monkeypatch, 45)
    with pytest.raises(PowerCut):
        train(data, config, out=tmp_path)
    repair()
    assert_same(train(data, config, out=tmp_path, resume=True), train(data, config))


def test_evaluations_and_the_best_model_come_back(tmp_path, data, monkeypatch):
    configs = [CONFIG.replace(eval_every=20, eval_episodes=2, seed=seed) for seed in (0, 1)]
    repair = cut_at(monkeypatch, 100)  # two runs, so that this is in update 50
    with pytest.raises(PowerCut):
        train(data, configs, out=tmp_path)
    repair()
    wholes = train(data, configs)
    for resumed, whole in zip(train(data, configs, out=tmp_path, resume=True), wholes, strict=True):
        assert_same(resumed, whole)
        assert whole.best is not None and whole.history["return"].notna().sum() == 3
    assert not same(wholes[0].best, wholes[1].best)


SCRIPT = """
import os, sys
import torch, trac
from test_checkpoint import CONFIG, data_of_the_killed_run
torch.set_num_threads(1)
configs = [CONFIG.replace(seed=s, bc_steps=400, steps=1500) for s in (0, 1)]
print("started", flush=True)
trac.train(data_of_the_killed_run(), configs, out=sys.argv[1], resume=True, progress=False, checkpoint_every=11)
print("finished", flush=True)
"""


def data_of_the_killed_run():
    return trajectories.from_arrays("BallCircle", **make_arrays())


def launch(folder, script=SCRIPT):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", script, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def test_killed_again_and_again_it_ends_in_the_same_bits(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    generator, kills, steps = random.Random(0), 0, []
    while True:
        process = launch(killed)
        assert process.stdout.readline() == "started\n", process.stderr.read()
        if kills < 5 or len(set(steps)) < 2:
            # Where a busy machine comes to no checkpoint in these times, the next ones are longer.
            time.sleep(generator.uniform(0.05, 0.6) * max(1, kills - 3))
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += process.returncode == -signal.SIGKILL
            steps += [p.name for p in checkpoint.find(killed / "checkpoints" / "00")[-1:]]
        if process.poll() != -signal.SIGKILL:
            output, errors = process.communicate()
            assert output == "finished\n", errors
            break
    assert kills >= 5 and len(set(steps)) > 1, steps
    output, errors = launch(whole).communicate()
    assert output == "started\nfinished\n", errors
    for number in ("000", "001"):
        for name in ("weights.safetensors", "history.csv"):
            assert (whole / number / name).read_bytes() == (killed / number / name).read_bytes()


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(tmp_path, data):
    whole = train(data, CONFIG, out=tmp_path)
    paths = checkpoint.find(tmp_path / "checkpoints" / "00")
    assert [p.name for p in paths] == ["step-000000056.safetensors", "step-000000060.safetensors"]
    content = bytearray(paths[1].read_bytes())
    content[-100] ^= 1  # one bit of a weight
    for damage in (bytes(content), bytes(content[:500]), b""):
        paths[1].write_bytes(damage)
        with pytest.warns(UserWarning, match=r"step-000000060.safetensors is damaged .*; going on from step-000000056"):
            assert_same(train(data, CONFIG, out=tmp_path, resume=True), whole)
        paths = checkpoint.find(tmp_path / "checkpoints" / "00")
    for path in paths:
        path.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"000056.safetensors is damaged .* delete .*00 to start anew"):
        train(data, CONFIG, out=tmp_path, resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(alpha=0.5), "alpha of run 0 was 0.2, now 0.5"),
        (dict(steps=80), "steps of run 0 was 60, now 80"),
        (dict(hidden=(8,)), r"hidden of run 0 was \[16, 16\], now \[8\]"),
    ],
)
def test_other_settings_are_refused_and_shown(tmp_path, data, change, message):
    train(data, CONFIG, out=tmp_path)
    with pytest.raises(ConfigError, match=message):
        train(data, CONFIG.replace(**change), out=tmp_path, resume=True)


def test_other_data_runs_or_methods_are_refused(tmp_path, data):
    train(data, CONFIG, out=tmp_path)
    with pytest.raises(ConfigError, match="the observations changed"):
        changed = dataclasses.replace(data, observations=data.observations + 1)
        train(changed, CONFIG, out=tmp_path, resume=True)
    with pytest.raises(ConfigError, match="the segments changed"):
        changed = dataclasses.replace(data, costs=data.costs[::-1].copy())
        train(changed, CONFIG, out=tmp_path, resume=True)
    with pytest.raises(ConfigError, match="1 runs then, 2 now"):
        train(data, [CONFIG, CONFIG.replace(seed=1)], out=tmp_path, resume=True)
    with pytest.raises(ConfigError, match="batch_size of run 0 was 8, now 512"):
        bc_all(data, CONFIG, out=tmp_path, resume=True, progress=False)


# What each method reads, beside observations, actions and ends.
READS = {
    "trac": ("rewards", "costs"),
    "bc_all": (),
    "bc_safe": ("costs",),
    "cdt": ("rewards", "costs"),
    **dict.fromkeys(("bcq_lag", "bear_lag", "coptidice", "cpq"), ("rewards", "costs", "next_observations")),
}


@pytest.mark.parametrize("name", READS)
def test_data_that_was_relabelled_is_refused_by_name(tmp_path, data, name):
    method = {"trac": trac.train, "bc_all": bc_all, "bc_safe": bc_safe, **TRAIN}[name]
    config = small(name) if name in TRAIN else CONFIG
    options = dict(device="cpu", progress=False, out=tmp_path)
    run = method(data, config, **options)
    ends = data.timeouts.copy()
    ends[9] = True
    changes = {
        "observations": data.observations + 1,
        "actions": data.actions / 2,
        "rewards": data.rewards[::-1].copy(),
        "costs": data.costs[::-1].copy(),
        "next_observations": data.next_observations + 1,
        "timeouts": ends,
    }
    for array, values in changes.items():
        changed = trajectories.from_arrays("BallCircle", **{k: getattr(data, k) for k in KEYS} | {array: values})
        # Rewards, costs and ends reach TraC and BC through the segments alone.
        shown = "segments" if name not in TRAIN and array in ("rewards", "costs", "timeouts") else array
        if array in (*READS[name], "observations", "actions") or (array == "timeouts" and name in ("trac", *TRAIN)):
            with pytest.raises(ConfigError, match=f"was made with other settings: .*the {shown} changed"):
                method(changed, config, **options, resume=True)
        elif array != "timeouts":
            assert same(method(changed, config, **options, resume=True).policy, run.policy)


def test_the_identity_of_the_data_is_made_for_checkpoints_alone(data, monkeypatch):
    monkeypatch.setattr(sys.modules["trac.train"], "fingerprint", lambda *_: pytest.fail("nobody asks for it"))
    trac.train(data, CONFIG, progress=False)


def test_a_checkpoint_of_the_first_version_is_refused(tmp_path, data):
    train(data, CONFIG, out=tmp_path)
    folder = tmp_path / "checkpoints" / "00"
    tensors, record = checkpoint.load(folder)
    del record["identity"]["format"], record["progress"]
    checkpoint.save(folder, 61, tensors, record)
    with pytest.raises(ConfigError, match=r"was made with other settings: the format changed \(None then, 3 now\)"):
        train(data, CONFIG, out=tmp_path, resume=True)


def test_a_folder_with_a_run_is_not_overwritten(tmp_path, data):
    train(data, CONFIG, out=tmp_path)
    with pytest.raises(ConfigError, match="holds a run already: choose another folder, or pass resume=True"):
        train(data, CONFIG, out=tmp_path)


def test_a_folder_that_cannot_be_written_is_said_before_the_training(tmp_path, data):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(CheckpointError, match="cannot be written .*Choose another folder"):
            train(data, CONFIG.replace(steps=10**9), out=out)


def test_another_number_of_threads_is_said(tmp_path, data, monkeypatch):
    repair = cut_at(monkeypatch, 40)
    with pytest.raises(PowerCut):
        train(data, CONFIG, out=tmp_path)
    repair()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    with pytest.warns(UserWarning, match="was made with 1 threads and this is 3"):
        train(data, CONFIG, out=tmp_path, resume=True)


def test_a_second_process_is_refused(tmp_path, data):
    process = launch(tmp_path)
    assert process.stdout.readline() == "started\n", process.stderr.read()
    while not checkpoint.find(tmp_path / "checkpoints" / "00"):
        time.sleep(0.01)
    try:
        with pytest.raises(CheckpointError, match="another process is training into"):
            train(data, CONFIG, out=tmp_path, resume=True)
    finally:
        process.kill()
        process.communicate()
    # The lock went with the process; what is refused now is the other config.
    with pytest.raises(ConfigError, match="runs then"):
        train(data, CONFIG, out=tmp_path, resume=True)


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path, data, monkeypatch):
    advance = TracLearner.advance

    def press(self, step):
        advance(self, step)
        if step == 25:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(TracLearner, "advance", press)
    with pytest.raises(KeyboardInterrupt, match="stopped after update 25 of 60; saved in .*; go on with resume=True"):
        train(data, CONFIG, out=tmp_path)
    assert checkpoint.find(tmp_path / "checkpoints" / "00")[-1].name == "step-000000025.safetensors"
    with pytest.raises(KeyboardInterrupt, match="not saved: there is no checkpoint"):
        train(data, CONFIG)
    monkeypatch.setattr(TracLearner, "advance", advance)
    assert_same(train(data, CONFIG, out=tmp_path, resume=True), train(data, CONFIG))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_checkpoint_holds_tensors_and_json_alone(tmp_path, data):
    train(data, CONFIG, out=tmp_path)
    raw = checkpoint.find(tmp_path / "checkpoints" / "00")[-1].read_bytes()
    header = json.loads(raw[8 : 8 + int(np.frombuffer(raw[:8], dtype="<u8")[0])])
    record = json.loads(header["__metadata__"]["record"])
    assert set(record) == {"identity", "threads", "progress"} and record["threads"] == 1
    assert record["identity"]["configs"] == [CONFIG.to_dict()]
    assert set(record["progress"]) == {"step", "seconds", "failed", "rows", "scores", "rank"}
    assert record["progress"]["step"] == 60 and record["progress"]["failed"] == [0]
    assert [row["step"] for row in record["progress"]["rows"][0]] == [10, 20, 30, 40, 50, 60]
