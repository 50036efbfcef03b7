"""Make the book's datasets: constrained reinforcement learning in the real simulators.

    python book/collect.py BallCircle --seed 0

A call that was stopped goes on where it was, to the same bits; the tasks of Safety-Gymnasium and MetaDrive need
`.venv-safety/bin/python` (make safety).

Soft actor-critic learns on the reward `r - λ c`. The multiplier λ follows the cost of the current
policy to a cost limit that starts loose and is tightened along the run, so that one run sweeps the
frontier of return against cost. Two kinds of episode are kept, from the whole of training: the noisy
ones that the agent learns from, and noise-free rollouts of checkpoints. They are then thinned evenly
over a cost × return grid, as DSRL does (Liu et al. 2024, arXiv 2306.09303).
"""

import json
import multiprocessing
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import gymnasium as gym
import numpy as np
import pandas as pd
import torch

from trac import envs
from trac.baselines.online import PIController, stable_baselines3
from trac.baselines.recorder import Episode, Recorder, relabel
from trac.data.files import atomic
from trac.data.tasks import TASKS
from trac.data.trajectories import KEYS, Trajectories, from_arrays, write
from trac.teaching.coverage import coverage

PACKAGED = ("BallRun", "BallCircle", "CarCircle")  # the wheel has these: at full precision, with all seven arrays
SAVE_EVERY = 300  # seconds between two states of a collection on the disk


@dataclass(frozen=True)
class Collection:
    """How one task's data is made."""

    max_cost: int  # costlier episodes are dropped [cost per episode]; DSRL's range
    trajectories: int  # at most this many are kept; bounded by the size of the file
    steps: int  # length of training [simulator steps]
    limits: tuple[tuple[int, float], ...]  # (training step, cost limit), linear in between
    checkpoint_every: int  # steps between updates of λ, each with rollouts; a whole number of episodes
    rollouts: int  # noise-free episodes recorded at each checkpoint
    reward_scale: float  # the agent sees scale * (r - λ c)
    integral_gain: float  # change of λ at a checkpoint for each unit of cost over the limit
    proportional_gain: float  # λ on top of the integral for each unit of cost over the limit
    max_multiplier: float  # λ stays in [0, max]
    target_entropy: float  # of the training policy [nat]; lower is closer to deterministic
    refill: int = 0  # more rollouts where the costs near the checkpoint's have few episodes so far
    scarce: int = 80  # few: under this many within a sixteenth of the cost range on either side
    gamma: float = 0.98  # discount per step
    hidden: tuple[int, ...] = (128, 128)
    learning_rate: float = 1e-3
    batch_size: int = 256
    learning_starts: int = 2_000  # uniformly random actions before this step
    train_freq: int = 4  # steps between updates of the networks
    gradient_steps: int = 1  # gradient steps at each update
    cost_bins: int = 16  # of the grid over [0, max_cost] x [lowest, highest return] on which episodes are thinned
    return_bins: int = 20


SETTINGS = {
    "BallRun": Collection(
        max_cost=80,
        trajectories=940,
        steps=44_800,
        limits=((0, 100), (6_000, 85), (39_000, 0)),
        checkpoint_every=400,
        rollouts=8,
        reward_scale=0.3,
        integral_gain=0.04,
        proportional_gain=0.3,
        max_multiplier=60,
        target_entropy=-4,
        refill=20,
    ),
    "BallCircle": Collection(
        max_cost=80,
        trajectories=600,
        steps=70_000,
        limits=((0, 200), (12_000, 200), (18_000, 75), (60_000, 0)),
        checkpoint_every=400,
        rollouts=4,
        reward_scale=0.3,
        integral_gain=0.016,
        proportional_gain=0.05,
        max_multiplier=40,
        target_entropy=-4,
        refill=20,
    ),
    "CarCircle": Collection(
        max_cost=100,
        trajectories=420,
        steps=150_000,
        limits=((0, 300), (60_000, 300), (66_000, 95), (135_000, 0)),
        checkpoint_every=600,
        rollouts=4,
        reward_scale=1.0,
        integral_gain=0.012,
        proportional_gain=0.03,
        max_multiplier=4,
        target_entropy=-2,
        train_freq=2,
        refill=8,
        scarce=60,
        cost_bins=8,
    ),
    "CarRun": Collection(
        max_cost=40,
        trajectories=640,
        steps=60_000,
        limits=((0, 60), (8_000, 60), (12_000, 45), (56_000, 0)),
        checkpoint_every=800,
        rollouts=4,
        reward_scale=0.3,
        integral_gain=0.02,
        proportional_gain=0.02,
        max_multiplier=8,
        target_entropy=-3,
        train_freq=2,
        refill=8,
    ),
    "DroneRun": Collection(
        max_cost=140,
        trajectories=640,
        steps=120_000,
        limits=((0, 200), (30_000, 200), (36_000, 135), (112_000, 0)),
        checkpoint_every=600,
        rollouts=4,
        reward_scale=0.3,
        integral_gain=0.015,
        proportional_gain=0.04,
        max_multiplier=12,
        target_entropy=-6,
        train_freq=2,
        refill=8,
    ),
    "DroneCircle": Collection(
        max_cost=100,
        trajectories=400,
        steps=160_000,
        limits=((0, 300), (60_000, 300), (66_000, 95), (150_000, 0)),
        checkpoint_every=800,
        rollouts=4,
        reward_scale=0.3,
        integral_gain=0.02,
        proportional_gain=0.06,
        max_multiplier=15,
        target_entropy=-6,
        train_freq=2,
        refill=8,
    ),
    "AntRun": Collection(
        max_cost=150,
        trajectories=320,
        steps=260_000,
        limits=((0, 200), (80_000, 200), (90_000, 145), (240_000, 0)),
        checkpoint_every=1_000,
        rollouts=4,
        reward_scale=0.3,
        integral_gain=0.012,
        proportional_gain=0.035,
        max_multiplier=10,
        target_entropy=-8,
        train_freq=2,
        refill=8,
    ),
    "AntCircle": Collection(
        max_cost=200,
        trajectories=144,
        steps=400_000,
        limits=((0, 500), (160_000, 500), (176_000, 195), (380_000, 0)),
        checkpoint_every=2_000,
        rollouts=3,
        reward_scale=1.0,
        integral_gain=0.01,
        proportional_gain=0.03,
        max_multiplier=8,
        target_entropy=-8,
        train_freq=2,
        refill=6,
    ),
    "SwimmerVelocity": Collection(
        max_cost=200,
        trajectories=240,
        steps=200_000,
        limits=((0, 1000), (60_000, 1000), (66_000, 200), (184_000, 0)),
        checkpoint_every=2_000,
        rollouts=2,
        reward_scale=10.0,
        integral_gain=0.003,
        proportional_gain=0.005,
        max_multiplier=2,
        target_entropy=-2,
        train_freq=2,
        refill=3,
        gamma=0.998,
    ),
    "HopperVelocity": Collection(
        max_cost=250,
        trajectories=208,
        steps=260_000,
        limits=((0, 300), (60_000, 250), (240_000, 0)),
        checkpoint_every=2_000,
        rollouts=2,
        reward_scale=0.3,
        integral_gain=0.004,
        proportional_gain=0.004,
        max_multiplier=6,
        target_entropy=-3,
        train_freq=2,
        refill=3,
        gamma=0.99,
    ),
    "HalfCheetahVelocity": Collection(
        max_cost=250,
        trajectories=128,
        steps=200_000,
        limits=((0, 300), (20_000, 250), (184_000, 0)),
        checkpoint_every=2_000,
        rollouts=2,
        reward_scale=0.3,
        integral_gain=0.005,
        proportional_gain=0.005,
        max_multiplier=10,
        target_entropy=-6,
        train_freq=2,
        refill=3,
        gamma=0.99,
    ),
    "PointCircle1": Collection(
        max_cost=200,
        trajectories=208,
        steps=160_000,
        limits=((0, 500), (50_000, 500), (56_000, 195), (150_000, 0)),
        checkpoint_every=1_000,
        rollouts=3,
        reward_scale=5.0,
        integral_gain=0.0007,
        proportional_gain=0.002,
        max_multiplier=0.5,
        target_entropy=-2,
        train_freq=2,
        refill=6,
    ),
    "PointGoal1": Collection(
        max_cost=100,
        trajectories=112,
        steps=300_000,
        limits=((0, 100), (150_000, 50), (280_000, 0)),
        checkpoint_every=3_000,
        rollouts=3,
        reward_scale=10.0,
        integral_gain=0.0005,
        proportional_gain=0.001,
        max_multiplier=0.5,
        target_entropy=-2,
        train_freq=2,
    ),
    # Without a penalty on speed the car leaves the road before it has learned to drive: the limit begins below 0, where
    # λ goes to its largest value, and is loosened. A step at speed v earns v / 36 and costs (v - 10) / 100, so that λ
    # near 2.8 is where cost stops to pay.
    "easysparse": Collection(
        max_cost=85,
        trajectories=160,
        steps=160_000,
        limits=((0, -300), (30_000, -300), (40_000, -5), (45_000, 5), (150_000, 85)),
        checkpoint_every=1_000,
        rollouts=2,
        reward_scale=1.0,
        integral_gain=0.004,
        proportional_gain=0.02,
        max_multiplier=4,
        target_entropy=-2,
        refill=4,
        gamma=0.99,
        learning_rate=5e-4,
        learning_starts=3_000,
        train_freq=2,
    ),
}


def collect(task: str, settings: Collection, seed: int, state: Path | None = None) -> list[Episode]:
    """Train, and return all training episodes and all rollouts in the order in which they were made.

    Args:
        task: name of a task in `trac.TASKS`.
        settings: the length and shape of training.
        seed: of the agent and its simulator; the rollouts' simulator starts from `seed + 1`, the refill's from
            `seed + 2`.
        state: a file in which the course is kept every `SAVE_EVERY` seconds, and from which it goes on, to the same
            bits as without a break.
    """
    torch.set_num_threads(1)  # the same seed gives the same bits for one thread count only
    env = Recorder(_make(task), settings.reward_scale)
    # The refill has a simulator of its own, so that it leaves the course of training as it was.
    checkpoint_env, refill_env = (_started(task, seed + i) for i in (1, 2))
    recorders = [env, checkpoint_env, refill_env]
    model = stable_baselines3().SAC(
        "MlpPolicy",
        env,
        seed=seed,
        device="cpu",
        policy_kwargs=dict(net_arch=list(settings.hidden), optimizer_kwargs=dict(fused=True)),
        learning_rate=settings.learning_rate,
        batch_size=settings.batch_size,
        buffer_size=settings.steps,
        learning_starts=settings.learning_starts,
        train_freq=settings.train_freq,
        gradient_steps=settings.gradient_steps,
        gamma=settings.gamma,
        ent_coef="auto_0.1",
        target_entropy=settings.target_entropy,
    )
    order: list[int] = []  # which of the recorders made each episode
    multiplier = PIController(settings.integral_gain, settings.proportional_gain, settings.max_multiplier)
    course = json.dumps([task, seed, asdict(settings)])
    if state and state.is_file():
        order = _restore(state, course, model, recorders, multiplier)
    began = saved = time.monotonic()
    first = model.num_timesteps
    for step in range(first + settings.checkpoint_every, settings.steps + 1, settings.checkpoint_every):
        model.learn(settings.checkpoint_every, reset_num_timesteps=False)
        order += [0] * (len(env.episodes) - order.count(0))
        rolled = rollouts(model, checkpoint_env, settings.rollouts)
        order += [1] * settings.rollouts

        cost = float(np.mean([episode["costs"].sum() for episode in rolled]))
        limit = float(np.interp(step, [at for at, _ in settings.limits], [limit for _, limit in settings.limits]))
        made = _in_order(order, recorders)
        if cost <= settings.max_cost and _near(made, cost, settings.max_cost / 16) < settings.scarce:
            rollouts(model, refill_env, settings.refill)
            order += [2] * settings.refill
        env.multiplier = multiplier(cost - limit)
        relabel(model.replay_buffer, env)

        mean_return = float(np.mean([episode["rewards"].sum() for episode in rolled]))
        left = (time.monotonic() - began) / (step - first) * (settings.steps - step)
        print(
            f"{task} step {step}/{settings.steps}  limit {limit:.0f}  λ {env.multiplier:.2f}  "
            f"return {mean_return:.0f}  cost {cost:.1f}  {left / 60:.0f} min left",
            flush=True,
        )
        # Before learning starts SB3 draws actions from a generator that is not kept.
        if state and settings.learning_starts <= step < settings.steps and time.monotonic() - saved >= SAVE_EVERY:
            _keep(state, course, model, recorders, multiplier, order)
            saved = time.monotonic()
    return _in_order(order, recorders)


def _started(task: str, seed: int) -> Recorder:
    env = Recorder(_make(task))
    env.reset(seed=seed)
    env.reset()
    return env


def _make(task: str) -> gym.Env:
    return Elsewhere(task) if TASKS[task].suite == "metadrive" else envs.make(task)


class Elsewhere(gym.Env):
    """A task's simulator in a process of its own: MetaDrive has only one in a process."""

    def __init__(self, task: str):
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        context.Process(target=_simulate, args=(task, other), daemon=True).start()
        other.close()  # so that a process that has died is noticed
        self.observation_space, self.action_space = self._pipe.recv()

    def reset(self, *, seed: int | None = None, options=None):
        self._pipe.send(("reset", seed))
        return self._pipe.recv()

    def step(self, action):
        self._pipe.send(("step", action))
        return self._pipe.recv()


def _simulate(task: str, pipe) -> None:
    env = envs.make(task)
    pipe.send((env.observation_space, env.action_space))
    while True:
        try:
            call, argument = pipe.recv()
        except EOFError:  # the collection has ended
            return
        if call == "reset":
            pipe.send((env.reset(seed=argument)[0], {}))
        else:
            *result, info = env.step(argument)
            pipe.send((*result, {"cost": info["cost"]}))


def rollouts(model, env: Recorder, episodes: int) -> list[Episode]:
    """Record that many noise-free episodes, from a simulator that has been reset; leave it reset."""
    for _ in range(episodes):
        done = False
        while not done:
            action, _ = model.predict(env.observation, deterministic=True)
            _, _, terminal, timeout, _ = env.step(action)
            done = terminal or timeout
        env.reset()
    return env.episodes[len(env.episodes) - episodes :]


def _in_order(order: Sequence[int], recorders: Sequence[Recorder]) -> list[Episode]:
    made = [iter(recorder.episodes) for recorder in recorders]
    return [next(made[which]) for which in order]


BUFFER = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def _keep(file: Path, course: str, model, recorders: Sequence[Recorder], multiplier: PIController, order) -> None:
    """Write all that `_restore` needs: of a simulator, whose state cannot be saved, the actions that it was given."""
    _, key, *rest = np.random.get_state()
    state = {
        "course": course,
        "order": torch.tensor(order),
        "actions": [torch.from_numpy(recorder.actions()) for recorder in recorders],
        "integral": multiplier.integral,
        "multiplier": recorders[0].multiplier,
        "steps": model.num_timesteps,
        "parameters": model.get_parameters(),
        "log_ent_coef": model.log_ent_coef.detach(),
        "buffer": {k: torch.from_numpy(getattr(model.replay_buffer, k)[: model.replay_buffer.pos]) for k in BUFFER},
        "torch": torch.get_rng_state(),
        "numpy": [torch.from_numpy(key.astype(np.int64)), *rest],
    }
    with atomic(file) as temporary:
        torch.save(state, temporary)


def _restore(file: Path, course: str, model, recorders: Sequence[Recorder], multiplier: PIController) -> list[int]:
    """Bring everything to where it was when `_keep` wrote the file; return which recorder made each episode."""
    state = torch.load(file, weights_only=True)
    if state["course"] != course:
        raise SystemExit(f"{file} is of another seed or of other settings: delete it to start anew.")
    print(f"going on from {file}: step {state['steps']}, simulating what was done", flush=True)
    model._last_obs = model.env.reset()  # with the seed, as SB3 does before its first step
    for action in state["actions"][0].numpy():
        model._last_obs, *_ = model.env.step(action[None])
    for recorder, actions in zip(recorders[1:], state["actions"][1:], strict=True):
        for action in actions.numpy():
            _, _, terminal, timeout, _ = recorder.step(action)
            if terminal or timeout:
                recorder.reset()
    multiplier.integral, recorders[0].multiplier = state["integral"], state["multiplier"]
    model.set_parameters(state["parameters"], device="cpu")
    model.log_ent_coef.data.copy_(state["log_ent_coef"])
    model.num_timesteps = state["steps"]
    model.replay_buffer.pos = len(state["buffer"]["rewards"])
    for name, rows in state["buffer"].items():
        getattr(model.replay_buffer, name)[: len(rows)] = rows.numpy()
    torch.set_rng_state(state["torch"])
    key, *rest = state["numpy"]
    np.random.set_state(("MT19937", key.numpy().astype(np.uint32), *rest))
    return state["order"].tolist()


def _near(episodes: Sequence[Episode], cost: float, width: float) -> int:
    return sum(abs(float(episode["costs"].sum()) - cost) <= width for episode in episodes)


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
    packages = ("torch", "stable-baselines3", "gymnasium", *simulator, "dsrl", "numpy")
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
