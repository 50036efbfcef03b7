import dataclasses
import os
import subprocess
import sys
import weakref

import numpy as np
import pandas as pd
import pytest
import torch
from baseline_cases import small
from conftest import make_arrays, same

import trac
from trac.baselines import bc_all, bc_safe
from trac.baselines.cdt import cdt
from trac.baselines.cpq import cpq
from trac.config import ConfigError, TracConfig
from trac.core.learner import learners, runs_that_fit
from trac.data import trajectories
from trac.envs import MissingSimulator
from trac.partition import PartitionError, segments_of
from trac.train import TrainingError, _parts, train_on

QUICK = TracConfig(
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


def test_the_same_seed_gives_the_same_bits_alone_and_stacked(data):
    configs = [QUICK.replace(seed=1), QUICK.replace(seed=2, alpha=0.5, eta=1.0, gamma=0.9, cost_limit=5, top=0.25)]
    configs.append(QUICK.replace(learning_rate=3e-4, kappa=0.1))
    stacked = trac.train(data, configs, progress=False)
    for config, run in zip(configs, stacked, strict=True):
        alone = trac.train(data, config, progress=False)
        assert same(run.policy, alone.policy) and same(run.reference, alone.reference)
        pd.testing.assert_frame_equal(run.history, alone.history)
    assert not same(stacked[0].policy, trac.train(data, QUICK.replace(seed=3), progress=False).policy)


def test_runs_of_different_shapes_are_grouped_and_come_back_in_order(data):
    configs = [QUICK, QUICK.replace(batch_size=4), QUICK.replace(seed=9), QUICK.replace(segment_ratio=0.5)]
    runs = trac.train(data, configs, progress=False)
    assert [run.config for run in runs] == configs
    assert [run.record["stack"] for run in runs] == [2, 1, 2, 1]


def test_cloning_learns_and_the_classifier_separates(data):
    config = QUICK.replace(bc_steps=400, steps=1000, learning_rate=3e-3, dropout=0.0, alpha=1.0, lr_multiplier=1.0)
    history = trac.train(data, config, progress=False).history
    cloning, second = history[history.phase == "bc"], history[history.phase == "trac"]
    assert cloning.loss.iloc[-1] < 0.3 * cloning.loss.iloc[0]
    assert second.score_desirable.iloc[-1] > 0 > second.score_undesirable.iloc[-1]
    assert second.accuracy.iloc[-1] > 0.8 and second.loss.iloc[-1] < second.loss.iloc[0]
    assert history.step.tolist() == list(range(10, 1001, 10))


def test_the_reference_is_frozen_at_the_end_of_cloning(data):
    run = trac.train(data, QUICK, progress=False)
    cloned = trac.train(data, QUICK.replace(steps=30), progress=False)
    assert same(run.reference, cloned.policy) and not same(run.policy, run.reference)


def test_reference_and_start_are_what_their_names_say(data):
    one_step = QUICK.replace(steps=31, dropout=0.0, log_every=1)
    start = trac.train(data, one_step, progress=False).history.iloc[-1]
    assert start.score_desirable == start.score_undesirable == 0  # π starts as π_ref
    fresh = trac.train(data, one_step.replace(init="fresh"), progress=False).history.iloc[-1]
    assert fresh.score_desirable < 0  # the untrained policy clones worse than π_ref
    initial = trac.train(data, one_step.replace(reference="initial"), progress=False)
    assert initial.history.iloc[-1].score_desirable > 0
    assert same(initial.reference, trac.train(data, one_step.replace(steps=1, bc_steps=0), progress=False).reference)
    none = trac.train(data, one_step.replace(reference="none"), progress=False).history.iloc[-1]
    assert none.score_desirable < 0 and none.score_undesirable < 0  # -||a - μ||² is never positive


def test_use_and_bc_coef_change_the_gradient(data):
    policies = [
        trac.train(data, QUICK.replace(**change), progress=False).policy
        for change in ({}, dict(use="desirable"), dict(use="undesirable"), dict(bc_coef=0.5), dict(clamp=0.49))
    ]
    for i, one in enumerate(policies):
        assert not any(same(one, other) for other in policies[:i])


def test_every_kind_of_policy_and_level_trains(data):
    for change in (dict(policy="gaussian"), dict(level="step"), dict(sampling="released"), dict(dropout=0.1)):
        history = trac.train(data, QUICK.replace(**change), progress=False).history
        assert np.isfinite(history.loss).all()


def test_batches_without_a_class_are_counted(data):
    history = trac.train(data, QUICK.replace(batch_size=1), progress=False).history
    assert (history[history.phase == "trac"].one_sided == 1).all()


def test_the_record_says_what_has_no_segment(tmp_path):
    arrays = make_arrays()
    arrays["timeouts"][19:59:20] = 0  # the first three episodes are one
    data = trajectories.from_arrays("BallCircle", **arrays)
    config = QUICK.replace(cost_limit=30, segment_ratio=0.5, bottom=0.25)
    with pytest.warns(UserWarning, match="9 of 10 episodes, .* of them unsafe, are shorter than 30 steps"):
        trac.train(data, config, out=tmp_path, progress=False)
    record = trac.load_run(tmp_path).record["segments"]
    assert record.pop("too_short_unsafe") == (data.episode_costs[1:] > 30).sum()
    assert record == {"length": 30, "total": 31, "too_short": 9, "labelled": record["labelled"]}


def test_the_callers_defaults_of_torch_change_nothing(data, tmp_path):
    config = QUICK.replace(eval_episodes=1)
    methods = {"trac": (trac.train, config), "cpq": (cpq, small("cpq")), "cdt": (cdt, small("cdt", eval_episodes=1))}
    for name, (method, settings) in methods.items():
        plain = method(data, settings, device="cpu", progress=False)
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        torch.set_float32_matmul_precision("medium")
        try:
            with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
                run = method(data, settings, device="cpu", progress=False, out=tmp_path / name)
                loaded = trac.load_run(tmp_path / name)
                scores = trac.evaluate(loaded.policy, task="BallCircle", cost_limit=8, episodes=1, workers=1)
            after = torch.get_default_dtype(), str(torch.get_default_device()), torch.get_float32_matmul_precision()
        finally:
            torch.set_default_dtype(torch.float32)
            torch.set_default_device(None)
            torch.set_float32_matmul_precision("highest")
        assert after == (torch.float64, "meta", "medium")
        assert same(run.policy, plain.policy) and same(loaded.policy, plain.policy)
        expected = trac.evaluate(plain.policy, task="BallCircle", cost_limit=8, episodes=1, workers=1)
        pd.testing.assert_frame_equal(scores.episodes, expected.episodes)
        pd.testing.assert_frame_equal(run.history, plain.history)


@pytest.mark.parametrize("layout", [np.asfortranarray, lambda x: np.hstack([x, x])[:, : x.shape[1]]])
def test_the_layout_of_the_callers_arrays_changes_nothing(data, layout):
    arrays = make_arrays()
    plain = trac.train(data, QUICK, progress=False).policy
    arrays |= {name: layout(arrays[name].astype(np.float32)) for name in ("observations", "actions")}
    assert same(trac.train(trajectories.from_arrays("BallCircle", **arrays), QUICK, progress=False).policy, plain)
    changed = dataclasses.replace(data, observations=arrays["observations"], actions=arrays["actions"])
    assert same(trac.train(changed, QUICK, progress=False).policy, plain)


def test_a_list_of_runs_is_saved_in_numbered_folders(tmp_path, data):
    trac.train(data, [QUICK], out=tmp_path, progress=False)
    bc_all(data, [QUICK, QUICK.replace(seed=1)], out=tmp_path / "bc", progress=False)
    assert trac.load_run(tmp_path / "000").record["algorithm"] == "trac"
    assert trac.load_run(tmp_path / "bc" / "001").config.seed == 1
    with pytest.raises(
        FileNotFoundError, match="does not hold a finished run; it holds a list of them: read .*/bc/000"
    ):
        trac.load_run(tmp_path / "bc")


@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_a_run_that_diverges_is_frozen_and_named_and_the_others_finish(tmp_path, data, dropout):
    good = [QUICK.replace(seed=s, dropout=dropout) for s in (1, 2)]
    bad = QUICK.replace(learning_rate=1e20, dropout=dropout)
    with pytest.raises(TrainingError, match=r"not finite in run 1 at update \d+; 2 of 3 runs are finished") as caught:
        trac.train(data, [good[0], bad, good[1]], out=tmp_path, progress=False)
    runs = caught.value.runs
    for config, run in zip(good, runs[::2], strict=True):
        assert same(run.policy, trac.train(data, config, progress=False).policy)
        assert run.record["failed_step"] is None
    failed = runs[1].record["failed_step"]
    assert all(torch.isfinite(x).all() for x in runs[1].policy.parameters()) and (runs[1].history.step < failed).all()
    assert same(trac.load_run(tmp_path / "001").policy, runs[1].policy)
    # The weights are those of the update before, which a shorter run ends with.
    if failed > 1:
        before = trac.train(data, bad.replace(steps=failed - 1, bc_steps=min(30, failed - 1)), progress=False)
        assert same(before.policy, runs[1].policy)


def test_options_that_make_no_sense_are_refused(data):
    with pytest.raises(ConfigError, match="precision='half' must be 'tf32' or 'float32'"):
        trac.train(data, QUICK, device="cpu", precision="half")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="sees 0 CUDA devices: use device='cpu'"):
            trac.train(data, QUICK, device="cuda")
    for every in (0, np.nan, "5"):
        with pytest.raises(ConfigError, match=f"checkpoint_every={every!r} must be a whole number, at least 1"):
            trac.train(data, QUICK, checkpoint_every=every)
    with pytest.raises(ConfigError, match="device='gpu' is none of torch's"):
        trac.train(data, QUICK, device="gpu")
    for config in (dict(alpha=0.2), 3, None, TracConfig):
        with pytest.raises(ConfigError, match=" is not a TracConfig: pass one, or a list of them"):
            trac.train(data, config)
    with pytest.raises(ConfigError, match=r"the data is 'BallCircle': pass trajectories, such as trac.load"):
        trac.train("BallCircle", QUICK)
    if not torch.cuda.is_available():
        # Which of the two depends on the build of torch: one with CUDA knows what device 0 is.
        with pytest.raises(
            ConfigError, match="device=0 is none of torch's|device='0', and torch .* sees 0 CUDA devices"
        ):
            trac.train(data, QUICK, device=0)
    for device in ("mps", "meta"):
        with pytest.raises(ConfigError, match=f"device='{device}': trac trains on 'cpu' and 'cuda' alone"):
            trac.train(data, QUICK, device=device)


def test_folders_are_what_they_seem(data, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="resume=True goes on .* pass out="):
        trac.train(data, QUICK, resume=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    trac.train(data, QUICK, out="~/run", progress=False)
    assert trac.load_run("~/run").config == QUICK and (tmp_path / "run").is_dir() and not (tmp_path / "~").exists()


def test_a_run_that_goes_on_from_nothing_says_so(data, tmp_path, capsys):
    config, message = QUICK.replace(steps=4, bc_steps=2), "holds no checkpoint: the training starts at update 1"
    for said in (True, False):  # the second time there is one
        trac.train(data, config, out=tmp_path / "run", resume=True)
        assert (message in capsys.readouterr().err) is said
    trac.train(data, config, progress=False).save(tmp_path / "saved")
    with pytest.raises(ConfigError, match="saved holds a finished run and no checkpoint to go on from"):
        trac.train(data, config.replace(seed=1), out=tmp_path / "saved", resume=True)


def test_a_task_without_simulator_is_refused_before_the_training():
    arrays = make_arrays(task_dims=(60, 2))
    data = trajectories.from_arrays("CarGoal1", **arrays)
    with pytest.raises(MissingSimulator, match="set eval_episodes=0"):
        trac.train(data, QUICK.replace(task="CarGoal1", eval_episodes=1), progress=False)
    assert trac.train(data, QUICK.replace(task="CarGoal1"), progress=False).best is None


def test_another_task_is_refused(data):
    for method in (trac.train, bc_all, bc_safe):
        with pytest.raises(ConfigError, match="the config is for BallRun and the data is of BallCircle"):
            method(data, QUICK.replace(task="BallRun"))


def test_a_stack_is_split_where_it_does_not_fit(data, monkeypatch):
    assert [len(part) for part in _parts(list(range(10)), 4)] == [3, 3, 4]
    assert _parts([3, 1, 2], 3) == [[3, 1, 2]]
    pytest.importorskip("triton")
    device, config = torch.device("cuda", 0), QUICK.replace(batch_size=96, hidden=(256, 256))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    segments = dataclasses.replace(segments_of(data, config), length=100)
    # 9,600 rows of 8 + 256 + 256 + 2 entries and two gradients of 256, four bytes each; the rest is under a tenth.
    one = 4 * 9600 * (8 + 256 + 256 + 2 + 2 * 256)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (50 * one, 60 * one))
    assert 0.9 * 50 / 1.1 <= runs_that_fit(data, segments, config, device) <= 0.9 * 50
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (one, 60 * one))
    with pytest.raises(ConfigError, match="96 segments of 100 steps needs .* GiB free: lower batch_size"):
        runs_that_fit(data, segments, config, device)


def test_a_group_of_learners_is_gone_before_the_next_is_made(data, monkeypatch):
    made, alive = [], []

    def spy(*arguments):
        alive.append(sum(one() is not None for one in made))
        new = learners(*arguments)
        made.extend(weakref.ref(one) for one in new)
        return new

    monkeypatch.setattr(sys.modules["trac.train"], "learners", spy)
    trac.train(data, [QUICK, QUICK.replace(batch_size=6), QUICK.replace(batch_size=4)], progress=False)
    assert alive == [0, 0, 0]


@pytest.mark.parametrize("change", [dict(batch_size=1), dict(cost_limit=0.0, top=0.01)])
def test_batches_without_two_classes_are_told(change):
    config = QUICK.replace(task="BallRun", eval_episodes=0)
    with pytest.warns(UserWarning, match=r"% of the batches will have segments of one class only, which leave η"):
        trac.train(trac.load("BallRun"), config.replace(**change), progress=False)


def test_a_list_with_one_config_twice_is_told(data):
    with pytest.warns(UserWarning, match="config 2 of the list is equal to config 0"):
        trac.train(data, [QUICK, QUICK.replace(seed=1), QUICK], progress=False)


FORKED = """
import os, sys, torch, trac
from trac.data.trajectories import from_arrays
from conftest import make_arrays
torch.set_num_threads(2)
data = from_arrays("BallCircle", **make_arrays())
config = trac.TracConfig(cost_limit=8, steps=4, bc_steps=2, eval_episodes=0)
if "parent" in sys.argv:
    trac.train(data, config, progress=False)
if os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
trac.train(data, config, progress=False)
"""


def test_threads_that_did_not_survive_a_fork_are_refused(data, tmp_path, monkeypatch):
    pid = os.getpid()
    monkeypatch.setattr(sys.modules["trac.train"], "_threaded_in", None)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    trac.train(data, QUICK, progress=False)
    monkeypatch.setattr(os, "getpid", lambda: pid + 1)  # as in a child
    with pytest.raises(ConfigError, match="was forked from one that had trained with several threads"):
        cpq(data, small("cpq"), progress=False, device="cpu", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    trac.train(data, QUICK, progress=False)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_process_whose_parent_had_threads_is_refused_and_does_not_hang():
    def run(*arguments):
        call, tests = [sys.executable, "-c", FORKED, *arguments], os.path.dirname(__file__)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([tests, *sys.path])}
        return subprocess.run(call, capture_output=True, text=True, timeout=60, env=environment)

    assert run().returncode == 0
    refused = run("parent")
    assert refused.returncode == 1 and "was forked from one that had trained with several threads" in refused.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: dict(starts=s.starts + 10**6), "segment 0 does not lie within its episode"),
        (lambda s: dict(starts=s.starts - 15), "does not lie within its episode"),
        (lambda s: dict(length=21), "does not lie within its episode"),
        (lambda s: dict(episodes=s.episodes + 99), "segment 0 is of none of the log's 12 episodes"),
        (lambda s: dict(episodes=s.episodes[::-1]), "does not lie within its episode"),
        (lambda s: dict(costs=s.costs + 1), "segment 0 has other costs than its steps in the log"),
        (lambda s: dict(returns=s.returns[::-1]), "segment 0 has other returns than its steps in the log"),
        (lambda s: dict(labels=s.labels * 2 - 1), "each label of a segment must be 1, desirable, or 0"),
        (lambda s: dict(weights=s.weights * np.nan), "each weight of a segment must be a finite number"),
        (lambda s: dict(weights=s.weights[1:]), "weights has shape"),
        (lambda s: dict(cost_limit=s.cost_limit / 2), "the config's cost_limit is .*, and the segments are labelled"),
        (lambda s: {name: value[:0] for name, value in vars(s).items() if np.ndim(value)}, "starts has shape"),
    ],
)
def test_segments_that_do_not_fit_the_log_are_refused(data, change, message):
    segments = segments_of(data, QUICK)
    wrong = dataclasses.replace(segments, **change(segments))
    with pytest.raises(PartitionError, match=message):
        train_on(data, [QUICK], [wrong], single=True, progress=False)


def test_segments_of_another_log_are_refused(data):
    other = trajectories.from_arrays("BallCircle", **make_arrays(seed=1))
    with pytest.raises(PartitionError, match="has other costs than its steps in the log: cut segments from this log"):
        train_on(data, [QUICK], [segments_of(other, QUICK)], single=True, progress=False)


def test_a_folder_stays_the_same_when_a_tracker_changes_the_directory(data, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    trac.train(data, QUICK, out="run", progress=False, tracker=lambda *_: os.chdir(tmp_path / "elsewhere"))
    assert trac.load_run(tmp_path / "run").config == QUICK and not any((tmp_path / "elsewhere").iterdir())
