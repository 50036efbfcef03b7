"""Numbers computed by running the authors' released code (tests/golden.json)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from trac.data.trajectories import from_arrays
from trac.partition import partition
from trac.policy import Policy
from trac.score import segment_score, trac_loss

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())
CLOSE = dict(rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", GOLDEN["loss"])
def test_loss(case):
    score, weight, label = (torch.tensor(case[key]) for key in ("score", "weight", "label"))
    loss, accuracy = trac_loss(score, weight, label, case["eta"], clamp=1e-6 if case["clamped"] else None)
    np.testing.assert_allclose(loss, case["loss"], **CLOSE)
    np.testing.assert_allclose(accuracy, case["accuracy"], **CLOSE)
    exact, _ = trac_loss(score, weight, label, case["eta"])
    assert torch.isclose(exact, loss, **CLOSE) != case["clamped"]


@pytest.mark.parametrize("case", GOLDEN["partition"])
def test_partition_of_whole_episodes(case):
    # The file lists the episodes that the released code drew, so each draw is an episode here.
    length, drawn = 10, np.array(case["sampled_episodes"])
    number = len(drawn)
    costs = np.arange(length) < np.array(case["episode_cost"])[drawn, None]
    data = from_arrays(
        "BallRun",
        observations=np.zeros((number * length, 7)),
        actions=np.zeros((number * length, 2)),
        rewards=np.repeat(np.array(case["episode_return"])[drawn] / length, length),
        costs=costs.ravel(),
        terminals=np.zeros(number * length),
        timeouts=np.tile(np.arange(length) == length - 1, number),
    )
    settings = {key: case[key] for key in ("cost_limit", "segment_ratio", "top", "bottom", "kappa")}
    segments = partition(data, **settings)
    got = sorted(zip(drawn[segments.episodes], segments.labels, segments.weights, strict=True))
    expected = sorted((row["episode"], row["label"], row["weight"]) for row in case["labelled"])
    np.testing.assert_allclose(got, expected, **CLOSE)


@pytest.mark.parametrize("case", GOLDEN["windows"]["cases"])
def test_released_segments(case):
    n = len(case["rewards"])
    data = from_arrays(
        "BallRun",
        observations=np.zeros((n, 7)),
        actions=np.zeros((n, 2)),
        rewards=case["rewards"],
        costs=case["costs"],
        terminals=np.isin(np.arange(n), case["terminal_at"]),
        timeouts=np.isin(np.arange(n), case["timeout_at"]),
    )
    assert data.lengths.tolist() == case["episode_lengths"]
    settings = {key: case[key] for key in ("cost_limit", "segment_ratio", "top", "bottom", "kappa", "seed")}
    segments = partition(data, sampling="released", **settings)
    assert segments.length == case["segment_length"]
    got = np.column_stack([segments.starts, segments.labels, segments.weights])
    np.testing.assert_allclose(got, case["windows"], **CLOSE)


def test_objective_and_gradients():
    case = GOLDEN["objective"]
    policy, reference = _policy(case["policy"]), _policy(case["reference"])
    observations, actions = (torch.tensor(case[key]) for key in ("observations", "actions"))
    flat = observations.flatten(0, 1), actions.flatten(0, 1)
    log_prob = policy.log_prob(*flat).view(actions.shape[:2])
    reference_log_prob = reference.log_prob(*flat).view(actions.shape[:2]).detach()
    np.testing.assert_allclose(-log_prob.mean().detach(), case["bc_loss"], **CLOSE)

    score = segment_score(log_prob - reference_log_prob, alpha=case["alpha"], gamma=case["gamma"])
    loss, accuracy = trac_loss(score, torch.tensor(case["weight"]), torch.tensor(case["label"]), case["eta"])
    np.testing.assert_allclose(loss.detach(), case["trac_loss"], **CLOSE)
    assert accuracy == case["accuracy"]
    loss.backward()
    gradients = [parameter.grad.flatten() for parameter in policy.parameters()]
    np.testing.assert_allclose(torch.cat(gradients).norm(), case["grad_norm"], **CLOSE)
    np.testing.assert_allclose(policy.layers[-1].bias.grad, case["grad_last_bias"], **CLOSE)


def _policy(layers) -> Policy:
    state = {f"layers.{i}.{k}": torch.tensor(layer[k]) for i, layer in enumerate(layers) for k in ("weight", "bias")}
    sizes = [len(layers[0]["weight"][0]), *(len(layer["bias"]) for layer in layers)]
    policy = Policy(sizes[0], sizes[-1], hidden=sizes[1:-1])
    policy.load_state_dict(state)
    return policy
