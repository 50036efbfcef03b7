"""train(): clone a reference policy, then train the policy as a classifier of segments (paper, algorithm 1)."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict, TypeVar, Unpack, overload

import torch

from trac.config import ConfigError, Settings, TracConfig
from trac.core import checkpoint
from trac.core.fit import Learner, fit
from trac.core.learner import learners
from trac.core.run import Run
from trac.data.tasks import TASKS
from trac.data.trajectories import Trajectories
from trac.envs import MissingSimulator, make
from trac.partition import Segments, segments_of

C = TypeVar("C", bound=Settings)

# Runs that agree in these, and in the segments' length, can be trained as one stack.
_SHARED = (
    *("task", "batch_size", "bc_steps", "steps", "hidden", "dropout", "policy", "reference", "init", "use", "clamp"),
    *("bc_coef", "log_every", "eval_every", "eval_episodes"),
)

_TRACES = ("run.json", "[0-9][0-9][0-9]/run.json", "checkpoints/*/*")  # what a run leaves in its folder


class TrainingError(RuntimeError):
    """Some runs met a loss or a gradient that was not finite.

    Attributes:
        runs: all runs of the call. A failed one of TraC holds the last weights that a finite gradient made, and
            the update at which it failed in `record["failed_step"]`; a baseline's holds what it came to, and the
            update after which a metric was found not to be finite.
    """

    def __init__(self, message: str, runs: list[Run]):
        super().__init__(message)
        self.runs = runs


class Options(TypedDict, total=False):
    """The keywords of `train`, for its two overloads."""

    device: str | torch.device | None
    out: str | os.PathLike[str] | None
    resume: bool
    progress: bool
    checkpoint_every: int
    capture: bool


@overload
def train(data: Trajectories, config: TracConfig, **options: Unpack[Options]) -> Run: ...


@overload
def train(data: Trajectories, config: Sequence[TracConfig], **options: Unpack[Options]) -> list[Run]: ...


def train(
    data: Trajectories,
    config: TracConfig | Sequence[TracConfig],
    *,
    device: str | torch.device | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: bool = True,
    checkpoint_every: int = 500,
    capture: bool = False,
) -> Run | list[Run]:
    """Train TraC: partition, clone π_ref, then classify segments by their score.

    Runs that share shapes are trained as one stack; each has its own labels, weights, α, γ, η, learning
    rate and random stream, and on the CPU the same bits as when trained alone.

    Args:
        data: logged trajectories; every config's task must be the data's.
        config: one config, or a list.
        device: defaults to a GPU where there is one, else the CPU.
        out: folder for checkpoints and the finished run; of a list, each run has a subfolder, from 000 on.
        resume: go on from the checkpoints in `out`, if there are any; on the CPU, with the same number of
            threads, to the same bits as without the interruption. Without it a folder that holds a run
            is refused.
        progress: show a progress bar.
        checkpoint_every: updates between checkpoints; there is one at the end, too.
        capture: on a CUDA device, record each phase's update once as a graph, and replay it.

    Returns:
        A Run, or a list of Runs in the order of the configs.

    Raises:
        ConfigError: a config's task is not the data's; there is no such device; `out` holds another run.
        PartitionError: a config's partition leaves nothing to learn.
        MissingSimulator: the configs ask for evaluation, and the task's simulator is not installed.
        CheckpointError: `out` cannot be written or is in use by another process, or no checkpoint in it can be read.
        OSError: a checkpoint could not be written, on a full disk for instance; those before it are whole.
        TrainingError: runs failed; the others are finished and saved.
    """
    configs = config_list(data, config, TracConfig)
    segments = [segments_of(data, c) for c in configs]
    options: dict[str, Any] = dict(out=out, resume=resume, progress=progress, checkpoint_every=checkpoint_every)
    options["single"] = isinstance(config, TracConfig)
    return train_on(data, configs, segments, device=device, capture=capture, **options)


def train_on(
    data: Trajectories,
    configs: Sequence[TracConfig],
    segments: Sequence[Segments],
    *,
    algorithm: str = "trac",
    device: str | torch.device | None = None,
    capture: bool = False,
    **options: Any,
) -> Run | list[Run]:
    """`train` on given segments, one set for each config; `options` as for `run_all`."""
    where = find_device(device)
    if capture and where.type != "cuda":
        raise ConfigError(f"capture=True records CUDA graphs, and the device is {where}: leave it out.")
    stacks: dict[tuple[Any, ...], list[int]] = {}
    for index, (c, s) in enumerate(zip(configs, segments, strict=True)):
        stacks.setdefault((s.length, *(getattr(c, name) for name in _SHARED)), []).append(index)
    groups = (
        (indices, learners(data, [segments[i] for i in indices], [configs[i] for i in indices], where, capture))
        for indices in stacks.values()
    )
    arrays = [array for s in segments for array in (s.starts, s.labels, s.weights)]
    identity = {
        "algorithm": algorithm,
        "segments": checkpoint.fingerprint(*arrays),
        "data": checkpoint.fingerprint(data.observations, data.actions),
    }
    return run_all(groups, identity=identity, **options)


def run_all(
    groups: Iterable[tuple[Sequence[int], Sequence[Learner]]],
    *,
    identity: dict[str, Any],
    single: bool,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: bool = True,
    checkpoint_every: int = 500,
    simulator: Mapping[str, Any] | None = None,
) -> Run | list[Run]:
    """Fit groups of learners one after the other, keep other processes out of the folder, and save what is finished.

    Args:
        groups: learners that are trained side by side, with the place of each of their runs in the result; made when
            the group before is finished.
        identity, simulator: see `fit`.
        single: there is one run, which is saved in `out` itself and returned without a list.

    For the rest and the errors see `train`.
    """
    if checkpoint_every < 1:
        raise ConfigError(f"checkpoint_every={checkpoint_every} must be at least 1.")
    folder = None if out is None else Path(out)
    finished: dict[int, Run] = {}
    with checkpoint.locked(folder):
        if folder and not resume and any(path for pattern in _TRACES for path in folder.glob(pattern)):
            raise ConfigError(f"{folder} holds a run already: pass resume=True to go on with it, or another folder.")
        for number, (indices, group) in enumerate(groups):
            # Without a state to save, which an online learner's simulator has not, there are no checkpoints.
            place = folder / "checkpoints" / f"{number:02d}" if folder and group[0].state else None
            with _tensor_cores(group[0].device):
                runs = fit(
                    group,
                    identity=identity,
                    folder=place,
                    resume=resume,
                    progress=progress,
                    checkpoint_every=checkpoint_every,
                    simulator=simulator,
                )
            for index, run in zip(indices, runs, strict=True):
                finished[index] = run
                if folder:
                    run.save(folder if single else folder / f"{index:03d}")

    ordered = [finished[i] for i in range(len(finished))]
    failed = [f"run {i} at update {r.record['failed_step']}" for i, r in enumerate(ordered) if r.record["failed_step"]]
    if failed:
        raise TrainingError(
            f"the loss or its gradient was not finite in {', '.join(failed)}; {len(ordered) - len(failed)} of "
            f"{len(ordered)} runs are finished, and all are in this error's .runs. Lower learning_rate or alpha.",
            ordered,
        )
    return ordered[0] if single else ordered


def config_list(data: Trajectories, config: C | Sequence[C], kind: type[C]) -> list[C]:
    """A method's configs, one or several, as a list; raises ConfigError or MissingSimulator for what cannot be run."""
    configs = [config] if isinstance(config, Settings) else list(config)
    for c in configs:
        if not isinstance(c, kind):
            raise ConfigError(f"{c!r} is not a {kind.__name__}: pass one, or a list of them.")
        if c.task != data.task:
            raise ConfigError(
                f"the config is for {c.task} and the data is of {data.task}: load the data of {c.task}, or set "
                f"task={data.task!r}."
            )
    if any(c.eval_episodes for c in configs):
        if data.task not in TASKS:
            raise MissingSimulator(
                f"{data.task} is a task of your own, without a simulator in trac: train with eval_episodes=0, then "
                f"trac.evaluate(run.policy, env=make_env, reward_range=data.reward_range, cost_limit=...)."
            )
        make(data.task).close()  # a missing simulator is better known before the training than after it
    return configs


def find_device(device: str | torch.device | None) -> torch.device:
    """The device of that name, or a GPU where there is one, else the CPU; raises ConfigError for what is not there."""
    try:
        found = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ConfigError(f"device={device!r} is none of torch's: use 'cpu' or 'cuda'.") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"device={str(device)!r}, and torch {torch.__version__} sees no CUDA device: use device='cpu'."
        )
    return found


@contextmanager
def _tensor_cores(device: torch.device) -> Iterator[None]:
    """On a GPU, products with TF32's 10 bits of mantissa, several times as fast as with float32's 23."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if device.type == "cuda" else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
