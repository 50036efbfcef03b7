"""train(): clone a reference policy, then train the policy as a classifier of segments (paper, algorithm 1)."""

import os
import reprlib
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeVar, Unpack, get_args, overload

import torch

from trac.config import ConfigError, Settings, TracConfig
from trac.core import checkpoint
from trac.core.fit import EvaluationFailed, Learner, fit
from trac.core.learner import learners, runs_that_fit
from trac.core.run import Run
from trac.core.trackers import Tracker, careful
from trac.data.files import fingerprint
from trac.data.tasks import TASKS
from trac.data.trajectories import Trajectories
from trac.envs import MissingSimulator, open_env
from trac.envs.checked import check_log
from trac.partition import Segments, check_segments, segments_of
from trac.policy import torch_defaults

C = TypeVar("C", bound=Settings)
Precision = Literal["tf32", "float32"]

# Runs that agree in these, and in the segments' length, can be trained as one stack.
_SHARED = (
    *("task", "batch_size", "bc_steps", "steps", "hidden", "dropout", "policy", "reference", "init", "use", "clamp"),
    *("bc_coef", "log_every", "eval_every", "eval_episodes"),
)

_threaded_in: int | None = None  # the process that trained with several threads: this one, or one it was forked from

# What a run leaves in its folder: at its end, and on the way.
_TRACES = (("run.json", "[0-9][0-9][0-9]/run.json"), ("checkpoints/*/*",))


class TrainingError(RuntimeError):
    """Some runs met a loss or a gradient that was not finite, or an evaluation failed.

    Attributes:
        runs: all runs of the call. A failed one of TraC holds the last weights that a finite gradient made, and
            the update at which it failed in `record["failed_step"]`; a baseline's holds what it came to, which may be
            NaN, and the update after which a metric was found not to be finite. Where an evaluation failed, the
            runs that were trained together are as they were before it: `record["failed_evaluation"]` has the error.
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
    precision: Precision
    tracker: Tracker | None


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
    capture: bool = True,
    precision: Precision = "tf32",
    tracker: Tracker | None = None,
) -> Run | list[Run]:
    """Train TraC: partition, clone π_ref, then classify segments by their score.

    Runs that share shapes are trained as one stack; each has its own labels, weights, α, γ, η, learning
    rate and random stream, and on the CPU the same bits as when trained alone.

    Args:
        data: logged trajectories; every config's task must be the data's.
        config: one config, or a list.
        device: defaults to a GPU where there is one, else the CPU.
        out: folder for checkpoints and the finished run; of a list, each run has a subfolder, from 000 on.
        resume: go on from the checkpoints in `out`, or from update 1 where there are none, which is said; on the CPU,
            with the same number of threads, to the same bits as without the interruption. Without it a folder that
            holds a run is refused.
        progress: show a progress bar.
        checkpoint_every: updates between checkpoints; there is one at the end, too.
        capture: on a GPU, record each phase's update as a graph and replay it; False: launch each kernel, to debug.
        precision: of the matrix products on a GPU: "tf32" keeps 10 bits of the mantissa, "float32" all 23, and is
            several times slower. A CPU has float32 alone.
        tracker: called with each row of the history as it is made, for TensorBoard, MLflow or the like: see
            `trac.core.trackers`.

    Returns:
        A Run, or a list of Runs in the order of the configs.

    Raises:
        ConfigError: a config's task is not the data's; there is no such device; `out` holds another run; the process
            was forked from one that had trained with several threads.
        PartitionError: a config's partition leaves nothing to learn.
        MissingSimulator: the configs ask for evaluation, and the task's simulator is not installed.
        CheckpointError: `out` cannot be written or is in use by another process, or no checkpoint in it can be read.
        OSError: a checkpoint could not be written, on a full disk for instance; those before it are whole.
        TrainingError: runs failed; the others are finished and saved.

    Example:
        >>> config = trac.TracConfig(task="BallRun", cost_limit=20, steps=8, bc_steps=4, eval_episodes=0)
        >>> trac.train(data, config, progress=False).history.step.tolist()
        [4, 8]
        >>> runs = trac.train(data, [config.replace(seed=s) for s in (0, 1)], progress=False)
        >>> [run.config.seed for run in runs]
        [0, 1]
    """
    configs = config_list(data, config, TracConfig)
    segments = [segments_of(data, c) for c in configs]
    for c, s in zip(configs, segments, strict=True):
        share = float(s.labels.mean())
        if (lacking := share**c.batch_size + (1 - share) ** c.batch_size) > 0.9:
            warnings.warn(
                f"{lacking:.0%} of the batches will have segments of one class only, which leave η without effect and "
                f"may leave nothing to learn: {share:.1%} of the segments are desirable and batch_size={c.batch_size}.",
                stacklevel=2,
            )
    options: dict[str, Any] = dict(out=out, resume=resume, progress=progress, checkpoint_every=checkpoint_every)
    options |= dict(device=device, capture=capture, precision=precision, single=isinstance(config, TracConfig))
    return train_on(data, configs, segments, tracker=tracker, **options)


def train_on(
    data: Trajectories,
    configs: Sequence[TracConfig],
    segments: Sequence[Segments],
    *,
    algorithm: str = "trac",
    device: str | torch.device | None = None,
    capture: bool = True,
    record: Mapping[str, Any] | None = None,
    **options: Any,
) -> Run | list[Run]:
    """`train` on given segments, one set for each config; `options` as for `run_all`, `record` for all runs' records.

    Raises PartitionError for segments that do not fit the data; for the rest see `train`.

    >>> config = trac.TracConfig(task="BallRun", steps=4, bc_steps=2, eval_episodes=0)
    >>> own = trac.partition(data, cost_limit=20, segment_ratio=0.5)
    >>> train_on(data, [config], [own], single=True, progress=False).record["segments"]["length"]
    50
    """
    where = find_device(device)
    for c, s in zip(configs, segments, strict=True):
        check_segments(data, s, c.cost_limit)
    stacks: dict[tuple[Any, ...], list[int]] = {}
    for index, (c, s) in enumerate(zip(configs, segments, strict=True)):
        stacks.setdefault((s.length, *(getattr(c, name) for name in _SHARED)), []).append(index)
    groups = (
        (part, learners(data, [segments[i] for i in part], [configs[i] for i in part], where, capture))
        for indices in stacks.values()
        for part in _parts(indices, runs_that_fit(data, segments[indices[0]], configs[indices[0]], where))
    )
    arrays = [array for s in segments for array in (s.starts, s.labels, s.weights)]
    identity = {"algorithm": algorithm}
    if options.get("out") is not None:  # checkpoints alone need it
        identity |= {"segments": fingerprint(*arrays)} | data_identity(data, ("observations", "actions"))
    counts = ("length", "total", "too_short", "too_short_unsafe")
    records = [
        {"segments": {name: getattr(s, name) for name in counts} | {"labelled": len(s)}, **(record or {})}
        for s in segments
    ]
    return run_all(groups, identity=identity, records=records, **options)


def data_identity(data: Trajectories, names: Iterable[str]) -> dict[str, str]:
    """For a checkpoint's identity: a hash of each of these arrays, by its name.

    >>> list(data_identity(data, ("observations", "actions")))
    ['observations', 'actions']
    """
    return {name: fingerprint(getattr(data, name)) for name in names}


@torch_defaults()
def run_all(
    groups: Iterable[tuple[Sequence[int], Sequence[Learner]]],
    *,
    identity: dict[str, Any],
    single: bool,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: bool = True,
    checkpoint_every: int = 500,
    precision: Precision = "tf32",
    simulator: Mapping[str, Any] | None = None,
    records: Sequence[Mapping[str, Any]] | None = None,
    tracker: Tracker | None = None,
) -> Run | list[Run]:
    """Fit groups of learners one after the other, keep other processes out of the folder, and save what is finished.

    Args:
        groups: learners that are trained side by side, with the place of each of their runs in the result; made when
            the group before is finished.
        identity, simulator: see `fit`.
        single: there is one run, which is saved in `out` itself and returned without a list.
        records: for each run what its record is to hold beside the rest.

    For the rest and the errors see `train`.

    Example:
        >>> config = trac.TracConfig(task="BallRun", steps=4, bc_steps=2, eval_episodes=0)
        >>> group = [0], learners(data, [segments_of(data, config)], [config])
        >>> run_all([group], identity={"algorithm": "trac"}, single=True, progress=False).record["algorithm"]
        'trac'
    """
    if not isinstance(checkpoint_every, Integral) or checkpoint_every < 1:
        raise ConfigError(f"checkpoint_every={checkpoint_every!r} must be a whole number, at least 1.")
    if precision not in get_args(Precision):
        raise ConfigError(f"precision={precision!r} must be 'tf32' or 'float32'.")
    if resume and out is None:
        raise ConfigError("resume=True goes on from the checkpoints in a folder: pass out=, too.")
    _refuse_forked_threads()
    folder = None if out is None else Path(out).expanduser().absolute()  # wherever a tracker goes
    options: dict[str, Any] = dict(identity=identity, resume=resume, progress=progress)
    options |= dict(checkpoint_every=checkpoint_every, simulator=simulator)
    finished: dict[int, Run] = {}
    with checkpoint.locked(folder):
        if folder:
            ended, begun = (any(path for p in patterns for path in folder.glob(p)) for patterns in _TRACES)
            if not resume and (ended or begun):
                raise ConfigError(
                    f"{folder} holds a run already: choose another folder, or pass resume=True to go on with it, "
                    f"which online learners cannot."
                )
            if ended and not begun:
                raise ConfigError(f"{folder} holds a finished run and no checkpoint to go on from: use another folder.")
            if resume and not begun and progress:
                print(f"{folder} holds no checkpoint: the training starts at update 1", file=sys.stderr)
        number = -1  # counted by hand, for enumerate() would keep the last group
        for indices, group in groups:
            number += 1
            # Without a state to save, which an online learner's simulator has not, there are no checkpoints.
            place = folder / "checkpoints" / f"{number:02d}" if folder and group[0].state else None
            with _products(group[0].device, precision):
                try:
                    failure, runs = None, fit(group, folder=place, tracker=careful(tracker, indices), **options)
                except EvaluationFailed as error:
                    failure, runs = error.__cause__, error.runs
            for index, run in zip(indices, runs, strict=True):
                finished[index] = run
                run.record |= records[index] if records else {}
                if folder:
                    run.save(folder if single else folder / f"{index:03d}")
            if failure:
                step = max(run.record["failed_step"] for run in runs)
                raise TrainingError(
                    f"the evaluation after update {step} failed ({runs[0].record['failed_evaluation']}). The runs are "
                    f"kept as they were then, in this error's .runs{f' and in {folder}' if folder else ''}.",
                    [finished[i] for i in sorted(finished)],
                ) from failure
            del group  # its memory on the device, before the next group is made

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
    """A method's configs, one or several, as a list; raises ConfigError or MissingSimulator for what cannot be run.

    >>> len(config_list(data, trac.TracConfig(task="BallRun", eval_episodes=0), trac.TracConfig))
    1
    """
    if not isinstance(data, Trajectories):
        raise ConfigError(f"the data is {reprlib.repr(data)}: pass trajectories, such as trac.load({kind().task!r}).")
    data.check()
    configs: list[Any] = list(config) if isinstance(config, Iterable) else [config]
    if not configs:
        raise ConfigError(f"the list of configs is empty: pass a {kind.__name__}, or a list of them.")
    for c in configs:
        if not isinstance(c, kind):
            raise ConfigError(f"{reprlib.repr(c)} is not a {kind.__name__}: pass one, or a list of them.")
        if c.task != data.task:
            raise ConfigError(
                f"the config is for {c.task} and the data is of {data.task}: load the data of {c.task}, or set "
                f"task={data.task!r}."
            )
    if again := [index for index, c in enumerate(configs) if c in configs[:index]]:
        warnings.warn(
            f"config {again[0]} of the list is equal to config {configs.index(configs[again[0]])}: both make the same "
            f"run, which counts once. Give each a seed of its own.",
            stacklevel=3,
        )
    if any(c.eval_episodes for c in configs):
        if data.task not in TASKS:
            raise MissingSimulator(
                f"{data.task} is a task of your own, without a simulator in trac: train with eval_episodes=0, then "
                f"trac.evaluate(run.policy, env=make_env, reward_range=data.reward_range, cost_limit=...)."
            )
        # A simulator that is missing, or not the data's, is better known before the training than after it.
        with closing(open_env(data.task)) as env:
            check_log(env, data)
    return configs


def find_device(device: str | torch.device | None) -> torch.device:
    """The device of that name, or a GPU where there is one, else the CPU; raises ConfigError for what is not there.

    >>> find_device("cpu")
    device(type='cpu')
    """
    try:
        found = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device is None else device)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"device={device!r} is none of torch's: use 'cpu' or 'cuda'.") from error
    if found.type not in ("cpu", "cuda"):
        raise ConfigError(f"device={str(device)!r}: trac trains on 'cpu' and 'cuda' alone.")
    if found.type == "cuda" and (found.index or 0) >= (count := torch.cuda.device_count()):
        raise ConfigError(
            f"device={str(device)!r}, and torch {torch.__version__} sees {count} CUDA devices: use device='cpu'."
        )
    if found.type == "cuda" and found.index is None:
        found = torch.device("cuda", torch.cuda.current_device())
    return found


def _refuse_forked_threads() -> None:
    """OpenMP's threads do not survive a fork: where the parent had some, the child would wait for them for ever."""
    global _threaded_in
    if torch.get_num_threads() == 1:
        return
    if _threaded_in not in (None, os.getpid()):
        raise ConfigError(
            f"this process was forked from one that had trained with several threads, and would hang with "
            f"{torch.get_num_threads()}. Start it by multiprocessing's 'spawn' or 'forkserver', or by joblib's loky; "
            f"or set OMP_NUM_THREADS=1 before Python starts."
        )
    _threaded_in = os.getpid()


def _parts(indices: list[int], most: int) -> list[list[int]]:
    """The indices in as few parts of about the same size as hold at most that many each."""
    parts = -(-len(indices) // most)
    return [indices[len(indices) * i // parts : len(indices) * (i + 1) // parts] for i in range(parts)]


@contextmanager
def _products(device: torch.device, precision: Precision) -> Iterator[None]:
    """Inside, matrix products have that precision on a GPU, and float32's on a CPU."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if device.type == "cuda" and precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
