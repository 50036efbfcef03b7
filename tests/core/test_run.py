"""Saved runs: what comes back, and what a file from outside cannot do."""

import dataclasses
import json
import math
import sys

import pandas as pd
import pytest
from baseline_cases import TRAIN, small
from conftest import same

import trac
from trac.baselines import bc_safe
from trac.config import ConfigError, TracConfig
from trac.policy import Policy

QUICK = TracConfig(
    cost_limit=8, segment_ratio=0.25, batch_size=8, hidden=(16, 16), bc_steps=10, steps=20, eval_episodes=0
)
METHODS = {"trac": trac.train, "bc_safe": bc_safe, **TRAIN}


@pytest.fixture
def folder(data, tmp_path):
    """A saved run."""
    return trac.train(data, QUICK, progress=False).save(tmp_path / "run")


def edit(folder, change):
    """Change what run.json holds."""
    path = folder / "run.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize("name", METHODS)
def test_a_saved_run_of_every_method_comes_back(name, data, tmp_path):
    config = (small(name) if name in TRAIN else QUICK).replace(steps=20, eval_every=10, eval_episodes=1)
    run = METHODS[name](data, config, device="cpu", progress=False, out=tmp_path)
    again = trac.load_run(tmp_path)
    assert again.config == run.config and type(again.config) is type(run.config)
    assert again.record == run.record and again.record["algorithm"] == name
    pd.testing.assert_frame_equal(again.history, run.history)
    assert run.policy is not None and run.best is not None and (run.reference is None) == (name in TRAIN)
    for role in ("policy", "reference", "best"):
        one, other = getattr(run, role), getattr(again, role)
        if one is not None:
            assert type(other) is type(one) and other.settings == json.loads(json.dumps(one.settings))
            assert same(other, one)
        else:
            assert other is None


def test_a_run_without_a_limit_comes_back_from_plain_json(tmp_path, data):
    config = QUICK.replace(cost_limit=math.inf, bottom=0.5)
    run = trac.train(data, config, out=tmp_path / "run", progress=False)
    again = trac.load_run(tmp_path / "run")
    assert again.config == config and again.best is None and again.record == run.record
    assert same(again.policy, run.policy) and same(again.reference, run.reference)
    pd.testing.assert_frame_equal(again.history, run.history)
    manifest = json.loads((tmp_path / "run" / "run.json").read_text(), parse_constant=pytest.fail)
    assert set(manifest) == {"format", "files", "config", "policies", "record"} and manifest["format"] == 2
    assert manifest["config"] == {"class": "trac.config.TracConfig", "settings": config.to_dict()}
    assert set(manifest["policies"]) == {"policy", "reference"}
    assert manifest["policies"]["policy"] == {"class": "trac.policy.Policy", "settings": run.policy.settings}
    assert sorted(p.name for p in (tmp_path / "run").glob("*.*")) == [
        *(".lock", "history.csv", "run.json", "weights.safetensors")
    ]


def test_a_damaged_run_is_named(folder):
    for name, content in (("weights.safetensors", b"damaged"), ("history.csv", b""), ("run.json", b"[]")):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(content)
        with pytest.raises(ConfigError, match="run: the run cannot be read"):
            trac.load_run(folder)
        (folder / name).write_bytes(whole)
    (folder / "weights.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"weights\.safetensors: no such file"):
        trac.load_run(folder)


def test_weights_of_another_run_are_refused(folder, data, tmp_path):
    other = trac.train(data, QUICK.replace(seed=1), progress=False).save(tmp_path / "other")
    (folder / "weights.safetensors").write_bytes((other / "weights.safetensors").read_bytes())
    with pytest.raises(ConfigError, match=r"weights\.safetensors is not the file that was saved with run\.json"):
        trac.load_run(folder)
    edit(folder, lambda manifest: manifest.pop("files"))  # as it was saved before there was a hash
    assert same(trac.load_run(folder).policy, trac.load_run(other).policy)


def test_a_history_that_was_cut_is_refused(folder):
    path = folder / "history.csv"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ConfigError, match=r"history\.csv is not the file that was saved with run\.json"):
        trac.load_run(folder)


def test_a_file_is_no_folder(folder, tmp_path):
    (tmp_path / "h.py").touch()
    with pytest.raises(FileExistsError, match=r"h\.py is a file, and a run is saved in a folder"):
        trac.load_run(folder).save(tmp_path / "h.py")


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest.pop("record"),
        lambda manifest: manifest.pop("policies"),
        lambda manifest: manifest["policies"].pop("policy"),
        lambda manifest: manifest["policies"].update(another=manifest["policies"]["policy"]),
        lambda manifest: manifest["config"]["settings"].update(alpha=-1.0),
        lambda manifest: manifest["record"].update(seconds=math.inf),
        lambda manifest: manifest["config"]["settings"].update(alfa=1.0),
        lambda manifest: manifest["policies"]["policy"]["settings"].update(hidden=[8]),
        lambda manifest: manifest["policies"]["policy"]["settings"].update(depth=2),
    ],
)
def test_a_record_that_was_changed_is_refused(folder, change):
    edit(folder, change)
    with pytest.raises(ConfigError, match="run: the run cannot be read"):
        trac.load_run(folder)


# Functions, classes of others, what a module of trac's has imported, and classes of trac's that do not belong there.
STRANGERS = ("os.system", "trac.train.train", "trac.train.os.system", "trac.train.TracConfig", "trac.no_such.Thing")
STRANGERS += ("outside.Config", "trac", "builtins.dict", "")


@pytest.mark.parametrize("name", [*STRANGERS, "trac.policy.Policy", "trac.config.ConfigError"])
def test_a_config_of_another_class_is_refused(folder, name, outside):
    edit(folder, lambda manifest: manifest["config"].update({"class": name}))
    with pytest.raises(ConfigError, match="run: the run cannot be read"):
        trac.load_run(folder)
    assert "outside" not in sys.modules


@pytest.mark.parametrize("name", [*STRANGERS, "torch.nn.modules.linear.Linear", "trac.config.TracConfig"])
def test_a_policy_of_another_class_is_refused(folder, name, outside):
    edit(folder, lambda manifest: manifest["policies"]["policy"].update({"class": name}))
    with pytest.raises(ConfigError, match="run: the run cannot be read"):
        trac.load_run(folder)
    assert "outside" not in sys.modules


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A module that a file from outside could ask for."""
    (tmp_path / "outside.py").write_text("class Config:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)


def test_a_class_of_no_ones_is_named(folder):
    edit(folder, lambda manifest: manifest["config"].update({"class": "os.system"}))
    with pytest.raises(ConfigError, match=r"os\.system is not a class of trac's that belongs there"):
        trac.load_run(folder)


def as_the_first_version_wrote_it(manifest):
    settings, record = manifest["config"]["settings"], manifest["record"]
    manifest.clear()
    manifest.update(config=settings, record=record)


@pytest.mark.parametrize(
    ("change", "found"), [(as_the_first_version_wrote_it, 1), (lambda manifest: manifest.update(format=3), 3)]
)
def test_another_versions_format_is_named(folder, change, found):
    edit(folder, change)
    message = rf"it has format {found}, this version reads 2; format 1 is of trac-book 0\.1"
    with pytest.raises(ConfigError, match=rf"run: the run cannot be read \({message}\)"):
        trac.load_run(folder)


def test_a_policy_of_ones_own_class_is_refused_before_anything_is_written(tmp_path, data):
    class Mine(Policy):
        pass

    run = trac.train(data, trac.TracConfig(steps=2, bc_steps=1, cost_limit=5, eval_episodes=0), progress=False)
    mine = dataclasses.replace(run, policy=Mine(8, 2, hidden=(4,)))
    with pytest.raises(ValueError, match="Mine is not a class of trac's that belongs there; only those can be read"):
        mine.save(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("of", "name"), [("config", "kappa"), ("policy", "kind"), ("reference", "kind")])
def test_a_setting_that_is_missing_is_named_and_has_no_default(folder, of, name):
    edit(folder, lambda m: (m["config"] if of == "config" else m["policies"][of])["settings"].pop(name))
    with pytest.raises(ConfigError, match=rf"run.json lacks the setting {name} of the {of}"):
        trac.load_run(folder)
