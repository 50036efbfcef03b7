"""A finished run: its policies, history and record, saved without a pickle and read back."""

import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.torch
import torch

from trac.checkpoint import write_file
from trac.config import ConfigError, TracConfig
from trac.policy import Policy


@dataclass
class Run:
    """A finished run.

    Attributes:
        config: what was asked for: a TracConfig, or a baseline's own.
        policy: the last policy.
        best: the one of the best evaluation (safe first, then reward), or None when there was only the last.
        reference: π_ref, the cloned policy (the untrained one with reference="initial"); None for a method without.
        history: one row for each `log_every` updates: step, phase, loss, accuracy, mean score of each
            half, share of batches that lacked a half, norm of the gradient (means since the row before);
            evaluation columns where there was one. A baseline has columns of its own in place of those after step.
        record: algorithm, versions, thread count, device, processor, seconds; failed_step, the update whose loss or
            gradient was not finite, after which the weights were left alone, or None.
    """

    config: Any
    policy: Any
    reference: Any
    best: Any
    history: pd.DataFrame
    record: dict[str, Any]

    def save(self, folder: str | os.PathLike) -> Path:
        """Write weights (safetensors), config and record (JSON), history (CSV) into a folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        policies = {"policy": self.policy, "reference": self.reference, "best": self.best}
        weights = {
            f"{name}.{key}": value.cpu()
            for name, policy in policies.items()
            if policy is not None
            for key, value in policy.named().items()
        }
        write_file(folder / "weights.safetensors", safetensors.torch.save(weights))
        write_file(folder / "history.csv", self.history.to_csv(index=False).encode())
        manifest = {"config": self.config.to_dict(), "record": self.record}
        write_file(folder / "run.json", json.dumps(manifest, indent=1, allow_nan=False).encode())
        return folder


def load_run(folder: str | os.PathLike) -> Run:
    """Read what `Run.save` wrote. Raises FileNotFoundError or ConfigError naming the file that is wrong."""
    from trac.baselines import METHODS, learner_of  # which imports this module

    folder = Path(folder)
    for name in ("run.json", "weights.safetensors", "history.csv"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name}: no such file; {folder} does not hold a finished run.")
    try:
        manifest = json.loads((folder / "run.json").read_text())
        algorithm = manifest["record"]["algorithm"]
        method = learner_of(algorithm) if algorithm in METHODS else None
        config: Any = (method.Config if method else TracConfig).from_dict(manifest["config"])
        weights = safetensors.torch.load_file(folder / "weights.safetensors")
        policies: dict[str, Any] = {"best": None, "reference": None}
        for name in {key.split(".")[0] for key in weights}:
            state = {key.removeprefix(f"{name}."): x for key, x in weights.items() if key.startswith(f"{name}.")}
            if method:
                policies[name] = method.make_policy(config, *manifest["record"]["dims"])
                policies[name].load_state_dict(state)
            else:
                policies[name] = Policy.from_named(state, dropout=config.dropout, kind=config.policy)
        history = pd.read_csv(folder / "history.csv")
    except (ValueError, TypeError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
        raise ConfigError(f"{folder}: the run cannot be read ({error}). Train it again.") from error
    return Run(config=config, history=history, record=manifest["record"], **policies)


def made_by(device: str) -> dict[str, Any]:
    """What a run's bits depend on beside its config, for its record."""
    return {
        "device": device,
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
    }


def processor() -> str:
    """The processor's name, where the system tells it: on another type the last bits of a run differ."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
