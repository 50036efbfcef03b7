"""Updates per second of the offline methods against those of the benchmark's package, osrl-lib, at the same settings.

    make bench-osrl                              # installs osrl-lib, and writes _build/osrl_speed.csv

Both take turns on one thread, by the processor's time, so that their ratio holds on a machine that others use as well.
Ours draws a batch for each update; osrl-lib is handed the same one each time, so that its data loader does not count.
"""

import importlib.util
import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import core
import numpy as np
import pandas as pd
import torch
import tyro

import trac
from trac.baselines import bc
from trac.baselines.bcq_lag import BCQLag
from trac.baselines.bear_lag import BEARLag
from trac.baselines.cdt import CDT
from trac.baselines.coptidice import COptiDICE
from trac.baselines.cpq import CPQ
from trac.baselines.offline import OfflineLearner
from trac.core.learner import TracLearner

CPU = torch.device("cpu")
METHODS: tuple[type[OfflineLearner], ...] = (BCQLag, BEARLag, CDT, COptiDICE, CPQ)
TASK, COST_LIMIT = "BallCircle", 20.0


class Silent:
    """A logger that keeps nothing."""

    def store(self, **values) -> None:
        pass


def package():
    """osrl-lib's algorithms. Its trainers import loggers from fsrl, which neither losses nor speed need.

    Raises ImportError where osrl-lib is not installed.
    """
    if "fsrl" not in sys.modules and importlib.util.find_spec("fsrl") is None:
        fsrl, utils = ModuleType("fsrl"), ModuleType("fsrl.utils")
        utils.DummyLogger = utils.WandbLogger = Silent  # type: ignore[attr-defined]
        sys.modules |= {"fsrl": fsrl, "fsrl.utils": utils}
    try:
        import osrl.algorithms
    except ImportError as error:
        raise ImportError(
            f"osrl-lib cannot be imported ({error}): make test-osrl and make bench-osrl install it."
        ) from error
    return osrl.algorithms


def model_of(method: OfflineLearner) -> Any:
    """osrl-lib's model of the same method with the settings of one of our runs."""
    osrl, c, name, (states, actions) = package(), method.config, method.algorithm, method.dims
    shape = dict(state_dim=states, action_dim=actions, max_action=1.0, episode_len=method.horizon)
    if name == "cdt":
        drops = dict.fromkeys(("attention_dropout", "residual_dropout", "embedding_dropout"), c.dropout)
        sizes = dict(seq_len=c.context, embedding_dim=c.width, num_layers=c.layers, num_heads=c.heads)
        asked = dict(use_rew=True, use_cost=True, cost_transform=True, stochastic=True, target_entropy=-actions)
        return osrl.CDT(**shape, **sizes, **drops, **asked, init_temperature=c.temperature)
    shape |= dict(a_hidden_sizes=list(c.hidden), c_hidden_sizes=list(c.hidden), cost_limit=c.cost_limit, gamma=c.gamma)
    if name == "coptidice":
        spread = {f"{key}_std": method.data[key].std(0).numpy() for key in ("observations", "actions")}
        rest = dict(init_state_propotion=method.first, alpha=c.alpha, cost_ub_epsilon=c.cost_epsilon)
        return osrl.COptiDICE(**shape, **spread, **rest, f_type="softchi", num_nu=c.critics, num_chi=c.critics)
    shape |= dict(num_q=c.critics, num_qc=c.critics, vae_hidden_sizes=c.vae_hidden, beta=c.beta, tau=c.tau)
    shape |= dict(sample_action_num=c.samples)
    if name == "cpq":
        return osrl.CPQ(**shape, qc_scalar=c.margin)
    shape |= dict(PID=list(c.pid), lmbda=c.mixture)
    if name == "bcq_lag":
        return osrl.BCQL(**shape, phi=c.phi)
    mmd = dict(mmd_sigma=c.mmd_sigma, target_mmd_thresh=c.mmd_limit, num_samples_mmd_match=c.mmd_samples)
    return osrl.BEARL(**shape, **mmd, kernel=c.kernel, start_update_policy_step=0)


def update_of(model: Any, method: OfflineLearner) -> Callable[[], Any]:
    """The update of osrl-lib's model, as its trainer makes it, on one batch of ours."""
    batch = method.batch()
    trainer = getattr(package(), f"{type(model).__name__}Trainer")(model, None, logger=Silent())
    if method.algorithm == "cdt":
        names = ("observations", "actions", "returns", "cost_to_go", "times", "mask", "cost_to_go", "costs")
        values = [batch[name] for name in names]
        values[5], values[6] = values[5].float(), values[6][:, 0]  # the cost of an episode is not used
        return lambda: trainer.train_one_step(*values)
    names = ("observations", "next_observations", "actions", "rewards", "costs", "done", "first")
    values = [batch[name] for name in names]
    if method.algorithm == "coptidice":
        return lambda: trainer.train_one_step(values)
    return lambda: trainer.train_one_step(*values[:6])


def pair(learner: type[OfflineLearner], config: Any) -> dict[str, Callable[[], Any]]:
    """Our update and osrl-lib's."""
    method, steps = learner(config, trac.load(TASK), CPU), itertools.count(1)
    return {"ours": lambda: method.advance(next(steps)), "osrl": update_of(model_of(method), method)}


def cloning(hidden: tuple[int, ...]) -> dict[str, Callable[[], Any]]:
    """The same for BC-All, without dropout, which osrl-lib does not have."""
    data, steps = trac.load(TASK), itertools.count(1)
    config = trac.TracConfig(task=TASK, hidden=hidden, dropout=0.0, batch_size=bc.BATCH_SIZE)
    config = config.replace(bc_steps=core.FOREVER, steps=core.FOREVER)
    everything = np.ones(len(data.starts), dtype=bool)
    ours = TracLearner(data, [bc._transitions(data, everything, config.cost_limit)], [config])
    osrl, (obs_dim, act_dim) = package(), (data.observations.shape[1], data.actions.shape[1])
    model = osrl.BC(state_dim=obs_dim, action_dim=act_dim, max_action=1.0, a_hidden_sizes=list(hidden))
    trainer = osrl.BCTrainer(model, None, logger=Silent())
    rows = torch.randint(len(data), (config.batch_size,))
    batch = [torch.as_tensor(array)[rows] for array in (data.observations, data.actions)]
    return {"ours": lambda: ours.advance(next(steps)), "osrl": lambda: trainer.train_one_step(*batch)}


def cases() -> dict[tuple[str, str, int], dict[str, Callable[[], Any]]]:
    """Both updates by settings, method and batch size."""
    found = {("quick", "bc_all", bc.BATCH_SIZE): cloning((128, 128))}
    found["benchmark", "bc_all", bc.BATCH_SIZE] = cloning((256, 256))
    for learner in METHODS:
        name, config = learner.algorithm, learner.Config
        quick, benchmark = config(task=TASK, cost_limit=COST_LIMIT), config.osrl(TASK, COST_LIMIT)
        if name == "cdt":
            benchmark = benchmark.replace(batch_size=64)  # its 2,048 windows take many seconds on a CPU
        for settings, c in dict(quick=quick, benchmark=benchmark).items():
            found[settings, name, c.batch_size] = pair(learner, c)
    return found


def main(rounds: int = 12, out: Path = Path("_build/osrl_speed.csv")) -> None:
    """Measure all methods.

    Args:
        rounds: turns of each side.
        out: the table.
    """
    from tables import write

    torch.set_num_threads(1)
    table = []
    for (settings, method, batch), updates in cases().items():
        rates = {side: 1 / value for side, value in core.seconds(updates, rounds, CPU, time.process_time).items()}
        row = dict(settings=settings, method=method, batch_size=batch, **rates, ratio=rates["ours"] / rates["osrl"])
        table.append(row)
        print(f"{settings} {method}: {rates['ours']:.1f} and {rates['osrl']:.1f}, {row['ratio']:.2f}", flush=True)
    write(pd.DataFrame(table), out, "make bench-osrl")


if __name__ == "__main__":
    tyro.cli(main)
