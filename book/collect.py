"""Make the book's datasets: constrained reinforcement learning in the real simulators.

    python book/collect.py BallCircle --seed 0

A call that was stopped goes on where it was, to the same bits; only a random search starts anew. The tasks of
Safety-Gymnasium and MetaDrive need `.venv-safety/bin/python` (make safety).

`collect_learning.py` learns and records. The episodes are then thinned evenly over a cost × return grid, as DSRL does
(Liu et al. 2024, arXiv 2306.09303).
"""

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pandas as pd
from collect_learning import collect
from collect_settings import SETTINGS, Collection

from trac.baselines.recorder import Episode
from trac.data.hdf5 import write
from trac.data.tasks import TASKS
from trac.data.trajectories import KEYS, Trajectories, from_arrays
from trac.teaching.coverage import coverage

PACKAGED = ("BallRun", "BallCircle", "CarCircle")  # the wheel has these: at full precision, with all seven arrays


def thin(costs: np.ndarray, returns: np.ndarray, settings: Collection, seed: int) -> np.ndarray:
    """Choose episodes evenly over cost, and within a bin of cost evenly over return.

    Each bin of cost keeps at most `trajectories / cost_bins` episodes, drawn round by round: one from
    each of its bins of return, then a second one, and so on.

    Args:
        costs: (E,) per episode.
        returns: (E,) per episode.

    Returns:
        Sorted indices into the episodes with a cost of at most `max_cost`.
    """
    costs, returns = np.asarray(costs), np.asarray(returns)
    within = np.flatnonzero(costs <= settings.max_cost)
    table = pd.DataFrame(
        {
            "cost": _bin(costs[within], 0, settings.max_cost, settings.cost_bins),
            "return": _bin(returns[within], returns[within].min(), returns[within].max(), settings.return_bins),
        },
        index=within,
    )
    table = table.iloc[np.random.default_rng(seed).permutation(len(table))]
    table["round"] = table.groupby(["cost", "return"]).cumcount()
    kept = table.sort_values("round", kind="stable").groupby("cost").head(settings.trajectories // settings.cost_bins)
    return np.sort(kept.index.to_numpy())


def _bin(values: np.ndarray, low: float, high: float, bins: int) -> np.ndarray:
    return np.clip(((values - low) / (high - low) * bins).astype(int), 0, bins - 1)


def join(task: str, episodes: Sequence[Episode]) -> Trajectories:
    """Lay episodes end to end."""
    return from_arrays(task, **{key: np.concatenate([episode[key] for episode in episodes]) for key in KEYS})


def rounded(episode: Episode) -> Episode:
    """Observations and actions to half precision, 11 significant bits, which compresses to half the size."""
    large = ("observations", "next_observations", "actions")
    return episode | {key: episode[key].astype(np.float16).astype(np.float32) for key in large}


def save(folder: Path, task: str, episodes: Sequence[Episode], settings: Collection, seed: int) -> Path:
    """Thin the episodes and write `folder/task.hdf5`, with its origin in the file's attributes."""
    costs = np.array([episode["costs"].sum() for episode in episodes])
    returns = np.array([episode["rewards"].sum() for episode in episodes])
    kept = [episodes[i] for i in thin(costs, returns, settings, seed)]
    in_package = task in PACKAGED
    data = join(task, kept if in_package else [rounded(episode) for episode in kept])
    simulator = dict(
        bullet=("pybullet", "bullet_safety_gym"),
        safety_gymnasium=("mujoco", "safety-gymnasium"),
        metadrive=("metadrive-simulator", "Panda3D"),
    )[TASKS[task].suite]
    learner = ("stable-baselines3", "sb3-contrib") if settings.search else ("stable-baselines3",)
    packages = ("torch", *learner, "gymnasium", *simulator, "dsrl", "numpy")
    origin = {
        "made_by": f"python book/collect.py {task} --seed {seed}",
        "seed": str(seed),
        "settings": json.dumps(asdict(settings)),
        "versions": json.dumps({"python": platform.python_version()} | {name: _version(name) for name in packages}),
    }
    path = folder / f"{task}.hdf5"
    write(path, data, origin, compact=not in_package)
    print(coverage(data).to_string(index=False, float_format="%.2f"))
    print(f"{data}: {path}, {path.stat().st_size / 1e6:.1f} MB")
    return path


def _version(package: str) -> str:
    # On Python 3.12 and newer the simulator comes from another distribution.
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def main(task: str, /, out: Path | None = None, seed: int = 0) -> None:
    """Make one dataset.

    Args:
        task: one that has settings.
        out: folder for the file; by default trac/data/packaged for the three of the package, else book/data.
        seed: of everything random.
    """
    out = out or Path("trac/data/packaged" if task in PACKAGED else "book/data")
    if task not in SETTINGS:
        raise SystemExit(f"no settings for {task!r}: choose one of {', '.join(SETTINGS)}.")
    settings, state = SETTINGS[task], out / f"{task}.course"
    out.mkdir(parents=True, exist_ok=True)
    save(out, task, collect(task, settings, seed, state), settings, seed)
    state.unlink(missing_ok=True)


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
