"""The interactive figures' scripts against trac, and the partition explorer as the chapter's page has it."""

import json
import re
import shutil
import subprocess
import warnings
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch

import trac
from trac.config import ConfigError
from trac.data.trajectories import from_arrays
from trac.partition import partition
from trac.score import log_prob, segment_score, trac_loss
from trac.teaching.explorer import explorer

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "book" / "explorer.js"
D3 = ROOT / "book" / "d3.js"
CHAPTER = ROOT / "notebooks" / "04_partition.ipynb"
NAMESPACES = r"http://www\.w3\.org/(1999/xhtml|1999/xlink|2000/svg|2000/xmlns/|XML/1998/namespace)"  # names only
ASKS = r"//\w|\bsrc\b|\bhref\b|url\(|@import|fetch\(|XMLHttpRequest|WebSocket|import\("
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="node, which runs the explorer's script, is not installed")
RUN = """
const [script, name] = process.argv.slice(1);
const cases = JSON.parse(require("fs").readFileSync(0));
console.log(JSON.stringify(cases.map((given) => require(script)[name](...given))));
"""


def in_the_page(cases, name="partition", script=SCRIPT):
    """What a function of a script says of each tuple of arguments."""
    command = [NODE, "-e", RUN, str(script), name]
    run = subprocess.run(command, input=json.dumps(cases), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def asks(page):
    """What of a page would be loaded from elsewhere."""
    return re.findall(ASKS, re.sub(NAMESPACES, "", page))


def in_python(view, settings):
    """What trac.partition says of the same windows, or its error.

    The windows stand for themselves: a log of one-step episodes, held to the share of the limit.
    """
    size = len(view["returns"])
    log = from_arrays(
        "small",
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
    for script in (SCRIPT, D3, SCRIPT.with_name("partition_explorer.js")):
        assert script.read_text(encoding="utf-8").strip() in page  # as it is now
    assert not asks(page)


@needs_node
def test_of_d3_the_page_has_what_the_figures_use_under_its_licence():
    text = D3.read_text(encoding="utf-8")
    head, _ = text.split("*/", 1)
    assert len(text.encode()) < 60_000 and "</script" not in text
    for phrase in ("ISC", "Copyright 2010-2023 Mike Bostock", "Permission to use", "THE SOFTWARE IS PROVIDED"):
        assert phrase in head
    command = [NODE, "-p", "require(process.argv[1]); Object.keys(d3).join()", str(D3)]
    kept = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().split(",")
    scripts = [SCRIPT, *(SCRIPT.with_name(f"{name}.js") for name, _ in FIGURES)]
    used = set(re.findall(r"\bd3\.(?!js\b)(\w+)", "".join(script.read_text(encoding="utf-8") for script in scripts)))
    assert sorted(kept) == sorted(used), "the list in the Makefile; then: make d3"


FIGURES = [("partition_explorer", 6), ("forces", 3), ("labels_explorer", 4), ("limit_explorer", 3)]


@pytest.mark.parametrize(("name", "count"), FIGURES)
def test_every_slider_has_a_label_and_the_counts_are_announced(name, count):
    page = explorer(name, book=ROOT / "book")
    controls = re.findall(r'<(?:input|select)[^>]*\bid="([\w-]+)"', page)
    assert len(controls) == count and controls == re.findall(r'<label for="([\w-]+)"', page)
    assert 'role="status" aria-live="polite"' in page
    assert "EXPLORER_" not in page and page.count(SCRIPT.read_text(encoding="utf-8").strip()) == 1
    assert not asks(page)


def test_without_the_book_the_figure_says_where_it_is(tmp_path):
    assert "page of the book" in explorer("forces", book=tmp_path)


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


ACTIONS = dict(good=[0.45, 0.3], bad=[-0.25, 0.1], reference=[0.1, 0.2])


@needs_node
@pytest.mark.parametrize("chosen", [(0.2, 0.25, 0.99), (1.0, 0.6, 0.0), (0.05, 1.0, 1.0), (0.7, 0.0, 0.5)])
def test_the_forces_are_the_gradient_of_the_loss(chosen):
    chosen = dict(zip(("alpha", "eta", "gamma"), chosen, strict=True))
    actions = torch.tensor([ACTIONS["good"], ACTIONS["bad"]], dtype=torch.float64)[:, None].expand(2, 10, 2)
    means = [[0.1, 0.2], [0.45, 0.3], [-1.0, 0.9]]
    founds = in_the_page([(ACTIONS, mean, chosen) for mean in means], "forces", ROOT / "book" / "forces.js")
    for mean, found in zip(means, founds, strict=True):
        mean = torch.tensor(mean, dtype=torch.float64, requires_grad=True)
        ratio = log_prob(mean, actions) - log_prob(torch.tensor(ACTIONS["reference"], dtype=torch.float64), actions)
        score = segment_score(ratio, alpha=chosen["alpha"], gamma=chosen["gamma"])
        assert np.allclose([found[name]["score"] for name in ("good", "bad")], score.tolist())
        for name, use in (("good", "desirable"), ("bad", "undesirable"), ("sum", "both")):
            weight, label = torch.ones(2, dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64)
            loss, _ = trac_loss(score, weight, label, chosen["eta"], use=use)
            (gradient,) = torch.autograd.grad(2 * loss, mean, retain_graph=True)  # the loss is the mean of two
            force = found["sum"] if name == "sum" else found[name]["force"]
            assert np.allclose(force, -gradient, atol=1e-12)


@needs_node
def test_the_steps_lead_to_where_the_forces_cancel():
    script = ROOT / "book" / "forces.js"
    line = dict(good=[0.5, 0], bad=[-0.2, 0], reference=[0.15, 0])
    small = dict(alpha=1e-6, eta=0.25, gamma=0)
    large = dict(alpha=5, eta=0.25, gamma=0)
    ends = [path[-1] for path in in_the_page([(line, [0.15, 0], one) for one in (small, large)], "path", script)]
    # small scores: past the good action by eta / (1 - eta) of the distance; large ones: the root by bisection
    assert np.allclose(ends, [[0.7 / 3 + 0.5, 0], [0.55214, 0]], atol=1e-4)
    assert np.allclose(in_the_page([(line, ends[0])], "past", script), [1 / 3], atol=1e-4)
    (around,) = in_the_page([(ACTIONS, [-0.5, -0.9], dict(alpha=0.2, eta=0.25, gamma=0.99))], "path", script)
    (there,) = in_the_page([(ACTIONS, around[-1], dict(alpha=0.2, eta=0.25, gamma=0.99))], "forces", script)
    assert np.hypot(*there["sum"]) < 1e-4


@needs_node
def test_the_limit_on_the_frontier_says_what_trac_and_the_study_say():
    script = ROOT / "book" / "limit_explorer.js"
    log = trac.load("BallCircle")
    view = dict(returns=log.returns.tolist(), costs=log.episode_costs.tolist(), length=200, horizon=200)
    for limit, top in ((5, 0.25), (20, 0.5), (60, 0.5)):
        segments = partition(log, cost_limit=limit, top=top, bottom=0.25, segment_ratio=1.0)
        good = segments.labels == 1
        (found,) = in_the_page([(view, settings(limit, top, 0.25))])
        (centre,) = in_the_page([(view, found)], "average", script)
        assert np.allclose(centre, [segments.costs[good].mean(), segments.returns[good].mean()])
    (line,) = in_the_page([(view,)], "frontier", script)
    for cost, value in line:
        assert (
            value
            == log.returns[log.episode_costs <= cost].max()
            > log.returns[log.episode_costs < cost].max(initial=-9e9)
        )
    assert line[-1][1] == log.returns.max()

    table = pd.read_csv(ROOT / "book" / "results" / "study_cost_limit.csv", comment="#")
    table = table[(table.task == "BallCircle") & (table.model == "last") & (table.top == 0.5) & (table.bottom == 0)]
    runs = table.rename(columns={"cost_limit": "limit"})[["limit", "cost", "return"]].to_dict("records")
    groups, gap = in_the_page([(view, runs, 20), (view, runs, 21)], "policies", script)
    means = table.groupby("cost_limit")[["cost", "return"]].mean()
    assert [group["limit"] for group in groups] == means.index.tolist()
    assert np.allclose([[group["cost"], group["return"]] for group in groups], means)
    assert [group["limit"] for group in groups if group["same"]] == [20]
    assert not any(group["same"] for group in gap)


POLICIES = json.loads((ROOT / "book" / "results" / "labels_explorer.json").read_text())


@needs_node
def test_an_episode_up_to_a_step():
    run = dict(path=[0, 0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0], costs="01101")
    script = ROOT / "book" / "labels_explorer.js"
    founds = in_the_page([(run, step) for step in (0, 2, 3, 5)], "upTo", script)
    assert [len(found["points"]) for found in founds] == [1, 3, 4, 6]
    assert [found["cost"] for found in founds] == [0, 1, 2, 3]
    assert founds[2]["costly"] == [[[1, 0], [2, 0], [3, 0]]]
    assert founds[3]["costly"] == [[[1, 0], [2, 0], [3, 0]], [[4, 0], [5, 0]]]


def test_the_policies_by_their_labels_are_whole_and_say_what_trac_partition_says():
    runs = POLICIES["runs"]
    options = [{run[name] for run in runs} for name in ("ratio", "x", "limit")]
    assert options == [{0.25, 0.5, 1.0}, {0.25, 0.5, 1.0}, {5, 20, 60}]
    assert len({(run["ratio"], run["x"], run["limit"]) for run in runs}) == len(runs) == 27
    page = explorer("labels_explorer", POLICIES, book=ROOT / "book")
    for values in options:  # what can be chosen is there
        assert re.search("".join(rf"<option[^>]*>{value:g}</option>" for value in sorted(values)), page)
    assert len(page.encode()) < 200_000
    for run in runs:  # a step costs 1 where it ends beyond a wall
        places = np.reshape(run["path"], (-1, 2))[1:]
        beyond = np.abs(places[:, 0]) - POLICIES["x_lim"]
        clear = np.abs(beyond) > 0.01  # not by rounding alone
        costs = np.array([cost == "1" for cost in run["costs"]])
        assert len(costs) == POLICIES["steps"] and ((beyond > 0) == costs)[clear].all()
    log = trac.load("BallCircle")
    for run in runs[::4]:
        found = partition(log, cost_limit=run["limit"], top=run["x"], segment_ratio=run["ratio"])
        good = found.labels == 1
        reckless = log.episode_costs[found.episodes[good]] > run["limit"]
        assert run["desirable"] == good.sum() and run["reckless"] == pytest.approx(reckless.mean(), abs=1e-3)
