"""The authors' released code on the book's logs, with the book's quick settings: book/results/released_code.csv.

    git clone https://github.com/zgong11/TraC _build/released && git -C _build/released checkout 2fc12f7
    pip install --target _build/released imageio tensorboard
    python book/released_code.py

Each run is their train.py in a process of its own, on one thread. Their last model is then evaluated as ours are: 20
episodes with the seeds of book/quick_table.py. What the two codes have in common is thus the log and the settings; the
initial weights, the order of the batches and the one update more are theirs.
"""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import torch
import tyro
from quick_table import EVALUATION_SEED, SEGMENT_RATIO
from tables import RESULTS, SCORES, write

import trac
from trac.data.packaged import find
from trac.policy import Policy

ROOT = Path(__file__).resolve().parents[1]


def settings(config: trac.TracConfig) -> str:
    """Their configuration file, of ours."""
    return f"""
alg: TraC
alg_kwargs: {{bc_coeff: {config.bc_coef}, bc_data: all, bc_steps: {config.bc_steps}}}
optim: Adam
optim_kwargs: {{lr: {config.learning_rate}}}
network: ActorPolicy
network_kwargs:
  actor_class: ContinuousMLPActor
  actor_kwargs:
    dropout: {config.dropout}
    output_act: [import, torch.nn, Tanh]
    hidden_layers: {list(config.hidden)}
    ortho_init: true
checkpoint: null
dataset: FeedbackBuffer
dataset_kwargs: {{batch_size: {config.batch_size}, segment_length: null, capacity: null}}
processor: null
schedule: {{actor: linear_warmup}}
schedule_kwargs: {{actor: {{total_steps: {config.warmup_steps}, multiplier: {config.lr_multiplier}}}}}
trainer_kwargs:
  total_steps: {config.steps}
  log_freq: 100
  profile_freq: 100
  eval_freq: {config.steps + 1}
  eval_fn: null
  train_dataloader_kwargs: {{num_workers: 0, batch_size: null}}
"""


def train(code: Path, out: Path, config: trac.TracConfig) -> Path:
    """One run of their train.py; returns the file of its last model."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "settings.yaml").write_text(settings(config))
    flags = dict(config=out / "settings.yaml", path=out, seed=config.seed, device="cpu")
    flags |= dict(eval_env=f"Offline{config.task}-v0", dataset_path=find(config.task), target_cost=config.cost_limit)
    flags |= dict(alpha=config.alpha, gamma=config.gamma, eta=config.eta, kappa=config.kappa)
    flags |= dict(seg_ratio=config.segment_ratio, safe_top_perc=config.top, safe_bottom_perc=config.bottom)
    command = [sys.executable, str(code / "train.py"), *(f"--{name}={value}" for name, value in flags.items())]
    with (out / "log.txt").open("w") as log:
        subprocess.run(
            command,
            check=True,
            cwd=code,
            stdout=log,
            stderr=log,
            env=os.environ | {"PYTHONPATH": str(code), "OMP_NUM_THREADS": "1", "DSRL_SUPPRESS_IMPORT_ERROR": "1"},
        )
    (model,) = out.rglob("final_model.pt")
    return model


def policy_of(model: Path, config: trac.TracConfig) -> Policy:
    """Their actor's weights in a policy of ours: the same layers, and tanh."""
    weights = torch.load(model, weights_only=True)["network"]
    weights = [value for name, value in weights.items() if name.startswith("actor.")]
    policy = Policy(weights[0].shape[1], weights[-1].shape[0], hidden=config.hidden)
    with torch.no_grad():
        for ours, theirs in zip(policy.parameters(), weights, strict=True):
            ours.copy_(theirs)
    return policy


def main(
    code: Path = ROOT / "_build" / "released", seeds: tuple[int, ...] = (0, 1, 2, 3, 4), limit: float = 20
) -> None:
    """Run their code on the three packaged tasks, and write the table."""
    if not (code / "train.py").is_file():
        raise SystemExit(f"{code} has no train.py: fetch their code as the head of {Path(__file__).name} says.")
    torch.set_num_threads(1)
    rows = []
    for task, ratio in SEGMENT_RATIO.items():
        for seed in seeds:
            config = trac.TracConfig(task=task, cost_limit=limit, seed=seed, segment_ratio=ratio)
            policy = policy_of(train(code, ROOT / "runs" / "released" / f"{task} {seed}", config), config)
            found = trac.evaluate(policy, task=task, cost_limit=limit, seed=EVALUATION_SEED + seed, workers=1)
            rows.append(dict(task=task, cost_limit=limit, seed=seed) | found.episodes[SCORES].mean().to_dict())
            print(rows[-1], flush=True)
            write(pd.DataFrame(rows), RESULTS / "released_code.csv", "python book/released_code.py")


if __name__ == "__main__":
    tyro.cli(main)
