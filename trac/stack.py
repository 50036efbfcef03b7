"""Runs that are trained together: the loop over updates, what is seen of them, and their checkpoints."""

import math
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from trac import checkpoint
from trac.config import ConfigError, TracConfig
from trac.evaluate import SCORES, evaluate_many, rank
from trac.fused import Trunk
from trac.learner import METRICS, Learner
from trac.partition import Segments
from trac.policy import Policy, layer_sizes
from trac.runs import Run, made_by


class Stack:
    """M runs of the same shapes, from the first update to the last, or from a checkpoint on.

    Args:
        data: see `Learner`.
        segments: one for each run.
        configs: one for each run.
        folder: for checkpoints; None: none are written.
        capture: see `Learner`.
        labels: the algorithm, and what else a checkpoint must agree with to be gone on with.
    """

    # What a checkpoint's record holds, beside the tensors.
    plain: tuple[str, ...] = ("step", "seconds", "scores", "rank", "failed")

    def __init__(
        self,
        data: dict[str, Tensor],
        segments: Sequence[Segments],
        configs: Sequence[TracConfig],
        *,
        folder: Path | None,
        capture: bool,
        labels: dict[str, str],
    ):
        self.configs, self.config, self.folder = configs, configs[0], folder
        device = data["observations"].device
        if device.type == "cpu":
            # One after the other in the same buffers: as fast, and no run's bits depend on its neighbours.
            config, dims = self.config, (data["observations"].shape[1], data["actions"].shape[1])
            rows = config.batch_size * segments[0].length
            trunk = Trunk(rows, layer_sizes(*dims, config.hidden, config.policy), config.dropout)
            self.learners = [Learner(data, [s], [c], trunk=trunk) for s, c in zip(segments, configs, strict=True)]
        else:
            self.learners = [Learner(data, segments, configs, capture=capture)]
        self.identity: dict[str, Any] = {
            **labels,
            "device": device.type,
            "windows": checkpoint.fingerprint(*(a for s in segments for a in (s.starts, s.labels, s.weights))),
            "configs": [c.to_dict() for c in configs],
        }
        self.step, self.seconds = 0, 0.0
        self.rows: dict[int, Tensor] = {}  # by update: metrics (METRICS, M), means since the row before
        self.scores: list[list[dict[str, float]]] = [[] for _ in configs]  # each run's evaluations
        self.best: list[Policy | None] = [None] * len(configs)
        # Of the best evaluation: minus its cost over the limit, then its reward.
        self.rank = [[-math.inf, -math.inf]] * len(configs)
        self.failed = [0] * len(configs)  # the update at which a run failed; 0: it has not

    def run(self, *, progress: bool, checkpoint_every: int) -> None:
        """Make the updates that are left. Ctrl-C stops between two of them, with a checkpoint."""
        config, started = self.config, time.perf_counter() - self.seconds
        name = config.task + (f", {len(self.configs)} runs" if len(self.configs) > 1 else "")
        bar = tqdm(total=config.steps, initial=self.step, disable=not progress, desc=name, mininterval=1.0)
        with bar, _between_updates() as interrupted:
            while self.step < config.steps and not all(self.failed):
                self.step += 1
                for learner in self.learners:
                    learner.advance(self.step)
                self._watch()
                bar.update()
                self.seconds = time.perf_counter() - started
                if self.folder and (interrupted or self.step % checkpoint_every == 0 or self.step == config.steps):
                    self.save(self.folder)
                if interrupted:
                    kept = (
                        f"saved in {self.folder}; go on with resume=True" if self.folder else "not saved without out="
                    )
                    raise KeyboardInterrupt(f"stopped after update {self.step} of {config.steps}; {kept}")

    def _watch(self) -> None:
        """Read the metrics and evaluate, when it is time."""
        step, config = self.step, self.config
        if step % config.log_every == 0 or step in (config.bc_steps, config.steps):
            self.rows[step] = torch.cat([learner.read() for learner in self.learners], dim=1)
            good = [int(updates) for learner in self.learners for updates in learner.state["good"].tolist()]
            self.failed = [updates + 1 if updates < step else 0 for updates in good]
        if config.eval_episodes and (step == config.steps or (config.eval_every and step % config.eval_every == 0)):
            self._evaluate()

    def _evaluate(self) -> None:
        policies = self._policies("weights")
        evaluations = evaluate_many(
            policies,
            task=self.config.task,
            cost_limits=[c.cost_limit for c in self.configs],
            episodes=self.config.eval_episodes,
            seeds=[c.seed for c in self.configs],
        )
        for m, (config, result) in enumerate(zip(self.configs, evaluations, strict=True)):
            means = result.episodes[[*SCORES, "length"]].mean().to_dict()
            self.scores[m].append({"step": self.step} | means)
            found = rank(means, config.cost_limit)
            if config.eval_every and not self.failed[m] and found > self.rank[m]:
                self.rank[m], self.best[m] = found, policies[m]

    def _policies(self, name: str) -> list[Policy]:
        """One policy for each run, with the parameters of that name, on the CPU."""
        return [learner.policy.like(row.unsqueeze(0)) for learner in self.learners for row in learner.state[name].cpu()]

    def save(self, folder: Path) -> None:
        """Write a checkpoint into a folder."""
        record = {"identity": self.identity, "threads": torch.get_num_threads()}
        record |= {name: getattr(self, name) for name in self.plain}
        checkpoint.save(folder, self.step, self._tensors(), record)

    def _tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds."""
        tensors = {f"{i}.{name}": x for i, learner in enumerate(self.learners) for name, x in learner.state.items()}
        tensors |= {f"row.{step}": row for step, row in self.rows.items()}
        return tensors | {f"best.{m}": policy.matrix for m, policy in enumerate(self.best) if policy is not None}

    def restore(self, folder: Path) -> None:
        """Go on from the newest checkpoint in a folder; without one, stay at the beginning.

        Raises:
            ConfigError: it is of other settings or of other data.
            CheckpointError: see `checkpoint.load`.
        """
        loaded = checkpoint.load(folder)
        if loaded is None:
            return
        tensors, record = loaded
        if changes := _differences(record["identity"], self.identity):
            raise ConfigError(
                f"{folder} was made with other settings: {'; '.join(changes)}. Go on with those, or choose "
                f"another folder."
            )
        if record["threads"] != torch.get_num_threads():
            warnings.warn(
                f"{folder} was made with {record['threads']} threads and this is {torch.get_num_threads()}: the "
                f"last bits will differ from an uninterrupted run's.",
                stacklevel=4,
            )
        for name in self.plain:
            setattr(self, name, record[name])
        self._load(tensors)

    def _load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `_tensors`."""
        for i, learner in enumerate(self.learners):
            for name, value in learner.state.items():
                value.copy_(tensors[f"{i}.{name}"])
        self.rows = {
            step: tensors[f"row.{step}"] for step in sorted(int(n[4:]) for n in tensors if n.startswith("row."))
        }
        for m in range(len(self.best)):
            if f"best.{m}" in tensors:
                self.best[m] = self.learners[0].policy.like(tensors[f"best.{m}"])

    def runs(self) -> list[Run]:
        """The runs as they stand."""
        policies = self._policies("weights")
        references = self._policies("reference" if self.step > self.config.bc_steps else "weights")
        return [
            Run(
                config=config,
                policy=policies[m],
                reference=references[m],
                best=self.best[m],
                history=self._history(m),
                record=self._record(m),
            )
            for m, config in enumerate(self.configs)
        ]

    def _record(self, m: int) -> dict[str, Any]:
        return {
            "algorithm": self.identity["algorithm"],
            "seconds": round(self.seconds, 2),
            "stack": len(self.configs),
            **made_by(self.identity["device"]),
            "failed_step": self.failed[m] or None,
        }

    def _history(self, m: int) -> pd.DataFrame:
        """One row for each reading of the metrics; evaluations stand in the row of their update."""
        rows = []
        for step, metrics in self.rows.items():
            cloning = step <= self.config.bc_steps
            row = dict(zip(METRICS, metrics[:, m].tolist(), strict=True))
            if cloning:
                row |= dict.fromkeys(METRICS[1:-1], math.nan)
            if not self.failed[m] or step < self.failed[m]:
                rows.append({"step": step, "phase": "bc" if cloning else "trac"} | row)
        table = pd.DataFrame(rows, columns=["step", "phase", *METRICS])
        return table.merge(pd.DataFrame(self.scores[m]), on="step", how="outer") if self.scores[m] else table


@contextmanager
def _between_updates() -> Iterator[list[int]]:
    """A list that Ctrl-C fills, in place of stopping in the middle of an update; a second Ctrl-C stops at once."""
    pressed: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield pressed  # signals reach the main thread only
        return

    def handler(number, frame):
        pressed.append(number)
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What differs between the identities of two stacks, one phrase each."""
    if len(old["configs"]) != len(new["configs"]):
        return [f"{len(old['configs'])} runs then, {len(new['configs'])} now"]
    fields = [
        f"{name} of run {m} was {was[name]!r}, now {now[name]!r}"
        for m, (was, now) in enumerate(zip(old["configs"], new["configs"], strict=True))
        for name in now
        if was.get(name) != now[name]
    ]
    if fields:
        return fields
    return [f"the {name} changed ({old.get(name)} then, {new[name]} now)" for name in new if old.get(name) != new[name]]
