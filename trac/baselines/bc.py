"""Behaviour cloning of every transition (BC-All) and of the safe episodes (BC-Safe), as in DSRL's benchmark."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from trac.config import TracConfig
from trac.core.run import Run
from trac.data.tasks import keeps_limit
from trac.data.trajectories import Trajectories
from trac.partition import PartitionError, Segments, every_segment
from trac.train import config_list, train_on

BATCH_SIZE = 512  # transitions per update, as in the OSRL benchmark (Liu et al. 2023, arXiv 2306.09303)


def bc_all(data: Trajectories, config: TracConfig | Sequence[TracConfig], **options: Any) -> Any:
    """Clone every transition of the data, whatever it cost.

    Takes what `trac.train` takes and returns what it returns. All `steps` updates clone, each on
    BATCH_SIZE single transitions; the cost limit plays no part but in the scores.

    >>> config = trac.TracConfig(task="BallRun", steps=2, bc_steps=2, eval_episodes=0)
    >>> bc_all(data, config, progress=False).record["segments"]["labelled"]
    64400
    """
    configs = config_list(data, config, TracConfig)
    everything = np.ones(len(data.starts), dtype=bool)
    segments = [_transitions(data, everything, c.cost_limit) for c in configs]
    return _clone(data, config, configs, segments, algorithm="bc_all", **options)


def bc_safe(data: Trajectories, config: TracConfig | Sequence[TracConfig], **options: Any) -> Any:
    """Clone the episodes whose cost is within the limit; otherwise as `bc_all`.

    Raises PartitionError when no episode is safe.

    >>> config = trac.TracConfig(task="BallRun", cost_limit=20, steps=2, bc_steps=2, eval_episodes=0)
    >>> bc_safe(data, config, progress=False).record["segments"]["labelled"]
    22300
    """
    configs, segments = config_list(data, config, TracConfig), []
    for c in configs:
        safe = keeps_limit(data.episode_costs, c.cost_limit)
        if not safe.any():
            raise PartitionError(
                f"no episode is safe at cost_limit={c.cost_limit:g}: the smallest cost of an episode is "
                f"{data.episode_costs.min():g}. Raise cost_limit to at least that."
            )
        segments.append(_transitions(data, safe, c.cost_limit))
    return _clone(data, config, configs, segments, algorithm="bc_safe", **options)


def _clone(
    data: Trajectories, config: Any, configs: list[TracConfig], segments: list[Segments], **options: Any
) -> Run | list[Run]:
    cloning = [c.replace(batch_size=BATCH_SIZE, bc_steps=c.steps) for c in configs]
    return train_on(data, cloning, segments, single=isinstance(config, TracConfig), **options)


def _transitions(data: Trajectories, chosen: np.ndarray, cost_limit: float) -> Segments:
    """Each transition of the chosen episodes (E,) bool as a segment of one step, all of them desirable."""
    starts, episodes = every_segment(data, 1)
    starts, episodes = starts[chosen[episodes]], episodes[chosen[episodes]]
    return Segments(
        starts=starts,
        length=1,
        labels=np.ones(len(starts), dtype=np.float32),
        weights=np.ones(len(starts), dtype=np.float32),
        episodes=episodes,
        returns=data.rewards[starts].astype(np.float64),
        costs=data.costs[starts].astype(np.float64),
        cost_limit=cost_limit / int(data.lengths.max()),
        total=len(starts),
        too_short=0,
        too_short_unsafe=0,
    )
