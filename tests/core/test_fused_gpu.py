"""The kernels for a GPU against their definitions: in Triton's interpreter, or on a GPU where there is one."""

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from definition import Guard, plain_update
from scipy import stats

from trac.config import TracConfig
from trac.core.learner import BLOCK, TracLearner
from trac.partition import segments_of

pytest.importorskip("triton")
from trac.core import kernels

pytestmark = pytest.mark.gpu  # there is more of it to run where there is one
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CONFIG = TracConfig(
    **dict(cost_limit=8, segment_ratio=0.25, batch_size=5, hidden=(16, 12), eval_episodes=0),
    **dict(bc_steps=2, steps=4, warmup_steps=2, top=0.6, bottom=0.3),
)
# What a stack's runs may differ in.
OTHER = CONFIG.replace(seed=5, alpha=1.0, gamma=0.9, eta=1.0, cost_limit=5, top=0.25, learning_rate=1e-2)


def learner(data, configs, **options):
    return TracLearner(data, [segments_of(data, c) for c in configs], configs, device=DEVICE, stacked=True, **options)


def philox(key, counter):
    """Four words of Philox-4x32-10 (Salmon et al. 2011): key (2,), counter 4 arrays of uint64 below 2^32."""
    low, (k0, k1), (a, b, c, d) = np.uint64(0xFFFFFFFF), key, counter
    for _ in range(10):
        first, second = np.uint64(0xD2511F53) * a, np.uint64(0xCD9E8D57) * c
        a, b, c, d = (second >> 32) ^ b ^ k0, second & low, (first >> 32) ^ d ^ k1, first & low
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & low, (k1 + np.uint64(0xBB67AE85)) & low
    return a, b, c, d


def masks(config, rows, update):
    """What the hidden activations (rows, width) are multiplied with: a function of seed, update, layer and place."""
    word = np.random.SeedSequence(config.seed, spawn_key=(1,)).generate_state(1, np.uint64)[0]
    key = (word & np.uint64(0xFFFFFFFF), word >> np.uint64(32))
    threshold, found = round(config.dropout * 2**31), []
    for layer, width in enumerate(config.hidden):
        quarter = -(-width // 4)
        place = np.arange(rows * quarter, dtype=np.uint64).reshape(rows, quarter)
        words = philox(key, [place, *(np.full_like(place, x) for x in (update, layer, 0))])
        kept = (np.concatenate(words, axis=1)[:, :width] >> np.uint64(1)) >= threshold
        found.append(torch.as_tensor(kept * (2**31 / (2**31 - threshold)), dtype=torch.float32, device=DEVICE))
    return found


@pytest.mark.parametrize(
    "change",
    [
        *(dict(), dict(policy="gaussian"), dict(clamp=0.3), dict(bc_coef=0.5), dict(use="desirable")),
        *(dict(use="undesirable"), dict(reference="none"), dict(reference="initial"), dict(init="fresh")),
        *(dict(hidden=(20,)), dict(hidden=(10, 7, 9)), dict(dropout=0.1)),
        # Without dropout the first scores are 0 up to rounding, unless the reference is another policy.
        *(dict(dropout=0.0, reference="initial"), dict(hidden=(), reference="initial")),
        dict(policy="gaussian", clamp=0.1, bc_coef=0.5, hidden=(13,)),
    ],
)
def test_an_update_is_that_of_its_definition(data, change):
    configs = [c.replace(**change) for c in (CONFIG, OTHER)]
    segments, stack = [segments_of(data, c) for c in configs], learner(data, configs)
    for step in range(1, CONFIG.steps + 1):
        before = {name: value.clone() for name, value in stack.state.items()}
        stack.advance(step)
        after = {name: value.clone() for name, value in stack.state.items()}
        found = stack.gradient.clone()
        if step == CONFIG.bc_steps + 1:  # what the second phase begins with
            before["weights"] = before["initial" if stack.config.init == "fresh" else "weights"]
            before["mean"], before["square"] = torch.zeros_like(found), torch.zeros_like(found)
        stack.state["weights"].copy_(before["weights"])
        for m, (config, own) in enumerate(zip(configs, segments, strict=True)):
            gradient, sums = plain_update(stack, m, config, own, step, masks)
            scale = gradient.abs().max().clamp(min=1e-9)
            torch.testing.assert_close(found[m, : len(gradient)] / scale, gradient / scale, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close((after["sums"] - before["sums"])[:, m], sums, rtol=1e-4, atol=1e-4)
            theirs = torch.nn.Parameter(before["weights"][m, : len(gradient)].clone())
            update = step if step <= config.bc_steps else step - config.bc_steps
            warm = config.lr_multiplier * min(1, update / config.warmup_steps) if update < step else 1
            adam = torch.optim.Adam([theirs], lr=config.learning_rate * warm)
            theirs.grad = found[m, : len(gradient)].clone()
            moments = {"exp_avg": "mean", "exp_avg_sq": "square"}
            moments = {theirs_: before[ours][m, : len(gradient)].clone() for theirs_, ours in moments.items()}
            adam.state[theirs] = {"step": torch.tensor(float(update - 1))} | moments
            adam.step()
            torch.testing.assert_close(after["weights"][m, : len(gradient)], theirs.data, rtol=1e-5, atol=1e-7)
        for name, value in after.items():
            stack.state[name].copy_(value)
    assert stack.state["finite_updates"].tolist() == [CONFIG.steps] * 2


def test_a_run_in_a_stack_is_the_run_alone(data):
    configs = [CONFIG, OTHER, CONFIG.replace(seed=2)]
    stack, alone = learner(data, configs), [learner(data, [c]) for c in configs]
    for step in range(1, CONFIG.steps + 1):
        stack.advance(step)
        for m, one in enumerate(alone):
            one.advance(step)
            assert torch.equal(stack.batch_index[m] - stack.offsets[m], one.batch_index[0])
            for mine, other in zip(stack.stack.x[1:-1], one.stack.x[1:-1], strict=True):
                assert torch.equal(mine[m] > 0, other[0] > 0)  # which units are on and kept
    for m, one in enumerate(alone):
        for name in ("weights", "mean", "square"):
            torch.testing.assert_close(stack.state[name][m], one.state[name][0], rtol=1e-4, atol=1e-6)


def test_dropout_has_its_probability_and_is_independent():
    """Of the definition above, with which the kernels agree. Ten tests at 10^-7 each; the seeds are fixed."""
    first, second = masks(CONFIG.replace(hidden=(512, 512)), 256, 1)
    (later, _), (other, _) = (
        masks(CONFIG.replace(hidden=(512, 512)), 256, 2),
        masks(OTHER.replace(hidden=(512, 512)), 256, 1),
    )
    dropped = first == 0
    for quarter in range(4):
        part = dropped[:, 128 * quarter : 128 * quarter + 128]
        assert stats.binomtest(int(part.sum()), part.numel(), CONFIG.dropout).pvalue > 1e-7
    pairs = [(dropped[:, 1:], dropped[:, :-1]), (dropped[1:], dropped[:-1]), (dropped[:, :256], dropped[:, 256:])]
    pairs += [(dropped, x == 0) for x in (second, later, other)]
    for a, b in pairs:
        assert stats.binomtest(int((a & b).sum()), a.numel(), CONFIG.dropout**2).pvalue > 1e-7


def test_a_run_that_fails_keeps_its_weights_and_the_others_go_on(data):
    stack, alone = learner(data, [CONFIG, OTHER]), learner(data, [OTHER])
    for step in range(1, CONFIG.steps + 1):
        if step == 4:
            before = stack.state["weights"][0].clone()
            stack.runs["alpha"][0] = torch.nan
        stack.advance(step)
        alone.advance(step)
    assert stack.state["finite_updates"].tolist() == [3, CONFIG.steps] and torch.equal(
        stack.state["weights"][0], before
    )
    torch.testing.assert_close(stack.state["weights"][1], alone.state["weights"][0], rtol=1e-4, atol=1e-6)
    stack.metrics(CONFIG.steps)
    assert stack.failed == [4, 0]


@pytest.mark.parametrize("at", [1, 2, 3])
def test_going_on_from_a_state_gives_the_same_bits(data, at):
    whole, first, second = (learner(data, [CONFIG, OTHER]) for _ in range(3))
    for step in range(1, CONFIG.steps + 1):
        whole.advance(step)
        (first if step <= at else second).advance(step)
        if step == at:
            second.load_state(first.state)
    assert all(torch.equal(value, second.state[name]) for name, value in whole.state.items())


class Launch:
    """Stands in for a kernel, and only notes its name."""

    def __init__(self, name, launched):
        self.name, self.launched = name, launched

    def __getitem__(self, grid):
        return lambda *args, **options: self.launched.append(self.name)


def test_an_update_launches_products_sums_and_kernels_alone(data, monkeypatch):
    stack = learner(data, [CONFIG, OTHER])
    launched = []
    for name, kernel in vars(kernels).items():
        if hasattr(kernel, "arg_names"):
            monkeypatch.setattr(kernels, name, Launch(name, launched))
    with Guard() as guard:
        stack.stack.update(None)
        stack.stack.update(stack.reference)
    # Nothing is allocated, and nothing comes from the host.
    assert Counter(guard.operations) == {"bmm": 16, "transpose": 12, "sum": 6, "add_": 2}
    assert Counter(launched) == dict(gather=2, activate=4, differentiate=2, mask=4, record=2, adam=2)


def test_what_the_host_sends_lasts_for_many_updates(data):
    stack = learner(data, [CONFIG.replace(bc_steps=BLOCK + 2, steps=BLOCK + 2)] * 2)
    seen = []
    stack.stack.update = lambda reference: None
    for cloning in stack.captured:
        stack.captured[cloning].function = lambda: seen.append(stack.batch_index.clone())
    with Guard() as guard:
        for step in range(1, BLOCK + 3):
            stack.advance(step)
    assert guard.operations.count("copy_") == 2 * 2  # the segments and the step sizes, twice
    expected = [
        np.concatenate([stack.batches[m].at(step) + stack.offsets[m] for m in (0, 1)]) for step in (1, BLOCK, BLOCK + 2)
    ]
    for step, indices in zip((1, BLOCK, BLOCK + 2), expected, strict=True):
        np.testing.assert_array_equal(seen[step - 1].cpu(), indices)


COMPILE = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from trac.core import kernels

INTEGERS = "stacked obs_dim width models rows layer threshold stride batch length act_dim transitions parameters"
FLOATS = "scale bc_coef clamp use_desirable use_undesirable low high beta1 beta2 epsilon"
TYPES = dict.fromkeys(INTEGERS.split(), "i32") | dict.fromkeys(FLOATS.split(), "fp32")
TYPES |= dict.fromkeys(("row", "index", "starts", "seeds"), "*i64")
SIZES = dict(TILE=2048, ROWS=32, COLUMNS=64, BATCH=128, STEPS=256, ACTIONS=2)
FLAGS = ("DROPOUT", "CLONING", "CLAMP", "GAUSSIAN")
for name in ("gather", "activate", "mask", "differentiate", "record", "adam"):
    kernel = getattr(kernels, name)
    for flag in (False, True):
        constants = {c: SIZES.get(c, flag) for c in kernel.arg_names if c.isupper()}
        types = {a: "constexpr" if a in constants else TYPES.get(a, "*fp32") for a in kernel.arg_names}
        constants = {(kernel.arg_names.index(c),): value for c, value in constants.items()}
        made = compile(ASTSource(fn=kernel, signature=types, constexprs=constants), target=GPUTarget("cuda", 90, 32))
        assert made.asm["cubin"]
        print(name, flag)
"""


@pytest.mark.slow
def test_the_kernels_compile_for_a_gpu(monkeypatch, tmp_path):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 12, done.stderr


@needs_gpu
def test_a_captured_update_is_the_eager_one(data):
    long = [c.replace(bc_steps=10, steps=20) for c in (CONFIG, OTHER)]
    eager, captured = learner(data, long, capture=False), learner(data, long)
    for step in range(1, 21):
        eager.advance(step)
        captured.advance(step)
    assert all(one.graph is not None for one in captured.captured.values())
    assert all(torch.equal(value, captured.state[name]) for name, value in eager.state.items())


@needs_gpu
def test_no_update_waits_on_a_gpu(data):
    stack = learner(data, [CONFIG.replace(bc_steps=10, steps=20)] * 2)
    for steps in (range(1, 11), range(11, 21)):  # at the start of a phase the reference is cached, with a wait
        stack.advance(steps[0])
        torch.cuda.set_sync_debug_mode("error")
        try:
            for step in steps[1:]:
                stack.advance(step)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert stack.state["finite_updates"].tolist() == [20] * 2


@needs_gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device")
def test_another_device_than_the_current_one(data):
    configs = [CONFIG.replace(bc_steps=10, steps=20)] * 2
    one, other = (
        TracLearner(data, [segments_of(data, c) for c in configs], configs, device=f"cuda:{i}") for i in (0, 1)
    )
    for step in range(1, 21):
        one.advance(step)
        other.advance(step)
    assert other.captured[False].graph is not None
    torch.testing.assert_close(one.state["weights"].cpu(), other.state["weights"].cpu(), rtol=1e-4, atol=1e-6)
