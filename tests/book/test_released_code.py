import numpy as np
import pytest
import released_code
import torch
import yaml
from torch import nn

import trac


def test_the_authors_settings_and_weights_are_taken_over(tmp_path):
    config = trac.TracConfig(task="BallRun", hidden=(8, 4), steps=40, bc_steps=20, warmup_steps=5)
    theirs = yaml.safe_load(released_code.settings(config))
    assert theirs["trainer_kwargs"]["total_steps"] == 40 and theirs["alg_kwargs"]["bc_steps"] == 20
    assert theirs["network_kwargs"]["actor_kwargs"]["hidden_layers"] == [8, 4]
    net = nn.Sequential(nn.Linear(7, 8), nn.ReLU(), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2), nn.Tanh())
    weights = {f"actor.mlp.{name}": value for name, value in net.state_dict().items()}
    torch.save({"network": weights, "metadata": {"step": 41}}, tmp_path / "final_model.pt")
    policy, observations = released_code.policy_of(tmp_path / "final_model.pt", config), torch.randn(5, 7)
    assert np.allclose(policy.act(observations.numpy()), net(observations).detach(), atol=1e-6)


def test_the_authors_code_is_asked_for_where_it_is_missing(tmp_path):
    with pytest.raises(SystemExit, match="has no train.py: fetch their code"):
        released_code.main(tmp_path)
