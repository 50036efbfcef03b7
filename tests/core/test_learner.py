import numpy as np
import pytest
import torch
from definition import plain_update
from torch.nn.utils import parameters_to_vector

from trac.config import ConfigError, TracConfig
from trac.core.adam import adam_step
from trac.core.batches import Batches
from trac.core.learner import BLOCK, TracLearner, learners
from trac.partition import partition

CONFIG = TracConfig(
    cost_limit=8,
    segment_ratio=0.25,
    batch_size=6,
    hidden=(16, 12),
    bc_steps=4,
    steps=8,
    warmup_steps=2,
    eval_episodes=0,
)
CONFIGS = [CONFIG, CONFIG.replace(seed=1, alpha=1.0, gamma=0.9, eta=1.0, cost_limit=5, top=0.25, learning_rate=1e-2)]


def cut(data, configs):
    return [
        partition(data, cost_limit=c.cost_limit, top=c.top, segment_ratio=c.segment_ratio, bottom=c.bottom)
        for c in configs
    ]


def learner(data, config):
    return TracLearner(data, cut(data, [config]), [config])


def close(a, b):
    scale = b.abs().max().clamp(min=1e-9)  # a batch of one class alone has no gradient
    torch.testing.assert_close(a / scale, b / scale, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        *(dict(), dict(policy="gaussian"), dict(clamp=0.3), dict(bc_coef=0.5), dict(use="desirable")),
        *(dict(reference="none"), dict(reference="initial"), dict(init="fresh"), dict(hidden=(20,))),
    ],
)
def test_an_update_is_that_of_its_definition(data, change):
    # Without dropout, whose masks tests/core/test_fused_cpu.py has.
    config = CONFIGS[1].replace(dropout=0.0, **change)
    (segments,), one = cut(data, [config]), learner(data, config)
    for step in range(1, config.steps + 1):
        before = {name: value.clone() for name, value in one.state.items()}
        one.advance(step)
        after = one.state["weights"].clone()
        if step == config.bc_steps + 1 and config.init == "fresh":
            before["weights"] = before["initial"]
        one.state["weights"].copy_(before["weights"])
        gradient, sums = plain_update(one, 0, config, segments, step)
        one.state["weights"].copy_(after)
        close(one.gradient[0], gradient)
        found = (one.state["sums"] - before["sums"])[:, 0]
        if step == config.bc_steps + 1:  # the scores are 0, and have the sign of a rounding error
            found[1] = sums[1]
        torch.testing.assert_close(found, sums, rtol=1e-4, atol=1e-4)


def test_adam_is_torch_adam():
    generator = torch.Generator().manual_seed(0)
    ours = torch.randn(2, 40, generator=generator)
    theirs = ours.clone().requires_grad_()
    reference = torch.optim.Adam([theirs], lr=0.01)
    mean, square, out = (torch.zeros(2, 40) for _ in range(3))
    one = torch.ones(2)
    for update in range(1, 30):
        theirs.grad = torch.randn(2, 40, generator=generator)
        ours -= adam_step(
            theirs.grad, mean, square, one * 0.01 / (1 - 0.9**update), one * (1 - 0.999**update) ** 0.5, out=out
        )
        reference.step()
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-5, atol=1e-6)


def test_batches_are_whole_permutations_and_depend_on_seed_and_update_alone():
    batches = Batches(10, 4, seed=0)
    drawn = np.concatenate([batches.at(step)[0] for step in range(1, 16)])
    assert all(sorted(drawn[i : i + 10]) == list(range(10)) for i in range(0, 60, 10))
    assert not np.array_equal(drawn[:10], drawn[10:20])
    np.testing.assert_array_equal(Batches(10, 4, seed=0).at(9)[0], drawn[32:36])
    assert not np.array_equal(Batches(10, 4, seed=1).at(9)[0], drawn[32:36])
    assert np.bincount(Batches(3, 8, seed=0).at(1)[0]).tolist() in ([2, 3, 3], [3, 2, 3], [3, 3, 2])


def test_a_block_of_batches_is_its_updates_batches():
    expected = [Batches(7, 4, seed=2).at(step)[0] for step in range(3, 30)]
    np.testing.assert_array_equal(Batches(7, 4, seed=2).at(3, 27), expected)


def test_batches_last_beyond_a_block(data):
    config = CONFIG.replace(bc_steps=0, steps=2 * BLOCK + 3)
    (segments,), one = cut(data, [config]), learner(data, config)
    for step in range(1, config.steps + 1):
        one.advance(step)
        if step % 100 == 0 or step % BLOCK < 2:
            assert one.batch_index.tolist() == Batches(len(segments), 6, config.seed).at(step).tolist()


def test_the_cached_reference_is_exact(data):
    one, last = learner(data, CONFIG), CONFIG.bc_steps + 1
    for step in range(1, last + 1):
        one.advance(step)
    o, a = torch.as_tensor(data.observations), torch.as_tensor(data.actions)
    expected = one.references(last)[0].log_prob(o, a).detach()
    torch.testing.assert_close(one.views["reference"], expected.unfold(0, one.length, 1), rtol=1e-5, atol=1e-6)


def test_policies_are_copies_of_the_weights_as_they_are_now(data):
    one = learner(data, CONFIG)
    one.advance(1)
    before, (policy,) = one.state["weights"].clone(), one.policies()
    one.advance(2)
    assert torch.equal(parameters_to_vector(policy.parameters()), before[0])
    assert policy.settings == dict(obs_dim=8, act_dim=2, hidden=[16, 12], kind="deterministic")
    # Before the second phase the reference is what it would begin with.
    assert torch.equal(parameters_to_vector(one.references(2)[0].parameters()), one.state["weights"][0])


def test_metrics_are_read_when_they_are_due(data):
    one, rows = learner(data, CONFIG.replace(log_every=3)), {}
    for step in range(1, CONFIG.steps + 1):
        one.advance(step)
        rows[step] = one.read(step)
    assert [step for step, read in rows.items() if read] == [3, 4, 6, 8]  # with the end of each phase
    assert [row["phase"] for row in rows[4] + rows[6]] == ["bc", "trac"]
    assert all(np.isnan(row["accuracy"]) and np.isfinite(row["loss"]) for row in rows[4])
    assert all(0 <= row["accuracy"] <= 1 and row["gradient_norm"] > 0 for row in rows[6])
    assert one.failed == [0]
    (metrics,), sums = one.metrics(CONFIG.steps), one.state["sums"]
    assert np.isnan(metrics["loss"]) and (sums == 0).all()  # nothing since the last reading


def test_on_a_cpu_each_run_has_a_learner_and_all_share_their_buffers(data):
    segments = cut(data, CONFIGS)
    alone = learners(data, segments, CONFIGS)
    assert [one.configs for one in alone] == [[CONFIGS[0]], [CONFIGS[1]]]
    assert alone[0].fused is alone[1].fused is not None
    with pytest.raises(ConfigError, match="one run"):
        TracLearner(data, segments, CONFIGS)
