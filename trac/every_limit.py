"""One policy for every cost limit: TraC on observations that hold the limit.

The log is laid end to end with itself, once for each training limit; each copy's observations hold its limit, and
each copy's segments have that limit's labels. What is trained then is an ordinary TraC, and at a fixed limit its policy
is an ordinary `Policy`: the limit is a constant input then, and can be added to the first layer's biases.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from trac.config import ConfigError, TracConfig
from trac.core.run import Run
from trac.data.trajectories import Trajectories
from trac.partition import Segments, segments_of
from trac.policy import Policy
from trac.train import config_list, train_on


def scaled(limit: float, limits: Sequence[float]) -> float:
    """The limit as the policy sees it: -1 at the smallest of the training limits, 1 at the largest.

    >>> [scaled(limit, (10, 20, 40)) for limit in (10, 25, 40, 55)]
    [-1.0, 0.0, 1.0, 2.0]
    """
    low, high = min(limits), max(limits)
    if not 0 <= low < high < np.inf:
        raise ConfigError(f"limits={tuple(limits)} must be finite, 0 or more, and not all the same.")
    return float(2 * (limit - low) / (high - low) - 1)


def with_limits(data: Trajectories, limits: Sequence[float], products: bool = False) -> Trajectories:
    """The log once for each limit, end to end, without next_observations.

    Each observation has its copy's scaled limit z as one more number: (K N, obs_dim + 1) for K limits; with
    `products` z times the observation, too: (K N, 2 obs_dim + 1).

    >>> [with_limits(data, (10, 40), products).observations.shape for products in (False, True)]
    [(128800, 8), (128800, 15)]
    """
    now, observations = data.observations, []
    for z in (np.float32(scaled(limit, limits)) for limit in limits):
        parts = [now, *([z * now] if products else []), np.full((len(data), 1), z)]
        observations.append(np.concatenate(parts, axis=1))
    starts = np.concatenate([data.starts + len(data) * copy for copy in range(len(limits))])
    names = ("actions", "rewards", "costs", "terminals", "timeouts", "lengths")
    arrays: dict[str, Any] = {name: np.concatenate([getattr(data, name)] * len(limits)) for name in names}
    return replace(data, observations=np.concatenate(observations), starts=starts, _next=None, **arrays)


def every_limit(
    data: Trajectories,
    config: TracConfig | Sequence[TracConfig],
    limits: Sequence[float],
    *,
    balanced: bool = True,
    products: bool = False,
    **options: Any,
) -> Run | list[Run]:
    """Train one policy for all limits; ask it for one with `at_limit`.

    Args:
        data: logged trajectories.
        config: one config, or a list, with eval_episodes=0; their cost_limit becomes the largest of `limits`.
        limits: training limits [cost per episode], at least two; the run's record keeps them.
        balanced: let η hold at each limit. The loss sets the classes' sizes against each other in the whole batch,
            where the tight limits have most of the undesirable segments; weights make up for that.
        products: the policy sees the limit times each observation, too, so that the limit scales the first layer's
            weights and does not only shift its biases (as FiLM does, Perez et al. 2018, arXiv 1709.07871).
        options: as for `trac.train`.

    Raises:
        ConfigError: the limits are no two different ones, or a config asks for evaluations, which need a limit.
        PartitionError: the partition at one of the limits leaves a class empty.

    Example:
        >>> config = trac.TracConfig(task="BallRun", steps=4, bc_steps=2, eval_episodes=0)
        >>> run = every_limit(data, config, (10, 20, 40), progress=False)
        >>> at_limit(run, 15).act(data.observations[0]).shape
        (2,)
    """
    scaled(0, limits)  # refuses limits that are none, before anything is done
    configs = [c.replace(cost_limit=float(max(limits))) for c in config_list(data, config, TracConfig)]
    if any(c.eval_episodes for c in configs):
        raise ConfigError("set eval_episodes=0: evaluate the policy at a limit, by trac.evaluate(at_limit(...), ...).")
    stacked = with_limits(data, limits, products)
    parts = [[segments_of(data, c.replace(cost_limit=float(limit))) for limit in limits] for c in configs]
    segments = [_stacked(data, part, balanced) for part in parts]
    record = {"limits": [float(limit) for limit in limits], "products": products}
    options |= dict(algorithm="every_limit", single=isinstance(config, TracConfig), record=record)
    return train_on(stacked, configs, segments, **options)


def at_limit(run: Run, limit: float) -> Policy:
    """The last policy of a run of `every_limit`, asked for one limit: a `Policy` of the task's own observations.

    Args:
        run: its record has the training limits.
        limit: the limit to ask for [cost per episode]. Beyond the training limits the policy may do anything: see the
            book's appendix M.

    Raises:
        ConfigError: the run is not one of `every_limit`; the limit is negative or not finite.

    Example:
        >>> config = trac.TracConfig(task="BallRun", steps=4, bc_steps=2, eval_episodes=0)
        >>> at_limit(every_limit(data, config, (10, 20, 40), progress=False), 15).obs_dim
        7
    """
    if not isinstance(run, Run) or "limits" not in run.record:
        raise ConfigError("at_limit asks a run that every_limit trained, whose record has its limits: pass such a run.")
    if not 0 <= limit < np.inf:
        raise ConfigError(f"limit={limit} must be a finite number, 0 or more.")
    products, z = run.record["products"], scaled(limit, run.record["limits"])
    settings, state = dict(run.policy.settings), run.policy.state_dict()
    dim = settings["obs_dim"] = (run.policy.obs_dim - 1) // (1 + products)
    weight = state["layers.0.weight"]
    state["layers.0.weight"] = weight[:, :dim] + z * weight[:, dim:-1] if products else weight[:, :dim]
    state["layers.0.bias"] = state["layers.0.bias"] + z * weight[:, -1]
    asked = Policy(**settings)
    asked.load_state_dict(state)
    return asked


def _stacked(data: Trajectories, parts: Sequence[Segments], balanced: bool) -> Segments:
    """Each part's segments in its own copy of the log."""
    names = ("labels", "weights", "returns", "costs")
    arrays: dict[str, Any] = {name: np.concatenate([getattr(p, name) for p in parts]) for name in names}
    arrays["starts"] = np.concatenate([p.starts + len(data) * copy for copy, p in enumerate(parts)])
    arrays["episodes"] = np.concatenate([p.episodes + len(data.starts) * copy for copy, p in enumerate(parts)])
    counts = {name: sum(getattr(p, name) for p in parts) for name in ("total", "too_short", "too_short_unsafe")}
    if balanced:
        odds = [float(p.labels.sum() / (1 - p.labels).sum()) for p in parts]
        whole = float(arrays["labels"].sum() / (1 - arrays["labels"]).sum())
        factors = np.concatenate(
            [np.full(len(p), ratio / whole, np.float32) for p, ratio in zip(parts, odds, strict=True)]
        )
        arrays["weights"] = np.where(arrays["labels"] == 1, arrays["weights"], arrays["weights"] * factors)
    return Segments(length=parts[0].length, cost_limit=max(p.cost_limit for p in parts), **arrays, **counts)
