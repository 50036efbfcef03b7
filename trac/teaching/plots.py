"""The figures' common vocabulary: one look, one colour for each meaning, one function for each kind of figure."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from trac.data.trajectories import Trajectories
from trac.partition import Segments
from trac.statistics import bootstrap_interval

_BLIND_SAFE = sns.color_palette("colorblind")
COLORS = {
    "desirable": _BLIND_SAFE[0],
    "undesirable": _BLIND_SAFE[3],
    "neither": (0.75, 0.75, 0.75),
    "limit": (0.15, 0.15, 0.15),
    "BC-All": _BLIND_SAFE[1],
    "BC-Safe": _BLIND_SAFE[2],
    "CDT": _BLIND_SAFE[4],
    "BCQ-Lag": _BLIND_SAFE[5],
    "BEAR-Lag": _BLIND_SAFE[6],
    "CPQ": _BLIND_SAFE[7],
    "COptiDICE": _BLIND_SAFE[9],
    "TraC": _BLIND_SAFE[0],
}
MARKERS = {"BC-All": "s", "BC-Safe": "D", "CDT": "^", "BCQ-Lag": "v", "BEAR-Lag": "<"}
MARKERS |= {"CPQ": ">", "COptiDICE": "P", "TraC": "o"}


def style() -> None:
    """Set the look of all figures; called once at the top of a chapter.

    >>> style()
    """
    sns.set_theme(context="notebook", style="ticks", palette="colorblind")
    plt.rcParams.update(
        {"figure.dpi": 100, "axes.spines.right": False, "axes.spines.top": False, "legend.frameon": False}
    )


def cost_return(data: Trajectories, cost_limit: float, ax: Axes) -> None:
    """Every episode as a point, cost against return, with the limit.

    >>> cost_return(data, 20, plt.figure().gca())
    """
    ax.scatter(data.episode_costs, data.returns, s=8, color=COLORS["neither"], edgecolor="0.4", linewidth=0.3)
    _limit(ax, cost_limit, f"limit {cost_limit:g}")
    ax.set(xlabel="episode cost", ylabel="episode return")


def segments(labelled: Segments, ax: Axes, *, shown: int = 4_000, seed: int = 0) -> None:
    """Labelled segments, cost against return, coloured by class; a random sample of at most `shown`.

    >>> segments(trac.partition(data, cost_limit=20), plt.figure().gca())
    """
    generator = np.random.default_rng(seed)
    pick = generator.permutation(len(labelled))[:shown]
    # Costs of segments are whole numbers in most tasks: a little spread shows how many points lie there.
    x, y = labelled.costs[pick] + generator.uniform(-0.3, 0.3, len(pick)), labelled.returns[pick]
    for label, name in ((0, "undesirable"), (1, "desirable")):
        rows = labelled.labels[pick] == label
        count = int((labelled.labels == label).sum())
        ax.scatter(x[rows], y[rows], s=8, color=COLORS[name], alpha=0.6, linewidth=0, label=f"{name} ({count:,})")
    _limit(ax, labelled.cost_limit, f"limit {labelled.cost_limit:g}")
    ax.set(xlabel=f"cost of {labelled.length} steps", ylabel=f"return of {labelled.length} steps")
    ax.legend(markerscale=3)


def _limit(ax: Axes, x: float, text: str) -> None:
    ax.axvline(x, color=COLORS["limit"], linestyle="--", linewidth=1)
    ax.annotate(text, (x, 1), xycoords=("data", "axes fraction"), xytext=(4, -2), textcoords="offset points", va="top")


def curves(history: pd.DataFrame, axes: Sequence[Axes]) -> None:
    """A run's cloning loss, classification loss and accuracy, and mean score of each class: three axes.

    >>> config = trac.TracConfig(task="BallRun", steps=8, bc_steps=4, log_every=2, eval_episodes=0)
    >>> curves(trac.train(data, config, progress=False).history, plt.figure().subplots(1, 3))
    """
    cloning, second = history[history.phase == "bc"], history[history.phase == "trac"]
    axes[0].plot(cloning.step, cloning.loss, color=COLORS["BC-All"])
    axes[0].set(xlabel="update", ylabel="cloning loss", title="reference policy")
    axes[1].plot(second.step, second.loss, color=COLORS["TraC"])
    axes[1].set(xlabel="update", title="classifier")
    axes[1].set_ylabel("classification loss", color=COLORS["TraC"])
    right = axes[1].twinx()
    right.plot(second.step, second.accuracy, color=COLORS["limit"], linestyle=":")
    right.set_ylabel("accuracy (dotted)")
    right.spines["right"].set_visible(True)
    for name in ("desirable", "undesirable"):
        axes[2].plot(second.step, second[f"score_{name}"], color=COLORS[name], label=name)
    axes[2].set(xlabel="update", ylabel="mean score", title="scores of both classes")
    axes[2].legend()


def scores(results: Mapping[str, pd.DataFrame], axes: Sequence[Axes]) -> None:
    """Normalised reward and cost of one policy of each method, mean and 95 % bootstrap interval: two axes.

    `results` maps a method's name to its episodes (`Evaluation.episodes`). The interval is over these.

    >>> episodes = pd.DataFrame(dict(normalized_reward=[0.4, 0.6], normalized_cost=[0.5, 1.5]))
    >>> scores({"TraC": episodes, "BC-Safe": episodes / 2}, plt.figure().subplots(1, 2))
    """
    for ax, column, title in zip(
        axes, ("normalized_reward", "normalized_cost"), ("normalised reward", "normalised cost"), strict=True
    ):
        for place, (name, episodes) in enumerate(results.items()):
            mean, (low, high) = episodes[column].mean(), bootstrap_interval(episodes[column])
            ax.errorbar(
                mean,
                place,
                xerr=[[mean - low], [high - mean]],
                color=COLORS.get(name),
                marker=MARKERS.get(name, "o"),
                markersize=8,
                capsize=3,
            )
        ax.set(xlabel=title, yticks=range(len(results)), yticklabels=list(results), ylim=(len(results) - 0.5, -0.5))
        ax.set_xlim(left=min(0, ax.get_xlim()[0]))
    _limit(axes[1], 1.0, "limit")


def reward_cost(table: pd.DataFrame, ax: Axes) -> None:
    """Normalised reward against cost of each method, one point for each cost limit, with intervals over seeds.

    The safe region is green. The cost's scale is linear up to the limit and logarithmic beyond, so that no method's
    excess decides what is seen of the others; intervals are cut off at a cost of 0.

    `table` has the columns method, cost_limit, normalized_reward and normalized_cost, and for the latter two also
    `_low` and `_high`: the ends of Student's t interval, as in book/results/quick_table.csv.

    >>> table = pd.DataFrame(dict(method=["TraC"], cost_limit=20))
    >>> for score in ("normalized_reward", "normalized_cost"):
    ...     table[[score, f"{score}_low", f"{score}_high"]] = 0.8, 0.7, 0.9
    >>> reward_cost(table, plt.figure().gca())
    """
    ax.axvspan(-0.1, 1, color=COLORS["BC-Safe"], alpha=0.12, linewidth=0)
    for method, rows in table.groupby("method", sort=False):
        points = rows.sort_values("cost_limit")
        bars: dict[str, Any] = {
            axis: (
                points[name] - points[f"{name}_low"].clip(lower=0 if axis == "xerr" else None),
                points[f"{name}_high"] - points[name],
            )
            for axis, name in (("xerr", "normalized_cost"), ("yerr", "normalized_reward"))
        }
        look: dict[str, Any] = dict(
            color=COLORS.get(method), marker=MARKERS.get(method, "o"), linestyle=":", elinewidth=0.8, label=method
        )
        ax.errorbar(points.normalized_cost, points.normalized_reward, **bars, **look)
    ax.set_xscale("symlog", linthresh=1, linscale=1.5)
    ax.set_xticks([0, 0.5, 1, 2, 5, 10], ["0", "0.5", "1", "2", "5", "10"])
    ax.set(xlabel="normalised cost", ylabel="normalised reward", xlim=(-0.1, 14))


def settings(summary: pd.DataFrame, setting: str, axes: Sequence[Axes], *, series: str = "task") -> None:
    """Normalised reward and cost against one setting, mean and 95 % interval over seeds: two axes.

    Args:
        summary: from `trac.statistics.summarize`, with Student's t intervals; one row for each value of `setting` and
            `series`.
        setting: column on the horizontal axis, its values at equal distances in their order of appearance.
        series: column with one line for each value.

    Example:
        >>> score = dict(normalized_reward=[0.4, 0.6], normalized_cost=[0.5, 1.5])
        >>> runs = pd.DataFrame(dict(task="BallRun", alpha=0.2, seed=[0, 1], **score))
        >>> table = trac.statistics.summarize(runs, ["task", "alpha"])
        >>> settings(table, "alpha", plt.figure().subplots(1, 2))
    """
    places = {value: place for place, value in enumerate(dict.fromkeys(summary[setting]))}
    lines = list(summary.groupby(series, sort=False))
    for ax, score in zip(axes, ("normalized_reward", "normalized_cost"), strict=True):
        for number, (name, rows) in enumerate(lines):
            # A small shift, so that the bars of two lines do not hide each other.
            x = rows[setting].map(places) + 0.12 * (number - (len(lines) - 1) / 2)
            bars = [rows[score] - rows[f"{score}_low"], rows[f"{score}_high"] - rows[score]]
            marker = "osD^vP"[number % 6]
            ax.errorbar(x, rows[score], bars, marker=marker, linestyle=":", capsize=3, label=str(name))
        ax.set(xlabel=setting, ylabel=score.replace("_", " ").replace("ized", "ised"))
        ax.set_xticks(range(len(places)), [f"{v:g}" if isinstance(v, float) else str(v) for v in places])
        ax.set_ylim(bottom=min(0, ax.get_ylim()[0]))
    axes[1].axhline(1, color=COLORS["limit"], linestyle="--", linewidth=1)
    axes[0].legend()
