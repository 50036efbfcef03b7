"""Off-policy evaluation: what a policy would earn and cost, estimated from a log of other policies alone.

Sources: Le, Voloshin, Yue (ICML 2019) for fitted Q evaluation of reward and constraint; Precup, Sutton, Singh (ICML
2000) for sampling by decision. Paine et al. (2020) and Fu et al. (ICLR 2021) choose settings by such estimates.
"""

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from trac.baselines.losses import bellman_target, critic_loss, descend, fused_adam, soft_update, target_of
from trac.baselines.networks import Ensemble
from trac.data.trajectories import Trajectories
from trac.envs.randomness import PROCESS
from trac.policy import torch_defaults
from trac.train import find_device


@torch_defaults()
def fitted_q(
    data: Trajectories,
    policy: Any,
    *,
    gamma: float = 1.0,
    updates: int = 2_000,
    batch_size: int = 128,
    hidden: Sequence[int] = (64, 64),
    learning_rate: float = 1e-3,
    tau: float = 0.2,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> tuple[float, float]:
    """Fitted Q evaluation of a given policy: return and cost of an episode, in one fit of two networks each.

    Q(s, a, t) is fitted to r + γ Q'(s', π(s'), t + 1) on the log's transitions, and likewise for the cost; Q' is a
    moving average of Q. The time t [steps since the episode's start] is an input because episodes end at a time:
    terminals and timeouts both end the sum. At first Q is the log's mean per step, times the steps that are left until
    T, the longest episode; targets are kept between the log's smallest and largest reward (cost) times those steps.

    Args:
        policy: anything with `.act(observations (B, obs_dim)) -> actions (B, act_dim)`, without chance.
        gamma: γ in (0, 1].
        updates, batch_size, learning_rate: of Adam, on transitions drawn with replacement. What happens at the end
            of an episode has reached its start after some T / τ updates.
        hidden: widths of the hidden layers.
        tau: τ in (0, 1], share of the new weights in the moving average.
        seed: of the initial weights and the batches: on a CPU the same gives the same bits.
        device: as of `trac.train`.

    Returns:
        Expected return and cost of an episode, the mean over the first observations of the log's.

    Raises:
        ValueError: a setting is out of range; the policy's actions are not finite, not of the data's shape or beyond
            [-1, 1]; it has a memory or draws its actions.
        DatasetError: the data has no next_observations, or was changed in place to what cannot be used.
        ConfigError: there is no such device.

    Example:
        >>> policy = trac.policy.Policy(7, 2, hidden=(8,))  # untrained: it does nothing
        >>> found = fitted_q(data, policy, updates=2, seed=0)
        >>> found == fitted_q(data, policy, updates=2, seed=0), 0 < found[1] < 100
        (True, True)
    """
    if not (0 < gamma <= 1 and 0 < tau <= 1 and updates >= 1 and batch_size >= 1):
        raise ValueError(f"{gamma=} and {tau=} must lie in (0, 1], {updates=} and {batch_size=} be 1 or more.")
    if hasattr(policy, "start") or hasattr(policy, "observe"):
        raise ValueError(
            f"a {type(policy).__name__} remembers the episode or draws its actions, and no single state says what it "
            f"does: fitted_q needs a policy that is a function of the state."
        )
    data.check()
    data.check_next()
    where, horizon = find_device(device), int(data.lengths.max())
    ages = np.arange(len(data)) - np.repeat(data.starts, data.lengths)
    tensor = partial(torch.as_tensor, dtype=torch.float32, device=where)

    def joined(observations: np.ndarray, ages: np.ndarray) -> np.ndarray:
        parts = np.array_split(observations, len(observations) // 2**16 + 1)
        actions = np.concatenate([policy.act(part) for part in parts])
        if actions.shape != (wanted := (len(observations), data.actions.shape[1])) or not np.isfinite(actions).all():
            raise ValueError(f"policy.act gave shape {actions.shape} for {wanted}, or numbers that are not finite.")
        if (largest := np.abs(actions).max()) > 1 + 1e-4:
            raise ValueError(f"policy.act gave an action of {largest:g}: let it act in [-1, 1], as the log's do.")
        return np.column_stack([observations, actions, ages])

    pairs = np.column_stack([data.observations, data.actions, ages])
    low, scale = pairs.mean(0), pairs.std(0) + 1e-6
    following, first = joined(data.next_observations, ages + 1), joined(data.observations[data.starts], 0 * data.starts)
    now, after, begin = (tensor((rows - low) / scale) for rows in (pairs, following, first))
    # Two networks for each signal learn what is beside the log's mean, in a unit that makes it about 1.
    signals = np.repeat(np.stack([data.rewards, data.costs]).astype(np.float64), 2, axis=0)
    mean, unit = signals.mean(1, keepdims=True), np.maximum(signals.std(1, keepdims=True), 1e-6) * horizon
    left = np.cumsum(np.append(0, gamma ** np.arange(horizon)))  # discounted number of steps, by how many are left
    left_now, left_after = tensor(left[horizon - ages]), tensor(left[horizon - ages - 1])
    signal, level = tensor(signals / unit), tensor(mean / unit)
    least, most = (tensor(ends[:, None] / unit) for ends in (signals.min(1), signals.max(1)))
    done = tensor(data.terminals | data.timeouts)
    with PROCESS, torch.random.fork_rng(devices=[]):  # other threads wait
        torch.manual_seed(seed)
        critic = Ensemble(4, [now.shape[1], *hidden]).to(where)
    slow, optimizer = target_of(critic), fused_adam(critic.parameters(), learning_rate)
    generator = torch.Generator(where).manual_seed(seed)
    for _ in range(updates):
        rows = torch.randint(len(now), (batch_size,), generator=generator, device=where)
        target = bellman_target(signal[:, rows], slow(after[rows]) + level * left_after[rows], gamma, done[rows])
        target = target.clamp(least * left_now[rows], most * left_now[rows]) - level * left_now[rows]
        descend(optimizer, critic_loss(critic(now[rows]), target))
        soft_update(slow, critic, tau)
    values = (slow(begin).double().mean(1).cpu().numpy() * unit[:, 0] + mean[:, 0] * left[-1]).reshape(2, 2).mean(1)
    return float(values[0]), float(values[1])


def importance_sampling(
    data: Trajectories, log_ratio: ArrayLike, *, gamma: float = 1.0, per_decision: bool = True
) -> tuple[float, float, np.ndarray]:
    """Weighted importance sampling: the log's rewards and costs, each episode weighted as the policy would drive it.

    An episode's weight up to step t is Π_{k <= t} π(a_k | s_k) / π_b(a_k | s_k), with π_b the policy that made the log.
    Step t has the weighted mean of the E episodes' rewards, by their weights up to t (`per_decision`) or of the whole
    episode. An episode that has ended keeps its weight and earns nothing. T is the longest episode.

    Args:
        log_ratio: (N,) array or tensor, log π(a|s) - log π_b(a|s) of each logged transition. With γ = α = 1 the
            score of a whole episode is the logarithm of its weight, where the reference is π_b.
        gamma: γ in (0, 1].
        per_decision: weights up to each step, of less variance; False: of the whole episode.

    Returns:
        Expected return, expected cost, and (T,) the effective number of episodes at each step, (Σ w)² / Σ w² of their
        weights: from 1, where one episode has all the weight, to E, where all have the same.

    Raises:
        ValueError: log_ratio has another shape, is not finite, or is nowhere 0 or below; gamma is out of range.
        DatasetError: the data was changed in place to what cannot be used.

    Example:
        >>> _, cost, sizes = importance_sampling(data, np.zeros(len(data)))  # the log's own policy
        >>> round(cost, 3), round(float(sizes[-1]))
        (32.974, 644)
    """
    data.check()
    if isinstance(log_ratio, torch.Tensor):
        log_ratio = log_ratio.detach().cpu()
    ratio = np.asarray(log_ratio, dtype=np.float64)
    if ratio.shape != (len(data),) or not np.isfinite(ratio).all():
        raise ValueError(f"log_ratio has shape {ratio.shape}: pass {len(data)} finite numbers, one a transition.")
    if ratio.min() > 0 and len(ratio) > 1:
        raise ValueError(
            f"log_ratio is above 0 in all {len(ratio)} transitions, as no logarithm of a ratio of densities is: are "
            f"these the ratios? Take their logarithm."
        )
    if ratio.max() < 0 and len(ratio) > 1:
        warnings.warn(
            f"log_ratio is below 0 in all {len(ratio)} transitions: was log π_b subtracted? If so, the policy takes "
            f"none of the log's actions as often as the log does.",
            stacklevel=2,
        )
    if not 0 < gamma <= 1:
        raise ValueError(f"gamma={gamma!r} must lie in (0, 1].")
    steps = np.arange(data.lengths.max())
    inside = steps < data.lengths[:, None]
    padded = np.zeros((3, *inside.shape))
    padded[:, inside] = ratio, data.rewards, data.costs
    logs = padded[0].cumsum(1)
    if not per_decision:
        logs = np.repeat(logs[:, -1:], len(steps), axis=1)
    weights = np.exp(logs - logs.max(0))
    shares = weights / weights.sum(0)
    sums = (gamma**steps * shares * padded[1:]).sum((1, 2))
    return float(sums[0]), float(sums[1]), 1 / np.square(shares).sum(0)
