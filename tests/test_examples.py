"""The examples in the docstrings run, and every public name has one."""

import doctest
import importlib
import inspect
import re
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

import trac

ROOT = Path(__file__).parents[1]
MODULES = re.findall(r"automodule:: (\S+)", (ROOT / "book" / "api.md").read_text())
REASONS = ("downloads", "trains", "starts ", "needs a GPU", "needs MetaDrive", "needs Safety-Gymnasium")
REASONS += ("needs tensorboard", "needs mlflow")


@pytest.fixture(scope="module")
def data():
    return trac.load("BallRun")


@pytest.mark.parametrize("name", MODULES)
def test_examples(name, data, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    matplotlib.use("Agg")
    module, runner = importlib.import_module(name), doctest.DocTestRunner()
    shared = dict(trac=trac, data=data, np=np, pd=pd, torch=torch, plt=plt, Path=Path)
    said = []
    for number, test in enumerate(doctest.DocTestFinder().find(module, name)):
        folder = tmp_path / str(number)
        folder.mkdir()
        test.globs |= shared | dict(folder=folder)
        runner.run(test, out=said.append)
        plt.close("all")
    assert not runner.failures, "".join(said)


def public(module):
    """Functions and classes that the module's page shows."""
    return [
        found
        for name, found in vars(module).items()
        if (inspect.isclass(found) or inspect.isfunction(found))
        and found.__module__ == module.__name__
        and not name.startswith("_")
        and found.__doc__
    ]


def made_by_others(found):
    """Errors, learners, which a method's function makes, and what train() and fit() pass on."""
    kinds = inspect.isclass(found) and (issubclass(found, BaseException) or hasattr(found, "advance"))
    return kinds or found.__name__ in ("Options", "Progress")


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_has_an_example(name):
    without = [found for found in public(importlib.import_module(name)) if ">>>" not in found.__doc__]
    assert not [found.__name__ for found in without if not made_by_others(found)]


def test_what_is_skipped_says_why():
    for name in MODULES:
        for line in inspect.getsource(importlib.import_module(name)).splitlines():
            if "doctest: +SKIP" in line:
                assert any(reason in line for reason in REASONS), line
