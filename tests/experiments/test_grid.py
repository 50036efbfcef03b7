import pytest

from trac.config import ConfigError
from trac.experiments.grid import check_value, plan

DEFAULTS = dict(alpha=0.2, cost_limit=20.0, top=0.5, bottom=0.0, steps=4000, task="BallRun", clamp=None, hidden=[8])
DEFAULTS |= dict(seeds=[0, 1], wait=0.0, eval_episodes=20)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        *(("alpha", "1", 1.0), ("cost_limit", "inf", float("inf")), ("task", "BallCircle", "BallCircle")),
        *(("clamp", "1e-6", 1e-6), ("hidden", "[16, 16]", [16, 16]), ("hidden", "(4,)", [4]), ("steps", "10", 10)),
    ],
)
def test_values_take_the_type_of_their_default(name, text, value):
    got = check_value(name, text, DEFAULTS)
    assert got == value and type(got) is type(value)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (["alfa=1"], "'alfa' is not a parameter of the notebook; it has alpha"),
        (["steps=1.5"], "steps=1.5: must be a valid integer"),
        (["alpha=high"], "alpha='high': must be a valid number"),
        (["wait=long"], "wait='long': must be a valid number"),
        (["seeds=[0,0.5]"], r"seeds=\(0, 0.5\): entry 1 must be a valid integer"),
        (["seeds=0,1"], "each value of seeds is a list. For one list write --seeds 0,1"),
        (["seeds=[-1]"], "entry 0 must be greater than or equal to 0"),
        (["hidden=64,32"], r"hidden=64: must be a tuple, such as \(64, 64\)"),
        (["eval_episodes=0"], "eval_episodes=0: a point's result is its scores"),
        (["alpha"], "must have the form name=value"),
        (["alpha=1", "alpha=2"], "alpha is given twice"),
        (["alpha=0.1,0.2,0.10"], "alpha has 0.1 twice"),
        (["seeds=[0,1,0]"], "seeds has 0 twice"),
        (["top=0.5,2.0"], r"^top=2.0: must be less than or equal to 1.$"),
        (["task=BallRun,BalRun"], r"^unknown task 'BalRun': did you mean BallRun.*less like it.$"),
        (
            ["top=0.5,1.0", "bottom=0.5"],
            r"the point top=1.0, bottom=0.5 cannot be run: .*--where leaves such",
        ),
        (["steps=True"], "steps=True: must be a valid integer"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_runs(grid, message):
    with pytest.raises(ValueError, match=message):
        plan(DEFAULTS, grid, [], None)


@pytest.mark.parametrize(
    ("axis", "values"),
    [
        ("hidden=(64,64),(32,32)", [[64, 64], [32, 32]]),
        ("hidden=[8, 8],(4,)", [[8, 8], [4]]),
        ("hidden=(64,64)", [[64, 64]]),
        ("seeds=[0,1],[2]", [[0, 1], [2]]),
        ("clamp=None,1e-6", [None, 1e-6]),
        ("task=BallRun,BallCircle", ["BallRun", "BallCircle"]),
        ("task='my task',for", ["my task", "for"]),
    ],
)
def test_a_comma_in_brackets_separates_no_values(axis, values):
    assert [point[axis.partition("=")[0]] for point in plan(DEFAULTS, [axis], [], None)[0]] == values


def test_a_plan_is_the_grid_without_what_where_removes():
    points, removed = plan(DEFAULTS, ["top=0.5,1.0", "bottom=0.0,0.25,0.5"], ["steps=5000"], "top + bottom <= 1")
    assert removed == 2 and len(points) == 4
    assert [(p["top"], p["bottom"], p["steps"]) for p in points][-1] == (1.0, 0.0, 5000)
    with pytest.raises(ConfigError, match="no point is left"):
        plan(DEFAULTS, ["alpha=1,2"], [], "alpha > 2")


@pytest.mark.parametrize(
    ("expression", "kept"),
    [
        *(("alpha * 5 == 1", 2), ("not alpha < 0.2", 4), ("0.1 < alpha < 0.3", 2), ("-alpha < 0", 4)),
        *(("task == 'BallRun' and steps / 2 >= 2000", 4), ("alpha > 0.3 or top == 0.5", 3), ("clamp != clamp", 4)),
        ("top in [0.5, 0.7]", 2),
    ],
)
def test_where_is_an_expression_in_the_parameters(expression, kept):
    points, removed = plan(DEFAULTS, ["alpha=0.2,0.5", "top=0.5,1.0"], [], expression)
    assert (len(points), removed) == (kept, 4 - kept)
    assert all(type(point["top"]) is float and point["hidden"] == [8] for point in points)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("alfa > 1", "cannot be evaluated .*'alfa' is not defined.* in the parameters alpha, cost_limit"),
        ("alpha >", "cannot be evaluated"),
        ("alpha > 'x'", "cannot be evaluated"),
        ("__import__('os').getcwd()", "cannot be evaluated"),
        ("alpha", "it is not true or false of each point"),
        ("0", "it is not true or false of each point"),
        ("1 < 2", "it is not true or false of each point"),
    ],
)
def test_an_expression_that_makes_no_sense_is_refused(expression, message):
    with pytest.raises(ConfigError, match=message):
        plan(DEFAULTS, ["alpha=0.2,0.5"], [], expression)
