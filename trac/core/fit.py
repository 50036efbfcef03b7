"""fit(): the one training loop, for every method: updates, history, evaluations, checkpoints, Ctrl-C."""

import math
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from trac.config import ConfigError, Settings
from trac.core import checkpoint
from trac.core.run import Run, environment_info
from trac.core.trackers import Tracker
from trac.evaluate import SCORES, evaluate_many, rank

FORMAT = 3  # of checkpoints


class Learner(Protocol):
    """What `fit` trains: one run of a method, or several that are advanced together.

    Attributes:
        configs: one for each run; steps, eval_every and eval_episodes are the same in all.
        device: where the updates are made.
        steps: after which updates `fit` has a look, in rising order; the last one ends the training.
        failed: for each run the update whose loss or gradient was not finite, as far as `read` has seen; 0: none.
        state: every tensor that an update changes, by name.
    """

    @property
    def configs(self) -> Sequence[Settings]: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def steps(self) -> range: ...
    @property
    def failed(self) -> list[int]: ...
    @property
    def state(self) -> dict[str, Tensor]: ...

    def advance(self, step: int) -> None:
        """Make the updates up to this one, which follows the last one made in `steps`."""

    def read(self, step: int) -> list[dict[str, Any]]:
        """A row of the history for each run, or nothing where none is due after this update."""

    def policies(self) -> Sequence[Any]:
        """The policy of each run as it is now, on the CPU, not changed by later updates."""

    def references(self, step: int) -> Sequence[Any]:
        """π_ref of each run after that update, likewise; None for a method that has none."""

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`."""


class EvaluationFailed(Exception):
    """What an evaluation raised is this exception's cause; the runs, as they were before it, go with it."""

    def __init__(self, runs: list[Run]):
        self.runs = runs


@dataclass
class Progress:
    """How far a training has come, beside its learners' state; a list has an entry for each run."""

    step: int
    seconds: float
    failed: list[int]  # see `Learner`
    rows: list[list[dict[str, Any]]]  # of the history
    scores: list[list[dict[str, float]]]  # of each evaluation
    rank: list[list[float]]  # of the best evaluation, see `rank` in trac/evaluate.py
    best: list[Any]  # the policies of the best evaluations


def fit(
    learners: Sequence[Learner],
    *,
    identity: Mapping[str, Any],
    folder: Path | None = None,
    resume: bool = False,
    progress: bool = True,
    checkpoint_every: int = 500,
    simulator: Mapping[str, Any] | None = None,
    tracker: Tracker | None = None,
) -> list[Run]:
    """Train to the last update, from the first or from a checkpoint on. Ctrl-C waits for an update's end and saves.

    Args:
        learners: trained side by side, each update of all before the next; their `steps` are the same.
        identity: what a checkpoint must agree with to be gone on with, beside the configs: "algorithm" and others.
        folder: for checkpoints; None: none are written.
        resume: go on from the newest checkpoint in the folder, if there is any.
        progress: show a progress bar.
        checkpoint_every: updates between checkpoints; there is one at the end, too.
        simulator: further arguments of `evaluate_many`.
        tracker: called with each row of the history, see `trac.core.trackers`.

    Returns:
        The runs of all learners, in their order.

    Raises:
        ConfigError: the checkpoint is of other settings or of other data.
        CheckpointError: see `trac.core.checkpoint.load`.
        OSError: a checkpoint could not be written; those before it are whole.
        EvaluationFailed: an evaluation raised something; there is a checkpoint from before it.

    Example:
        >>> config = trac.TracConfig(task="BallRun", steps=4, bc_steps=2, eval_episodes=0)
        >>> learner = trac.core.learner.learners(data, [trac.partition(data, cost_limit=20)], [config])
        >>> fit(learner, identity={"algorithm": "trac"}, progress=False)[0].history.step.tolist()
        [2, 4]
    """
    configs = [config for learner in learners for config in learner.configs]
    config, steps, device, n = configs[0], learners[0].steps, learners[0].device.type, len(configs)
    identity = {**identity, "format": FORMAT, "device": device, "configs": [c.to_dict() for c in configs]}
    so_far = Progress(0, 0.0, [0] * n, [[] for _ in configs], [[] for _ in configs], [[-math.inf] * 2] * n, [None] * n)
    if folder and resume:
        so_far = _restore(folder, learners, identity) or so_far
    started = time.perf_counter() - so_far.seconds
    title = config.task + (f", {n} runs" if n > 1 else "")
    bar = tqdm(total=steps[-1], initial=so_far.step, disable=not progress, desc=title, mininterval=1.0)
    failure: Exception | None = None
    with bar, _interrupted_between_updates() as interrupted:
        for step in steps[steps.index(so_far.step) if so_far.step else 0 :]:
            last = step == steps[-1]
            due = config.eval_episodes and (last or (config.eval_every and step % config.eval_every == 0))
            if step > so_far.step:
                if all(so_far.failed):
                    break
                for learner in learners:
                    learner.advance(step)
                _read(learners, step, so_far, tracker)
                bar.update(step - so_far.step)
                so_far.step, so_far.seconds = step, time.perf_counter() - started
                if folder and (interrupted or due or step % checkpoint_every == 0 or last):
                    _save(folder, learners, identity, so_far)
            evaluated = any(scores["step"] == step for scores in so_far.scores[0])
            if due and not (interrupted or evaluated or all(so_far.failed)):
                try:
                    _evaluate(learners, step, so_far, simulator or {}, tracker)
                except KeyboardInterrupt:  # it reaches the processes of an evaluation, too
                    interrupted.append(signal.SIGINT)
                except Exception as error:
                    if not interrupted:
                        failure = error
                        break
                else:
                    so_far.seconds = time.perf_counter() - started
                    if folder:
                        _save(folder, learners, identity, so_far)
            if interrupted:
                kept = f"saved in {folder}; go on with resume=True" if folder else "not saved: there is no checkpoint"
                raise KeyboardInterrupt(f"stopped after update {step} of {steps[-1]}; {kept}")

    record = {"algorithm": identity["algorithm"], "seconds": round(so_far.seconds, 2), "stack": n}
    record |= environment_info(device)
    record["failed_evaluation"] = failure and f"{type(failure).__name__}: {failure}"
    policies = [policy for learner in learners for policy in learner.policies()]
    references = [policy for learner in learners for policy in learner.references(so_far.step)]
    runs = [
        Run(
            config=configs[m],
            policy=policies[m],
            reference=references[m],
            best=so_far.best[m],
            history=_history(so_far.rows[m], so_far.scores[m]),
            record=record | {"failed_step": so_far.failed[m] or (so_far.step if failure else None)},
        )
        for m in range(n)
    ]
    if failure:
        raise EvaluationFailed(runs) from failure
    return runs


def _read(learners: Sequence[Learner], step: int, so_far: Progress, tracker: Tracker | None) -> None:
    rows = [row for learner in learners for row in learner.read(step)]
    if not rows:
        return
    so_far.failed = [at for learner in learners for at in learner.failed]
    for m, row in enumerate(rows):
        if not so_far.failed[m]:
            so_far.rows[m].append({"step": step} | row)
            if tracker is not None:
                tracker(m, step, row)


def _evaluate(
    learners: Sequence[Learner],
    step: int,
    so_far: Progress,
    simulator: Mapping[str, Any],
    tracker: Tracker | None,
) -> None:
    configs = [config for learner in learners for config in learner.configs]
    policies = [policy for learner in learners for policy in learner.policies()]
    results = evaluate_many(
        policies,
        task=configs[0].task,
        cost_limits=[config.cost_limit for config in configs],
        episodes=configs[0].eval_episodes,
        seeds=[config.seed for config in configs],
        **simulator,
    )
    for m, (config, result) in enumerate(zip(configs, results, strict=True)):
        means = result.episodes[[*SCORES, "length"]].mean().to_dict()
        so_far.scores[m].append({"step": step} | means)
        if tracker is not None:
            tracker(m, step, means)
        found = rank(means, config.cost_limit)
        if config.eval_every and not so_far.failed[m] and found > so_far.rank[m]:
            so_far.rank[m], so_far.best[m] = found, policies[m]


def _save(folder: Path, learners: Sequence[Learner], identity: Mapping[str, Any], so_far: Progress) -> None:
    tensors = {f"{i}.{name}": x for i, learner in enumerate(learners) for name, x in learner.state.items()}
    for m, policy in enumerate(so_far.best):
        if policy is not None:
            tensors |= {f"best.{m}.{name}": x for name, x in policy.state_dict().items()}
    progress = {name: value for name, value in vars(so_far).items() if name != "best"}
    record = {"identity": identity, "threads": torch.get_num_threads(), "progress": progress}
    checkpoint.save(folder, so_far.step, tensors, record)


def _restore(folder: Path, learners: Sequence[Learner], identity: Mapping[str, Any]) -> Progress | None:
    """The inverse of `_save`; None where there is no checkpoint."""
    loaded = checkpoint.load(folder)
    if loaded is None:
        return None
    tensors, record = loaded
    if changes := _differences(record["identity"], identity):
        raise ConfigError(
            f"{folder} was made with other settings: {'; '.join(changes)}. Go on with those, or choose another folder."
        )
    if record["threads"] != torch.get_num_threads():
        warnings.warn(
            f"{folder} was made with {record['threads']} threads and this is {torch.get_num_threads()}: the last bits "
            f"will differ from an uninterrupted run's.",
            stacklevel=4,
        )
    for i, learner in enumerate(learners):
        learner.load_state(_part(tensors, f"{i}."))
    best: list[Any] = []
    for m, policy in enumerate(policy for learner in learners for policy in learner.policies()):
        weights = _part(tensors, f"best.{m}.")
        if weights:
            policy.load_state_dict(weights)
        best.append(policy if weights else None)
    return Progress(**record["progress"], best=best)


def _history(rows: list[dict[str, Any]], scores: list[dict[str, float]]) -> pd.DataFrame:
    """One row for each reading of the metrics; evaluations stand in the row of their update."""
    table = pd.DataFrame(rows) if rows else pd.DataFrame({"step": pd.Series(dtype=int)})
    return table.merge(pd.DataFrame(scores), on="step", how="outer") if scores else table


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}


@contextmanager
def _interrupted_between_updates() -> Iterator[list[int]]:
    """A list that Ctrl-C fills, in place of stopping in the middle of an update; a second Ctrl-C stops at once."""
    pressed: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield pressed  # signals reach the main thread only
        return

    def handler(number: int, frame: FrameType | None) -> None:
        pressed.append(number)
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between the identities of two trainings, one phrase each."""
    if len(old["configs"]) != len(new["configs"]):
        return [f"{len(old['configs'])} runs then, {len(new['configs'])} now"]
    fields = [
        f"{name} of run {m} was {was.get(name)!r}, now {now[name]!r}"
        for m, (was, now) in enumerate(zip(old["configs"], new["configs"], strict=True))
        for name in now
        if was.get(name) != now[name]
    ]
    if fields:
        return fields
    return [f"the {name} changed ({old.get(name)} then, {new[name]} now)" for name in new if old.get(name) != new[name]]
