"""Signs that a log which can be used is not what it was meant to be. They warn; `trac.data.trajectories` refuses."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from trac.data.tasks import TASKS

if TYPE_CHECKING:
    from trac.data.trajectories import Trajectories


def signs(data: "Trajectories") -> Iterator[str]:
    """What makes it likely that a log which can be used is not what it was meant to be: a sentence for each sign.

    >>> list(signs(data))
    []
    """
    changes = np.diff(data.costs, prepend=0)
    changes[data.starts] = 0
    before_last = changes.copy()
    before_last[data.starts + data.lengths - 1] = 0  # a sum so far may begin anew there
    costly = np.count_nonzero(data.episode_costs)
    for signs, found, rise, fall, what in (
        (before_last, sums_so_far(data.costs, data.lengths), "rise", "fall", "as sums of the costs so far do"),
        (
            -changes,
            sums_so_far(data.costs[::-1], data.lengths[::-1]),
            "fall",
            "rise",
            "as sums of the costs to come do",
        ),
    ):
        if (signs >= 0).all() and np.add.reduceat(signs > 0, data.starts, dtype=int).max() > 1:
            yield f"costs {rise} within episodes and never {fall}, {what}. They must be each step's own."
        elif found.sum() > 0.1 * costly:
            yield (
                f"in {found.sum()} of {costly} episodes with costs, these {rise} again and again and never {fall}, "
                f"{what}. They must be each step's own."
            )
    if not changes.any() and data.lengths.min() > 1 and len(np.unique(data.costs)) > 2:
        yield "costs are the same within each episode, as its total at every step is. They must be each step's own."
    gains = np.diff(data.rewards, prepend=0)
    gains[data.starts] = 0
    if not gains.any() and data.lengths.min() > 1 and len(np.unique(data.rewards)) > 2:
        yield "rewards are the same within each episode, as its return at every step is. They must be each step's own."
    if data.task in TASKS and data.actions.min() >= 0 and data.actions.max() > 0.9 and data.actions.min() < 0.1:
        yield (
            "all actions lie in [0, 1]. The simulator's lie in [-1, 1]: if these were scaled to [0, 1], take 2 a - 1."
        )
    empty = ~(data.observations.any(axis=1) | data.actions.any(axis=1) | (data.rewards != 0) | (data.costs > 0))
    padding = int(np.logical_and.reduceat(empty, data.starts).sum())
    if padding:
        yield (
            f"{padding} of {len(data.starts)} episodes are 0 in every step, as rows are that fill up to a length. Cut "
            f"them off before."
        )
    for key, values in (("observations", data.observations), ("rewards", data.rewards[:, None])):
        largest, width = np.abs(values).max(axis=0), np.ptp(values, axis=0)
        for i in np.flatnonzero((largest >= 1e4) & (np.spacing(largest) > 0.01 * width))[:1]:
            yield (
                f"column {i} of the {key} reaches {largest[i]:g} and is only {width[i]:g} wide, where float32 tells "
                f"steps of {np.spacing(largest[i]):g} apart. Subtract what is common to all of them."
            )
    if len(data) >= 100 and not np.ptp(data.actions, axis=0).any():
        yield "the actions are the same in every row. Check that they were logged."
    if len(data) >= 100 and data.lengths.max() > 1 and not _moves(data):
        yield "the observations are the same in all steps of an episode. Check that each step's own were logged."
    if data.lengths.max() > 1 and np.median(data.lengths) == 1:
        yield "most episodes have one step. Check what marks their ends."
    spread = data.observations.std(axis=0, dtype=np.float64)
    if spread.max() > 100:
        yield (
            f"column {spread.argmax()} of the observations has a standard deviation of {spread.max():g}, and networks "
            f"take them as they are. Divide it, here and in the environment, so that it is of the order of 1."
        )
    if isinstance(data._next, np.ndarray):
        yield from order(data, data._next)
    returns, (low, high) = data.returns, data.reward_range
    if returns.max() < low or returns.min() > high or not low - (high - low) <= returns.mean() <= high + (high - low):
        scale = f"DSRL's range for {data.task}" if data.task in TASKS else "reward_range"
        yield (
            f"the returns lie in [{returns.min():g}, {returns.max():g}], and {scale} is [{low:g}, {high:g}]. Check "
            f"the task, the range and the scale of the rewards."
        )
    if data.task not in TASKS:
        return
    task, longest = TASKS[data.task], int(data.lengths.max())
    varying = data.observations[:, spread > 1e-3 * spread.max()].astype(np.float64)
    ends = (varying.mean(axis=0), varying.std(axis=0)), (varying.min(axis=0), varying.max(axis=0))
    if len(data) >= 100 and any(np.allclose(pair, [[0], [1]], rtol=0, atol=0.05) for pair in ends):
        yield (
            f"each column of the observations is scaled to the same width, and those of {task.name}'s simulator are "
            f"not: a policy would see others there than here. Leave them as they were logged."
        )
    if not data.costs.any():
        yield "no step costs anything. Check that the costs were logged."
    alike = len(data.lengths) >= 10 and 2 * np.count_nonzero(data.lengths == longest) > len(data.lengths)
    if 2 * longest < task.max_episode_steps and (alike or not data.terminals.any()):
        yield (
            f"the longest episode has {longest} steps, and those of {task.name} have {task.max_episode_steps}. The "
            f"cost limit is for whole episodes: if these are pieces, mark only the episodes' ends."
        )


def order(data: "Trajectories", upcoming: Any) -> Iterator[str]:
    """Where next_observations are not the next row's observations, or go on where an episode ends.

    Args:
        data: the rest of the log.
        upcoming: (N, obs_dim), or what reads slices of it from a file.

    Example:
        >>> [sign[:60] for sign in order(data, data.observations)]
        ['next_observations are not the observations of the rows that ']
    """
    inside, same = ~(data.terminals | data.timeouts)[:-1], np.empty(len(data) - 1, dtype=bool)
    steps = distances = 0.0
    for first in range(0, len(same), 2**16):  # a large file's are not wanted in memory yet
        rows = slice(first, min(first + 2**16, len(same)))
        given, after, kept = upcoming[rows], data.observations[1:][rows], inside[rows, None]
        same[rows] = (given == after).all(axis=1)
        steps += float((np.abs(after - data.observations[rows]) * kept).sum(dtype=np.float64))
        distances += float((np.abs(after - given) * kept).sum(dtype=np.float64))
    wrong, early = np.flatnonzero(inside & ~same), np.flatnonzero(~inside & same)
    # Where noise was added to both, or one is rounded otherwise, hardly any are the same.
    if (inside & same).sum() < 0.1 * inside.sum():
        # No nearer to the next row's than the row's own are: swapped, the same, or in another order.
        wrong = wrong if distances > 0.999 * steps > 0 else wrong[:0]
    if len(wrong):
        yield (
            f"next_observations are not the observations of the rows that follow in {len(wrong)} of {inside.sum()} "
            f"rows within episodes, first in row {wrong[0]}: is an end missing there, or are the arrays in another "
            f"order?"
        )
    if len(early):
        yield (
            f"next_observations go on with the next row at {len(early)} of {(~inside).sum()} ends, first in row "
            f"{early[0]}: are these ends marked too early, or were all rows shifted by one?"
        )


def _moves(data: "Trajectories") -> bool:
    """Whether the observations change within any episode."""
    inside = ~(data.terminals | data.timeouts)[:-1]
    return any((column[1:] != column[:-1])[inside].any() for column in data.observations.T)


def sums_so_far(costs: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """(E,) bool: the episodes whose costs (N,) look like sums so far, and not like each step's own.

    Before the last step they never fall, and three times or more they rise from above 0, either after they stood still
    or by as much as at the step before. A cost of 0 or 1 a step never does so.

    >>> sums_so_far(np.array([0, 1, 1, 2, 3, 4, 5, 0, 1, 1, 0, 1]), np.array([7, 5]))
    array([ True, False])
    """
    ends = np.cumsum(lengths)
    starts = ends - lengths
    changes = np.diff(costs, prepend=0)
    changes[starts] = costs[starts]
    changes[ends - 1] = 0
    before, cost_before = np.roll(changes, 1), np.roll(costs, 1)
    again = (changes > 0) & (cost_before > 0) & ((before == 0) | (before == changes))
    again[starts] = False
    rises, falls = (np.add.reduceat(steps, starts, dtype=int) for steps in (again, changes < 0))
    found: np.ndarray = (rises >= 3) & (falls == 0)
    return found
