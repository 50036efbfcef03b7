"""report(): what is installed here, what can be simulated, and what to do about each gap: `python -m trac doctor`."""

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import distributions
from pathlib import Path
from urllib.parse import urlsplit

import joblib
import torch

import trac
from trac.core.run import processor
from trac.data import download
from trac.data.packaged import REPOSITORY, packaged
from trac.data.tasks import TASKS

PACKAGES = (
    *("torch", "triton", "numpy", "pandas", "gymnasium", "h5py", "pydantic", "scipy", "safetensors", "tyro"),
    *("papermill", "distributed", "stable-baselines3", "dsrl", "bullet_safety_gym", "pybullet", "pybullet-arm64"),
    *("safety-gymnasium", "mujoco", "metadrive-simulator"),
)
EXTRAS = {"papermill": "sweep", "distributed": "sweep", "stable-baselines3": "baselines"}
TRY = "import sys, trac.envs; e = trac.envs.open_env(sys.argv[1]); e.reset(seed=0); e.step(e.action_space.sample())"
PATIENCE = 120  # [s] for a suite's simulator
TO_DO = "  to do: "


def report(network: bool = False) -> str:
    """Plain text for a bug report: versions, simulators, devices, threads, data. The home folder is written as ~.

    Args:
        network: ask DSRL's mirrors for an answer, too. Without it nothing is sent.

    Example:
        >>> print(report())  # starts the simulators  # doctest: +SKIP
    """
    lines = [f"trac {trac.__version__} in {Path(trac.__file__).parent}"]
    for part in (_installed, _simulators, _devices, _threads, _data, *((_mirrors,) if network else ())):
        lines.append(part.__name__[1:])
        try:
            lines += [f"  {line}" for line in part()]
        except Exception as error:  # the other parts are worth having
            lines.append(f"  could not be found out: {error!r}")
    home = re.escape(os.path.expanduser("~").rstrip("/"))
    return re.sub(rf"{home}(?![\w.-])", "~", "\n".join(lines)) if home else "\n".join(lines)


def _installed() -> Iterator[str]:
    yield f"python {platform.python_version()}, {platform.platform()}, {processor()}"
    found = {d.metadata["Name"].lower().replace("_", "-"): d.version for d in reversed([*distributions()])}
    names = {name: name.replace("_", "-") for name in PACKAGES}
    yield ", ".join(f"{name} {found[key]}" for name, key in names.items() if key in found)
    for name, extra in EXTRAS.items():
        if name not in found:
            yield f"no {name}"
            yield f"{TO_DO}pip install 'trac-book[{extra}]', or -e '.[{extra}]' in the repository"


def _simulators() -> Iterator[str]:
    tasks = {task.suite: task.name for task in TASKS.values()}
    with ThreadPoolExecutor() as pool:
        for lines in pool.map(_simulate, *zip(*tasks.items(), strict=True)):
            yield from lines


def _simulate(suite: str, task: str) -> list[str]:
    """A task's first step in a process of its own, which may die or hang."""
    try:
        done = subprocess.run([sys.executable, "-c", TRY, task], capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return [f"{suite}: {task} has not started within {PATIENCE} s", f"{TO_DO}try again on an idle machine"]
    if done.returncode == 0:
        return [f"{suite}: {task} runs"]
    last = (done.stderr.strip().splitlines() or [f"{task}'s process ended with status {done.returncode}"])[-1]
    why, _, needs = last.removeprefix("trac.envs.MissingSimulator: ").partition("Simulating it needs ")
    return [f"{suite}: {why.strip()}", f"{TO_DO}{needs or 'run the task with python -X faulthandler, and report it'}"]


def _devices() -> Iterator[str]:
    yield f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built for the CPU alone"
    for index in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(index).total_memory / 2**30
        yield f"cuda:{index}: {torch.cuda.get_device_name(index)}, {memory:.0f} GiB"
    if bool(torch.version.cuda) != bool(shutil.which("nvidia-smi")):
        other = "see whether nvidia-smi lists a GPU" if torch.version.cuda else "pip install torch's build for CUDA"
        yield f"{TO_DO}{other}, if this machine is to train on one"


def _threads() -> Iterator[str]:
    threads, cores = torch.get_num_threads(), joblib.cpu_count()
    named = (f"{name}={os.environ.get(name, '')}" for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY"))
    yield f"{threads} of torch on {cores} cores, {', '.join(named)}"
    if threads > cores:
        yield f"{TO_DO}export OMP_NUM_THREADS={cores}, for threads without a core of their own wait for each other"


def _data() -> Iterator[str]:
    yield f"in the package: {', '.join(packaged())}"
    if REPOSITORY.is_dir():
        yield f"in {REPOSITORY}: {', '.join(sorted(path.stem for path in REPOSITORY.glob('*.hdf5'))) or 'none'}"
    folder, known = download.dsrl_folder(), {task.file for task in TASKS.values()}
    files = [path for path in sorted(folder.glob("*.hdf5*")) if path.name.removesuffix(".part") in known]
    sizes = ", ".join(f"{path.name} ({path.stat().st_size / 2**20:.1f} MiB)" for path in files)
    yield f"of DSRL in {folder}: {sizes or 'none'}"
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        yield f"{shutil.disk_usage(there).free / 2**30:.1f} GiB free there"
    else:
        yield f"{there} cannot be written"
        yield f"{TO_DO}export DSRL_DATASET_DIR=<a folder that can be>, to fetch DSRL's files"
    hosts = ", ".join(str(urlsplit(mirror).hostname) for mirror in download.mirrors())
    yield f"mirrors: {hosts}; --network asks them for an answer"


def _mirrors() -> Iterator[str]:
    import requests

    name = TASKS["BallRun"].file
    for mirror in download.mirrors():
        host = urlsplit(mirror).hostname
        try:
            answer = requests.head(f"{mirror}/{name}", timeout=download.TIMEOUTS[0], allow_redirects=True)
            yield f"{host}: {'has' if answer.ok else f'status {answer.status_code} for'} {name}"
        except requests.RequestException as error:
            yield f"{host}: {type(error).__name__}"
            yield f"{TO_DO}put DSRL's file into the folder by hand, or name a mirror in TRAC_DSRL_MIRROR"
