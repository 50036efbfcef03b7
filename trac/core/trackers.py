"""What `trac.train` calls as `tracker(run, step, row)` with each row of the history: TensorBoard, MLflow, or your own.

`run` is the place in the list of configs, 0 for a single one; `step` the update (of an online method, the simulator's
step); `row` the columns of the history by name, an evaluation's in a call of its own. Where a run goes on from a
checkpoint, the steps since that are told again, under the same numbers.
"""

import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

Tracker = Callable[[int, int, dict[str, Any]], None]


def tensorboard(folder: str | os.PathLike[str]) -> Tracker:
    """Write to TensorBoard's files, a subfolder for each run; show them with `tensorboard --logdir FOLDER`.

    Raises ImportError, with the command that installs it.

    Example:
        >>> trac.train(data, configs, tracker=tensorboard("runs/tb"))  # needs tensorboard  # doctest: +SKIP
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(f"This needs TensorBoard ({error}). Install it with: pip install tensorboard") from error
    writers: dict[int, Any] = {}
    folder = os.path.abspath(folder)

    def track(run: int, step: int, row: dict[str, Any]) -> None:
        if run not in writers:  # what is there of these steps already, from before a resume, is not shown
            writers[run] = SummaryWriter(os.path.join(folder, f"{run:03d}"), purge_step=step)
        for name, value in _numbers(row).items():
            writers[run].add_scalar(name, value, step)
        writers[run].flush()

    return track


def mlflow() -> Tracker:
    """Write to MLflow's active run, or a new one, as `<run>/<column>`; the variable MLFLOW_RUN_ID goes on with one.

    Raises ImportError, with the command that installs it.

    Example:
        >>> trac.train(data, configs, tracker=mlflow())  # needs mlflow  # doctest: +SKIP
    """
    try:
        from mlflow import log_metrics
    except ImportError as error:
        raise ImportError(f"This needs MLflow ({error}). Install it with: pip install mlflow-skinny") from error

    def track(run: int, step: int, row: dict[str, Any]) -> None:
        log_metrics({f"{run:03d}/{name}": value for name, value in _numbers(row).items()}, step=step)

    return track


def careful(tracker: Tracker | None, places: Sequence[int]) -> Tracker | None:
    """The tracker for runs with these places in the result; one that raises is told of, and not called again.

    >>> careful(lambda *told: print(told), places=[7, 8])(1, 50, {"loss": 0.5})
    (8, 50, {'loss': 0.5})
    """
    if tracker is None:
        return None
    broken = False

    def track(run: int, step: int, row: dict[str, Any]) -> None:
        nonlocal broken
        if not broken:
            try:
                tracker(places[run], step, dict(row))
            except Exception as error:
                broken = True
                warnings.warn(
                    f"the tracker failed at step {step}; the training goes on without: {error!r}", stacklevel=2
                )

    return track


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if not isinstance(value, str)}
