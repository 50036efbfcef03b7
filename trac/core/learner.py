"""One update of TraC: draw a batch, score it, differentiate, step. Everything stays on the device.

A learner holds M runs that share shapes and are advanced together. On a GPU that is a stack with one gather, one loss
and one optimizer. On a CPU every learner has one run (M = 1), and `learners` makes one for each config.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from trac import score
from trac.config import TracConfig
from trac.core.batches import MASKS, Batches
from trac.core.dropout import dropout_masks
from trac.core.functional import BETAS, adam_step, forward
from trac.core.fused_cpu import FusedMLP, Layers
from trac.data.trajectories import Trajectories
from trac.partition import Segments
from trac.policy import Policy, layer_sizes

METRICS = ("loss", "accuracy", "score_desirable", "score_undesirable", "one_sided", "gradient_norm")
# What is added up for them between two readings.
_SUMS = ("loss", "accuracy", "desirable", "scores", "scores_desirable", "one_sided", "gradient_norm", "updates")


class TracLearner:
    """M runs that share shapes, advanced together, one update at a time; see `trac.core.fit.Learner`.

    A batch and its dropout masks depend on the run's seed and the number of the update alone. So there
    is no random state to keep: `state` and the number of the update are all it takes to go on.

    Args:
        data: the logged trajectories.
        segments: one for each run.
        configs: one for each run.
        device: where the updates are made.
        fused: forward and backward by hand in these buffers, shared by learners whose turns alternate. By default
            buffers of its own for a single run on a CPU, and autograd otherwise.
        autograd: do without such buffers in any case.
        capture: record each phase's update once as a CUDA graph, and replay it.

    Attributes:
        state: every tensor that an update changes, by name; weights, initial and reference are (M, P), a row for
            each run with its layers' weights and biases.
    """

    def __init__(
        self,
        data: Trajectories,
        segments: Sequence[Segments],
        configs: Sequence[TracConfig],
        *,
        device: torch.device | str = "cpu",
        fused: FusedMLP | None = None,
        autograd: bool = False,
        capture: bool = False,
    ):
        self.configs, self.config, self.capture = configs, configs[0], capture
        self.steps, self.failed = range(1, self.config.steps + 1), [0] * len(configs)
        self.device, self.length, models = torch.device(device), segments[0].length, len(configs)
        # On the CPU these share memory with the data.
        self.data = {name: torch.as_tensor(getattr(data, name), device=device) for name in ("observations", "actions")}
        obs_dim, act_dim = (values.shape[1] for values in self.data.values())
        self.policy = Policy(obs_dim, act_dim, hidden=self.config.hidden, kind=self.config.policy)
        self.sizes = layer_sizes(obs_dim, act_dim, self.config.hidden, self.config.policy)
        if fused is None and not autograd and models == 1 and self.device.type == "cpu":
            fused = FusedMLP(self.config.batch_size * self.length, self.sizes, self.config.dropout)
        self.fused = fused

        # Drawn on the CPU, so that the initial weights do not depend on the device.
        generators = [torch.Generator().manual_seed(config.seed) for config in configs]
        initial = [parameters_to_vector(self.policy.initialise(g).parameters()).detach() for g in generators]
        weights = torch.stack(initial).to(self.device)
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
        self.gradient, self.change = torch.empty_like(weights), torch.empty_like(weights)
        self.layers, self.gradient_layers = self._split(weights), self._split(self.gradient)

        self.batches = [Batches(len(s), c.batch_size, c.seed) for s, c in zip(segments, configs, strict=True)]
        # The segments of all runs stand in one table, each run's after the last one's.
        self.offsets = np.cumsum([0, *(len(s) for s in segments[:-1])])
        self.table = {
            name: torch.as_tensor(np.concatenate([getattr(s, name) for s in segments]), device=self.device)
            for name in ("starts", "labels", "weights")
        }
        # What the host sends for each update: the segments; its number and Adam's two factors for each run.
        self.batch_index = torch.zeros(models, self.config.batch_size, dtype=torch.int64, device=self.device)
        self.step_scalars = torch.zeros(3, models, device=self.device)
        # Row i is the segment that starts at transition i: overlapping views, so that only the batch is copied.
        self.views = {name: _segment_view(values, self.length) for name, values in self.data.items()}
        # Where each run's part of the reference's table begins.
        self.reference_offset = torch.arange(models, device=self.device).unsqueeze(1) * len(self.data["actions"])
        self.alpha, self.gamma, self.eta = (
            torch.tensor([[float(getattr(c, name))] for c in configs], device=self.device)
            for name in ("alpha", "gamma", "eta")
        )
        self.mask_words: np.random.BitGenerator | None = None
        # There are no generators for the meta device, where nothing is drawn.
        self.generators = [None if self.device.type == "meta" else torch.Generator(self.device) for _ in configs]
        self.eager = {True: 0, False: 0}  # updates made without a graph, by `cloning`
        self.graphs: dict[bool, Callable[[], None]] = {}

    def advance(self, step: int) -> None:
        """Make update `step`, counted from 1 over both phases."""
        cloning = step <= self.config.bc_steps
        if step == self.config.bc_steps + 1:
            self._begin_second_phase()
        if not cloning and "reference" not in self.views:
            self._cache_reference()
        self._send_batch(step)
        # The first updates of a process are made one by one: libraries set themselves up in them.
        if not self.capture or self.eager[cloning] < 3:
            self._update(cloning)
            self.eager[cloning] += 1
            return
        if cloning not in self.graphs:
            self.graphs[cloning] = self._record(cloning)
        self.graphs[cloning]()

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

    def _policy(self, vector: Tensor) -> Policy:
        policy = Policy(**self.policy.settings)
        vector_to_parameters(vector.clone(), policy.parameters())
        return policy

    def _split(self, matrix: Tensor) -> Layers:
        """(weight (M, out, in), bias (M, out)) of each layer, as views of (M, P)."""
        parameters = list(self.policy.parameters())
        parts = torch.split(matrix, [parameter.numel() for parameter in parameters], dim=1)
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
    def _cache_reference(self, chunk: int = 4096) -> None:
        """log π_ref of every transition, the runs' one after the other. π_ref is frozen, so once is enough."""
        models, transitions = len(self.configs), len(self.data["actions"])
        layers = self._split(self.state["reference"])
        log_prob = torch.zeros(models, transitions, device=self.device)
        if self.config.reference != "none":
            parts = (torch.split(x, chunk) for x in (self.data["observations"], self.data["actions"]))
            for observations, actions, to in zip(*parts, torch.split(log_prob, chunk, dim=1), strict=True):
                output = forward(layers, observations.expand(models, -1, -1))
                to.copy_(self.policy.log_prob_of(output, actions))
        self.views["reference"] = _segment_view(log_prob.view(-1, 1), self.length)

    def _send_batch(self, step: int) -> None:
        """Choose this update's segments and step size, and set the streams of its masks."""
        batches = [batches.at(step) + offset for batches, offset in zip(self.batches, self.offsets, strict=True)]
        self._send(np.stack(batches), self.batch_index)
        self._send(np.array([self._scalars(c, step) for c in self.configs], dtype=np.float32).T, self.step_scalars)
        if self.config.dropout == 0:
            return
        keys = [np.random.SeedSequence(c.seed, spawn_key=(MASKS, step)) for c in self.configs]
        if self.fused is not None:
            self.mask_words = np.random.SFC64(keys[0])
            return
        for generator, key in zip(self.generators, keys, strict=True):
            if generator is not None:
                generator.manual_seed(int(key.generate_state(1, np.uint64)[0]))

    def _send(self, values: np.ndarray, to: Tensor) -> None:
        host = torch.from_numpy(np.ascontiguousarray(values))
        # From pinned memory the copy does not make the host wait.
        to.copy_(host.pin_memory() if self.device.type == "cuda" else host, non_blocking=True)

    def _scalars(self, config: TracConfig, step: int) -> tuple[float, float, float]:
        """The update's number, its step size, and the root of Adam's second bias correction."""
        if step <= config.bc_steps:
            update, rate = step, config.learning_rate
        else:
            update = step - config.bc_steps
            rate = config.learning_rate * config.lr_multiplier * min(1.0, update / max(1, config.warmup_steps))
        return step, rate / (1 - BETAS[0] ** update), math.sqrt(1 - BETAS[1] ** update)

    def _update(self, cloning: bool) -> None:
        """One update, of what was sent. No operation waits for the device, or depends on a value that is there."""
        loss, sums = self._differentiate(cloning)
        with torch.no_grad():
            norm = torch.linalg.vector_norm(self.gradient, dim=1)
            step, size, root = self.step_scalars
            # A run that fails once stays as it is: at the last weights that a finite gradient made.
            finite = torch.isfinite(loss + norm) & (self.state["finite_updates"] == step - 1)
            self.state["finite_updates"] += finite
            sums |= {"loss": loss, "gradient_norm": norm, "updates": torch.ones_like(norm)}
            self.state["sums"] += torch.stack([sums.get(name, torch.zeros_like(norm)) for name in _SUMS])
            change = adam_step(self.gradient, self.state["mean"], self.state["square"], size, root, out=self.change)
            self.state["weights"] -= change.masked_fill_(~finite.unsqueeze(1), 0)

    def _differentiate(self, cloning: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss (M,) of the batch, and what it adds to `_SUMS`, (M,) each; its gradient goes to `gradient`."""
        models, batch = self.batch_index.shape
        starts = self.table["starts"][self.batch_index]
        rows = starts.flatten()
        actions = self.views["actions"].index_select(0, rows).view(models, batch * self.length, -1)
        if self.fused is not None:
            torch.index_select(self.views["observations"], 0, rows, out=self.fused.inputs.view(batch, -1))
            output = self.fused.forward(_single(self.layers), self.mask_words).unsqueeze(0).requires_grad_()
            wanted = [output]
        else:
            observations = self.views["observations"].index_select(0, rows).view(models, batch * self.length, -1)
            count = batch * self.length
            masks = dropout_masks(count, self.config.hidden, self.config.dropout, self.generators, self.device)
            wanted = [tensor.detach().requires_grad_() for layer in self.layers for tensor in layer]
            output = forward(list(zip(wanted[::2], wanted[1::2], strict=True)), observations, masks)
        log_prob = self.policy.log_prob_of(output, actions).view(models, batch, self.length)
        if cloning:
            loss = -log_prob.mean(-1).mean(-1)
            sums: dict[str, Tensor] = {}
        else:
            loss, sums = self._classify(log_prob, starts)
        gradients = torch.autograd.grad(loss.sum(), wanted)
        if self.fused is not None:
            self.fused.backward(gradients[0][0], _single(self.gradient_layers))
        else:
            targets = [tensor for layer in self.gradient_layers for tensor in layer]
            for to, gradient in zip(targets, gradients, strict=True):
                to.copy_(gradient)
        return loss.detach(), sums

    def _classify(self, log_prob: Tensor, starts: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The second phase's loss (M,), from log π (M, B, L), and what it adds to `_SUMS`."""
        config, label = self.config, self.table["labels"][self.batch_index]
        rows = (starts + self.reference_offset).flatten()
        reference = self.views["reference"].index_select(0, rows).view_as(log_prob)
        s = score.segment_score(log_prob - reference, alpha=self.alpha, gamma=self.gamma)
        weight = self.table["weights"][self.batch_index]
        loss, accuracy = score.trac_loss(s, weight, label, self.eta[:, 0], clamp=config.clamp, use=config.use)
        desirable = label.sum(-1)
        if config.bc_coef:
            loss = loss - config.bc_coef * (label * log_prob.mean(-1)).sum(-1) / desirable.clamp(min=1)
        s = s.detach()
        one_sided = (desirable % config.batch_size == 0).to(s.dtype)
        scores = {"scores": s.sum(-1), "scores_desirable": (s * label).sum(-1)}
        return loss, scores | {"accuracy": accuracy, "desirable": desirable, "one_sided": one_sided}

    def _record(self, cloning: bool) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        for generator in self.generators:
            graph.register_generator_state(generator)  # so that each replay draws new masks
        with torch.cuda.graph(graph):
            self._update(cloning)
        return graph.replay


def learners(
    data: Trajectories,
    segments: Sequence[Segments],
    configs: Sequence[TracConfig],
    device: torch.device | str = "cpu",
    capture: bool = False,
) -> list[TracLearner]:
    """What trains runs of the same shapes: one learner for all of them; on a CPU one for each.

    One after the other in the same buffers is as fast there, and no run's bits depend on its neighbours.
    """
    if torch.device(device).type != "cpu":
        return [TracLearner(data, segments, configs, device=device, capture=capture)]
    made: list[TracLearner] = []
    for one, config in zip(segments, configs, strict=True):
        made.append(TracLearner(data, [one], [config], fused=made[0].fused if made else None))
    return made


def _segment_view(values: Tensor, length: int) -> Tensor:
    """(N, D) -> (N - L + 1, L * D), where row i is rows i to i + L - 1 of `values`: a view."""
    rows, width = values.shape
    return values.contiguous().as_strided((rows - length + 1, length * width), (width, 1))


def _single(layers: Layers) -> Layers:
    """The layers of a stack of one, without the leading dimension."""
    return [(weight[0], bias[0]) for weight, bias in layers]
