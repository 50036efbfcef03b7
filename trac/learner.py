"""One update of a stack of runs: draw a batch, score it, differentiate, step. Everything stays on the device."""

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
BETAS, EPSILON = (0.9, 0.999), 1e-8  # Adam's (Kingma & Ba, 2015)

# What a run's random numbers are for; with the run's seed and a counter this is the key of each draw.
ORDER, MASKS = 0, 1


class Learner:
    """M runs that share shapes, advanced together, one update at a time.

    A batch and its dropout masks depend on the run's seed and the number of the update alone. So there
    is no random state to keep: `state` and the number of the update are all it takes to go on.

    Args:
        data: the flat transitions on the device, by name: observations (N, obs_dim), actions (N, act_dim).
        segments, configs: one for each run.
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
            "updates": torch.zeros(1, device=self.device),  # in this phase
            "sums": torch.zeros(len(METRICS) + 1, models, device=self.device),  # of metrics, and their number
            # The update, counted over both phases, whose loss or gradient was not finite; 0: none so far.
            "failed": torch.zeros(models, dtype=torch.int64, device=self.device),
        }
        self.gradient, self.change = torch.empty_like(weights), torch.empty_like(weights)

        self.orders = [_Order(len(s), self.config.batch_size, c.seed) for s, c in zip(segments, configs, strict=True)]
        # The windows of all runs stand in one table, each run's after the last one's.
        self.offsets = np.cumsum([0, *(len(s) for s in segments[:-1])])
        self.table = {
            name: torch.as_tensor(np.concatenate([getattr(s, name) for s in segments]), device=self.device)
            for name in ("starts", "labels", "weights")
        }
        self.picks = torch.zeros(models, self.config.batch_size, dtype=torch.int64, device=self.device)
        # Row i is the window that starts at transition i: overlapping views, so that nothing is copied but the batch.
        self.views = {name: _windows(data[name], self.length) for name in dims}
        self.column = {
            name: torch.tensor([float(getattr(c, name)) for c in configs], device=self.device)
            for name in ("alpha", "gamma", "eta", "learning_rate", "lr_multiplier", "warmup_steps")
        }
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
        for name in ("mean", "square", "updates"):
            state[name].zero_()

    @torch.no_grad()
    def _cache_reference(self, chunk: int = 16_384) -> None:
        """log π_ref of every transition, the runs' one after the other. π_ref is frozen, so once is enough."""
        models = len(self.configs)
        reference = self.policy.like(self.state["reference"])
        parts = [
            reference.log_prob(observations.expand(models, -1, -1), actions)
            for observations, actions in zip(*(x.split(chunk) for x in self.data.values()), strict=True)
        ]
        log_prob = torch.cat(parts, dim=1)
        if self.config.reference == "none":
            log_prob.zero_()
        self.views["reference"] = _windows(log_prob.view(-1, 1), self.length)

    def _draw(self, step: int) -> None:
        """Choose this update's windows, and set the streams of its masks."""
        batches = [order.batch(step) + offset for order, offset in zip(self.orders, self.offsets, strict=True)]
        picks = torch.from_numpy(np.stack(batches))
        # From pinned memory the copy does not make the host wait.
        self.picks.copy_(picks.pin_memory() if self.device.type == "cuda" else picks, non_blocking=True)
        if self.config.dropout == 0:
            return
        keys = [np.random.SeedSequence(c.seed, spawn_key=(MASKS, step)) for c in self.configs]
        if self.trunk is not None:
            self.source = np.random.SFC64(keys[0])
        for generator, key in zip(self.generators, keys, strict=True):
            if self.trunk is None and generator is not None:
                generator.manual_seed(int(key.generate_state(1, np.uint64)[0]))

    def _update(self, cloning: bool) -> None:
        """One update from `picks`. No operation here waits for the device, or depends on a value that is there."""
        loss, metrics = self._differentiate(cloning)
        with torch.no_grad():
            state = self.state
            norm = torch.linalg.vector_norm(self.gradient, dim=1)
            state["updates"] += 1
            step = state["updates"].long() + (0 if cloning else self.config.bc_steps)
            finite = torch.isfinite(loss) & torch.isfinite(norm)
            state["failed"].copy_(torch.where(finite | (state["failed"] > 0), state["failed"], step))
            state["sums"] += torch.stack([*metrics, norm, torch.ones_like(norm)])
            rate = self.column["learning_rate"]
            if not cloning:
                warmup = (state["updates"] / self.column["warmup_steps"].clamp(min=1)).clamp(max=1)
                rate = rate * self.column["lr_multiplier"] * warmup
            change = adam(self.gradient, state["mean"], state["square"], state["updates"], out=self.change)
            change *= rate.unsqueeze(1)
            # A run that failed stays at its last weights that were made by a finite gradient.
            state["weights"] -= torch.where((state["failed"] == 0).unsqueeze(1), change, 0)

    def _differentiate(self, cloning: bool) -> tuple[Tensor, list[Tensor]]:
        """Loss (M,) and metrics (M,) of the batch; its gradient goes to `gradient`."""
        models, batch = self.picks.shape
        starts = self.table["starts"][self.picks]
        rows = starts.flatten()
        actions = self.views["actions"].index_select(0, rows).view(models, batch * self.length, -1)
        if self.trunk is not None:
            torch.index_select(self.views["observations"], 0, rows, out=self.trunk.inputs.view(batch, -1))
            output = self.trunk.forward(_one(self.policy.layers(self.state["weights"])), self.source)
            output = output.unsqueeze(0).requires_grad_()
        else:
            observations = self.views["observations"].index_select(0, rows).view(models, batch * self.length, -1)
            masks = dropout_masks(
                batch * self.length, self.config.hidden, self.config.dropout, self.generators, self.device
            )
            output = self.policy(observations, masks)
        log_prob = self.policy.log_prob_of(output, actions).view(models, batch, self.length)
        if cloning:
            loss = -log_prob.mean(-1).mean(-1)
            metrics = [loss.detach()] + [torch.zeros_like(loss)] * 4
        else:
            loss, metrics = self._classify(log_prob, rows)
        if self.trunk is not None:
            (gradient,) = torch.autograd.grad(loss.sum(), output)
            self.trunk.backward(gradient[0], _one(self.policy.layers(self.gradient)))
        else:
            (gradient,) = torch.autograd.grad(loss.sum(), self.policy.matrix)
            self.gradient.copy_(gradient)
        return loss.detach(), metrics

    def _classify(self, log_prob: Tensor, rows: Tensor) -> tuple[Tensor, list[Tensor]]:
        config, column = self.config, self.column
        models, batch = self.picks.shape
        label, weight = self.table["labels"][self.picks], self.table["weights"][self.picks]
        rows = rows + torch.arange(models, device=self.device).repeat_interleave(batch) * len(self.data["actions"])
        log_ratio = log_prob - self.views["reference"].index_select(0, rows).view_as(log_prob)
        s = score.segment_score(log_ratio, alpha=column["alpha"][:, None], gamma=column["gamma"][:, None])
        loss, accuracy = score.trac_loss(s, weight, label, column["eta"], clamp=config.clamp, use=config.use)
        if config.bc_coef:
            loss = loss - config.bc_coef * (label * log_prob.mean(-1)).sum(-1) / label.sum(-1).clamp(min=1)
        s, yes, no = s.detach(), label.sum(-1), (1 - label).sum(-1)
        return loss, [
            loss.detach(),
            accuracy,
            (s * label).sum(-1) / yes.clamp(min=1),
            (s * (1 - label)).sum(-1) / no.clamp(min=1),
            ((yes == 0) | (no == 0)).to(s.dtype),
        ]

    def _record(self, cloning: bool) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        for generator in self.generators:
            graph.register_generator_state(generator)  # so that each replay draws new masks
        with torch.cuda.graph(graph):
            self._update(cloning)
        return graph.replay


def adam(gradient: Tensor, mean: Tensor, square: Tensor, updates: Tensor, *, out: Tensor) -> Tensor:
    """Adam's step at learning rate 1 (Kingma & Ba, 2015, algorithm 1).

    Args:
        gradient: (M, P).
        mean, square: (M, P), moving averages, updated in place.
        updates: (1,) number of this update, from 1.
        out: (M, P), receives the step, to be subtracted from the parameters.
    """
    mean.lerp_(gradient, 1 - BETAS[0])
    square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
    # 1 - β^t, exact in single precision too.
    bias1, bias2 = (-torch.expm1(updates * float(np.log(beta))) for beta in BETAS)
    torch.sqrt(square, out=out).div_(bias2.sqrt()).add_(EPSILON).mul_(bias1)
    return torch.div(mean, out, out=out)


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
