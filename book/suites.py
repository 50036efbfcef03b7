"""What was run of each of DSRL's 38 tasks: loaded, made, trained, evaluated and drawn, as far as it goes.

    make suites                                              # book/results/suites.csv

The data is a few short episodes of random actions from the task's simulator. A task's row is written by an
environment that has its simulator, or by the first that tries.
"""

import platform
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import tyro
from tables import RESULTS, write

import trac
from trac import envs
from trac.data import hdf5
from trac.data.trajectories import KEYS, Trajectories, from_arrays

CONFIG = dict(batch_size=8, hidden=(32, 32), bc_steps=20, steps=40, warmup_steps=5, log_every=10)
PACKAGES = {
    "bullet": ("bullet_safety_gym", "pybullet", "pybullet-arm64"),
    "safety_gymnasium": ("safety-gymnasium", "mujoco"),
    "metadrive": ("metadrive-simulator", "Panda3D", "gym"),
}


def random_data(task: str, episodes: int = 6, steps: int = 30, seed: int = 0) -> Trajectories:
    """Episodes of random actions in the task's simulator, each cut off after a number of steps.

    Half of them push one way, which makes costs, and the rest are uniform noise.
    """
    generator = np.random.default_rng(seed)
    env = envs.make(task)
    rows: list[tuple] = []
    for episode in range(episodes):
        observation, _ = env.reset(seed=seed + episode)
        push = generator.uniform(-1, 1, env.action_space.shape) * (episode % 2)
        for step in range(1, steps + 1):
            action = np.clip(push + generator.uniform(-1, 1, env.action_space.shape), -1, 1).astype(np.float32)
            upcoming, reward, terminal, _, info = env.step(action)
            # The order of KEYS.
            timeout = step == steps and not terminal
            rows.append((observation, upcoming, action, reward, info["cost"], terminal, timeout))
            observation = upcoming
            if terminal:
                break
    env.close()
    return from_arrays(
        task, **{key: np.array(column) for key, column in zip(KEYS, zip(*rows, strict=True), strict=True)}
    )


def made_up(task: str, episodes: int = 6, steps: int = 30, seed: int = 0) -> Trajectories:
    """Noise in the form of the task's data, for a task without a simulator here."""
    generator, n = np.random.default_rng(seed), episodes * steps
    ends = np.arange(1, n + 1) % steps == 0
    dimensions = (259, 2) if trac.TASKS[task].suite == "metadrive" else (8, 2)
    return from_arrays(
        task,
        observations=generator.random((n, dimensions[0])),
        actions=generator.uniform(-1, 1, (n, dimensions[1])),
        rewards=generator.random(n),
        costs=generator.random(n) < 0.1,
        terminals=np.zeros(n),
        timeouts=ends,
        next_observations=generator.random((n, dimensions[0])),
    )


def settings(data: Trajectories) -> trac.TracConfig:
    """A few updates on segments of half the shortest episode, under a limit that the median episode keeps."""
    return trac.TracConfig(
        task=data.task,
        cost_limit=float(np.median(data.episode_costs)) + 1e-3,
        segment_ratio=0.5 * data.lengths.min() / data.lengths.max(),
        bottom=0.25,
        eval_episodes=0,
        **CONFIG,
    )


def try_task(task: str) -> dict[str, object]:
    """One row: each step is "yes", or the reason why not."""
    known = trac.TASKS[task]
    row: dict[str, object] = {"task": task, "suite": known.suite, "file": known.file}
    try:
        data, row["made"] = random_data(task), "yes"
    except envs.MissingSimulator as error:
        data, row["made"] = made_up(task), f"no: {error.__cause__}"
    with tempfile.TemporaryDirectory() as folder:
        hdf5.write(Path(folder, known.file), data)
        loaded = trac.load(task, Path(folder, known.file))
    row["loaded"] = "yes" if np.array_equal(loaded.observations, data.observations) else "no: not what was written"
    row["data"] = "random actions" if row["made"] == "yes" else "made up"
    run = trac.train(loaded, settings(loaded), progress=False)
    losses = run.history.loss
    row["trained"] = "yes" if np.isfinite(losses).all() and len(losses) == 4 else "no: a loss is not finite"
    if row["made"] != "yes":
        return row | dict(evaluated="no: not made", rendered="no: not made")
    row["observations"], row["actions"] = data.observations.shape[1], data.actions.shape[1]
    first, second = (
        trac.evaluate(run.policy, task=task, cost_limit=known.cost_limits[0], episodes=1, seed=0, workers=1).episodes
        for _ in range(2)
    )
    row["evaluated"] = "yes" if first.equals(second) else "no: a seed does not repeat its episode"
    env = envs.make(task)
    env.reset(seed=0)
    try:
        frame = envs.render(env)
        row["rendered"] = "yes" if frame.ndim == 3 and frame.std() > 0 else "no: empty frame"
    except RuntimeError as error:
        row["rendered"] = f"no: {error}"
    env.close()
    return row


def versions(suite: str) -> str:
    """Of Python and the packages that this suite's tasks run on."""
    found = [f"python {platform.python_version()}"]
    for name in ("torch", "numpy", "gymnasium", "dsrl", *PACKAGES[suite]):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def main(tasks: tuple[str, ...] = tuple(trac.TASKS)) -> None:
    """Try the tasks, and write the rows that this environment can do as well or better."""
    torch.set_num_threads(1)
    path = RESULTS / "suites.csv"
    rows = {} if not path.is_file() else pd.read_csv(path, comment="#").set_index("task", drop=False).to_dict("index")
    columns = "task suite file observations actions data loaded made trained evaluated rendered versions".split()
    for task in tasks:
        if task in rows and rows[task]["made"] == "yes" and not can_make(task):
            continue
        rows[task] = try_task(task) | {"versions": versions(trac.TASKS[task].suite)}
        print({key: value for key, value in rows[task].items() if key != "versions"}, flush=True)
        table = pd.DataFrame([rows[name] for name in trac.TASKS if name in rows], columns=columns)
        write(table.astype({"observations": "Int64", "actions": "Int64"}), path, "make suites")


def can_make(task: str) -> bool:
    try:
        envs.make(task).close()
    except envs.MissingSimulator:
        return False
    return True


if __name__ == "__main__":
    tyro.cli(main)
