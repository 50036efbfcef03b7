"""Seeded rollouts in the real simulator, scored on DSRL's scale."""

import pickle
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from numbers import Real
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
import torch

from trac.data.tasks import TASKS, Task, get_task, own_task
from trac.envs import MakeEnv, OptionError, check_options, open_env
from trac.envs.checked import EnvError
from trac.policy import torch_defaults
from trac.statistics import bootstrap_interval, safe

SCORES = ("return", "cost", "normalized_reward", "normalized_cost")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Episodes of one policy under one cost limit.

    Attributes:
        episodes: one row for each episode: seed, return, cost, length, normalized_reward, normalized_cost
            (NaN where the limit is infinite).

    Example:
        >>> episodes = pd.DataFrame({"return": [90.0, 110.0], "cost": [10.0, 20.0], "length": 100})
        >>> episodes = episodes.assign(normalized_reward=[0.4, 0.6], normalized_cost=[0.5, 1.0])
        >>> Evaluation("BallRun", 20, episodes)
        Evaluation(BallRun, 2 episodes: return 100.0, cost 15.0; normalised 0.50 / 0.75, safe)
    """

    task: str
    cost_limit: float
    episodes: pd.DataFrame

    def summary(self) -> dict[str, Any]:
        """Mean of each score, and under `<score>_interval` its 95 % bootstrap interval over these episodes.

        >>> episodes = pd.DataFrame(1.0, index=range(20), columns=[*SCORES, "length"])
        >>> Evaluation("BallRun", 20, episodes).summary()["cost_interval"]
        (1.0, 1.0)
        """
        means = {name: float(self.episodes[name].mean()) for name in SCORES}
        intervals = {f"{name}_interval": bootstrap_interval(self.episodes[name]) for name in SCORES}
        return means | {"length": float(self.episodes["length"].mean())} | intervals

    def __repr__(self) -> str:
        s = self.summary()
        text = f"Evaluation({self.task}, {len(self.episodes)} episodes: return {s['return']:.1f}, cost {s['cost']:.1f}"
        if self.cost_limit < float("inf"):
            verdict = "safe" if safe(s["normalized_cost"]) else "unsafe"
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
        task: name in `trac.TASKS`; with `env`, any name, or none. A policy of another task is scored, too, where
            observations and actions have the same sizes.
        cost_limit: l [cost per episode], for the normalised cost alone: the episodes are the same under any limit. Of
            a policy that aims at another one, as CDT's can, a warning says so.
        episodes: number of episodes, each in a fresh simulator with a seed of its own.
        seed: fixes the episodes' seeds, each for one `reset(seed=...)`: an environment of your own that ignores it has
            other episodes each time.
        workers: processes; defaults to the number of processors, with `env` to 1, which runs in this process. Others
            import modules anew: what the session has changed in an imported module since then is not there.
        env_options: changes of the simulator's dynamics or constraint: see `trac.envs.OPTIONS`.
        env: makes a fresh Gymnasium environment at each call, without arguments. Observations are flat, actions lie
            in [-1, 1] (gymnasium.wrappers.RescaleAction), `info["cost"]` is there on every step and is that step's
            alone, and episodes end, within 10,000 steps where there is no gymnasium.wrappers.TimeLimit.
        reward_range: (lowest, highest) episode return of a task of your own, such as the data's `reward_range`.

    Raises:
        MissingSimulator: the task's simulator is not installed.
        EnvError: the environment is not so, or an action of the policy's is not finite or of another shape.
        OptionError: see `trac.envs.make`.
        ValueError: there is no episode or no policy, or the limit is negative or not a number; a task of your own lacks
            `env` or `reward_range`; `env` cannot be sent to other processes.

    Example:
        >>> policy = trac.policy.Policy(7, 2, hidden=(8,))  # untrained: it does nothing
        >>> scores = trac.evaluate(policy, task="BallRun", cost_limit=20, episodes=2, seed=0, workers=1)
        >>> scores.episodes.length.tolist(), scores.summary()["cost"]
        ([100, 100], 0.0)
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
    """`evaluate` for several policies at once, each with its own limit and seed; one list of episodes to share out.

    >>> policy = trac.policy.Policy(7, 2, hidden=(8,))
    >>> one = dict(task="BallRun", episodes=1, workers=1)
    >>> [found.cost_limit for found in evaluate_many([policy, policy], cost_limits=[10, 20], seeds=[0, 0], **one)]
    [10, 20]
    """
    numbers = [
        ("episodes", episodes, 1),
        *(("seed", seed, 0) for seed in seeds),
        ("workers", 1 if workers is None else workers, 1),
    ]
    for name, number, least in numbers:
        if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < least:
            raise ValueError(f"{name}={number!r} must be a whole number, at least {least}.")
    for policy, limit in zip(policies, cost_limits, strict=True):
        if not hasattr(policy, "act") or isinstance(policy, type):
            raise ValueError(f"{type(policy).__name__} has no act(observation): pass a policy, such as run.policy.")
        if not (isinstance(limit, Real) and limit >= 0):
            raise ValueError(f"cost_limit={limit!r} must be 0 or more, or inf for no constraint.")
        aim = getattr(policy, "target_cost", limit)
        if limit < float("inf") and np.float32(aim) != np.float32(limit):
            warnings.warn(
                f"the policy aims at an episode cost of {aim:g} and is scored under cost_limit={limit:g}: call "
                f"policy.aim(target_return, {limit:g}) first to have it aim at that.",
                stacklevel=4,
            )
    options = dict(env_options or {})
    known = scored_task(task, env, reward_range)
    for policy in policies:
        asked = getattr(policy, "target_return", known.max_return)
        low, width = known.min_return, known.max_return - known.min_return
        # Nobody asks for a hundredth of what can be had, but by a normalised return.
        if not low <= asked <= low + 2 * width or 0 < asked <= 1.5 < width / 100:
            warnings.warn(
                f"the policy aims at a return of {asked:g}, and those of {known.name} go from {known.min_return:g} to "
                f"{known.max_return:g}: it is a return, not a normalised one.",
                stacklevel=4,
            )
    if env is not None and options:
        raise OptionError("env_options change trac's simulators: make the changes in your env= itself.")
    check_options(known, options)
    jobs = [
        (policy, known.name, int(episode_seed), options, env)
        for policy, seed in zip(policies, seeds, strict=True)
        for episode_seed in np.random.SeedSequence(seed).generate_state(episodes)
    ]
    rows = list(_run(jobs, workers))
    results = []
    for index, limit in enumerate(cost_limits):
        frame = pd.DataFrame(rows[index * episodes : (index + 1) * episodes])
        if episodes > 1 and not frame[["return", "cost", "length"]].nunique().gt(1).any():
            warnings.warn(
                f"the {episodes} episodes are all the same, and say as much as one: the environment draws nothing from "
                f"its seed.",
                stacklevel=4,
            )
        if (cut := frame.pop("truncated") & (frame["length"] < known.max_episode_steps)).any():
            warnings.warn(
                f"episodes were cut off after {frame.length[cut].min()} steps, and those of {known.name} have "
                f"{known.max_episode_steps}: its cost limit and range of returns are for whole episodes.",
                stacklevel=4,
            )
        frame["normalized_reward"] = known.normalized_reward(frame["return"])
        frame["normalized_cost"] = known.normalized_cost(frame["cost"], limit)
        results.append(Evaluation(known.name, limit, frame))
    return results


def scored_task(name: str | None, env: MakeEnv | None, reward_range: tuple[float, float] | None) -> Task:
    """The task whose scale is that of the scores; raises ValueError where the arguments of `evaluate` give none.

    >>> scored_task("mine", lambda: None, (0, 100)).normalized_reward(50.0)
    0.5
    """
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
    policy: Any, task: str, seed: int, env_options: Mapping[str, float] | None = None, env: MakeEnv | None = None
) -> dict[str, float]:
    """One episode in a fresh simulator: seed, return, cost, length [steps], and whether it was truncated.

    A policy with a memory of the episode, or with random actions, has two more methods: `start(seed)`, called before
    the first step, and `observe(reward, cost)`, called after each one.

    >>> episode = rollout(trac.policy.Policy(7, 2, hidden=(8,)), "BallRun", seed=3)
    >>> episode["seed"], episode["cost"], episode["length"]
    (3, 0.0, 100)
    """
    total, cost, length, terminated, truncated = 0.0, 0.0, 0, False, False
    with _one_thread(), closing(open_env(task, env, env_options)) as simulator:
        observation, _ = simulator.reset(seed=seed)
        if hasattr(policy, "start"):
            policy.start(seed)
        while not (terminated or truncated):
            observation, reward, terminated, truncated, info = simulator.step(policy.act(observation))
            if hasattr(policy, "observe"):
                policy.observe(float(reward), float(info["cost"]))
            total, cost, length = total + float(reward), cost + float(info["cost"]), length + 1
    return {"seed": seed, "return": total, "cost": cost, "length": length, "truncated": truncated and not terminated}


def _run(jobs: list[tuple[Any, ...]], workers: int | None) -> Iterator[dict[str, float]]:
    # loky's processes do not import the caller's main module, so scripts need no __main__ guard.
    import joblib

    own = jobs[0][-1] is not None
    if workers is None:
        workers = 1 if own else min(joblib.cpu_count(), len(jobs))
    if workers == 1:
        return (rollout(*job) for job in jobs)
    _, task, _, options, env = jobs[0]
    open_env(task, env, options).close()  # what is missing or wrong is reported here, not from inside a worker
    if own or any(not type(job[0]).__module__.startswith("trac.") for job in jobs):
        # Processes that are there already would keep a module as it was before an edit.
        joblib.externals.loky.get_reusable_executor().shutdown(wait=True)
    try:
        workers = min(workers, max(len(jobs), 2))
        return iter(joblib.Parallel(n_jobs=workers)(joblib.delayed(rollout)(*job) for job in jobs))
    except (pickle.PicklingError, TypeError) as error:
        if "pickle" not in str(error):
            raise
        raise ValueError(
            f"the policy or env= cannot be sent to other processes ({error}). Let env= make all that it needs by "
            f"itself, or pass workers=1."
        ) from error
    except gym.error.UnregisteredEnv as error:
        raise EnvError(
            f"other processes do not know the environment ({error}). Let env= itself register it, or pass workers=1."
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
    """What orders evaluations from worst to best: safe ones by reward, above the others, by cost.

    >>> within = dict(normalized_cost=0.5, normalized_reward=0.1)
    >>> over = dict(normalized_cost=2.0, normalized_reward=0.9)
    >>> rank(within, 20) > rank(over, 20)
    True
    """
    kept = cost_limit == float("inf") or safe(scores["normalized_cost"])
    return [-1.0 if kept else -scores["normalized_cost"], scores["normalized_reward"]]
