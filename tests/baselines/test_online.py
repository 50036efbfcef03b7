"""The online baselines: the multiplier's answer in a case by hand, and what a run starts from."""

import os
import signal

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import same

import trac
from trac.baselines import bc_all
from trac.baselines.online import PIController
from trac.baselines.recorder import Recorder
from trac.config import ConfigError
from trac.core import fit
from trac.evaluate import rank
from trac.policy import Policy
from trac.train import TrainingError

pytest.importorskip("stable_baselines3")
from trac.baselines.ppo_lag import PPOLag, PPOLagConfig, ppo_lag
from trac.baselines.sac_lag import SACLag, SACLagConfig, sac_lag

STEPS = 10  # of an episode


class OneState(gym.Env):
    """Reward a and cost (a)+² for each of 10 steps.

    Under a limit of 2.5 a step may cost 1/4: the best action is 1/2, where the slopes 1 and 2 λ a agree for λ = 1.
    """

    observation_space = gym.spaces.Box(-1, 1, (2,))
    action_space = gym.spaces.Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return np.ones(2, dtype=np.float32), {}

    def step(self, action):
        self.time += 1
        a = float(action[0])
        return np.ones(2, dtype=np.float32), a, False, self.time == STEPS, {"cost": max(a, 0.0) ** 2}


def test_the_multiplier_by_hand():
    multiplier = PIController(0.1, 0.5, largest=2.0)
    # Integral 0.2, 0.3, 0 (not below), 2 (not above).
    assert [multiplier(excess) for excess in (2.0, 1.0, -9.0, 30.0)] == pytest.approx([1.2, 0.8, 0.0, 2.0])
    assert multiplier.integral == 2.0


def test_the_multiplier_comes_to_rest_where_the_limit_is_met():
    multiplier, action = PIController(0.02, 0.05, largest=50.0), 1.0
    for _ in range(300):
        found = multiplier(STEPS * action**2 - 2.5)
        action = 1.0 if found <= 0.5 else 1 / (2 * found)  # the best answer to a - λ a²
    assert (found, action) == pytest.approx((1.0, 0.5), abs=1e-6)


def small(method, **changes):
    changes = (dict(learning_starts=100) if method is SACLag else {}) | changes
    return method.Config(
        **dict(task="BallRun", steps=400, every=200, hidden=(16, 16), batch_size=20, eval_episodes=2) | changes
    )


@pytest.mark.parametrize(("method", "train"), [(SACLag, sac_lag), (PPOLag, ppo_lag)])
def test_a_run_repeats_is_saved_and_counts_what_it_paid(method, train, tmp_path):
    made = []

    def make():
        made.append(Recorder(trac.envs.make("BallRun")))
        return made[-1]

    np.random.seed(7)
    torch.manual_seed(7)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    run = train(small(method, initial_multiplier=3.0, eval_every=200), progress=False, env=make, out=tmp_path)
    assert np.array_equal(before[0], np.random.get_state()[1]) and torch.equal(before[1], torch.get_rng_state())
    # Looking at the policy on the way changes nothing of what is learned.
    again = train([small(method, initial_multiplier=3.0)], progress=False)[0]
    assert same(run.policy, again.policy)
    assert run.history.tail(1).equals(again.history.tail(1)) and run.history.step.tolist() == [200, 400]
    learned = ["step", "episodes", "noisy_return", "noisy_cost", "multiplier", "cumulative_cost"]
    assert run.history[learned].equals(again.history[learned]) and again.history["return"].isna().tolist() == [
        True,
        False,
    ]

    costs = [episode["costs"].sum() for episode in made[0].episodes]
    assert run.history.episodes.tolist() == [2, 4]
    assert run.history.cumulative_cost.tolist() == [sum(costs[:2]), sum(costs)]
    assert run.history.noisy_cost.tolist() == [np.mean(costs[:2]), np.mean(costs[2:])]
    multiplier = PIController(0.02, 0.05, 50.0, initial=3.0)
    assert run.history.multiplier.tolist() == [multiplier(cost - 20) for cost in run.history.noisy_cost]

    loaded = trac.load_run(tmp_path)
    assert loaded.config == run.config and loaded.record["algorithm"] == method.algorithm
    assert "stable-baselines3" in loaded.record["versions"] and not (tmp_path / "checkpoints").exists()
    with pytest.raises(ConfigError, match="holds a run already"):
        train(small(method), progress=False, env=make, out=tmp_path)
    options = dict(task="BallRun", cost_limit=20, episodes=2, workers=1)
    one, two = (trac.evaluate(policy, **options).episodes for policy in (run.policy, loaded.policy))
    assert one.equals(two)
    assert run.history["return"].iloc[-1] == one["return"].mean()
    ranks = [rank(row, 20) for _, row in run.history.iterrows()]
    best = trac.evaluate(loaded.best, **options).episodes
    assert run.history["return"].iloc[ranks.index(max(ranks))] == best["return"].mean() and again.best is None


@pytest.mark.parametrize(("method", "train"), [(SACLag, sac_lag), (PPOLag, ppo_lag)])
def test_in_a_list_each_run_is_as_alone(method, train):
    configs = [small(method, steps=200, eval_episodes=0, seed=seed) for seed in (0, 1)]
    runs = train(configs, progress=False)
    assert [run.config for run in runs] == configs and not same(runs[0].policy, runs[1].policy)
    assert same(runs[1].policy, train(configs[1], progress=False).policy)


@pytest.mark.parametrize("method", [SACLag, PPOLag])
def test_the_runs_policy_is_the_models_mean(method):
    learner = method(small(method), Recorder(trac.envs.make("BallRun")), "cpu", None)
    observations = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    expected, _ = learner.model.predict(observations, deterministic=True)
    np.testing.assert_allclose(learner.policies()[0].act(observations), expected, atol=1e-6)


def test_the_buffer_starts_with_the_data_and_every_price_is_the_multipliers():
    data = trac.load("BallRun")
    env = Recorder(trac.envs.make("BallRun"), 0.1)
    learner = SACLag(small(SACLag, reward_scale=0.1), env, "cpu", data)
    buffer, size = learner.model.replay_buffer, len(data)
    assert buffer.size() == size
    for name in ("observations", "next_observations", "actions"):
        np.testing.assert_array_equal(getattr(buffer, name)[:size, 0], getattr(data, name))
    np.testing.assert_array_equal(buffer.dones[:size, 0], data.terminals | data.timeouts)
    np.testing.assert_array_equal(buffer.timeouts[:size, 0], data.timeouts & ~data.terminals)
    env.multiplier = 3.0
    learner.model.learn(200)
    learner.multiplier_moved()
    assert buffer.size() == size + 200
    made = env.episodes[len(data.starts) :]
    rewards = np.concatenate([data.rewards, *(episode["rewards"] for episode in made)])
    costs = np.concatenate([data.costs, *(episode["costs"] for episode in made)])
    np.testing.assert_allclose(buffer.rewards[: size + 200, 0], 0.1 * (rewards - 3 * costs), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(buffer.actions[size : size + 200, 0], np.concatenate([e["actions"] for e in made]))
    # The data's costs were paid by others.
    assert env.cumulative_cost == sum(episode["costs"].sum() for episode in made)


def test_ppo_starts_from_the_cloned_policy(data):
    shape = dict(hidden=(16, 16), eval_episodes=0, steps=20, bc_steps=20)
    config = small(PPOLag, task="BallCircle")
    observations = data.observations[:5]
    for kind in ("deterministic", "gaussian"):
        cloned = bc_all(data, trac.TracConfig(**shape, policy=kind, cost_limit=8), progress=False).policy
        learner = PPOLag(config, Recorder(trac.envs.make("BallCircle")), "cpu", cloned)
        np.testing.assert_allclose(learner.policies()[0].act(observations), cloned.act(observations), atol=1e-6)
    with pytest.raises(ConfigError, match=r"init is for .* sizes \(8, 2\) and BallRun has \(7, 2\)"):
        ppo_lag(config.replace(task="BallRun"), init=cloned, progress=False)
    with pytest.raises(ConfigError, match=r"init has hidden=\(16, 16\) and the config hidden=\(8,\)"):
        ppo_lag(config.replace(hidden=(8,)), init=cloned, progress=False)


def test_what_is_wrong_is_refused(data):
    with pytest.raises(ConfigError, match=r"PPOLagConfig\(.*\) is not a SACLagConfig: pass one, or a list of them"):
        sac_lag(PPOLagConfig())
    with pytest.raises(ConfigError, match=r"Trajectories\(.* is not a PPOLagConfig: pass one"):
        ppo_lag(data)
    with pytest.raises(ConfigError, match="mine is a task of your own: pass env=, a function"):
        sac_lag(small(SACLag, task="mine"))
    with pytest.raises(ConfigError, match="init is a str: pass a policy"):
        ppo_lag(small(PPOLag), init="not a policy", progress=False)
    with pytest.raises(ConfigError, match="buffer is a str: pass trajectories"):
        sac_lag(small(SACLag), buffer="BallRun", progress=False)
    with pytest.raises(ConfigError, match="the config is for BallRun and the buffer's data is of BallCircle"):
        sac_lag(small(SACLag), buffer=data, progress=False)
    with pytest.raises(ConfigError, match="learning_starts=400 must be below steps=400, or nothing is learned"):
        sac_lag(small(SACLag, learning_starts=400), progress=False)
    with pytest.raises(ConfigError, match="device='cuda'.*sees no CUDA|device='cuda'.*sees 0 CUDA"):
        ppo_lag(small(PPOLag), device="cuda", progress=False)
    for size in (1, 30, 400):
        with pytest.raises(ConfigError, match=f"batch_size={size} must be a divisor of every=200, and above 1"):
            small(PPOLag, batch_size=size)
    with pytest.raises(ConfigError, match="steps=300 must be a multiple of every=200"):
        SACLagConfig(steps=300, every=200)
    with pytest.raises(ConfigError, match="every=200 must be a multiple of train_freq=7"):
        SACLagConfig(steps=600, every=200, train_freq=7)
    with pytest.raises(ConfigError, match="cost_limit=inf: must be a finite number"):
        PPOLagConfig(cost_limit=float("inf"))
    with pytest.raises(ConfigError, match="max_multiplier=1.0 must be at least initial_multiplier=2.0"):
        PPOLagConfig(initial_multiplier=2.0, max_multiplier=1.0)
    with pytest.raises(ConfigError, match="eval_every=300 must be a multiple of every=200"):
        small(PPOLag, eval_every=300)
    with pytest.raises(ValueError, match=r"env= needs reward_range=\(lowest, highest\)"):
        ppo_lag(small(PPOLag, task="one_state"), env=OneState, progress=False)


def test_an_environment_that_is_taken_for_the_default_task_is_told():
    with pytest.warns(UserWarning, match="env= is taken for BallCircle, the default task, and scored on its scale"):
        ppo_lag(small(PPOLag, task="BallCircle", eval_episodes=0), env=OneState, progress=False)


def test_a_run_whose_evaluation_fails_is_saved(tmp_path, monkeypatch):
    def crash(*arguments, **options):
        raise RuntimeError("the simulator is gone")

    monkeypatch.setattr(fit, "evaluate_many", crash)
    with pytest.raises(TrainingError, match=r"after update 400 failed .*is gone.*and in") as caught:
        sac_lag(small(SACLag), progress=False, out=tmp_path)
    loaded = trac.load_run(tmp_path)
    assert same(loaded.policy, caught.value.runs[0].policy) and loaded.history.step.tolist() == [200, 400]
    assert loaded.record["failed_step"] == 400


def test_a_run_without_an_end_of_an_episode_says_so():
    def long():
        return gym.wrappers.TimeLimit(type("Long", (OneState,), {"step": step})(), 500)

    def step(self, action):
        return np.ones(2, dtype=np.float32), 0.0, False, False, {"cost": 1.0}

    with pytest.warns(UserWarning, match="no episode ended within steps=400, so the cost limit was not learned from"):
        ppo_lag(small(PPOLag, task="one_state", eval_episodes=0), env=long, progress=False)


def test_ctrl_c_promises_nothing(tmp_path, monkeypatch):
    advance = SACLag.advance

    def press(self, step):
        advance(self, step)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(SACLag, "advance", press)
    with pytest.raises(KeyboardInterrupt, match="stopped after update 200 of 400; not saved: there is no checkpoint"):
        sac_lag(small(SACLag), progress=False, out=tmp_path)


def test_simulators_are_closed_one_after_the_other():
    """Of MetaDrive, for one, a process has one simulator."""
    running = []

    class Single(OneState):
        def __init__(self):
            assert not running, "there is another one"
            running.append(self)

        def close(self):
            running.remove(self)

    config = small(SACLag, task="one_state", eval_episodes=0)
    sac_lag([config, config], env=Single, progress=False)
    with pytest.raises(ConfigError, match="hidden"):
        init = Policy(2, 1, hidden=(4,))
        ppo_lag(small(PPOLag, task="one_state", eval_episodes=0), env=Single, init=init, progress=False)
    assert not running


@pytest.mark.slow
@pytest.mark.parametrize(
    ("train", "config"),
    [
        (sac_lag, SACLagConfig(steps=6_000, every=100, train_freq=2, learning_starts=200, entropy=-3.0, batch_size=64)),
        (ppo_lag, PPOLagConfig(steps=24_000, every=400, noise=0.1, batch_size=100, target_kl=0.05)),
    ],
)
def test_a_limit_is_met_and_used(train, config):
    config = config.replace(cost_limit=2.5, hidden=(32, 32), gamma=0.9, integral_gain=0.03, proportional_gain=0.1)
    config = config.replace(task="one_state", reward_scale=1.0, eval_episodes=1)
    run = train(config, env=OneState, reward_range=(0, STEPS), progress=False)
    late = run.history.tail(len(run.history) // 4)
    assert late.noisy_cost.mean() == pytest.approx(2.5, rel=0.15)
    assert late.multiplier.mean() == pytest.approx(1.0, rel=0.3)
    assert run.policy.act(np.ones(2))[0] == pytest.approx(0.5, abs=0.1)
    assert late.normalized_reward.iloc[-1] == pytest.approx(0.5, abs=0.1)
