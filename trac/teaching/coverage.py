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
    "CarRun": (40, (572, 572, 574, 572, 573, 574, 575, 572)),
    "DroneRun": (140, (426, 456, 512, 557, 613, 665, 664, 683)),
    "DroneCircle": (100, (690, 705, 764, 829, 840, 884, 996, 994)),
    "AntRun": (150, (689, 682, 694, 724, 752, 802, 823, 955)),
    "AntCircle": (200, (292, 306, 366, 406, 454, 459, 461, 461)),
    "SwimmerVelocity": (200, (166, 166, 168, 175, 195, 214, 224, 239)),
    "HopperVelocity": (250, (1718, 1727, 1732, 1746, 1796, 1838, 1879, 1911)),
    "HalfCheetahVelocity": (250, (2731, 2697, 2704, 2724, 2759, 2773, 2786, 2807)),
    "PointCircle1": (200, (48, 49, 50, 52, 55, 58, 62, 62)),
    "PointGoal1": (100, (30, 27, 30, 28, 29, 28, 29, 27)),
    "easysparse": (85, (262, 352, 374, 364, 426, 426, 426, 426)),
}


def coverage(data: Trajectories) -> pd.DataFrame:
    """Episodes and best returns by cost.

    Returns:
        One row for each eighth of the cost range: cost_from, cost_to, trajectories, best_return,
        dsrl_frontier, ratio (of the two).

    Example:
        >>> coverage(data).columns.tolist()
        ['cost_from', 'cost_to', 'trajectories', 'best_return', 'dsrl_frontier', 'ratio']
    """
    if data.task not in DSRL_FRONTIER:
        raise ValueError(f"no frontier is known for {data.task}; there are {', '.join(DSRL_FRONTIER)}.")
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
