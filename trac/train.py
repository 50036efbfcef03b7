"""train(): clone a reference policy, then train the policy as a classifier of segments (paper, algorithm 1)."""

import math
import os
import platform
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from trac import score
from trac.config import ConfigError, TracConfig
from trac.envs import make
from trac.evaluate import Evaluation, evaluate_many
from trac.partition import Segments, partition
from trac.policy import Policy
from trac.runs import Run
from trac.trajectories import Trajectories

METRICS = ("loss", "accuracy", "score_desirable", "score_undesirable", "one_sided")
# Runs that agree in these, and in the window length, can be trained as one stack.
_SHARED = (
    *("task", "batch_size", "bc_steps", "steps", "hidden", "dropout", "policy", "reference", "init", "use", "clamp"),
    *("bc_coef", "log_every", "eval_every", "eval_episodes"),
)


def train(
    data: Trajectories,
    config: TracConfig | Sequence[TracConfig],
    *,
    device: str | torch.device | None = None,
    out: str | os.PathLike | None = None,
    progress: bool = True,
):
    """Train TraC: partition, clone π_ref, then classify segments by their score.

    Runs that share shapes are trained as one stack; each has its own labels, weights, α, γ, η, learning
    rate and random stream, and on the CPU the same bits as when trained alone.

    Args:
        data: logged trajectories; every config's task must be the data's.
        config: one config, or a list.
        device: defaults to a GPU where there is one, else the CPU.
        out: folder to save the run in; for a list, one subfolder for each, numbered from 000.
        progress: show a progress bar.

    Returns:
        A Run, or a list of Runs in the order of the configs.

    Raises:
        ConfigError: a config's task is not the data's.
        PartitionError: a config's partition leaves nothing to learn.
    """
    configs = [config] if isinstance(config, TracConfig) else list(config)
    check_task(data, configs)
    segments = [
        partition(
            data,
            cost_limit=c.cost_limit,
            top=c.top,
            bottom=c.bottom,
            kappa=c.kappa,
            segment_ratio=c.segment_ratio,
            sampling=c.sampling,
            level=c.level,
            seed=c.seed,
        )
        for c in configs
    ]
    runs = fit(data, segments, configs, device=device, progress=progress)
    return finish(runs, config, out, algorithm="trac")


def check_task(data: Trajectories, configs: Sequence[TracConfig]) -> None:
    """Refuse configs of another task than the data's, and tasks that cannot be evaluated as the config asks."""
    for config in configs:
        if config.task != data.task:
            raise ConfigError(
                f"the config is for {config.task} and the data is of {data.task}: load the data of {config.task}, "
                f"or set task={data.task!r}."
            )
    if any(config.eval_episodes for config in configs):
        make(data.task).close()  # a missing simulator is better known before the training than after it


def finish(runs: list[Run], config, out: str | os.PathLike | None, *, algorithm: str):
    """Note the algorithm, save into `out`, and return as many runs as there were configs: one, or a list."""
    single = isinstance(config, TracConfig)
    for index, run in enumerate(runs):
        run.record["algorithm"] = algorithm
        if out is not None:
            run.save(Path(out) if single else Path(out) / f"{index:03d}")
    return runs[0] if single else runs


def fit(data: Trajectories, segments: Sequence[Segments], configs: Sequence[TracConfig], *, device=None, progress=True):
    """Train on windows that are already labelled, one Segments for each config; returns a list of Runs.

    With bc_steps = steps there is no second phase, and the reference is the policy itself.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    groups: dict[tuple, list[int]] = {}
    for index, (config, windows) in enumerate(zip(configs, segments, strict=True)):
        key = (windows.length, *(getattr(config, name) for name in _SHARED))
        groups.setdefault(key, []).append(index)
    runs: dict[int, Run] = {}
    for members in groups.values():
        stack = _fit_stack(data, [segments[i] for i in members], [configs[i] for i in members], device, progress)
        runs.update(zip(members, stack, strict=True))
    return [runs[i] for i in range(len(configs))]


def _fit_stack(data, segments, configs, device, progress) -> list[Run]:
    first, models, started = configs[0], len(configs), time.perf_counter()
    column = {
        name: torch.tensor([float(getattr(c, name)) for c in configs], device=device)
        for name in ("alpha", "gamma", "eta", "learning_rate", "lr_multiplier", "warmup_steps")
    }
    observations = torch.as_tensor(data.observations, device=device)
    actions = torch.as_tensor(data.actions, device=device)
    starts, labels, weights = (
        [torch.as_tensor(getattr(s, name), device=device) for s in segments] for name in ("starts", "labels", "weights")
    )
    window = torch.arange(segments[0].length, device=device)
    # Batches and dropout draw from a stream of their own, apart from the initial weights'.
    streams = [torch.Generator(device).manual_seed(c.seed + 2**32) for c in configs]
    batches = [_batches(len(s), first.batch_size, stream) for s, stream in zip(segments, streams, strict=True)]

    policy = Policy(
        data.observations.shape[1],
        data.actions.shape[1],
        hidden=first.hidden,
        dropout=first.dropout,
        kind=first.policy,
        # Drawn on the CPU, so that the initial weights do not depend on the device.
        generators=[torch.Generator().manual_seed(c.seed) for c in configs],
    ).to(device)
    initial = policy.copy()
    optimizer = Adam(list(policy.parameters()))
    reference, reference_log_prob = policy, torch.empty(0)
    watch = _Watch(configs, device)
    name = f"{first.task}" + (f", {models} runs" if models > 1 else "")
    for step in tqdm(range(1, first.steps + 1), disable=not progress, desc=name, mininterval=1.0):
        cloning = step <= first.bc_steps
        if step == first.bc_steps + 1:
            reference = initial if first.reference == "initial" else policy.copy()
            reference_log_prob = _log_prob_of_data(reference, observations, actions)
            if first.reference == "none":
                reference_log_prob.zero_()
            policy = (initial if first.init == "fresh" else policy).copy()
            optimizer = Adam(list(policy.parameters()))

        picks = [next(batch) for batch in batches]
        index = torch.stack([s[p] for s, p in zip(starts, picks, strict=True)]).unsqueeze(-1) + window
        log_prob = policy.log_prob(observations[index], actions[index], streams)
        if cloning:
            loss = -log_prob.mean((-2, -1))
            rate = column["learning_rate"]
            watch.add(loss.detach())
        else:
            label = torch.stack([values[p] for values, p in zip(labels, picks, strict=True)])
            weight = torch.stack([values[p] for values, p in zip(weights, picks, strict=True)])
            log_ratio = log_prob - torch.stack([r[i] for r, i in zip(reference_log_prob, index, strict=True)])
            s = score.segment_score(log_ratio, alpha=column["alpha"][:, None], gamma=column["gamma"][:, None])
            loss, accuracy = score.trac_loss(s, weight, label, column["eta"], clamp=first.clamp, use=first.use)
            if first.bc_coef:
                loss = loss - first.bc_coef * (label * log_prob.mean(-1)).sum(-1) / label.sum(-1).clamp(min=1)
            warmup = ((step - first.bc_steps) / column["warmup_steps"].clamp(min=1)).clamp(max=1)
            rate = column["learning_rate"] * column["lr_multiplier"] * warmup
            watch.add(loss.detach(), accuracy, *_halves(s.detach(), label))
        optimizer.step(torch.autograd.grad(loss.sum(), optimizer.parameters), rate)

        watch.log(step, "bc" if cloning else "trac", policy)

    record = {
        "seconds": round(time.perf_counter() - started, 2),
        "stack": models,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
    }
    histories = watch.histories()
    finished = zip(configs, policy.unstack(), watch.best, reference.unstack(), histories, strict=True)
    return [
        Run(config=c, policy=last.cpu(), best=best, reference=ref.cpu(), history=history, record=dict(record))
        for c, last, best, ref, history in finished
    ]


def _batches(windows: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """An endless stream of exactly `batch_size` indices: permutations of the windows, one after the other."""
    rest = torch.empty(0, dtype=torch.int64, device=generator.device)
    while True:
        while len(rest) < batch_size:
            rest = torch.cat([rest, torch.randperm(windows, generator=generator, device=generator.device)])
        yield rest[:batch_size]
        rest = rest[batch_size:]


@torch.no_grad()
def _log_prob_of_data(policy: Policy, observations: Tensor, actions: Tensor, chunk: int = 16_384) -> Tensor:
    """log π of every transition, without dropout: (M, N). π_ref is frozen, so this is computed once."""
    parts = [
        policy.log_prob(o.expand(policy.models, *o.shape), a.expand(policy.models, *a.shape))
        for o, a in zip(observations.split(chunk), actions.split(chunk), strict=True)
    ]
    return torch.cat(parts, dim=1)


def _halves(s: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean score of each half of the batch, (M,) each, and whether the batch lacks a half."""
    yes, no = label.sum(-1), (1 - label).sum(-1)
    one_sided = ((yes == 0) | (no == 0)).to(s.dtype)
    return (s * label).sum(-1) / yes.clamp(min=1), (s * (1 - label)).sum(-1) / no.clamp(min=1), one_sided


class Adam:
    """Adam (Kingma & Ba, 2015) with a learning rate for each model of a stack, which torch's own lacks."""

    def __init__(self, parameters: list[Tensor], betas=(0.9, 0.999), eps: float = 1e-8):
        self.parameters, self.betas, self.eps, self.steps = parameters, betas, eps, 0
        self.mean = [torch.zeros_like(p) for p in parameters]
        self.square = [torch.zeros_like(p) for p in parameters]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], rate: Tensor) -> None:
        """One update; `rate` is (M,), gradients and parameters are (M, ...)."""
        self.steps += 1
        bias1, bias2 = (1 - beta**self.steps for beta in self.betas)
        for p, g, mean, square in zip(self.parameters, gradients, self.mean, self.square, strict=True):
            mean.lerp_(g, 1 - self.betas[0])
            square.mul_(self.betas[1]).addcmul_(g, g, value=1 - self.betas[1])
            update = mean / (square.sqrt().div_(math.sqrt(bias2)).add_(self.eps))
            p.sub_(update.mul_((rate / bias1).view(-1, *[1] * (p.ndim - 1))))


class _Watch:
    """Gathers metrics on the device, reads them every `log_every` updates, and evaluates when it is time."""

    def __init__(self, configs: Sequence[TracConfig], device: torch.device):
        self.configs = configs
        self.rows: list[tuple[int, str, Tensor]] = []
        self.evaluations: dict[int, list[Evaluation]] = {}
        self.sums, self.count = torch.zeros(len(METRICS), len(configs), device=device), 0
        self.best: list[Policy | None] = [None] * len(configs)
        self.rank = [(-math.inf, -math.inf)] * len(configs)

    def add(self, *metrics: Tensor) -> None:
        """Add one update's metrics, (M,) each; those that a phase does not have are left at 0."""
        for total, metric in zip(self.sums, metrics, strict=False):
            total += metric
        self.count += 1

    def log(self, step: int, phase: str, policy: Policy) -> None:
        first = self.configs[0]
        if step % first.log_every == 0 or step in (first.bc_steps, first.steps):
            means = (self.sums / self.count).cpu()
            if phase == "bc":
                means[1:] = math.nan
            self.rows.append((step, phase, means))
            self.sums.zero_()
            self.count = 0
        every = first.eval_every
        if first.eval_episodes and (step == first.steps or (every and step % every == 0)):
            self.evaluations[step] = self._evaluate(policy.unstack(), keep_best=bool(every))

    def _evaluate(self, policies: list[Policy], keep_best: bool) -> list[Evaluation]:
        evaluations = evaluate_many(
            policies := [policy.cpu() for policy in policies],
            task=self.configs[0].task,
            cost_limits=[c.cost_limit for c in self.configs],
            episodes=self.configs[0].eval_episodes,
            seeds=[c.seed for c in self.configs],
        )
        for m, result in enumerate(evaluations):
            s = result.summary()
            excess = max(s["normalized_cost"], 1.0) if self.configs[m].cost_limit < math.inf else 1.0
            if keep_best and (rank := (-excess, s["normalized_reward"])) > self.rank[m]:
                self.rank[m], self.best[m] = rank, policies[m]
        return evaluations

    def histories(self) -> list[pd.DataFrame]:
        """One table for each run; evaluations stand in the row of their step."""
        tables = []
        for m in range(len(self.configs)):
            losses = [
                {"step": s, "phase": p} | dict(zip(METRICS, v[:, m].tolist(), strict=True)) for s, p, v in self.rows
            ]
            scores = [{"step": s} | dict(e[m].episodes.iloc[:, 1:].mean()) for s, e in self.evaluations.items()]
            table = pd.DataFrame(losses)
            tables.append(table.merge(pd.DataFrame(scores), on="step", how="outer") if scores else table)
        return tables
