"""Seeded rollouts in the real simulator, scored on DSRL's scale."""

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
import torch

from trac.data.tasks import TASKS, Task, get_task, own_task
from trac.envs import OptionError, check_options, make
from trac.policy import torch_defaults
from trac.statistics import interval

MakeEnv = Callable[[], gym.Env]
SCORES = ("return", "cost", "normalized_reward", "normalized_cost")


class MissingCost(ValueError):
    """An environment that does not report its cost."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Episodes of one policy under one cost limit.

    Attributes:
        episodes: one row for each episode: seed, return, cost, length, normalized_reward, normalized_cost
            (NaN where the limit is infinite).
    """

    task: str
    cost_limit: float
    episodes: pd.DataFrame

    def summary(self) -> dict[str, Any]:
        """Mean of each score, and under `<score>_interval` its 95 % bootstrap interval over episodes."""
        means = {name: float(self.episodes[name].mean()) for name in SCORES}
        intervals = {f"{name}_interval": interval(self.episodes[name]) for name in SCORES}
        return means | {"length": float(self.episodes["length"].mean())} | intervals

    def __repr__(self) -> str:
        s = self.summary()
        text = f"Evaluation({self.task}, {len(self.episodes)} episodes: return {s['return']:.1f}, cost {s['cost']:.1f}"
        if self.cost_limit < float("inf"):
            verdict = "safe" if s["normalized_cost"] < 1 else "unsafe"
            text += f"; normalised {s['normalized_reward']:.2f} / {s['normalized_cost']:.2f}, {verdict}"
        return text + ")"


def evaluate(
    policy: Any,
    *,
    task: str | None = None,
    cost_limit: float,
    episodes: int = 20,
    seed: int = 0,
    workers: int | None = None,
    env_options: Mapping[str, float] | None = None,
    env: MakeEnv | None = None,
    reward_range: tuple[float, float] | None = None,
) -> Evaluation:
    """Run a policy in the task's simulator, or in an environment of your own.

    The same seed gives the same episodes on the same machine, whatever the number of workers and
    whatever NumPy's global state, which is left as it was.

    Args:
        policy: anything with `.act(observation (obs_dim,)) -> action (act_dim,)`; see `rollout` for one that keeps
            a memory.
        task: name in `trac.TASKS`; with `env`, any name, or none.
        cost_limit: l [cost per episode], for the normalised cost.
        episodes: number of episodes, each in a fresh simulator with a seed of its own.
        seed: fixes the episodes' seeds.
        workers: processes; defaults to the number of processors. 1 runs in this process.
        env_options: changes of the simulator's dynamics or constraint: see `trac.envs.OPTIONS`.
        env: makes a fresh Gymnasium environment at each call, without arguments. Its episodes end, its actions
            lie in [-1, 1] (gymnasium.wrappers.RescaleAction), and `info["cost"]` is there on every step.
        reward_range: (lowest, highest) episode return of a task of your own, such as the data's `reward_range`.

    Raises:
        MissingSimulator: the task's simulator is not installed.
        MissingCost: the environment reports no cost.
        OptionError: see `trac.envs.make`.
        ValueError: there is no episode or no policy, or the limit is negative or not a number; a task of your own lacks
            `env` or `reward_range`; `env` cannot be sent to other processes.
    """
    return evaluate_many(
        [policy],
        task=task,
        cost_limits=[cost_limit],
        episodes=episodes,
        seeds=[seed],
        workers=workers,
        env_options=env_options,
        env=env,
        reward_range=reward_range,
    )[0]


@torch_defaults()
def evaluate_many(
    policies: Sequence[Any],
    *,
    task: str | None,
    cost_limits: Sequence[float],
    episodes: int,
    seeds: Sequence[int],
    workers: int | None = None,
    env_options: Mapping[str, float] | None = None,
    env: MakeEnv | None = None,
    reward_range: tuple[float, float] | None = None,
) -> list[Evaluation]:
    """`evaluate` for several policies at once, each with its own limit and seed; one list of episodes to share out."""
    if episodes < 1:
        raise ValueError(f"episodes={episodes} must be at least 1.")
    for policy, limit in zip(policies, cost_limits, strict=True):
        if not hasattr(policy, "act"):
            raise ValueError(f"{type(policy).__name__} has no act(observation): pass a policy, such as run.policy.")
        if not limit >= 0:
            raise ValueError(f"cost_limit={limit} must be 0 or more, or inf for no constraint.")
    options = dict(env_options or {})
    known = _task(task, env, reward_range)
    check_options(known, options)
    if env is not None and options:
        raise OptionError("env_options change trac's simulators: make the changes in your env= itself.")
    jobs = [
        (policy, env or known.name, int(episode_seed), options)
        for policy, seed in zip(policies, seeds, strict=True)
        for episode_seed in np.random.SeedSequence(seed).generate_state(episodes)
    ]
    rows = list(_run(jobs, workers))
    results = []
    for index, limit in enumerate(cost_limits):
        frame = pd.DataFrame(rows[index * episodes : (index + 1) * episodes])
        frame["normalized_reward"] = known.normalized_reward(frame["return"])
        frame["normalized_cost"] = known.normalized_cost(frame["cost"], limit)
        results.append(Evaluation(known.name, limit, frame))
    return results


def _task(name: str | None, env: MakeEnv | None, reward_range: tuple[float, float] | None) -> Task:
    if env is None and reward_range is None and name is not None:
        return get_task(name)
    if env is None:
        raise ValueError("pass task=, a name in trac.TASKS, or env= and reward_range= for a task of your own.")
    if reward_range is not None:
        return own_task(name or "own", reward_range)
    if name is None or name not in TASKS:
        raise ValueError("env= needs reward_range=(lowest, highest) episode return, such as the data's reward_range.")
    return TASKS[name]


def rollout(
    policy: Any, task: str | MakeEnv, seed: int, env_options: Mapping[str, float] | None = None
) -> dict[str, float]:
    """One episode in a fresh simulator: seed, return, cost and length [steps].

    A policy with a memory of the episode, or with random actions, has two more methods: `start(seed)`, called before
    the first step, and `observe(reward, cost)`, called after each one.
    """
    total, cost, length, done = 0.0, 0.0, 0, False
    with _one_thread():
        env = task() if callable(task) else make(task, env_options)
        observation, _ = env.reset(seed=seed)
        if hasattr(policy, "start"):
            policy.start(seed)
        while not done:
            observation, reward, terminated, truncated, info = env.step(policy.act(observation))
            if "cost" not in info:
                raise MissingCost(
                    f"{env} reports no cost: let its step() put the step's cost into the info, as info['cost']."
                )
            if hasattr(policy, "observe"):
                policy.observe(float(reward), float(info["cost"]))
            total, cost, length = total + float(reward), cost + float(info["cost"]), length + 1
            done = terminated or truncated
        env.close()
    return {"seed": seed, "return": total, "cost": cost, "length": length}


def _run(jobs: list[tuple[Any, ...]], workers: int | None) -> Iterator[dict[str, float]]:
    # loky's processes do not import the caller's main module, so scripts need no __main__ guard.
    import joblib

    workers = min(workers or joblib.cpu_count(), len(jobs))
    if workers == 1:
        return (rollout(*job) for job in jobs)
    if isinstance(jobs[0][1], str):
        make(jobs[0][1]).close()  # a missing simulator is reported here, not from inside a worker
    try:
        return iter(joblib.Parallel(n_jobs=workers)(joblib.delayed(rollout)(*job) for job in jobs))
    except (pickle.PicklingError, TypeError) as error:
        if "pickle" not in str(error):
            raise
        raise ValueError(
            f"the policy or env= cannot be sent to other processes ({error}). Let env= make all that it needs by "
            f"itself, or pass workers=1."
        ) from error


@contextmanager
def _one_thread() -> Iterator[None]:
    # The number of threads changes the last bits of a matrix product, and contact simulation amplifies them.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def rank(scores: Mapping[str, float], cost_limit: float) -> list[float]:
    """What orders evaluations from worst to best: safe ones by reward, above the others, by cost."""
    excess = max(scores["normalized_cost"], 1.0) if cost_limit < float("inf") else 1.0
    return [-excess, scores["normalized_reward"]]
