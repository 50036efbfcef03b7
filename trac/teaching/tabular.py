"""TraC on a table: logs of CMDPs that can be solved exactly, and a softmax policy with a logit for each pair."""

from collections.abc import Sequence

import numpy as np
import torch

from trac.config import TracConfig
from trac.data.trajectories import Trajectories, from_arrays
from trac.partition import Segments
from trac.score import segment_score, trac_loss
from trac.teaching.cmdp import CMDP, sample_episodes


def as_log(cmdp: CMDP, states: np.ndarray, actions: np.ndarray) -> Trajectories:
    """The log of given states and actions, both (episodes, steps); observations and actions are their numbers.

    Example:
        >>> cmdp = CMDP(transitions=[[[1.0], [1.0]]], rewards=[[0, 1]], costs=[[0, 1]], start=[1], gamma=0.9)
        >>> as_log(cmdp, np.zeros((2, 3), dtype=int), np.array([[0, 1, 1], [0, 0, 0]])).episode_costs
        array([2., 0.])
    """
    ends = np.zeros(states.shape)
    ends[:, -1] = 1
    return from_arrays(
        "small",
        observations=states.reshape(-1, 1),
        actions=actions.reshape(-1, 1),
        rewards=cmdp.rewards[states, actions].ravel(),
        costs=cmdp.costs[states, actions].ravel(),
        terminals=np.zeros(states.size),
        timeouts=ends.ravel(),
    )


def uniform_log(cmdp: CMDP, *, episodes: int, steps: int, seed: int) -> Trajectories:
    """The log of a policy for which all actions are equally likely.

    Example:
        >>> cmdp = CMDP(transitions=[[[1.0], [1.0]]], rewards=[[0, 1]], costs=[[0, 1]], start=[1], gamma=0.9)
        >>> uniform_log(cmdp, episodes=5, steps=4, seed=0)
        Trajectories(small: 5 episodes, 20 transitions)
    """
    policy = np.full(cmdp.rewards.shape, 1 / cmdp.rewards.shape[1])
    return as_log(cmdp, *sample_episodes(cmdp, policy, episodes=episodes, steps=steps, seed=seed))


def pairs_of(log: Trajectories, segments: Segments, actions: int) -> np.ndarray:
    """(segments, L) numbers s · A + a of the pairs in the segments, for A actions.

    Example:
        >>> cmdp = CMDP(transitions=[[[1.0], [1.0]]], rewards=[[0, 1]], costs=[[0, 1]], start=[1], gamma=0.9)
        >>> log = uniform_log(cmdp, episodes=5, steps=4, seed=0)
        >>> pairs_of(log, trac.partition(log, cost_limit=2, segment_ratio=0.5), actions=2).shape[1]
        2
    """
    rows = segments.starts[:, None] + np.arange(segments.length)
    pairs: np.ndarray = log.observations[rows, 0] * actions + log.actions[rows, 0]
    return pairs.astype(int)


def learn(
    cmdp: CMDP,
    logs: Sequence[Trajectories],
    segments: Sequence[Segments],
    *,
    alpha: float = 0.2,
    updates: int = 500,
    batch: int = 32,
    learning_rate: float = 0.05,
) -> tuple[np.ndarray, np.ndarray]:
    """Learn one policy from each log, side by side, with the module's score, loss, and default γ and η.

    The reference is counted from the labelled segments, with half a count more for each pair, so that no logarithm
    is infinite.

    Args:
        logs: of this CMDP, from `as_log` or `uniform_log`.
        segments: the labelled segments of each, all of one length.
        batch: segments in an update.

    Returns:
        Policies and references, each (logs, S, A).

    Example:
        >>> cmdp = CMDP(transitions=[[[1.0], [1.0]]], rewards=[[0, 1]], costs=[[0, 1]], start=[1], gamma=0.9)
        >>> log = uniform_log(cmdp, episodes=50, steps=4, seed=0)
        >>> segments = trac.partition(log, cost_limit=2, segment_ratio=1.0)
        >>> policies, references = learn(cmdp, [log], [segments], updates=10)
        >>> policies.shape
        (1, 1, 2)
    """
    shape, models, defaults = cmdp.rewards.shape, len(logs), TracConfig()
    found = [pairs_of(*both, shape[1]) for both in zip(logs, segments, strict=True)]
    counts = np.stack([np.bincount(part.ravel(), minlength=cmdp.rewards.size) for part in found]) + 0.5
    counts = counts.reshape(models, *shape)
    reference = torch.tensor(np.log(counts / counts.sum(-1, keepdims=True)))
    logits = reference.clone().requires_grad_()
    adam = torch.optim.Adam([logits], lr=learning_rate)
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([[len(part)] for part in segments])
    pairs, weights, labels = (
        torch.nn.utils.rnn.pad_sequence([torch.as_tensor(array) for array in arrays], batch_first=True)
        for arrays in (
            found,
            [part.weights.astype(float) for part in segments],
            [part.labels.astype(float) for part in segments],
        )
    )
    rows = torch.arange(models)[:, None]
    for _ in range(updates):
        pick = (torch.rand(models, batch, generator=generator) * sizes).long()
        chosen = pairs[rows, pick]
        ratio = (logits.log_softmax(-1) - reference).flatten(1)
        ratio = ratio.gather(1, chosen.flatten(1)).reshape(chosen.shape)
        score = segment_score(ratio, alpha=alpha, gamma=defaults.gamma)
        loss, _ = trac_loss(score, weights[rows, pick], labels[rows, pick], defaults.eta)
        adam.zero_grad()
        loss.sum().backward()  # type: ignore[no-untyped-call]
        adam.step()
    return logits.softmax(-1).detach().numpy(), reference.exp().numpy()
