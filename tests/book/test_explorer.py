"""The partition explorer's script against trac.partition, and the explorer as the chapter's page has it."""

import json
import re
import shutil
import subprocess
import warnings
from pathlib import Path

import nbformat
import numpy as np
import pytest

import trac
from trac.config import ConfigError
from trac.data.trajectories import from_arrays
from trac.partition import partition

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "book" / "explorer.js"
CHAPTER = ROOT / "notebooks" / "04_partition.ipynb"
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="node, which runs the explorer's script, is not installed")
RUN = """
const {partition} = require(process.argv[1]);
const cases = JSON.parse(require("fs").readFileSync(0));
console.log(JSON.stringify(cases.map(([view, settings]) => partition(view, settings))));
"""


def in_the_page(cases):
    """What the script says of each (view, settings)."""
    run = subprocess.run([NODE, "-e", RUN, str(SCRIPT)], input=json.dumps(cases), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def in_python(view, settings):
    """What trac.partition says of the same windows, or its error.

    The windows stand for themselves: a log of one-step episodes, held to the share of the limit.
    """
    size = len(view["returns"])
    log = from_arrays(
        "BallRun",
        observations=np.zeros((size, 1)),
        actions=np.zeros((size, 1)),
        rewards=view["returns"],
        costs=view["costs"],
        terminals=np.zeros(size),
        timeouts=np.ones(size),
    )
    return labelled(log, settings["limit"] * view["length"] / view["horizon"], settings)


def labelled(log, limit, settings):
    """The label of every episode, -1 for neither, and the weights by episode; or the error."""
    options = {name: settings[name] for name in ("top", "bottom", "kappa")}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # all returns equal
            segments = partition(log, cost_limit=limit, segment_ratio=1.0, **options)
    except ConfigError as error:
        return str(error)
    labels = np.full(len(log.starts), -1)
    labels[segments.episodes] = segments.labels
    return labels.tolist(), dict(zip(segments.episodes.tolist(), segments.weights.tolist(), strict=True))


def binary(values):
    """Rounded to what sums of float32 hold exactly, so that both sides see the same numbers."""
    return np.round(np.asarray(values) * 64) / 64


def settings(limit=20, top=0.5, bottom=0.0, kappa=0.7):
    return dict(limit=limit, top=top, bottom=bottom, kappa=kappa)


def assert_same(found, expected):
    if isinstance(expected, str):
        phrase = re.search(r"no segment is \w+|is more than 1", expected)[0]
        assert phrase in found["error"].lower()
        return
    labels, weights = expected
    assert found["labels"] == labels
    assert {i: found["weights"][i] for i in weights} == weights  # to the last bit of float32


@needs_node
def test_the_script_says_what_trac_partition_says():
    generator = np.random.default_rng(0)
    cases = []
    for size in (1, 2, 3, 7, 10, 41):
        for ties in (True, False):
            returns = generator.integers(-3, 4, size) if ties else binary(generator.normal(size=size))
            costs = generator.integers(0, 12, size)
            for limit, length, horizon in ((0, 4, 4), (5, 4, 4), (12, 3, 7), (40, 4, 4), (25, 33, 100)):
                view = dict(returns=returns.tolist(), costs=costs.tolist(), length=length, horizon=horizon)
                for top, bottom in (
                    (0.5, 0.0),
                    (0.5, 0.5),
                    (0.3, 0.7),
                    (0.05, 0.15),
                    (1.0, 0.0),
                    (0.6, 0.45),
                    (0.35, 0.3),
                ):
                    cases += [(view, settings(limit, top, bottom, kappa)) for kappa in (0.0, 0.7, 1.0)]
    expected = [in_python(*case) for case in cases]
    errors = " ".join(item for item in expected if isinstance(item, str))
    for phrase in ("no segment is safe", "no segment is undesirable", "no segment is desirable", "is more than 1"):
        assert phrase in errors  # every kind of refusal is among the cases
    for found, wanted in zip(in_the_page(cases), expected, strict=True):
        assert_same(found, wanted)


@pytest.fixture(scope="module")
def page():
    """The HTML that the chapter's cell printed."""
    cells = nbformat.read(CHAPTER, as_version=4).cells
    outputs = [
        output["data"].get("text/html", "") for cell in cells for output in cell.get("outputs", []) if "data" in output
    ]
    (html,) = [html for html in outputs if "partition-explorer" in html]
    return html


@pytest.fixture(scope="module")
def views(page):
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', page, re.DOTALL)[1])


def test_the_page_is_small_and_asks_for_nothing(page):
    assert len(page.encode()) < 300_000
    assert SCRIPT.read_text(encoding="utf-8").strip() in page  # as it is now
    assert not re.search(r"//\w|\bsrc\b|\bhref\b|url\(|@import|fetch\(|XMLHttpRequest|WebSocket|import\(", page)


def test_every_slider_has_a_label_and_the_counts_are_announced(page):
    controls = re.findall(r'<(?:input|select)[^>]*\bid="([\w-]+)"', page)
    assert len(controls) == 6 and controls == re.findall(r'<label for="([\w-]+)"', page)
    assert 'role="status" aria-live="polite"' in page


CHOICES = [settings(), settings(limit=10, bottom=0.5, kappa=0.0), settings(limit=40, top=0.25), settings(limit=110)]


@needs_node
def test_whole_episodes_give_what_trac_partition_gives_for_the_log(views):
    for task, of_task in views.items():
        (whole,) = [view for view in of_task if view["ratio"] == 1]
        for found, choice in zip(in_the_page([(whole, choice) for choice in CHOICES]), CHOICES, strict=True):
            assert_same(found, labelled(trac.load(task), choice["limit"], choice))


@needs_node
def test_the_samples_of_windows_give_what_trac_partition_gives(views):
    exact = [{**view, "returns": binary(view["returns"]).tolist()} for of_task in views.values() for view in of_task]
    cases = [(view, choice) for view in exact for choice in CHOICES]
    for found, case in zip(in_the_page(cases), cases, strict=True):
        assert_same(found, in_python(*case))
