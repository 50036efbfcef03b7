"""train(): clone a reference policy, then train the policy as a classifier of segments (paper, algorithm 1)."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from trac import checkpoint
from trac.config import ConfigError, Settings, TracConfig
from trac.envs import MissingSimulator, make
from trac.learner import to_device
from trac.partition import Segments, partition
from trac.runs import Run
from trac.stack import Stack
from trac.tasks import TASKS
from trac.trajectories import Trajectories

# Runs that agree in these, and in the window length, can be trained as one stack.
_SHARED = (
    *("task", "batch_size", "bc_steps", "steps", "hidden", "dropout", "policy", "reference", "init", "use", "clamp"),
    *("bc_coef", "log_every", "eval_every", "eval_episodes"),
)

_TRACES = ("run.json", "[0-9][0-9][0-9]/run.json", "checkpoints/*/*")  # what a run leaves in its folder


class TrainingError(RuntimeError):
    """Some runs met a loss or a gradient that was not finite.

    Attributes:
        runs: all runs of the call. A failed one holds the last weights that a finite gradient made, and
            the update at which it failed in `record["failed_step"]`.
    """

    def __init__(self, message: str, runs: list[Run]):
        super().__init__(message)
        self.runs = runs


def train(
    data: Trajectories,
    config: TracConfig | Sequence[TracConfig],
    *,
    device: str | torch.device | None = None,
    out: str | os.PathLike | None = None,
    resume: bool = False,
    progress: bool = True,
    checkpoint_every: int = 500,
    capture: bool = False,
    label: Callable[[Trajectories, TracConfig], Segments] | None = None,
    algorithm: str = "trac",
):
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
        label: the windows to learn from; the config's partition by default.
        algorithm: name for the run's record.

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
    configs = [config] if isinstance(config, TracConfig) else list(config)

    def stacks(device: torch.device, folder: Path | None, labels: dict[str, str]) -> Iterator[tuple[list[int], Stack]]:
        if capture and device.type != "cuda":
            raise ConfigError(f"capture=True records CUDA graphs, and the device is {device}: leave it out.")
        segments = [(label or _partition)(data, c) for c in configs]
        groups: dict[tuple, list[int]] = {}
        for index, (c, s) in enumerate(zip(configs, segments, strict=True)):
            groups.setdefault((s.length, *(getattr(c, name) for name in _SHARED)), []).append(index)
        tensors = to_device(data, device)
        for number, members in enumerate(groups.values()):
            stack = Stack(
                tensors,
                [segments[i] for i in members],
                [configs[i] for i in members],
                folder=folder and folder / "checkpoints" / f"{number:02d}",
                capture=capture,
                labels=labels,
            )
            yield members, stack

    where: dict[str, Any] = dict(
        device=device, out=out, resume=resume, progress=progress, checkpoint_every=checkpoint_every
    )
    return train_stacks(data, config, stacks, algorithm=algorithm, **where)


def train_stacks(
    data: Trajectories, config, stacks: Callable, *, algorithm, device, out, resume, progress, checkpoint_every
):
    """What every method's training shares: the checks, the folder, its lock, and what is returned and raised.

    Args:
        config: one of the method's configs, or a list.
        stacks: (device, folder, labels) -> pairs of indices into the configs and a `Stack` that trains those.

    For the others, the result and the errors see `train`.
    """
    configs: list[Any] = [config] if isinstance(config, Settings) else list(config)
    folder = None if out is None else Path(out)
    try:
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ConfigError(f"device={device!r} is none of torch's: use 'cpu' or 'cuda'.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"device={str(device)!r}, and torch {torch.__version__} sees no CUDA device: use device='cpu'."
        )
    if checkpoint_every < 1:
        raise ConfigError(f"checkpoint_every={checkpoint_every} must be at least 1.")
    if others := [c for c in configs if not isinstance(c, Settings)]:
        raise ConfigError(f"{others[0]!r} is not a config: pass a TracConfig, or a list of them.")
    for c in configs:
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

    runs: dict[int, Run] = {}
    with checkpoint.locked(folder), _tensor_cores(device):
        if folder and not resume and any(path for pattern in _TRACES for path in folder.glob(pattern)):
            raise ConfigError(f"{folder} holds a run already: pass resume=True to go on with it, or another folder.")
        labels = {"algorithm": algorithm}
        if folder:
            labels["data"] = checkpoint.fingerprint(data.observations, data.actions)
        for members, stack in stacks(device, folder, labels):
            if stack.folder and resume:
                stack.restore(stack.folder)
            stack.run(progress=progress, checkpoint_every=checkpoint_every)
            for index, run in zip(members, stack.runs(), strict=True):
                runs[index] = run
                if folder:
                    run.save(folder if isinstance(config, Settings) else folder / f"{index:03d}")

    finished = [runs[i] for i in range(len(configs))]
    failed = [f"run {i} at update {r.record['failed_step']}" for i, r in enumerate(finished) if r.record["failed_step"]]
    if failed:
        raise TrainingError(
            f"the loss or its gradient was not finite in {', '.join(failed)}; {len(finished) - len(failed)} of "
            f"{len(finished)} runs are finished, and all are in this error's .runs. Lower learning_rate or alpha.",
            finished,
        )
    return finished[0] if isinstance(config, Settings) else finished


def _partition(data: Trajectories, config: TracConfig) -> Segments:
    names = ("cost_limit", "top", "bottom", "kappa", "segment_ratio", "sampling", "level", "seed")
    return partition(data, **{name: getattr(config, name) for name in names})


@contextmanager
def _tensor_cores(device: torch.device):
    """On a GPU, products with TF32's 10 bits of mantissa, several times as fast as with float32's 23."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if device.type == "cuda" else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
