"""One update of TraC: draw a batch, score it, differentiate, step. Everything stays on the device.

A learner holds M runs that share shapes and are advanced together. On a GPU that is a stack, whose update is made by
`trac.core.fused_gpu`. On a CPU every learner has one run (M = 1), `learners` makes one for each config, and the update
is the one that can be read here.
"""

import math
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from trac import score
from trac.config import ConfigError, TracConfig
from trac.core.adam import BETAS, adam_step
from trac.core.batches import MASKS, Batches
from trac.core.capture import Captured
from trac.core.fused_cpu import FusedMLP, Layers
from trac.data.trajectories import Trajectories
from trac.partition import Segments
from trac.policy import Policy, layer_sizes

METRICS = ("loss", "accuracy", "score_desirable", "score_undesirable", "one_sided", "gradient_norm")
# What is added up for them between two readings.
_SUMS = ("loss", "accuracy", "desirable", "scores", "scores_desirable", "one_sided", "gradient_norm", "updates")

BLOCK = 256  # updates whose segments and step sizes go to the device at once


class TracLearner:
    """M runs that share shapes, advanced together, one update at a time; see `trac.core.fit.Learner`.

    A batch and its dropout masks depend on the run's seed and the number of the update alone. So there
    is no random state to keep: `state` and the number of the update are all it takes to go on.

    Args:
        data: the logged trajectories.
        segments: one for each run.
        configs: one for each run.
        device: where the updates are made.
        fused: the network's buffers for one run on a CPU, shared by learners whose turns alternate; by default its own.
        stacked: make the updates with the kernels for a GPU, which can be tried on a CPU too; by default on a GPU.
        capture: on a GPU, record the update of each phase as a graph, and replay it.

    Attributes:
        state: every tensor that an update changes, by name; weights, initial and reference are (M, P), a row for
            each run with its layers' weights and biases.

    Example:
        >>> config = trac.TracConfig(task="BallRun", steps=4, bc_steps=2, eval_episodes=0)
        >>> learner = TracLearner(data, [trac.partition(data, cost_limit=20)], [config])
        >>> learner.advance(1)
        >>> learner.state["weights"].shape  # one run, all its weights and biases
        torch.Size([1, 17794])
    """

    def __init__(
        self,
        data: Trajectories,
        segments: Sequence[Segments],
        configs: Sequence[TracConfig],
        *,
        device: torch.device | str = "cpu",
        fused: FusedMLP | None = None,
        stacked: bool | None = None,
        capture: bool = True,
    ):
        self.configs, self.config = configs, configs[0]
        self.steps, self.failed = range(1, self.config.steps + 1), [0] * len(configs)
        self.device, self.length, models = torch.device(device), segments[0].length, len(configs)
        stacked = self.device.type == "cuda" if stacked is None else stacked
        # On the CPU these share memory with the data, as long as its rows lie one after the other.
        arrays = {name: torch.as_tensor(getattr(data, name), device=device) for name in ("observations", "actions")}
        self.data = {name: values.contiguous() for name, values in arrays.items()}
        obs_dim, act_dim = (values.shape[1] for values in self.data.values())
        self.policy = Policy(obs_dim, act_dim, hidden=self.config.hidden, kind=self.config.policy)
        sizes = layer_sizes(obs_dim, act_dim, self.config.hidden, self.config.policy)

        # Drawn on the CPU, so that the initial weights do not depend on the device.
        generators = [torch.Generator().manual_seed(config.seed) for config in configs]
        initial = torch.stack([parameters_to_vector(self.policy.initialise(g).parameters()) for g in generators])
        self.parameters = initial.shape[1]
        # On a GPU each run's row begins at a multiple of 16 bytes, which the products' fastest kernels ask for.
        weights = F.pad(initial.detach(), (0, -self.parameters % 4 if stacked else 0)).to(self.device)
        self.state = {
            "weights": weights,
            "initial": weights.clone(),
            "reference": weights.clone(),
            "mean": torch.zeros_like(weights),
            "square": torch.zeros_like(weights),
            "sums": torch.zeros(len(_SUMS), models, device=self.device),
            # Updates before the first one whose loss or gradient was not finite.
            "finite_updates": torch.zeros(models, device=self.device),
        }
        self.gradient = torch.zeros_like(weights)
        self.layers, self.gradient_layers = self._split(weights), self._split(self.gradient)

        self.batches = [Batches(len(s), c.batch_size, c.seed) for s, c in zip(segments, configs, strict=True)]
        # The segments of all runs stand in one table, each run's after the last one's.
        self.offsets = np.cumsum([0, *(len(s) for s in segments[:-1])])
        self.table = {
            name: torch.as_tensor(np.concatenate([getattr(s, name) for s in segments]), device=self.device)
            for name in ("starts", "labels", "weights")
        }
        # What the host sends for BLOCK updates: the segments; the number of each and Adam's two factors, by run.
        self.block = {
            "index": torch.zeros(BLOCK, models, self.config.batch_size, dtype=torch.int64, device=self.device),
            "scalars": torch.zeros(BLOCK, 3, models, device=self.device),
            "row": torch.zeros(1, dtype=torch.int64, device=self.device),
        }
        self.first, self.row = 0, BLOCK  # the update in the block's first row, and the row of the last one made
        self.runs = {
            name: torch.tensor([float(getattr(c, name)) for c in configs], device=self.device)
            for name in ("alpha", "gamma", "eta")
        }
        # log π_ref of every transition, once the second phase has begun.
        self.reference = torch.zeros(models, len(self.data["actions"]), device=self.device)
        self.has_reference = False

        self.captured: dict[bool, Captured] = {}  # by `cloning`
        if stacked:
            keys = [np.random.SeedSequence(c.seed, spawn_key=(MASKS,)).generate_state(1, np.uint64) for c in configs]
            self.runs["seed"] = torch.as_tensor(np.concatenate(keys).view(np.int64), device=self.device)
            self.stack = _fused_gpu().FusedStack(
                *(self.config, sizes, self.length, self.data, self.table, self.block, self.runs, self.state),
                *(self.gradient, self.layers, self.gradient_layers),
            )
            for cloning, reference in ((True, None), (False, self.reference)):
                self.captured[cloning] = Captured(partial(self.stack.update, reference), self.device, capture)
        elif models > 1:
            raise ConfigError("on a CPU a TracLearner has one run: `learners` makes one for each.")
        else:
            self.change = torch.empty_like(weights)
            for layers in (self.layers, self.gradient_layers):
                layers[:] = [(weight[0], bias[0]) for weight, bias in layers]
            self.fused = fused or FusedMLP(self.config.batch_size * self.length, sizes, self.config.dropout)
            # Row i is the segment that starts at transition i: overlapping views, so that only the batch is copied.
            values = self.data | {"reference": self.reference.view(-1, 1)}
            self.views = {name: _segment_view(x, self.length) for name, x in values.items()}

    @property
    def batch_index(self) -> Tensor:
        """(M, batch_size) the last update's segments, in the table of all runs' segments."""
        return self.block["index"][self.row]

    def advance(self, step: int) -> None:
        """Make update `step`, counted from 1 over both phases."""
        cloning = step <= self.config.bc_steps
        if step == self.config.bc_steps + 1:
            self._begin_second_phase()
        if not cloning and not self.has_reference:
            self._cache_reference()
        self.row += 1
        if self.row >= BLOCK or step != self.first + self.row:
            self._send_batches(step)
        if self.captured:
            self.captured[cloning]()
        else:
            self._update(step)

    def read(self, step: int) -> list[dict[str, Any]]:
        """`metrics`, every `log_every` updates and at the end of each phase; nothing after other updates."""
        due = step % self.config.log_every == 0 or step in (self.config.bc_steps, self.config.steps)
        return self.metrics(step) if due else []

    def metrics(self, step: int) -> list[dict[str, Any]]:
        """Phase and METRICS of each run after that update: means since they were last asked for."""
        sums = dict(zip(_SUMS, self.state["sums"].cpu(), strict=True))
        undesirable = sums["updates"] * self.config.batch_size - sums["desirable"]
        means = {name: total / sums["updates"] for name, total in sums.items()}
        means["score_desirable"] = sums["scores_desirable"] / sums["desirable"]
        means["score_undesirable"] = (sums["scores"] - sums["scores_desirable"]) / undesirable
        cloning = step <= self.config.bc_steps
        if cloning:  # there are no scores yet
            names = set(METRICS) - {"loss", "gradient_norm"}
            means |= dict.fromkeys(names, torch.full_like(undesirable, math.nan))
        rows = torch.stack([means[name] for name in METRICS], dim=1).tolist()
        self.state["sums"].zero_()
        finite = self.state["finite_updates"].tolist()
        self.failed = [int(updates) + 1 if updates < step else 0 for updates in finite]
        return [{"phase": "bc" if cloning else "trac"} | dict(zip(METRICS, row, strict=True)) for row in rows]

    def policies(self) -> list[Policy]:
        """The policy of each run as it is now, as a copy on the CPU."""
        return [self._policy(row) for row in self.state["weights"].cpu()]

    def references(self, step: int) -> list[Policy]:
        """π_ref of each run: what the second phase began with, or would begin with after that update."""
        return [
            self._policy(row) for row in self.state["reference" if step > self.config.bc_steps else "weights"].cpu()
        ]

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`."""
        for name, value in self.state.items():
            value.copy_(state[name])
        self.has_reference = False

    def _policy(self, vector: Tensor) -> Policy:
        policy = Policy(**self.policy.settings)
        vector_to_parameters(vector[: self.parameters].clone(), policy.parameters())
        return policy

    def _split(self, matrix: Tensor) -> Layers:
        """(weight (M, out, in), bias (M, out)) of each layer, as views of (M, P)."""
        parameters = list(self.policy.parameters())
        parts = torch.split(matrix[:, : self.parameters], [parameter.numel() for parameter in parameters], dim=1)
        views = [torch.unflatten(part, 1, parameter.shape) for part, parameter in zip(parts, parameters, strict=True)]
        return list(zip(views[::2], views[1::2], strict=True))

    def _begin_second_phase(self) -> None:
        state = self.state
        state["reference"].copy_(state["initial" if self.config.reference == "initial" else "weights"])
        if self.config.init == "fresh":
            state["weights"].copy_(state["initial"])
        state["mean"].zero_()
        state["square"].zero_()

    @torch.no_grad()
    def _cache_reference(self) -> None:
        """log π_ref of every transition. π_ref is frozen, so once is enough."""
        chunk = 4096 if self.device.type == "cpu" else 2**18  # [transitions]
        for policy, to in zip(self.references(self.config.steps), self.reference, strict=True):
            if self.config.reference != "none":
                policy = policy.to(self.device)
                parts = (torch.split(x, chunk) for x in (*self.data.values(), to))
                for observations, actions, log_prob in zip(*parts, strict=True):
                    log_prob.copy_(policy.log_prob(observations, actions))
        self.has_reference = True

    def _send_batches(self, step: int) -> None:
        """Choose the segments and step sizes of the next BLOCK updates."""
        parts = [one.at(step, BLOCK) + offset for one, offset in zip(self.batches, self.offsets, strict=True)]
        scalars = np.stack([_scalars(config, step + np.arange(BLOCK)) for config in self.configs], axis=-1)
        for name, values in (("index", np.stack(parts, axis=1)), ("scalars", scalars.astype(np.float32))):
            host = torch.from_numpy(values)
            # From pinned memory the copy does not make the host wait.
            self.block[name].copy_(host.pin_memory() if self.device.type == "cuda" else host, non_blocking=True)
        self.block["row"].zero_()
        if not self.captured:
            # Made one by one, between an update's large arrays, they take several times as long.
            seeds = (np.random.SeedSequence(self.config.seed, spawn_key=(MASKS, step + i)) for i in range(BLOCK))
            self.words = [np.random.SFC64(seed) for seed in seeds]
        self.first, self.row = step, 0

    def _update(self, step: int) -> None:
        """One update of one run on a CPU."""
        loss, sums = self._differentiate(step)
        with torch.no_grad():
            norm = torch.linalg.vector_norm(self.gradient, dim=1)
            _, size, root = self.block["scalars"][self.row]
            zero = torch.zeros_like(norm)
            sums |= {"loss": loss, "gradient_norm": norm, "updates": torch.ones_like(norm)}
            self.state["sums"] += torch.stack([sums.get(name, zero) for name in _SUMS])
            change = adam_step(self.gradient, self.state["mean"], self.state["square"], size, root, out=self.change)
            # A run that fails once stays as it is: at the last weights that a finite gradient made.
            if math.isfinite(loss + norm) and self.state["finite_updates"] == step - 1:
                self.state["finite_updates"] += 1
                self.state["weights"] -= change

    def _differentiate(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss (1,) of the batch, and what it adds to `_SUMS`, (1,) each; its gradient goes to `gradient`."""
        batch = self.config.batch_size
        starts = self.table["starts"][self.batch_index[0]]
        actions = self.views["actions"].index_select(0, starts).view(1, batch * self.length, -1)
        torch.index_select(self.views["observations"], 0, starts, out=self.fused.inputs.view(batch, -1))
        output = self.fused.forward(self.layers, self.words[self.row]).unsqueeze(0).requires_grad_()
        log_prob = self.policy.log_prob_of(output, actions).view(1, batch, self.length)
        if step <= self.config.bc_steps:
            loss = -log_prob.mean(-1).mean(-1)
            sums: dict[str, Tensor] = {}
        else:
            loss, sums = self._classify(log_prob, starts)
        (gradient,) = torch.autograd.grad(loss, output)
        self.fused.backward(gradient[0], self.gradient_layers)
        return loss.detach(), sums

    def _classify(self, log_prob: Tensor, starts: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The second phase's loss (1,), from log π (1, B, L), and what it adds to `_SUMS`."""
        config, index = self.config, self.batch_index
        label, weight = self.table["labels"][index], self.table["weights"][index]
        reference = self.views["reference"].index_select(0, starts).view_as(log_prob)
        alpha, gamma = (self.runs[name].unsqueeze(1) for name in ("alpha", "gamma"))
        s = score.segment_score(log_prob - reference, alpha=alpha, gamma=gamma)
        loss, accuracy = score.trac_loss(s, weight, label, self.runs["eta"], clamp=config.clamp, use=config.use)
        desirable = label.sum(-1)
        if config.bc_coef:
            loss = loss - config.bc_coef * (label * log_prob.mean(-1)).sum(-1) / desirable.clamp(min=1)
        s = s.detach()
        one_sided = (desirable % config.batch_size == 0).to(s.dtype)
        scores = {"scores": s.sum(-1), "scores_desirable": (s * label).sum(-1)}
        return loss, scores | {"accuracy": accuracy, "desirable": desirable, "one_sided": one_sided}


def learners(
    data: Trajectories,
    segments: Sequence[Segments],
    configs: Sequence[TracConfig],
    device: torch.device | str = "cpu",
    capture: bool = True,
) -> list[TracLearner]:
    """What trains runs of the same shapes: one learner for all of them; on a CPU one for each.

    One after the other in the same buffers is as fast there, and no run's bits depend on its neighbours.

    >>> configs = [trac.TracConfig(task="BallRun", seed=seed) for seed in (0, 1)]
    >>> len(learners(data, [trac.partition(data, cost_limit=20)] * 2, configs))
    2
    """
    if torch.device(device).type != "cpu":
        return [TracLearner(data, segments, configs, device=device, capture=capture)]
    made: list[TracLearner] = []
    for one, config in zip(segments, configs, strict=True):
        made.append(TracLearner(data, [one], [config], fused=made[0].fused if made else None))
    return made


def runs_that_fit(data: Trajectories, segments: Segments, config: TracConfig, device: torch.device) -> int:
    """How many runs like this one a device's free memory holds as one stack; on a CPU they need not fit at once.

    Args:
        segments: of the run.

    Raises:
        ConfigError: not even one.

    Example:
        >>> config = trac.TracConfig(task="BallRun")
        >>> runs_that_fit(data, trac.partition(data, cost_limit=20), config, torch.device("cpu")) > 1000
        True
    """
    if device.type == "cpu":
        return sys.maxsize
    (transitions, obs_dim), act_dim = data.observations.shape, data.actions.shape[1]
    sizes = layer_sizes(obs_dim, act_dim, config.hidden, config.policy)
    one = _fused_gpu().bytes_needed(config, sizes, segments.length, len(segments), transitions)
    torch.cuda.empty_cache()  # what torch holds of earlier stacks does not count as free
    free = 0.9 * torch.cuda.mem_get_info(device)[0] - 4 * transitions * (obs_dim + act_dim)
    if free < one:
        raise ConfigError(
            f"a run with batches of {config.batch_size} segments of {segments.length} steps needs {one / 2**30:.1f} GiB"
            f" beside the data, and {device} has {free / 2**30:.1f} GiB free: lower batch_size, or use device='cpu'."
        )
    return int(free / one)


def _scalars(config: TracConfig, steps: np.ndarray) -> np.ndarray:
    """The updates' numbers, their step sizes, and the roots of Adam's second bias correction: (U,) -> (U, 3)."""
    cloning = steps <= config.bc_steps
    update = np.where(cloning, steps, steps - config.bc_steps)
    warm = config.lr_multiplier * np.minimum(1.0, update / max(1, config.warmup_steps))
    rate = config.learning_rate * np.where(cloning, 1.0, warm)
    with np.errstate(under="ignore"):  # late updates' powers
        return np.stack([steps, rate / (1 - BETAS[0] ** update), np.sqrt(1 - BETAS[1] ** update)], axis=1)


def _fused_gpu() -> Any:
    try:
        from trac.core import fused_gpu
    except ImportError as error:
        raise ConfigError(
            f"training on a GPU needs Triton ({error}). It comes with torch's CUDA build on Linux: install that, or "
            f"use device='cpu'."
        ) from error
    return fused_gpu


def _segment_view(values: Tensor, length: int) -> Tensor:
    """(N, D) -> (N - L + 1, L * D), where row i is rows i to i + L - 1 of `values`: a view."""
    rows, width = values.shape
    return values.as_strided((rows - length + 1, length * width), (width, 1))
