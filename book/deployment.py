"""The book's table of guarded policies: five of TraC's on BallCircle, alone and with guards, in four worlds.

    python book/deployment.py                                # book/results/study_deployment.csv
    python book/deployment.py --film-only                    # book/figures/guard.svg, of the first policy

One row is one episode. Policies are kept in runs/deployment; seeds whose rows are there are not run again.
"""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
import tyro
from quick_table import EVALUATION_SEED
from tables import RESULTS, SCORES, read, run_missing

import trac
from trac.baselines import bc_safe
from trac.data.files import atomic
from trac.data.trajectories import Trajectories
from trac.teaching.film import film
from trac.teaching.guard import Guard, distance_to

ROOT = Path(__file__).resolve().parents[1]
RUNS, FILM = ROOT / "runs" / "deployment", ROOT / "book" / "figures" / "guard.svg"
TASK, LIMIT, SEEDS = "BallCircle", 20.0, (0, 1, 2, 3, 4)
WORLDS: dict[str, dict[str, float]] = {
    "none": {},
    "motor_gain 0.85": {"motor_gain": 0.85},
    "action_delay 1": {"action_delay": 1},
    "boundary 0.9": {"boundary": 0.9},
}
HELD_OUT, FALSE_ALARMS = 52, 0.01  # safe episodes that set the threshold; the share of their steps beyond it


def support(log: Trajectories) -> tuple:
    """The distance from the log's safe episodes, and the threshold that held-out ones of them set."""
    safe = np.random.default_rng(0).permutation(np.flatnonzero(log.episode_costs <= LIMIT))

    def steps(episodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = (log.starts[episodes][:, None] + np.arange(log.lengths.max())).ravel()
        return log.observations[rows], log.actions[rows]

    distance = distance_to(*steps(safe[HELD_OUT:]))
    return distance, np.quantile(distance(*steps(safe[:HELD_OUT])), 1 - FALSE_ALARMS)


def drivers(seed: int) -> dict:
    """TraC of a seed, its reference, BC-Safe, and TraC with each guard."""
    log, runs = trac.load(TASK), {}
    config = trac.TracConfig(task=TASK, cost_limit=LIMIT, seed=seed, eval_episodes=0)
    for name, method in (("TraC", trac.train), ("BC-Safe", bc_safe)):
        place = RUNS / f"{name}-{seed}"
        if not place.is_dir():
            method(log, config, progress=False).save(place)
        runs[name] = trac.load_run(place)
    distance, threshold = support(log)
    policy, reference, cautious = runs["TraC"].policy, runs["TraC"].reference, runs["BC-Safe"].policy
    off = SimpleNamespace(act=lambda observation: np.zeros(log.actions.shape[1], np.float32))
    near = dict(distance=distance, threshold=threshold)
    return {
        "TraC": policy,
        "BC-Safe": cautious,
        "reference": reference,
        "support, reference": Guard(policy, reference, **near),
        "support, BC-Safe": Guard(policy, cautious, **near),
        "budget 10, off": Guard(policy, off, budget=10),
        "budget 10, BC-Safe": Guard(policy, cautious, budget=10),
        "budget 5, BC-Safe": Guard(policy, cautious, budget=5),
    }


def one_run(seed: int) -> pd.DataFrame:
    """Episodes of every driver in every world, from the same start states."""
    torch.set_num_threads(1)
    frames = []
    for driver, policy in drivers(seed).items():
        for world, options in WORLDS.items():
            count = {"TraC": 40 if options else 100, "BC-Safe": 20}.get(driver, 10)
            first = len(getattr(policy, "taken", []))
            episodes = trac.evaluate(
                policy,
                task=TASK,
                cost_limit=LIMIT,
                episodes=count,
                seed=EVALUATION_SEED + seed,
                workers=1,
                env_options=options,
            ).episodes
            taken = [np.mean(steps) for steps in getattr(policy, "taken", [])[first:]]
            frame = pd.DataFrame({"seed": seed, "world": world, "driver": driver, "episode": np.arange(count)})
            frames.append(frame.assign(**episodes[SCORES], taken=taken or 0.0))
    return pd.concat(frames)


def main(seeds: tuple[int, ...] = SEEDS, film_only: bool = False) -> None:
    """Run what is missing, and write the table; or the film.

    Args:
        seeds: of the policies.
        film_only: write only the film.
    """
    if film_only:
        every = drivers(seeds[0])
        shown = {"TraC": every["TraC"], "with a budget of 5": every["budget 5, BC-Safe"]}
        start = int(np.random.SeedSequence(EVALUATION_SEED + seeds[0]).generate_state(1)[0])
        drawing = film(shown, task=TASK, cost_limit=LIMIT, seed=start, env_options=WORLDS["motor_gain 0.85"])
        with atomic(FILM) as temporary:
            temporary.write_text(drawing)
        return
    path = RESULTS / "study_deployment.csv"
    jobs = [((seed,), [{(seed,)}]) for seed in seeds]
    run_missing(one_run, jobs, {path: read(path, ["seed"])}, ["seed"], "python book/deployment.py", workers=1)


if __name__ == "__main__":
    tyro.cli(main)
