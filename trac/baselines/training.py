"""The loop of `trac.train` around an offline baseline."""

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from trac.baselines.learner import Learner
from trac.config import ConfigError, Settings
from trac.runs import Run
from trac.stack import Stack
from trac.train import train_stacks
from trac.trajectories import Trajectories


class Single(Stack):
    """The loop of `Stack` around one run of a baseline: bar, evaluations, checkpoints."""

    plain: tuple[str, ...] = (*Stack.plain, "rows")

    def __init__(self, learner: Learner, *, folder: Path | None, labels: dict[str, str]):
        config = learner.config
        self.learner, self.learners = learner, [learner]  # type: ignore[list-item]
        self.configs, self.config, self.folder = [config], config, folder
        self.identity = labels | {"device": learner.device.type, "configs": [config.to_dict()]}
        self.step, self.seconds = 0, 0.0
        self.rows: list[dict[str, float]] = []  # type: ignore[assignment]
        self.scores, self.best, self.rank, self.failed = [[]], [None], [[-math.inf, -math.inf]], [0]

    def _watch(self) -> None:
        step, config = self.step, self.config
        if step % config.log_every == 0 or step == config.steps:
            row = self.learner.read()
            if not all(map(math.isfinite, row.values())):
                self.failed = [step]
                return
            self.rows.append({"step": step} | row)
        if config.eval_episodes and (step == config.steps or (config.eval_every and step % config.eval_every == 0)):
            self._evaluate()

    def _policies(self, name: str) -> list[Any]:
        return [copy.deepcopy(self.learner.policy).cpu().requires_grad_(False)]

    def _tensors(self) -> dict[str, Tensor]:
        best = self.best[0].named() if self.best[0] else {}
        return self.learner.tensors() | {f"best.{name}": value for name, value in best.items()}

    def _load(self, tensors: dict[str, Tensor]) -> None:
        self.learner.load(tensors)
        best = {name.removeprefix("best."): value for name, value in tensors.items() if name.startswith("best.")}
        if best:
            (policy,) = self._policies("best")
            policy.load_state_dict(best)
            self.best = [policy]

    def runs(self) -> list[Run]:
        table = pd.DataFrame(self.rows)
        if self.scores[0]:
            table = table.merge(pd.DataFrame(self.scores[0]), on="step", how="outer")
        record = self._record(0) | {"dims": list(self.learner.dims)}
        (policy,) = self._policies("weights")
        return [Run(self.config, policy=policy, reference=None, best=self.best[0], history=table, record=record)]


def train(
    method: type[Learner],
    data: Trajectories,
    config: Any,
    *,
    device=None,
    out=None,
    resume: bool = False,
    progress: bool = True,
    checkpoint_every: int = 500,
):
    """Train a baseline, one run after the other where a list of configs is given; otherwise as `trac.train`."""
    configs = [config] if isinstance(config, Settings) else list(config)
    for c in configs:
        if not isinstance(c, method.Config):
            raise ConfigError(f"{method.algorithm} takes a {method.Config.__name__}, and this is a {type(c).__name__}.")

    def stacks(device: torch.device, folder: Path | None, labels: dict[str, str]) -> Iterator[tuple[list[int], Stack]]:
        for number, c in enumerate(configs):
            where = folder and folder / "checkpoints" / f"{number:02d}"
            yield [number], Single(method(c, data, device), folder=where, labels=labels)

    where: dict[str, Any] = dict(
        device=device, out=out, resume=resume, progress=progress, checkpoint_every=checkpoint_every
    )
    return train_stacks(data, config, stacks, algorithm=method.algorithm, **where)
