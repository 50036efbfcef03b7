"""The changes of a dataset that DSRL defines: thinned out, with outliers, with a part left out, with noise."""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from trac.data.trajectories import Trajectories


class FilterError(ValueError):
    """A filter with a number out of range, or that the data does not allow."""


def filtered(
    data: Trajectories,
    *,
    density: float = 1.0,
    cbins: int = 10,
    rbins: int = 50,
    max_npb: int = 5,
    min_npb: int = 2,
    outliers_percent: float | None = None,
    cost_limit: float | None = None,
    inpaint_ranges: Sequence[tuple[float, float, float, float]] | None = None,
    noise_scale: float | None = None,
    seed: int = 1234,
) -> Trajectories:
    """Apply DSRL's filters, by the names and in the order of dsrl 0.1.0's `OfflineEnv.pre_process_data`.

    Args:
        data: the whole dataset.
        density: below 1: thin out. Episodes are binned by cost and return; a bin of at most `min_npb` is
            emptied and one of more than `max_npb` is sampled down to that. As in dsrl these four numbers, not
            the value of `density`, say how much stays; `dsrl.infos.DENSITY_CFG` has them for 0.5 and 0.75.
        cbins: bins of the cost; as the next three, with `density` below 1 only.
        rbins: bins of the return.
        max_npb: most episodes of a bin.
        min_npb: a bin with no more episodes than this is emptied.
        outliers_percent: share of the episodes, such as 0.1, that is turned into outliers: out of those with
            at least half of the largest cost and return, some get 1.5 times their rewards and, in random
            steps, a cost below `cost_limit`.
        cost_limit: dsrl's target cost; with `outliers_percent` only.
        inpaint_ranges: (cost from, cost to, return from, return to), fractions of the data's range of costs,
            and of the range of returns among episodes of such costs. Episodes in there are left out, but for
            the outliers.
        noise_scale: Gaussian noise on observations and next observations, in units of the standard deviation
            of all their entries.
        seed: of the sampling; 1234 is dsrl's.

    Returns:
        New trajectories. Thinned ones come bin by bin, as from dsrl.

    Raises:
        FilterError: a number is out of range or has no effect, too few episodes qualify as outliers, or none is left.

    Example:
        >>> filtered(data, density=0.5)
        Trajectories(BallRun: 166 episodes, 16600 transitions)
        >>> len(filtered(data, inpaint_ranges=[(0, 0.5, 0, 1)]).starts) < len(data.starts)
        True
    """
    if not 0 < density <= 1 or min(cbins, rbins, max_npb) < 1:
        raise FilterError(f"density={density} must lie in (0, 1]; cbins, rbins and max_npb must be at least 1.")
    if density == 1 and (cbins, rbins, max_npb, min_npb) != (10, 50, 5, 2):
        raise FilterError(
            f"cbins={cbins}, rbins={rbins}, max_npb={max_npb} and min_npb={min_npb} remove no episode: they are for "
            f"density= below 1, which is missing."
        )
    if outliers_percent is not None and (not 0 < outliers_percent <= 1 or cost_limit is None or not cost_limit >= 1):
        raise FilterError(
            f"outliers_percent={outliers_percent} must lie in (0, 1], and needs a cost_limit of 1 or more, below which "
            f"the outliers' costs are."
        )
    if cost_limit is not None and outliers_percent is None:
        raise FilterError(f"cost_limit={cost_limit} removes no episode: it is for outliers_percent=, which is missing.")
    for bounds in inpaint_ranges or ():
        if np.size(bounds) != 4 or not (0 <= bounds[0] <= bounds[1] <= 1 and 0 <= bounds[2] <= bounds[3] <= 1):
            raise FilterError(
                f"inpaint_ranges: {bounds} must be a list of (cost from, to, return from, to), each in [0, 1]."
            )
    if noise_scale is not None and not 0 <= noise_scale < np.inf:
        raise FilterError(f"noise_scale={noise_scale} must be 0 or more.")

    data.check()
    data.check_next()
    generator = np.random.default_rng(seed)
    # In float32, as dsrl sums them: episodes on the edge of a bin fall on the same side.
    episodes = list(zip(data.starts, data.starts + data.lengths, strict=True))
    costs = np.array([data.costs[a:b].sum() for a, b in episodes])
    returns = np.array([data.rewards[a:b].sum() for a, b in episodes])
    low, high = costs.min(), costs.max()
    kept = np.arange(len(episodes))
    if density != 1:
        kept = _thin(_bins(costs, cbins), _bins(returns, rbins), max_npb, min_npb, random.Random(seed))

    step_rewards, step_costs, outliers = data.rewards.copy(), data.costs.copy(), np.array([], dtype=np.int64)
    if outliers_percent is not None and cost_limit is not None:
        risky = kept[(costs[kept] >= high / 2) & (returns[kept] >= data.reward_range[1] / 2)]
        number = max(int(len(kept) * outliers_percent), 1)
        if number > len(risky) or data.lengths[risky].min() < int(cost_limit) - 1:
            raise FilterError(
                f"{number} outliers are asked for, and {len(risky)} episodes have half of the largest cost and return; "
                f"each must have {int(cost_limit) - 1} steps or more."
            )
        outliers = generator.choice(risky, size=number, replace=False)
        for episode, cost in zip(outliers, generator.choice(np.arange(int(cost_limit)), size=number), strict=True):
            start, stop = episodes[episode]
            step_costs[start:stop] = 0
            step_costs[start + generator.choice(np.arange(stop - start), cost, replace=False)] = 1
            step_rewards[start:stop] *= 1.5
            costs[episode], returns[episode] = cost, 1.5 * returns[episode]

    for cost_from, cost_to, return_from, return_to in inpaint_ranges or ():
        inside = ((high - low) * cost_from + low <= costs[kept]) & (costs[kept] <= (high - low) * cost_to + low)
        if inside.any():
            worst, best = returns[kept[inside]].min(), returns[kept[inside]].max()
            inside &= (best - worst) * return_from + worst <= returns[kept]
            inside &= returns[kept] <= (best - worst) * return_to + worst
            kept = kept[~inside]
    kept = np.concatenate([kept, [episode for episode in outliers if episode not in kept]]).astype(np.int64)
    if len(kept) == 0:
        raise FilterError("the filters leave no episode: lower min_npb, use fewer bins, or narrow inpaint_ranges.")

    rows = np.concatenate([np.arange(*episodes[episode]) for episode in kept])
    observations = data.observations[rows]
    upcoming = None if data._next is None else data.next_observations[rows]
    if noise_scale is not None:
        observations = _with_noise(observations, noise_scale, generator)
        upcoming = None if upcoming is None else _with_noise(upcoming, noise_scale, generator)
    lengths = data.lengths[kept]
    return replace(
        data,
        observations=observations,
        actions=data.actions[rows],
        rewards=step_rewards[rows],
        costs=step_costs[rows],
        terminals=data.terminals[rows],
        timeouts=data.timeouts[rows],
        starts=np.concatenate([[0], np.cumsum(lengths)[:-1]]),
        lengths=lengths,
        _next=upcoming,
    )


def _bins(values: np.ndarray, number: int) -> np.ndarray:
    width = (values.max() - values.min()) / number
    return (values - values.min()) // width if width > 0 else np.zeros_like(values)


def _thin(
    cost_bins: np.ndarray, return_bins: np.ndarray, most: int, emptied: int, generator: random.Random
) -> np.ndarray:
    """Indices of the episodes that stay, bin by bin in the order in which the bins are met."""
    bins = defaultdict(list)
    for episode, key in enumerate(zip(cost_bins.tolist(), return_bins.tolist(), strict=True)):
        bins[key].append(episode)
    kept = []
    for members in bins.values():
        if len(members) > most:
            kept += generator.sample(members, most)
        elif len(members) > emptied:
            kept += members
    return np.array(kept, dtype=np.int64)


def _with_noise(values: np.ndarray, scale: float, generator: np.random.Generator) -> np.ndarray:
    return (values + scale * generator.normal(0, np.std(values), values.shape)).astype(np.float32)
