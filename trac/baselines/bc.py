"""Behaviour cloning of every transition (BC-All) and of the safe episodes (BC-Safe), as in DSRL's benchmark."""

from collections.abc import Sequence

import numpy as np

from trac.config import TracConfig
from trac.partition import PartitionError, Segments
from trac.train import check_task, finish, fit
from trac.trajectories import Trajectories

BATCH_SIZE = 512  # transitions per update, as in the OSRL benchmark (Liu et al. 2023, arXiv 2306.09303)


def bc_all(data: Trajectories, config: TracConfig | Sequence[TracConfig], *, device=None, out=None, progress=True):
    """Clone every transition of the data, whatever it cost.

    Takes what `trac.train` takes and returns what it returns. All `steps` updates clone, each on
    BATCH_SIZE single transitions; the cost limit plays no part but in the scores.
    """
    return _clone(data, config, lambda c: np.ones(len(data.starts), dtype=bool), "bc_all", device, out, progress)


def bc_safe(data: Trajectories, config: TracConfig | Sequence[TracConfig], *, device=None, out=None, progress=True):
    """Clone the episodes whose cost is within the limit; otherwise as `bc_all`.

    Raises PartitionError when no episode is safe.
    """
    return _clone(data, config, lambda c: data.episode_costs <= c.cost_limit, "bc_safe", device, out, progress)


def _clone(data, config, chosen, algorithm, device, out, progress):
    configs = [config] if isinstance(config, TracConfig) else list(config)
    check_task(data, configs)
    segments = []
    for c in configs:
        keep = chosen(c)
        if not keep.any():
            raise PartitionError(
                f"no episode is safe at cost_limit={c.cost_limit:g}: the smallest cost of an episode is "
                f"{data.episode_costs.min():g}. Raise cost_limit to at least that."
            )
        segments.append(_transitions(data, np.flatnonzero(keep), c.cost_limit))
    cloning = [c.replace(batch_size=BATCH_SIZE, bc_steps=c.steps) for c in configs]
    return finish(fit(data, segments, cloning, device=device, progress=progress), config, out, algorithm=algorithm)


def _transitions(data: Trajectories, episodes: np.ndarray, cost_limit: float) -> Segments:
    """Each transition of those episodes as a window of one step."""
    lengths = data.lengths[episodes]
    offsets = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    starts = np.repeat(data.starts[episodes], lengths) + offsets
    return Segments(
        starts=starts,
        length=1,
        labels=np.ones(len(starts), dtype=np.float32),
        weights=np.ones(len(starts), dtype=np.float32),
        episodes=np.repeat(episodes, lengths),
        returns=data.rewards[starts].astype(np.float64),
        costs=data.costs[starts].astype(np.float64),
        cost_limit=cost_limit,
        windows=len(starts),
        too_short=0,
        too_short_unsafe=0,
    )
