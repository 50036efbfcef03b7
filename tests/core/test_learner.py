import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trac.config import TracConfig
from trac.core.batches import Batches
from trac.core.dropout import dropout_masks
from trac.core.functional import adam_step, forward
from trac.core.learner import TracLearner, learners
from trac.partition import partition
from trac.policy import Policy

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


def learner(data, configs, device="cpu", by_hand=False):
    one = TracLearner(data, cut(data, configs), configs, device=device, autograd=not by_hand)
    assert (one.fused is not None) == by_hand
    return one


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
def test_updates_by_hand_are_those_by_autograd(data, change):
    config = CONFIGS[1].replace(dropout=0.0, **change)
    hand, autograd = learner(data, [config], by_hand=True), learner(data, [config])
    for step in range(1, config.steps + 1):
        for name in ("weights", "mean", "square"):  # the same point, so that errors do not add up
            hand.state[name].copy_(autograd.state[name])
        for one in (hand, autograd):
            one.advance(step)
        close(hand.gradient, autograd.gradient)
        torch.testing.assert_close(hand.state["sums"], autograd.state["sums"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dropout", [0.0, 0.25, 0.1])
def test_a_stack_by_autograd_has_the_gradients_masks_and_segments_of_its_members(data, dropout):
    configs = [c.replace(dropout=dropout) for c in CONFIGS]
    stack, members = learner(data, configs), [learner(data, [c]) for c in configs]
    for step in range(1, CONFIG.steps + 1):
        for m, member in enumerate(members):
            for name in ("weights", "mean", "square"):
                member.state[name].copy_(stack.state[name][m : m + 1])
        stack.advance(step)
        for m, member in enumerate(members):
            member.advance(step)
            assert torch.equal(stack.batch_index[m] - stack.offsets[m], member.batch_index[0])
            torch.testing.assert_close(stack.gradient[m], member.gradient[0], rtol=1e-4, atol=1e-6)


# What brings a NumPy array to where it can be copied from.
HOST = [getattr(torch.ops.aten, name).default for name in ("lift_fresh", "is_pinned", "_pin_memory")]


class OnlyOn(TorchDispatchMode):
    """Fails on an operation with a tensor of another device; the batch's indices alone may come from the host."""

    def __init__(self, device):
        super().__init__()
        self.device, self.uploads, self.operations = torch.device(device), 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        strays = [
            x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor) and x.device.type != self.device.type
        ]
        if function is torch.ops.aten.copy_.default and strays and strays[0] is args[1]:
            self.uploads += 1
        elif function not in HOST:
            assert not strays, f"{function} met {[tuple(x.shape) for x in strays]} on {strays[0].device}"
        self.operations += 1
        return function(*args, **(kwargs or {}))


def guarded(stack, first):
    """All updates from the first on, both phases, under the guard."""
    with OnlyOn(stack.device) as guard:
        for step in range(first, CONFIG.steps + 1):
            stack.advance(step)
    return guard


@pytest.mark.parametrize(
    "change", [dict(), dict(policy="gaussian"), dict(dropout=0.1, clamp=0.1, bc_coef=0.5), dict(reference="none")]
)
def test_no_update_waits_for_the_device_or_leaves_it(data, change):
    # Tensors of the meta device have no values: whatever asks for one, as .item() does, raises.
    stack = learner(data, [c.replace(**change) for c in CONFIGS], "meta")
    guard = guarded(stack, 1)
    # An update sends its segments and its scalars, and nothing else.
    assert guard.uploads == 2 * CONFIG.steps and guard.operations > 50 * CONFIG.steps
    assert {x.device.type for x in (*stack.state.values(), stack.gradient, stack.views["reference"])} == {"meta"}


@pytest.mark.parametrize("stray", ["item", "cpu tensor"])
def test_the_device_test_can_fail(data, monkeypatch, stray):
    loss = TracLearner._classify

    def slip(self, log_prob, rows):
        if stray == "item":
            log_prob.sum().item()
        else:
            log_prob = log_prob * torch.ones(())
        return loss(self, log_prob, rows)

    monkeypatch.setattr(TracLearner, "_classify", slip)
    with pytest.raises((AssertionError, RuntimeError, NotImplementedError)):
        guarded(learner(data, CONFIGS, "meta"), 1)


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
    drawn = np.concatenate([batches.at(step) for step in range(1, 16)])
    assert all(sorted(drawn[i : i + 10]) == list(range(10)) for i in range(0, 60, 10))
    assert not np.array_equal(drawn[:10], drawn[10:20])
    np.testing.assert_array_equal(Batches(10, 4, seed=0).at(9), drawn[32:36])
    assert not np.array_equal(Batches(10, 4, seed=1).at(9), drawn[32:36])
    assert np.bincount(Batches(3, 8, seed=0).at(1)).tolist() in ([2, 3, 3], [3, 2, 3], [3, 3, 2])


def test_the_cached_reference_is_exact(data):
    one, last = learner(data, CONFIGS), CONFIG.bc_steps + 1
    for step in range(1, last + 1):
        one.advance(step)
    o, a = torch.as_tensor(data.observations), torch.as_tensor(data.actions)
    expected = torch.cat([policy.log_prob(o, a).detach() for policy in one.references(last)])
    segments = expected.unfold(0, one.length, 1)
    torch.testing.assert_close(one.views["reference"], segments, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["deterministic", "gaussian"])
def test_the_stacks_network_is_that_of_each_policy(kind):
    def generators(*seeds):
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    hidden, (drawn,) = (16, 12), generators(1)
    policies = [Policy(5, 2, hidden=hidden, kind=kind).initialise(generator) for generator in generators(3, 4)]
    for policy in policies:
        for layer in policy.layers:
            torch.nn.init.normal_(layer.bias, generator=drawn)
    pairs = list(zip(*(policy.layers for policy in policies), strict=True))
    layers = [tuple(torch.stack([getattr(x, name) for x in pair]) for name in ("weight", "bias")) for pair in pairs]
    x = torch.randn(2, 54, 5, generator=drawn)
    for one, observations, policy in zip(forward(layers, x), x, policies, strict=True):
        torch.testing.assert_close(one, policy(observations))
    masks = dropout_masks(54, hidden, 0.25, generators(8, 9), "cpu")
    alone = dropout_masks(54, hidden, 0.25, generators(9), "cpu")
    assert all(torch.equal(mine[1:], other) for mine, other in zip(masks, alone, strict=True))
    h = x[1]
    for layer, mask in zip(policies[1].layers, alone, strict=False):
        h = torch.relu(layer(h)) * mask[0]
    torch.testing.assert_close(forward(layers, x, masks)[1], policies[1].layers[-1](h))


def test_policies_are_copies_of_the_weights_as_they_are_now(data):
    stack = learner(data, CONFIGS)
    stack.advance(1)
    before, policies = stack.state["weights"].clone(), stack.policies()
    stack.advance(2)
    for row, policy in zip(before, policies, strict=True):
        assert torch.equal(parameters_to_vector(policy.parameters()), row)
        assert policy.settings == dict(obs_dim=8, act_dim=2, hidden=[16, 12], kind="deterministic")
    # Before the second phase the reference is what it would begin with.
    for row, policy in zip(stack.state["weights"], stack.references(2), strict=True):
        assert torch.equal(parameters_to_vector(policy.parameters()), row)


def test_metrics_are_read_when_they_are_due(data):
    stack = learner(data, [c.replace(log_every=3) for c in CONFIGS])
    rows = {}
    for step in range(1, CONFIG.steps + 1):
        stack.advance(step)
        rows[step] = stack.read(step)
    assert [step for step, read in rows.items() if read] == [3, 4, 6, 8]  # with the end of each phase
    assert [row["phase"] for row in rows[4] + rows[6]] == ["bc", "bc", "trac", "trac"]
    assert all(np.isnan(row["accuracy"]) and np.isfinite(row["loss"]) for row in rows[4])
    assert all(0 <= row["accuracy"] <= 1 and row["gradient_norm"] > 0 for row in rows[6])
    assert stack.failed == [0, 0]
    (metrics, _), sums = stack.metrics(CONFIG.steps), stack.state["sums"]
    assert np.isnan(metrics["loss"]) and (sums == 0).all()  # nothing since the last reading


def test_on_a_cpu_each_run_has_a_learner_and_all_share_their_buffers(data):
    segments = cut(data, CONFIGS)
    alone = learners(data, segments, CONFIGS)
    assert [one.configs for one in alone] == [[CONFIGS[0]], [CONFIGS[1]]]
    assert alone[0].fused is alone[1].fused is not None
    (stack,) = learners(data, segments, CONFIGS, device="meta")
    assert stack.configs == CONFIGS and stack.fused is None


gpu = pytest.mark.gpu
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@gpu
@needs_gpu
def test_no_update_waits_on_a_gpu(data):
    stack = learner(data, CONFIGS, "cuda")
    stack.advance(1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        guard = guarded(stack, 2)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert guard.uploads == 2 * (CONFIG.steps - 1) and guard.operations > 50 * (CONFIG.steps - 1)
    assert stack.state["finite_updates"].tolist() == [CONFIG.steps] * len(CONFIGS)


@gpu
@needs_gpu
def test_a_stack_on_a_gpu_agrees_with_its_members(data):
    stack, members = learner(data, CONFIGS, "cuda"), [learner(data, [c], "cuda") for c in CONFIGS]
    stack.advance(1)
    for m, member in enumerate(members):
        member.advance(1)
        assert torch.equal(stack.batch_index[m] - stack.offsets[m], member.batch_index[0])
        torch.testing.assert_close(stack.gradient[m], member.gradient[0], rtol=1e-4, atol=1e-6)


@gpu
@needs_gpu
def test_a_captured_update_is_the_eager_one_with_new_masks(data):
    long = [c.replace(bc_steps=10, steps=20) for c in CONFIGS]
    eager, captured = learner(data, long, "cuda"), learner(data, long, "cuda")
    captured.capture = True
    for step in range(1, 21):
        eager.advance(step)
        captured.advance(step)
        torch.testing.assert_close(captured.gradient, eager.gradient, rtol=1e-4, atol=1e-6)
        captured.state["weights"].copy_(eager.state["weights"])
    assert set(captured.graphs) == {True, False}
    # The same segments and weights again, with the key of another update: only the masks can differ.
    before = captured.gradient.clone()
    for generator in captured.generators:
        generator.manual_seed(1)
    captured.graphs[False]()
    assert not torch.equal(before, captured.gradient)
