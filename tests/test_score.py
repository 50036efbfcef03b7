import math

import pytest
import torch

from trac.score import log_prob, segment_score, trac_loss


def test_log_prob_is_a_gaussian_of_variance_one_half_up_to_a_constant():
    mean, action = torch.tensor([[0.1, -0.2]]), torch.tensor([[0.4, 0.3]])
    assert torch.allclose(log_prob(mean, action), torch.tensor([-(0.09 + 0.25)]))
    normal = torch.distributions.Normal(mean, math.sqrt(0.5)).log_prob(action).sum(-1)
    constant = -math.log(math.pi)  # two dimensions, each -1/2 log(2π/2)
    assert torch.allclose(log_prob(mean, action) + constant, normal)


def test_log_prob_with_a_standard_deviation():
    mean, action, log_std = torch.randn(3, 5, 2), torch.randn(3, 5, 2), torch.randn(3, 5, 2)
    expected = torch.distributions.Normal(mean, log_std.exp()).log_prob(action).sum(-1)
    assert torch.allclose(log_prob(mean, action, log_std), expected, atol=1e-5)


def test_score_by_hand_and_stacked():
    ratio = torch.tensor([[1.0, 2.0, 4.0], [0.0, 0.0, 8.0]])
    assert torch.allclose(segment_score(ratio, alpha=0.5, gamma=0.5), torch.tensor([1.5, 1.0]))
    alpha, gamma = torch.tensor([[0.5], [1.0]]), torch.tensor([[0.5], [1.0]])
    stacked = segment_score(torch.stack([ratio, ratio]), alpha=alpha, gamma=gamma)
    assert torch.allclose(stacked, torch.tensor([[1.5, 1.0], [7.0, 8.0]]))


def test_score_of_the_reference_is_zero_and_its_loss_is_known():
    score = torch.zeros(4)
    label, weight = torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.tensor([0.5, 0.5, 1.0, 1.0])
    loss, accuracy = trac_loss(score, weight, label, eta=0.25)
    ratio = 0.25 * 3 / 1
    assert torch.isclose(loss, torch.tensor(math.log(2) * (2.0 + ratio) / 4))
    assert accuracy == 0.25  # a score of 0 is classed undesirable


def test_loss_gradient_by_hand():
    score = torch.tensor([0.3, -1.2, 2.0], requires_grad=True)
    label, weight = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.8, 1.0, 0.9])
    trac_loss(score, weight, label, eta=0.5)[0].backward()
    sigma, ratio = torch.sigmoid(score.detach()), 0.5 * 1 / 2
    expected = torch.stack([-(1 - sigma[0]) * 0.8, ratio * sigma[1], ratio * sigma[2] * 0.9]) / 3
    assert torch.allclose(score.grad, expected)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_sided_batches_are_finite(label):
    score = torch.tensor([0.5, -40.0, 80.0], requires_grad=True)
    loss, _ = trac_loss(score, torch.ones(3), torch.full((3,), label), eta=0.5)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(score.grad).all()
    if label == 0:  # λ counts desirable segments: with none the batch is wasted
        assert loss == 0 and (score.grad == 0).all()


def test_use_masks_the_loss_term_and_nothing_else():
    score, weight = torch.randn(8), torch.rand(8)
    label = torch.tensor([1.0, 0, 1, 0, 0, 0, 1, 0])
    parts = [trac_loss(score, weight, label, eta=0.5, use=use)[0] for use in ("desirable", "undesirable")]
    both, _ = trac_loss(score, weight, label, eta=0.5)
    assert torch.isclose(sum(parts), both)
    expected = -(weight * label * torch.nn.functional.logsigmoid(score)).sum() / 8
    assert torch.isclose(parts[0], expected)


def test_shapes_that_do_not_belong_together_are_refused():
    score, eight = torch.zeros(200, 8), torch.ones(8)
    assert trac_loss(score, eight, eight, eta=0.5)[0].shape == (200,)
    for weight, label, message in (
        (torch.ones(8, 1), eight, r"weight has shape \(8, 1\) and score \(200, 8\)"),
        (eight, torch.ones(200, 1), r"label has shape \(200, 1\)"),
        (eight, torch.ones(3, 200, 8), r"label has shape \(3, 200, 8\)"),
        (torch.tensor(1.0), eight, r"weight has shape \(\)"),
    ):
        with pytest.raises(ValueError, match=message):
            trac_loss(score, weight, label, eta=0.5)
    with pytest.raises(ValueError, match="use='undesired' must be one of both, desirable, undesirable"):
        trac_loss(score, eight, eight, eta=0.5, use="undesired")


def test_clamp_stops_the_gradient_beyond_it():
    score = torch.tensor([-30.0, -1.0], requires_grad=True)
    trac_loss(score, torch.ones(2), torch.ones(2), eta=1.0, clamp=1e-6)[0].backward()
    assert score.grad[0] == 0 and score.grad[1] != 0


def test_actions_that_are_no_vectors_are_refused():
    with pytest.raises(ValueError, match=r"actions \(5,\) and means \(5, 1\) must both end in act_dim"):
        log_prob(torch.zeros(5, 1), torch.zeros(5))
