"""The offline baselines: losses that they share, by hand, the training loop around them, and whole runs."""

import dataclasses
import gc
import math
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch
from baseline_cases import CPU, LONG, METHODS, TRAIN, episode_cost, learner, one_state, small
from conftest import same
from definition import Guard
from torch.distributions import Normal, kl_divergence

import trac
from trac.baselines import cdt, losses, networks
from trac.baselines.bcq_lag import BCQLagConfig, bcq_lag
from trac.baselines.bear_lag import BEARLagConfig
from trac.baselines.cdt import CDTConfig
from trac.baselines.coptidice import COptiDICEConfig, coptidice
from trac.baselines.cpq import CPQConfig, cpq
from trac.baselines.offline import horizon, seeded, transitions
from trac.config import ConfigError
from trac.envs.checked import EnvError
from trac.teaching import cmdp
from trac.train import TrainingError


def test_the_limit_is_the_discounted_sum_of_equal_costs():
    gamma, horizon, limit = 0.97, 200, 20.0
    assert losses.discounted_limit(limit, gamma, horizon) == pytest.approx(
        sum(gamma**t * limit / horizon for t in range(horizon))
    )
    assert losses.discounted_limit(limit, 1.0, horizon) == limit


def test_a_policy_says_how_many_numbers_it_takes():
    with pytest.raises(ValueError, match="observation has 8 entries; this policy was made for 7"):
        networks.SquashedGaussian(7, 2, hidden=(8,)).act(np.zeros(8))


def test_each_method_puts_the_limit_on_its_own_scale(data):
    # BallCircle has 200 steps: 8 (1 - 0.99^200) / (0.01 · 200).
    expected = 8 * (1 - 0.99**200) / 2
    for name in ("cpq", "bcq_lag", "bear_lag"):
        assert learner(name, data).limit() == pytest.approx(expected)
    assert learner("coptidice", data).limit() == pytest.approx(0.01 * expected)
    assert learner("coptidice", data, normalized_limit=False).limit() == pytest.approx(expected)


def test_the_horizon_is_the_tasks_and_of_a_task_of_ones_own_the_datas(data):
    own = dataclasses.replace(data, task="mine")
    assert (horizon(data), horizon(own)) == (200, 20)
    assert learner("cpq", own, task="mine").limit() == pytest.approx(losses.discounted_limit(8, 0.99, 20))
    assert learner("cdt", own, task="mine").policy.times.num_embeddings == 20


def test_the_vaes_divergence_is_the_closed_form():
    torch.manual_seed(0)
    mean, std = torch.randn(5, 3), torch.rand(5, 3) + 0.1
    expected = kl_divergence(Normal(mean, std), Normal(0.0, 1.0))
    torch.testing.assert_close(networks.kl_to_standard_normal(mean, std), expected)
    assert networks.kl_to_standard_normal(torch.zeros(1), torch.ones(1)) == 0


def test_an_ensemble_is_its_members():
    torch.manual_seed(0)
    ensemble, x = networks.Ensemble(3, [4, 8, 8]), torch.randn(5, 4)
    for k, values in enumerate(ensemble(x[:, :1], x[:, 1:])):
        y = x
        for i, (weight, bias) in enumerate(zip(ensemble.weights, ensemble.biases, strict=True)):
            y = (y if i == 0 else y.relu()) @ weight[k] + bias[k]
        torch.testing.assert_close(values, y[:, 0])


def test_bellman_targets_and_losses_by_hand():
    target = losses.bellman_target(torch.tensor([1.0, 1.0]), torch.tensor([10.0, 10.0]), 0.9, torch.tensor([0.0, 1.0]))
    assert target.tolist() == [10, 1]
    assert losses.critic_loss(torch.tensor([[10.0, 3.0], [9.0, 1.0]]), target) == 2 + 0.5


def test_a_cost_critics_fixed_point_is_the_exact_discounted_cost():
    """One-hot pairs, all of them equally often, and a uniform policy: the regression's solution is exact."""
    generator = np.random.default_rng(0)
    states, actions = 4, 2
    following = generator.integers(states, size=(states, actions))
    problem = cmdp.CMDP(
        np.eye(states)[following],
        np.zeros((states, actions)),
        generator.random((states, actions)),
        np.full(states, 1 / states),
        0.8,
    )
    s, a, a_next = (x.ravel() for x in np.indices((states, actions, actions)))
    pairs = torch.eye(states * actions)
    now, then = pairs[s * actions + a], pairs[following[s, a] * actions + a_next]
    costs = torch.tensor(problem.costs[s, a], dtype=torch.float32)
    torch.manual_seed(0)
    critic = networks.Ensemble(2, [states * actions])
    target, optimizer = losses.target_of(critic), losses.fused_adam(critic.parameters(), 0.02)
    for _ in range(2_000):
        goal = losses.bellman_target(costs, target(then).amin(0), problem.gamma)
        losses.descend(optimizer, losses.critic_loss(critic(now), goal))
        losses.soft_update(target, critic, 0.05)
    values = cmdp.values(problem, np.full((states, actions), 0.5), problem.costs)
    exact = problem.costs + problem.gamma * problem.transitions @ values
    np.testing.assert_allclose(critic(pairs).detach()[0].view(states, actions), exact, atol=2e-3)


def test_soft_updates_and_gradients_stay_where_they_belong():
    one, two = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    target, before = losses.target_of(one), [p.clone() for p in two.parameters()]
    loss = (one(torch.ones(1, 2)) * two(torch.ones(1, 2))).sum()
    losses.descend(torch.optim.SGD(one.parameters(), 0.5), loss)
    assert all(p.grad is None for p in two.parameters())
    assert all(torch.equal(p, q) for p, q in zip(two.parameters(), before, strict=True))
    expected = 0.9 * target.weight + 0.1 * one.weight
    losses.soft_update(target, one, 0.1)
    torch.testing.assert_close(target.weight, expected)
    assert not target.weight.requires_grad


def test_a_key_gives_the_same_draws_and_leaves_no_trace():
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    draws = []
    for key in ((1, 2), (1, 2), (1, 3)):
        with seeded(CPU, *key):
            draws.append(torch.rand(3))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.rand(2), expected)


def test_transitions_say_where_episodes_begin_and_end(data):
    flat = transitions(data, CPU, reward_scale=0.1)
    assert flat["first"].nonzero()[:, 0].tolist() == data.starts.tolist()
    assert flat["done"].nonzero()[:, 0].tolist() == (data.starts + data.lengths - 1).tolist()
    np.testing.assert_allclose(flat["rewards"], 0.1 * data.rewards, rtol=1e-6)
    np.testing.assert_array_equal(flat["next_observations"], data.next_observations)


@pytest.mark.parametrize("name", METHODS)
def test_the_same_seed_gives_the_same_bits_also_when_resumed(name, data, tmp_path):
    config = small(name)
    whole = TRAIN[name](data, config, device="cpu", progress=False)
    other = TRAIN[name](data, config.replace(seed=1), device="cpu", progress=False)
    assert not same(whole.policy, other.policy)

    class Stop(Exception):
        pass

    method, advance = METHODS[name], METHODS[name].advance

    def interrupted(self, step):
        if step == 18:
            raise Stop
        advance(self, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(method, "advance", interrupted)
        with pytest.raises(Stop):
            TRAIN[name](data, config, device="cpu", progress=False, out=tmp_path, checkpoint_every=7)
    resumed = TRAIN[name](data, config, device="cpu", progress=False, out=tmp_path, resume=True)
    assert same(whole.policy, resumed.policy)
    pd.testing.assert_frame_equal(whole.history, resumed.history)
    assert whole.history.step.tolist() == [10, 20, 30]

    loaded = trac.load_run(tmp_path)
    assert loaded.config == config and loaded.record["algorithm"] == name and same(loaded.policy, whole.policy)
    for policy in (loaded.policy, whole.policy):
        if hasattr(policy, "start"):
            policy.start(3)
    np.testing.assert_array_equal(loaded.policy.act(data.observations[0]), whole.policy.act(data.observations[0]))


@pytest.mark.parametrize("name", METHODS)
def test_an_episode_is_the_same_in_any_process(name):
    data = trac.load("BallRun")
    policy = learner(name, data, task="BallRun").policy
    options = dict(task="BallRun", cost_limit=20, episodes=2, seed=0)
    one, two = (trac.evaluate(policy, **options, workers=workers).episodes for workers in (1, 2))
    pd.testing.assert_frame_equal(one, two)
    assert one["return"].nunique() == 2


def test_runs_in_two_threads_have_the_bits_of_runs_alone(data, tmp_path):
    alone = [TRAIN["cpq"](data, small("cpq", seed=seed), device="cpu", progress=False) for seed in (0, 1)]
    alone[0].save(tmp_path)
    with ThreadPoolExecutor() as pool:
        together = [
            pool.submit(TRAIN["cpq"], data, small("cpq", seed=seed), device="cpu", progress=False) for seed in (0, 1)
        ]
        while not all(run.done() for run in together):  # new weights draw from the global generator, too
            trac.load_run(tmp_path), trac.policy.Policy(8, 2, hidden=(16,))
    assert all(same(one.policy, run.result().policy) for one, run in zip(alone, together, strict=True))


def test_a_list_of_configs_trains_one_after_the_other(data, tmp_path):
    configs = [small("cpq"), small("cpq", seed=1, batch_size=8)]
    runs = cpq(data, configs, device="cpu", progress=False, out=tmp_path)
    for config, run in zip(configs, runs, strict=True):
        assert run.config == config and same(run.policy, cpq(data, config, device="cpu", progress=False).policy)
    assert trac.load_run(tmp_path / "001").config == configs[1]


def test_evaluations_stand_in_the_history_and_choose_the_best(data):
    config = small("coptidice", eval_every=10, eval_episodes=1)
    run = coptidice(data, config, device="cpu", progress=False)
    scores = run.history[["normalized_reward", "normalized_cost"]]
    assert scores.notna().all().all()
    row = run.history.assign(excess=scores.normalized_cost.clip(lower=1)).sort_values(
        ["excess", "normalized_reward"], ascending=[True, False]
    )
    result = trac.evaluate(run.best, task=config.task, cost_limit=8, episodes=1, seed=config.seed)
    assert result.episodes["return"][0] == row["return"].iloc[0]


def test_a_run_that_diverges_is_named(data):
    configs = [small("bcq_lag", critic_learning_rate=1e30), small("bcq_lag")]
    with pytest.raises(TrainingError, match="not finite in run 0 at update 10; 1 of 2 runs are finished") as caught:
        bcq_lag(data, configs, device="cpu", progress=False)
    assert [run.record["failed_step"] for run in caught.value.runs] == [10, None]
    with pytest.raises(EnvError, match="the policy returns an action with a NaN"):
        trac.evaluate(caught.value.runs[0].policy, task="BallCircle", cost_limit=8, episodes=1)


def test_what_is_wrong_is_refused(data, tmp_path):
    with pytest.raises(ConfigError, match=r"^BCQLagConfig\(.{,30}\) is not a CPQConfig: pass one, or a list of them"):
        cpq(data, small("bcq_lag"))
    with pytest.raises(ConfigError, match="the config is for BallRun and the data is of BallCircle"):
        cpq(data, small("cpq", task="BallRun"), progress=False)
    cpq(data, small("cpq"), device="cpu", progress=False, out=tmp_path)
    with pytest.raises(ConfigError, match="holds a run already"):
        cpq(data, small("cpq"), progress=False, out=tmp_path)
    with pytest.raises(ConfigError, match="gamma of run 0 was 0.99, now 0.9"):
        cpq(data, small("cpq", gamma=0.9), device="cpu", progress=False, out=tmp_path, resume=True)
    for name in ("rewards", "costs", "actions"):
        changed = dataclasses.replace(data, **{name: getattr(data, name) / 2})
        with pytest.raises(ConfigError, match=f"the {name} changed"):
            cpq(changed, small("cpq"), device="cpu", progress=False, out=tmp_path, resume=True)


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (CPQConfig, dict(cost_limit=math.inf), "cost_limit=inf: must be a finite number"),
        (CPQConfig, dict(cost_limit=-1), "cost_limit=-1: must be greater than or equal to 0"),
        (CPQConfig, dict(gamma=0), "gamma=0: must be greater than 0"),
        (CPQConfig, dict(steps=0), "steps=0: must be greater than or equal to 1"),
        (CPQConfig, dict(critic_learning_rate=0), "critic_learning_rate=0: must be greater than 0"),
        (CPQConfig, dict(margin=-1), "margin=-1: must be greater than or equal to 0"),
        (CPQConfig, dict(gama=1), "'gama' is not a field of CPQConfig: did you mean gamma"),
        (BCQLagConfig, dict(task="BallRum"), "did you mean BallRun"),
        (BEARLagConfig, dict(kernel="cosine"), "kernel='cosine': must be 'gaussian' or 'laplacian'"),
        (COptiDICEConfig, dict(gamma=1.0), "gamma=1.0: must be less than 1"),
        (CPQConfig, dict(unseen=1.5), "unseen=1.5: must be less than or equal to 1"),
        (BEARLagConfig, dict(mmd_samples=0), "mmd_samples=0: must be greater than or equal to 1"),
        (CDTConfig, dict(heads=0), "heads=0: must be greater than or equal to 1"),
        (CDTConfig, dict(heads=3), "width=64 must be a multiple of heads=3"),
        (CDTConfig, dict(dropout=1.0), "dropout=1.0: must be less than 1"),
        (CDTConfig, dict(target_return="750"), "target_return='750': must be a valid number"),
        (CPQConfig, dict(steps=10.5), "steps=10.5: must be a valid integer"),
        (CPQConfig, dict(penalty=1), "penalty=1: must be a valid boolean"),
        (BCQLagConfig, dict(pid=[0.1, 0.003]), r"pid=\(0.1, 0.003\): entry 2 is missing"),
    ],
)
def test_bad_configs_are_refused(config, change, message):
    with pytest.raises(ValueError, match=message):
        config().replace(**change)


def test_the_benchmarks_settings():
    config = CPQConfig.osrl("BallRun", 20, seed=10)
    assert (config.steps, config.batch_size, config.hidden, config.vae_hidden) == (100_000, 512, (256, 256), 400)
    assert (config.actor_learning_rate, config.critic_learning_rate, config.margin) == (1e-4, 1e-3, 1.5)
    assert CPQConfig.osrl("easysparse", 10).steps == 200_000
    config = BCQLagConfig.osrl("BallRun", 20)
    assert (config.phi, config.mixture, config.pid, config.critics) == (0.05, 0.75, (0.1, 0.003, 0.001), 2)
    config = BEARLagConfig.osrl("BallRun", 20)
    assert (config.mmd_sigma, config.mmd_limit, config.mmd_samples, config.kernel) == (50, 0.05, 10, "gaussian")
    config = COptiDICEConfig.osrl("BallRun", 20)
    assert (config.alpha, config.cost_epsilon, config.scalar_learning_rate) == (0.5, 0.01, 1e-4)
    config = CDTConfig.osrl("BallCircle", 20)
    assert (config.target_return, config.degree, config.ceiling, config.batch_size) == (750, 2, 1000, 2048)
    assert (config.width, config.layers, config.heads, config.dropout) == (128, 3, 8, 0.1)
    with pytest.raises(ConfigError, match="no target return is known for BallCircle at cost_limit=30"):
        CDTConfig.osrl("BallCircle", 30)


def test_importing_one_method_leaves_the_others_unloaded():
    code = "import sys, trac.baselines.bc; print(*sorted(m for m in sys.modules if m.startswith('trac.baselines')))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.split() == ["trac.baselines", "trac.baselines.bc"]


def test_configs_survive_json():
    for method in METHODS.values():
        config = method.Config(seed=3)
        assert method.Config.from_dict(config.to_dict()) == config


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("bcq_lag", dict(tau=0.05, vae_hidden=32, phi=0.95)),
        ("bear_lag", dict(tau=0.05, vae_hidden=32, mmd_limit=1.0)),
        ("coptidice", dict(alpha=0.05, critics=1)),
    ],
)
def test_a_limit_is_met_and_used(name, changes):
    config = METHODS[name].Config(**LONG, **changes, gamma=0.9, hidden=(32, 32), steps=1_500)
    kept, free = (
        episode_cost(TRAIN[name](one_state(), config.replace(cost_limit=limit), device="cpu", progress=False).policy)
        for limit in (25.0, 100.0)
    )
    # The linear program over 41 actions agrees with the answer by hand.
    actions = np.linspace(-1, 1, 41)
    problem = cmdp.CMDP(np.ones((1, 41, 1)), actions[None], np.maximum(actions, 0)[None] ** 2, [1], 0.9)
    limit = losses.discounted_limit(25.0, 0.9, 100)
    assert actions[cmdp.solve(problem, limit).policy[0].argmax()] == pytest.approx(0.5)
    assert 15 < kept < 35 and free > 50


@pytest.mark.parametrize("name", METHODS)
def test_no_update_waits_for_a_gpu(name, data, monkeypatch):
    # `masked_mean` has a way of its own on a GPU; it is tried on the meta device, whose tensors have no values.
    monkeypatch.setattr(cdt, "masked_mean", lambda values, mask: values.mean())
    # torch 2.11 reads the share that a quantile is asked for on the CPU; on a GPU it does not, in order not to wait.
    monkeypatch.setattr(torch, "quantile", lambda values, share: values.sort().values[int(share * (len(values) - 1))])
    one = learner(name, data)
    one.advance(1)  # the optimizers make their state
    with Guard() as guard:
        one.advance(2)
        one.advance(3)
    assert len(guard.operations) > 100


def test_a_masked_mean_is_that_of_the_chosen_entries():
    values, mask = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0)), torch.arange(20).view(4, 5) % 3 > 0
    on_a_gpu = (values * mask.unsqueeze(-1)).mean() * (mask.numel() / mask.sum())
    torch.testing.assert_close(cdt.masked_mean(values, mask), on_a_gpu)
    assert cdt.masked_mean(values.to("meta"), mask.to("meta")).device.type == "meta"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", METHODS)
def test_a_captured_update_is_the_eager_one_and_waits_for_nothing(name, data):
    device = torch.device("cuda", 0)
    eager, captured = (METHODS[name](small(name, steps=20), data, device, capture) for capture in (False, True))
    for one in (eager, captured):
        for step in range(1, 6):
            one.advance(step)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for step in range(6, 21):
                one.advance(step)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert (captured.captured.graph is not None) == captured.repeats
    assert all(torch.equal(value, captured.state[key]) for key, value in eager.state.items())


def test_a_finished_run_goes_without_the_garbage_collector(data):
    one = learner("cpq", data)
    one.advance(1)
    gone = weakref.ref(one)
    gc.disable()
    try:
        del one
        assert gone() is None
    finally:
        gc.enable()
