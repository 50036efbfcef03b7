"""Behaviour cloning of every transition (BC-All) and of the safe episodes (BC-Safe), as in DSRL's benchmark."""

from collections.abc import Sequence

import numpy as np

from trac.config import TracConfig
from trac.partition import PartitionError, Segments
from trac.train import train
from trac.trajectories import Trajectories

BATCH_SIZE = 512  # transitions per update, as in the OSRL benchmark (Liu et al. 2023, arXiv 2306.09303)


def bc_all(data: Trajectories, config: TracConfig | Sequence[TracConfig], **options):
    """Clone every transition of the data, whatever it cost.

    Takes what `trac.train` takes and returns what it returns. All `steps` updates clone, each on
    BATCH_SIZE single transitions; the cost limit plays no part but in the scores.
    """
    return train(data, _cloning(config), label=_every_episode, algorithm="bc_all", **options)


def bc_safe(data: Trajectories, config: TracConfig | Sequence[TracConfig], **options):
    """Clone the episodes whose cost is within the limit; otherwise as `bc_all`.

    Raises PartitionError when no episode is safe.
    """
    return train(data, _cloning(config), label=_safe_episodes, algorithm="bc_safe", **options)


def _cloning(config):
    if isinstance(config, TracConfig):
        return config.replace(batch_size=BATCH_SIZE, bc_steps=config.steps)
    return [_cloning(c) for c in config]


def _every_episode(data: Trajectories, config: TracConfig) -> Segments:
    return _transitions(data, np.arange(len(data.starts)), config.cost_limit)


def _safe_episodes(data: Trajectories, config: TracConfig) -> Segments:
    safe = np.flatnonzero(data.episode_costs <= config.cost_limit)
    if len(safe) == 0:
        raise PartitionError(
            f"no episode is safe at cost_limit={config.cost_limit:g}: the smallest cost of an episode is "
            f"{data.episode_costs.min():g}. Raise cost_limit to at least that."
        )
    return _transitions(data, safe, config.cost_limit)


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
