"""Learn a task online under a moving cost limit, and keep every episode.

Soft actor-critic learns on the reward `r - λ c`. The multiplier λ follows the cost of the current policy to a cost
limit that starts loose and is tightened along the run, so that one run sweeps the frontier of return against cost.
Two kinds of episode are kept, from the whole of training: the noisy ones that the agent learns from, and noise-free
rollouts of checkpoints.

Where the settings have `search`, augmented random search over linear policies takes the place of soft actor-critic
(Mania et al. 2018, arXiv 1803.07055). It takes less than half an hour, and starts anew after it was stopped.
"""

import json
import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from collect_settings import Collection

from trac import envs
from trac.baselines.online import PIController, stable_baselines3
from trac.baselines.recorder import Episode, Recorder, relabel
from trac.data.files import atomic
from trac.data.tasks import TASKS

SAVE_EVERY = 300  # seconds between two states of a collection on the disk


def collect(task: str, settings: Collection, seed: int, state: Path | None = None) -> list[Episode]:
    """Train, and return all training episodes and all rollouts in the order in which they were made.

    Args:
        task: name of a task in `trac.TASKS`.
        settings: the length and shape of training.
        seed: of the agent and its simulator; the rollouts' simulator starts from `seed + 1`, the refill's from
            `seed + 2`.
        state: a file in which the course is kept every `SAVE_EVERY` seconds, and from which it goes on, to the same
            bits as without a break.
    """
    torch.set_num_threads(1)  # the same seed gives the same bits for one thread count only
    env = Recorder(_make(task), settings.reward_scale)
    # The refill has a simulator of its own, so that it leaves the course of training as it was.
    checkpoint_env, refill_env = (_started(task, seed + i) for i in (1, 2))
    recorders = [env, checkpoint_env, refill_env]
    learner = _random_search if settings.search else _soft_actor_critic
    model = learner(env, settings, seed)
    order: list[int] = []  # which of the recorders made each episode
    multiplier = PIController(settings.integral_gain, settings.proportional_gain, settings.max_multiplier)
    course = json.dumps([task, seed, asdict(settings)])
    if state and state.is_file():
        order = _restore(state, course, model, recorders, multiplier)
    began = saved = time.monotonic()
    first = model.num_timesteps
    for step in range(first + settings.checkpoint_every, settings.steps + 1, settings.checkpoint_every):
        model.learn(settings.checkpoint_every, reset_num_timesteps=False)
        order += [0] * (len(env.episodes) - order.count(0))
        rolled = rollouts(model, checkpoint_env, settings.rollouts)
        order += [1] * settings.rollouts

        cost = float(np.mean([episode["costs"].sum() for episode in rolled]))
        limit = float(np.interp(step, [at for at, _ in settings.limits], [limit for _, limit in settings.limits]))
        made = _in_order(order, recorders)
        if cost <= settings.max_cost and _near(made, cost, settings.max_cost / 16) < settings.scarce:
            rollouts(model, refill_env, settings.refill)
            order += [2] * settings.refill
        env.multiplier = multiplier(cost - limit)
        if not settings.search:
            relabel(model.replay_buffer, env)

        mean_return = float(np.mean([episode["rewards"].sum() for episode in rolled]))
        left = (time.monotonic() - began) / (step - first) * (settings.steps - step)
        print(
            f"{task} step {step}/{settings.steps}  limit {limit:.0f}  λ {env.multiplier:.2f}  "
            f"return {mean_return:.0f}  cost {cost:.1f}  {left / 60:.0f} min left",
            flush=True,
        )
        # Before learning starts SB3 draws actions from a generator that is not kept; a random search is short.
        kept = state and not settings.search and settings.learning_starts <= step < settings.steps
        if kept and time.monotonic() - saved >= SAVE_EVERY:
            _keep(state, course, model, recorders, multiplier, order)
            saved = time.monotonic()
    return _in_order(order, recorders)


def _soft_actor_critic(env: Recorder, settings: Collection, seed: int):
    networks: dict = dict(net_arch=list(settings.hidden), optimizer_kwargs=dict(fused=True))
    if settings.polar:
        from collect_polar import Polar  # only where Stable-Baselines3 is there

        networks["features_extractor_class"] = Polar
    return stable_baselines3().SAC(
        "MlpPolicy",
        env,
        seed=seed,
        device="cpu",
        policy_kwargs=networks,
        learning_rate=settings.learning_rate,
        batch_size=settings.batch_size,
        buffer_size=settings.steps,
        learning_starts=settings.learning_starts,
        train_freq=settings.train_freq,
        gradient_steps=settings.gradient_steps,
        gamma=settings.gamma,
        ent_coef="auto_0.1",
        target_entropy=settings.target_entropy,
    )


def _random_search(env: Recorder, settings: Collection, seed: int):
    from sb3_contrib import ARS  # only .venv-safety has it

    step = dict(delta_std=settings.search, learning_rate=settings.learning_rate)
    return ARS("LinearPolicy", env, n_delta=8, n_top=4, seed=seed, **step)


def _started(task: str, seed: int) -> Recorder:
    env = Recorder(_make(task))
    env.reset(seed=seed)
    env.reset()
    return env


def _make(task: str) -> gym.Env:
    return Elsewhere(task) if TASKS[task].suite == "metadrive" else envs.make(task)


class Elsewhere(gym.Env):
    """A task's simulator in a process of its own: MetaDrive has only one in a process."""

    def __init__(self, task: str):
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        context.Process(target=_simulate, args=(task, other), daemon=True).start()
        other.close()  # so that a process that has died is noticed
        self.observation_space, self.action_space = self._pipe.recv()

    def reset(self, *, seed: int | None = None, options=None):
        self._pipe.send(("reset", seed))
        return self._pipe.recv()

    def step(self, action):
        self._pipe.send(("step", action))
        return self._pipe.recv()


def _simulate(task: str, pipe) -> None:
    env = envs.make(task)
    pipe.send((env.observation_space, env.action_space))
    while True:
        try:
            call, argument = pipe.recv()
        except EOFError:  # the collection has ended
            return
        if call == "reset":
            pipe.send((env.reset(seed=argument)[0], {}))
        else:
            *result, info = env.step(argument)
            pipe.send((*result, {"cost": info["cost"]}))


def rollouts(model, env: Recorder, episodes: int) -> list[Episode]:
    """Record that many noise-free episodes, from a simulator that has been reset; leave it reset."""
    for _ in range(episodes):
        done = False
        while not done:
            action, _ = model.predict(env.observation, deterministic=True)
            _, _, terminal, timeout, _ = env.step(action)
            done = terminal or timeout
        env.reset()
    return env.episodes[len(env.episodes) - episodes :]


def _in_order(order: Sequence[int], recorders: Sequence[Recorder]) -> list[Episode]:
    made = [iter(recorder.episodes) for recorder in recorders]
    return [next(made[which]) for which in order]


BUFFER = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def _keep(file: Path, course: str, model, recorders: Sequence[Recorder], multiplier: PIController, order) -> None:
    """Write all that `_restore` needs: of a simulator, whose state cannot be saved, the actions that it was given."""
    _, key, *rest = np.random.get_state()
    state = {
        "course": course,
        "order": torch.tensor(order),
        "actions": [torch.from_numpy(recorder.actions()) for recorder in recorders],
        "integral": multiplier.integral,
        "multiplier": recorders[0].multiplier,
        "steps": model.num_timesteps,
        "parameters": model.get_parameters(),
        "log_ent_coef": model.log_ent_coef.detach(),
        "buffer": {k: torch.from_numpy(getattr(model.replay_buffer, k)[: model.replay_buffer.pos]) for k in BUFFER},
        "torch": torch.get_rng_state(),
        "numpy": [torch.from_numpy(key.astype(np.int64)), *rest],
    }
    with atomic(file) as temporary:
        torch.save(state, temporary)


def _restore(file: Path, course: str, model, recorders: Sequence[Recorder], multiplier: PIController) -> list[int]:
    """Bring everything to where it was when `_keep` wrote the file; return which recorder made each episode."""
    state = torch.load(file, weights_only=True)
    if state["course"] != course:
        raise SystemExit(f"{file} is of another seed or of other settings: delete it to start anew.")
    print(f"going on from {file}: step {state['steps']}, simulating what was done", flush=True)
    model._last_obs = model.env.reset()  # with the seed, as SB3 does before its first step
    for action in state["actions"][0].numpy():
        model._last_obs, *_ = model.env.step(action[None])
    for recorder, actions in zip(recorders[1:], state["actions"][1:], strict=True):
        for action in actions.numpy():
            _, _, terminal, timeout, _ = recorder.step(action)
            if terminal or timeout:
                recorder.reset()
    multiplier.integral, recorders[0].multiplier = state["integral"], state["multiplier"]
    model.set_parameters(state["parameters"], device="cpu")
    model.log_ent_coef.data.copy_(state["log_ent_coef"])
    model.num_timesteps = state["steps"]
    model.replay_buffer.pos = len(state["buffer"]["rewards"])
    for name, rows in state["buffer"].items():
        getattr(model.replay_buffer, name)[: len(rows)] = rows.numpy()
    torch.set_rng_state(state["torch"])
    key, *rest = state["numpy"]
    np.random.set_state(("MT19937", key.numpy().astype(np.uint32), *rest))
    return state["order"].tolist()


def _near(episodes: Sequence[Episode], cost: float, width: float) -> int:
    return sum(abs(float(episode["costs"].sum()) - cost) <= width for episode in episodes)
