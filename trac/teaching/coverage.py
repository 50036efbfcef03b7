"""How well a log covers the range of costs, next to DSRL's own data."""

import numpy as np
import pandas as pd

from trac.data.trajectories import Trajectories

# Largest cost of an episode, and the best return in each eighth of the costs up to there, read off the plots of DSRL's
# data (arXiv 2306.09303).
DSRL_FRONTIER = {
    "BallRun": (80, (440, 440, 550, 700, 850, 1000, 1150, 1320)),
    "BallCircle": (80, (670, 690, 750, 780, 850, 880, 865, 865)),
    "CarCircle": (100, (430, 440, 475, 480, 505, 510, 530, 530)),
}


def coverage(data: Trajectories) -> pd.DataFrame:
    """Episodes and best returns by cost.

    Returns:
        One row for each eighth of the cost range: cost_from, cost_to, trajectories, best_return,
        dsrl_frontier, ratio (of the two).
    """
    max_cost, frontier = DSRL_FRONTIER[data.task]
    edges = np.linspace(0, max_cost, 9)
    eighth = np.clip((data.episode_costs / max_cost * 8).astype(int), 0, 7)
    best = np.array([data.returns[eighth == i].max(initial=-np.inf) for i in range(8)])
    return pd.DataFrame(
        {
            "cost_from": edges[:-1],
            "cost_to": edges[1:],
            "trajectories": np.bincount(eighth, minlength=8),
            "best_return": best,
            "dsrl_frontier": np.array(frontier, dtype=float),
            "ratio": best / np.array(frontier),
        }
    )
