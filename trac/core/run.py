"""A finished run: its policies, history and record, saved without a pickle and read back."""

import hashlib
import importlib
import io
import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors
import safetensors.torch
import torch
from torch import nn

from trac.config import ConfigError, Settings, field_types
from trac.data.files import write_file
from trac.envs.randomness import PROCESS
from trac.policy import torch_defaults

FORMAT = 2  # of a saved run; 1 was written by trac-book 0.1
_UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError)


@dataclass
class Run:
    """A finished run.

    Attributes:
        config: what was asked for: a TracConfig, or a baseline's own.
        policy: the last policy.
        reference: π_ref, the cloned policy (the untrained one with reference="initial"), or None. Of BC, its policy.
        best: the one of the best evaluation (safe first, then reward), or None when there was only the last.
        history: one row for each `log_every` updates: step, phase, loss, accuracy, mean score of each
            class, share of batches that lacked a class, norm of the gradient (means since the row before);
            evaluation columns where there was one. A baseline has columns of its own in place of those after step.
        record: algorithm, versions, thread count, device, processor; stack, the number of runs that were trained side
            by side, and seconds, what all of them took; failed_step and failed_evaluation, see `trac.train`'s
            TrainingError, or None (a baseline's weights may be NaN then, which `trac.evaluate` refuses); of TraC and
            cloning segments, the counts of `trac.partition.Segments` and how many are labelled.

    Example:
        >>> config = trac.TracConfig(task="BallRun", steps=4, bc_steps=2, eval_episodes=0)
        >>> run = trac.train(data, config, progress=False)
        >>> run.history.phase.tolist(), run.record["algorithm"], run.policy.act(data.observations[0]).shape
        (['bc', 'trac'], 'trac', (2,))
    """

    config: Any
    policy: Any
    reference: Any
    best: Any
    history: pd.DataFrame
    record: dict[str, Any]

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write weights (safetensors), config and record (JSON), history (CSV) into a folder.

        A policy is written as its class, the arguments that make it (`settings`) and its `state_dict`. A run that is in
        the folder already is replaced.

        Raises FileExistsError for a folder that is a file, ValueError for a policy whose class is not trac's.

        >>> config = trac.TracConfig(task="BallRun", steps=4, bc_steps=2, eval_episodes=0)
        >>> sorted(path.name for path in trac.train(data, config, progress=False).save(folder / "run").iterdir())
        ['history.csv', 'run.json', 'weights.safetensors']
        """
        folder = Path(folder).expanduser()
        if folder.is_file():
            raise FileExistsError(f"{folder} is a file, and a run is saved in a folder: choose another name.")
        policies = {"policy": self.policy, "reference": self.reference, "best": self.best}
        policies = {name: policy for name, policy in policies.items() if policy is not None}
        for policy in policies.values():
            _class(_name(policy), nn.Module)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {
            f"{name}.{key}": value.detach().cpu().contiguous()
            for name, policy in policies.items()
            for key, value in policy.state_dict().items()
        }
        contents = {
            "weights.safetensors": safetensors.torch.save(weights),
            "history.csv": self.history.to_csv(index=False).encode(),
        }
        manifest = {
            "format": FORMAT,
            "files": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
            "config": {"class": _name(self.config), "settings": self.config.to_dict()},
            "policies": {name: {"class": _name(p), "settings": p.settings} for name, p in policies.items()},
            "record": self.record,
        }
        for name, content in contents.items():
            write_file(folder / name, content)
        write_file(folder / "run.json", json.dumps(manifest, indent=1, allow_nan=False).encode())
        return folder


@torch_defaults()
def load_run(folder: str | os.PathLike[str]) -> Run:
    """Read what `Run.save` wrote. Raises FileNotFoundError or ConfigError naming the file that is wrong.

    >>> config = trac.TracConfig(task="BallRun", steps=4, bc_steps=2, eval_episodes=0)
    >>> run = trac.train(data, config, out=folder / "run", progress=False)
    >>> trac.load_run(folder / "run").config == config
    True
    """
    folder = Path(folder).expanduser()
    for name in ("run.json", "weights.safetensors", "history.csv"):
        if not (folder / name).is_file():
            several = f"; it holds a list of them: read {folder / '000'}" if (folder / "000").is_dir() else ""
            raise FileNotFoundError(f"{folder / name}: no such file; {folder} does not hold a finished run{several}.")
    try:
        manifest = json.loads((folder / "run.json").read_text(), parse_constant=_no_constant)
        if manifest.get("format", 1) != FORMAT:
            found = manifest.get("format", 1)
            raise ValueError(f"it has format {found}, this version reads {FORMAT}; format 1 is of trac-book 0.1")
        kind, settings = _class(manifest["config"]["class"], Settings), manifest["config"]["settings"]
        _complete("config", field_types(kind), settings)
        config = kind.from_dict(settings)
        contents = {name: (folder / name).read_bytes() for name in ("weights.safetensors", "history.csv")}
        for name, content in contents.items():
            if (digest := hashlib.sha256(content).hexdigest()) != manifest.get("files", {}).get(name, digest):
                raise ValueError(f"{name} is not the file that was saved with run.json")
        weights = safetensors.torch.load(contents["weights.safetensors"])
        policies: dict[str, Any] = {"reference": None, "best": None}
        for name, made in manifest["policies"].items():
            # New weights draw from the global generator, which another thread may have seeded.
            with PROCESS, torch.random.fork_rng(devices=[]):
                policies[name] = _class(made["class"], nn.Module)(**made["settings"])
            _complete(name, policies[name].settings, made["settings"])
            policies[name].load_state_dict(
                {key.removeprefix(f"{name}."): x for key, x in weights.items() if key.startswith(f"{name}.")}
            )
        policy = policies.pop("policy")
        history, record = pd.read_csv(io.BytesIO(contents["history.csv"])), manifest["record"]
    except (*_UNREADABLE, safetensors.SafetensorError) as error:
        raise ConfigError(f"{folder}: the run cannot be read ({error}). Train it again.") from error
    return Run(config=config, policy=policy, history=history, record=record, **policies)


def environment_info(device: str) -> dict[str, Any]:
    """What a run's bits depend on beside its config, for its record.

    >>> sorted(environment_info("cpu"))
    ['device', 'processor', 'threads', 'versions']
    """
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    if online := sys.modules.get("stable_baselines3"):
        versions["stable-baselines3"] = online.__version__
    return {
        "device": device,
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "versions": versions,
    }


def processor() -> str:
    """The processor's name, where the system tells it: on another type the last bits of a run differ.

    >>> isinstance(processor(), str)
    True
    """
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _no_constant(name: str) -> None:
    raise ValueError(f"run.json has {name}, which is not JSON")


def _complete(of: str, wanted: Iterable[str], settings: Mapping[str, Any]) -> None:
    """A setting that is missing would have its default, whatever the run had."""
    if lacking := [name for name in wanted if name not in settings]:
        raise ValueError(f"run.json lacks the setting {', '.join(lacking)} of the {of}")


def _name(instance: Any) -> str:
    return f"{type(instance).__module__}.{type(instance).__qualname__}"


def _class(name: str, base: type) -> Any:
    """The class of that name, of this package alone: a file from outside must not choose what is imported."""
    module, _, attribute = name.rpartition(".")
    found = getattr(importlib.import_module(module), attribute, None) if module.startswith("trac.") else None
    if not (isinstance(found, type) and issubclass(found, base) and found.__module__ == module):
        raise ValueError(f"{name} is not a class of trac's that belongs there; only those can be read again")
    return found
