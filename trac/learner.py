"""One update of a stack of runs: draw a batch, score it, differentiate, step. Everything stays on the device."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from trac import score
from trac.config import TracConfig
from trac.fused import Trunk
from trac.partition import Segments
from trac.policy import Policy, dropout_masks
from trac.trajectories import Trajectories

METRICS = ("loss", "accuracy", "score_desirable", "score_undesirable", "one_sided", "gradient_norm")
# What is added up for them between two readings.
_SUMS = ("loss", "accuracy", "desirable", "scores", "scores_desirable", "one_sided", "gradient_norm", "updates")
BETAS, EPSILON = (0.9, 0.999), 1e-8  # Adam's (Kingma & Ba, 2015)

# What a run's random numbers are for; with the run's seed and a counter this is the key of each draw.
ORDER, MASKS = 0, 1


class Learner:
    """M runs that share shapes, advanced together, one update at a time.

    A batch and its dropout masks depend on the run's seed and the number of the update alone. So there
    is no random state to keep: `state` and the number of the update are all it takes to go on.

    Args:
        data: the flat transitions on the device, by name: observations (N, obs_dim), actions (N, act_dim).
        segments: one for each run.
        configs: one for each run.
        trunk: forward and backward by hand in these buffers (M = 1, CPU); None: by autograd.
        capture: record each phase's update once as a CUDA graph, and replay it.

    Attributes:
        state: every tensor that an update changes, by name.
        policy: the policies as they are now; its parameters are `state["weights"]`.
    """

    def __init__(
        self,
        data: dict[str, Tensor],
        segments: Sequence[Segments],
        configs: Sequence[TracConfig],
        *,
        trunk: Trunk | None = None,
        capture: bool = False,
    ):
        self.data, self.configs, self.config, self.trunk, self.capture = data, configs, configs[0], trunk, capture
        self.device, self.length, models = data["observations"].device, segments[0].length, len(configs)
        dims = {name: data[name].shape[1] for name in ("observations", "actions")}
        # Drawn on the CPU, so that the initial weights do not depend on the device.
        self.policy = Policy.untrained(
            *dims.values(),
            hidden=self.config.hidden,
            dropout=self.config.dropout,
            kind=self.config.policy,
            generators=[torch.Generator().manual_seed(c.seed) for c in configs],
        ).to(self.device)
        weights = self.policy.matrix.detach()
        self.state = {
            "weights": weights,
            "initial": weights.clone(),
            "reference": weights.clone(),
            "mean": torch.zeros_like(weights),
            "square": torch.zeros_like(weights),
            "sums": torch.zeros(len(_SUMS), models, device=self.device),
            # Updates before the first one whose loss or gradient was not finite.
            "good": torch.zeros(models, device=self.device),
        }
        self.gradient, self.change = torch.empty_like(weights), torch.empty_like(weights)
        self.layers, self.gradient_layers = self.policy.layers(weights), self.policy.layers(self.gradient)

        self.orders = [_Order(len(s), self.config.batch_size, c.seed) for s, c in zip(segments, configs, strict=True)]
        # The windows of all runs stand in one table, each run's after the last one's.
        self.offsets = np.cumsum([0, *(len(s) for s in segments[:-1])])
        self.table = {
            name: torch.as_tensor(np.concatenate([getattr(s, name) for s in segments]), device=self.device)
            for name in ("starts", "labels", "weights")
        }
        # What the host sends for each update: the windows; its number and Adam's two factors for each run.
        self.picks = torch.zeros(models, self.config.batch_size, dtype=torch.int64, device=self.device)
        self.plan = torch.zeros(3, models, device=self.device)
        # Row i is the window that starts at transition i: overlapping views, so that nothing is copied but the batch.
        self.views = {name: _windows(data[name], self.length) for name in dims}
        # Where each run's part of the reference's table begins.
        self.shift = torch.arange(models, device=self.device).unsqueeze(1) * len(data["actions"])
        self.alpha, self.gamma, self.eta = (
            torch.tensor([[float(getattr(c, name))] for c in configs], device=self.device)
            for name in ("alpha", "gamma", "eta")
        )
        self.source: np.random.BitGenerator | None = None
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
        self._draw(step)
        # The first updates of a process are made one by one: libraries set themselves up in them.
        if not self.capture or self.eager[cloning] < 3:
            self._update(cloning)
            self.eager[cloning] += 1
            return
        if cloning not in self.graphs:
            self.graphs[cloning] = self._record(cloning)
        self.graphs[cloning]()

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
        reference = self.policy.like(self.state["reference"])
        log_prob = torch.zeros(models, transitions, device=self.device)
        if self.config.reference != "none":
            parts = (x.split(chunk) for x in (self.data["observations"], self.data["actions"]))
            for observations, actions, to in zip(*parts, log_prob.split(chunk, dim=1), strict=True):
                to.copy_(reference.log_prob(observations.expand(models, -1, -1), actions))
        self.views["reference"] = _windows(log_prob.view(-1, 1), self.length)

    def _draw(self, step: int) -> None:
        """Choose this update's windows and step size, and set the streams of its masks."""
        batches = [order.batch(step) + offset for order, offset in zip(self.orders, self.offsets, strict=True)]
        self._send(np.stack(batches), self.picks)
        self._send(np.array([self._factors(c, step) for c in self.configs], dtype=np.float32).T, self.plan)
        if self.config.dropout == 0:
            return
        keys = [np.random.SeedSequence(c.seed, spawn_key=(MASKS, step)) for c in self.configs]
        if self.trunk is not None:
            self.source = np.random.SFC64(keys[0])
            return
        for generator, key in zip(self.generators, keys, strict=True):
            if generator is not None:
                generator.manual_seed(int(key.generate_state(1, np.uint64)[0]))

    def _send(self, values: np.ndarray, to: Tensor) -> None:
        host = torch.from_numpy(np.ascontiguousarray(values))
        # From pinned memory the copy does not make the host wait.
        to.copy_(host.pin_memory() if self.device.type == "cuda" else host, non_blocking=True)

    def _factors(self, config: TracConfig, step: int) -> tuple[float, float, float]:
        """The update's number, its step size, and the root of Adam's second bias correction."""
        if step <= config.bc_steps:
            update, rate = step, config.learning_rate
        else:
            update = step - config.bc_steps
            rate = config.learning_rate * config.lr_multiplier * min(1.0, update / max(1, config.warmup_steps))
        return step, rate / (1 - BETAS[0] ** update), math.sqrt(1 - BETAS[1] ** update)

    def _update(self, cloning: bool) -> None:
        """One update, of what was drawn. No operation waits for the device, or depends on a value that is there."""
        loss, sums = self._differentiate(cloning)
        with torch.no_grad():
            norm = torch.linalg.vector_norm(self.gradient, dim=1)
            step, size, root = self.plan
            # A run that fails once stays as it is: at the last weights that a finite gradient made.
            good = torch.isfinite(loss + norm) & (self.state["good"] == step - 1)
            self.state["good"] += good
            self.state["sums"] += torch.stack([*sums, norm, torch.ones_like(norm)])
            change = adam(self.gradient, self.state["mean"], self.state["square"], size, root, out=self.change)
            self.state["weights"] -= change.masked_fill_(~good.unsqueeze(1), 0)

    def _differentiate(self, cloning: bool) -> tuple[Tensor, list[Tensor]]:
        """Loss (M,) of the batch, and what it adds to `_SUMS`, (M,) each; its gradient goes to `gradient`."""
        models, batch = self.picks.shape
        starts = self.table["starts"][self.picks]
        rows = starts.flatten()
        actions = self.views["actions"].index_select(0, rows).view(models, batch * self.length, -1)
        if self.trunk is not None:
            torch.index_select(self.views["observations"], 0, rows, out=self.trunk.inputs.view(batch, -1))
            output = self.trunk.forward(_one(self.layers), self.source).unsqueeze(0).requires_grad_()
        else:
            observations = self.views["observations"].index_select(0, rows).view(models, batch * self.length, -1)
            config, count = self.config, batch * self.length
            masks = dropout_masks(count, config.hidden, config.dropout, self.generators, self.device)
            output = self.policy(observations, masks)
        log_prob = self.policy.log_prob_of(output, actions).view(models, batch, self.length)
        if cloning:
            loss = -log_prob.mean(-1).mean(-1)
            sums = [loss.detach()] + [torch.zeros_like(loss)] * 5
        else:
            loss, sums = self._classify(log_prob, starts)
        if self.trunk is not None:
            (gradient,) = torch.autograd.grad(loss, output)
            self.trunk.backward(gradient[0], _one(self.gradient_layers))
        else:
            (gradient,) = torch.autograd.grad(loss.sum(), self.policy.matrix)
            self.gradient.copy_(gradient)
        return loss.detach(), sums

    def _classify(self, log_prob: Tensor, starts: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The second phase's loss (M,), from log π (M, B, L), and what it adds to `_SUMS`."""
        config, label = self.config, self.table["labels"][self.picks]
        reference = self.views["reference"].index_select(0, (starts + self.shift).flatten()).view_as(log_prob)
        s = score.segment_score(log_prob - reference, alpha=self.alpha, gamma=self.gamma)
        weight = self.table["weights"][self.picks]
        loss, accuracy = score.trac_loss(s, weight, label, self.eta[:, 0], clamp=config.clamp, use=config.use)
        desirable = label.sum(-1)
        if config.bc_coef:
            loss = loss - config.bc_coef * (label * log_prob.mean(-1)).sum(-1) / desirable.clamp(min=1)
        s = s.detach()
        one_sided = (desirable % config.batch_size == 0).to(s.dtype)
        return loss, [loss.detach(), accuracy, desirable, s.sum(-1), (s * label).sum(-1), one_sided]

    def read(self) -> Tensor:
        """METRICS (len, M), on the CPU: means over the updates since they were last read."""
        sums = dict(zip(_SUMS, self.state["sums"].cpu(), strict=True))
        undesirable = sums["updates"] * self.config.batch_size - sums["desirable"]
        means = {name: total / sums["updates"] for name, total in sums.items()}
        means["score_desirable"] = sums["scores_desirable"] / sums["desirable"]
        means["score_undesirable"] = (sums["scores"] - sums["scores_desirable"]) / undesirable
        metrics = torch.stack([means[name] for name in METRICS])
        self.state["sums"].zero_()
        return metrics

    def _record(self, cloning: bool) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        for generator in self.generators:
            graph.register_generator_state(generator)  # so that each replay draws new masks
        with torch.cuda.graph(graph):
            self._update(cloning)
        return graph.replay


def adam(gradient: Tensor, mean: Tensor, square: Tensor, size: Tensor, root: Tensor, *, out: Tensor) -> Tensor:
    """What Adam subtracts from the parameters (Kingma & Ba, 2015, algorithm 1), with a rate for each run.

    Args:
        gradient: (M, P).
        mean: (M, P), moving average of the gradient, updated in place.
        square: (M, P), moving average of its square, updated in place.
        size: (M,) learning rate / (1 - β1^t).
        root: (M,) √(1 - β2^t).
        out: (M, P), overwritten and returned.
    """
    mean.lerp_(gradient, 1 - BETAS[0])
    square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
    torch.sqrt(square, out=out).div_(root.unsqueeze(1)).add_(EPSILON)
    return torch.div(mean, out, out=out).mul_(size.unsqueeze(1))


class _Order:
    """An endless stream of permutations of the windows, cut into batches; batch t is a function of seed and t."""

    def __init__(self, windows: int, batch_size: int, seed: int):
        self.windows, self.batch_size, self.seed = windows, batch_size, seed
        self.epoch, self.permutation = -1, np.empty(0, dtype=np.int64)

    def batch(self, step: int) -> np.ndarray:
        """Indices (batch_size,) of update `step`, from 1."""
        position, parts = (step - 1) * self.batch_size, []
        while position < step * self.batch_size:
            epoch, offset = divmod(position, self.windows)
            if epoch != self.epoch:
                key = np.random.SeedSequence(self.seed, spawn_key=(ORDER, epoch))
                self.epoch, self.permutation = epoch, np.random.default_rng(key).permutation(self.windows)
            parts.append(self.permutation[offset : offset + step * self.batch_size - position])
            position += len(parts[-1])
        return np.concatenate(parts)


def _windows(values: Tensor, length: int) -> Tensor:
    """(N, D) -> (N - L + 1, L * D), where row i is rows i to i + L - 1 of `values`: a view."""
    rows, width = values.shape
    return values.as_strided((rows - length + 1, length * width), (width, 1))


def _one(layers: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """The layers of a stack of one, without the leading dimension."""
    return [(weight[0], bias[0]) for weight, bias in layers]


def to_device(data: Trajectories, device: torch.device) -> dict[str, Tensor]:
    """What training reads of the data; on the CPU it shares memory with it."""
    return {name: torch.as_tensor(getattr(data, name), device=device) for name in ("observations", "actions")}
