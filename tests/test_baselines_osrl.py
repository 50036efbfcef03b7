"""The baselines' losses against those of the benchmark's package, osrl-lib, with the same weights, batch and noise.

`make test-osrl` installs that package where nothing else sees it, and runs these tests.
"""

import importlib.util
import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from trac.baselines import learner, learner_of, losses
from trac.baselines.bear_lag import discrepancy
from trac.baselines.cdt import CDTConfig
from trac.baselines.coptidice import advantage, dual_loss
from trac.baselines.cpq import penalised

if importlib.util.find_spec("fsrl") is None:
    # Its trainers import loggers from there, which no loss needs.
    sys.modules["fsrl"], sys.modules["fsrl.utils"] = ModuleType("fsrl"), ModuleType("fsrl.utils")
    sys.modules["fsrl.utils"].DummyLogger = sys.modules["fsrl.utils"].WandbLogger = object
osrl = pytest.importorskip("osrl.algorithms", reason="osrl-lib is not installed: see make test-osrl")

CPU, WIDTHS, DIMS = torch.device("cpu"), (16, 16), dict(state_dim=8, action_dim=2, max_action=1.0)
SHAPE = dict(a_hidden_sizes=list(WIDTHS), c_hidden_sizes=list(WIDTHS), cost_limit=8, episode_len=200)
CRITICS = dict(num_q=2, num_qc=2, vae_hidden_sizes=16, sample_action_num=4)
RATES = dict(actor_lr=0.0, critic_lr=0.0)


@pytest.fixture
def case(data):
    def make(name, **changes):
        shape = dict(hidden=WIDTHS, cost_limit=8, eval_episodes=0) | changes
        method = learner_of(name)(learner_of(name).Config(**shape), data, CPU)
        return method, {key: values[:50] for key, values in method.data.items()}

    return make


def linears(module):
    return [m for m in module.modules() if isinstance(m, nn.Linear)]


@torch.no_grad()
def fill(ensemble, networks):
    for k, network in enumerate(networks):
        for i, layer in enumerate(linears(network)):
            ensemble.weights[i][k], ensemble.biases[i][k] = layer.weight.T, layer.bias


@torch.no_grad()
def fill_mlp(ours, theirs):
    for mine, layer in zip(linears(ours), theirs, strict=True):
        mine.weight.copy_(torch.cat([part.weight for part in layer]) if isinstance(layer, tuple) else layer.weight)
        mine.bias.copy_(torch.cat([part.bias for part in layer]) if isinstance(layer, tuple) else layer.bias)


def fill_actor(ours, theirs):
    fill_mlp(ours.body, [*linears(theirs.net), (theirs.mu_layer, theirs.log_std_layer)])


def fill_vae(ours, theirs):
    fill_mlp(ours.encoder, [theirs.e1, theirs.e2, (theirs.mean, theirs.log_std)])
    fill_mlp(ours.decoder, [theirs.d1, theirs.d2, theirs.d3])


def seeded(function, *arguments):
    torch.manual_seed(1)
    return function(*arguments)


def close(ours, theirs):
    torch.testing.assert_close(ours.detach(), theirs.detach().reshape(ours.shape), rtol=1e-4, atol=1e-6)


def test_cpq(case):
    method, batch = case("cpq", vae_hidden=16)
    torch.manual_seed(0)
    theirs = osrl.CPQ(**DIMS, **SHAPE, **CRITICS, beta=0.5)
    theirs.setup_optimizers(**RATES, alpha_lr=0.0, vae_lr=0.0)
    fill_actor(method.policy, theirs.actor)
    fill_vae(method.vae, theirs.vae)
    for ours, other in ((method.critic, theirs.critic), (method.cost_critic, theirs.cost_critic)):
        fill(ours, other.q_nets)
    s, a, then, r, done = (batch[k] for k in ("observations", "actions", "next_observations", "rewards", "done"))
    assert method.limit() == pytest.approx(theirs.q_thres)
    close(seeded(method.vae.loss, s, a, 0.5), seeded(theirs.vae_loss, s, a)[0])
    following = seeded(method.policy.sample, then)
    q, cost = method.critic(then, following).amin(0), method.cost_critic(then, following).amin(0)
    target = losses.bellman_target(r, penalised(q, cost, method.limit()), 0.99, done)
    close(losses.critic_loss(method.critic(s, a), target), seeded(theirs.critic_loss, s, then, a, r, done)[0])
    actions = seeded(method.policy.sample, s)
    q, cost = method.critic(s, actions).amin(0), method.cost_critic(s, actions).amin(0)
    close(-penalised(q, cost, method.limit()).mean(), seeded(theirs.actor_loss, s)[0])


def fill_double(method, theirs):
    for ours, other in ((method.critic, theirs.critic), (method.cost_critic, theirs.cost_critic)):
        fill(ours, [*other.q1_nets, *other.q2_nets])
    method.critic_target.load_state_dict(method.critic.state_dict())
    method.cost_target.load_state_dict(method.cost_critic.state_dict())


def check_critics(method, theirs, batch, following, actions):
    s, a, then, r, c, done = (
        batch[k] for k in ("observations", "actions", "next_observations", "rewards", "costs", "done")
    )
    metrics = method.update_critics(batch, following, actions)
    close(metrics["critic_loss"], seeded(theirs.critic_loss, s, then, a, r, done)[0])
    close(metrics["cost_critic_loss"], seeded(theirs.cost_critic_loss, s, then, a, c, done)[0])


def test_bcq_lag(case):
    method, batch = case("bcq_lag", critics=2, samples=4, vae_hidden=16)
    torch.manual_seed(0)
    theirs = osrl.BCQL(**DIMS, **SHAPE, **CRITICS)
    theirs.setup_optimizers(**RATES, vae_lr=0.0)
    policy = method.policy
    fill_mlp(policy.perturbation, linears(theirs.actor))
    fill_vae(policy.vae, theirs.vae)
    fill_double(method, theirs)
    following = batch["next_observations"].repeat_interleave(4, 0)
    # The policy's loss first: the critics' updates move them.
    q, penalty, _ = method.lagrangian(batch["observations"], seeded(policy.actions, batch["observations"]))
    close(penalty - q.mean(), seeded(theirs.actor_loss, batch["observations"])[0])
    check_critics(method, theirs, batch, following, seeded(policy.actions, following))


def test_bear_lag(case):
    method, batch = case("bear_lag", critics=2, samples=4, vae_hidden=16)
    torch.manual_seed(0)
    theirs = osrl.BEARL(**DIMS, **SHAPE, **CRITICS, num_samples_mmd_match=4, start_update_policy_step=0)
    theirs.setup_optimizers(**RATES, vae_lr=0.0, alpha_lr=0.0)
    fill_actor(method.policy, theirs.actor)
    fill_double(method, theirs)
    following = batch["next_observations"].repeat_interleave(4, 0)
    check_critics(method, theirs, batch, following, seeded(method.policy.sample, following))
    x, y = torch.randn(2, 6, 4, 2)
    close(discrepancy(x, y, 50.0, "gaussian"), theirs.mmd_loss_gaussian(x, y, 50.0))
    close(discrepancy(x, y, 10.0, "laplacian"), theirs.mmd_loss_laplacian(x, y, 10.0))


def test_coptidice(case, data):
    method, batch = case("coptidice", normalized_limit=False)
    torch.manual_seed(0)
    spread = (data.observations.std(0), data.actions.std(0))
    theirs = osrl.COptiDICE(**DIMS, **SHAPE, f_type="softchi", init_state_propotion=method.first,
                            observations_std=spread[0], actions_std=spread[1], num_nu=2, num_chi=2)  # fmt: skip
    theirs.setup_optimizers(**RATES, scalar_lr=0.0)
    fill(method.nu, theirs.nu_network.q_nets)
    fill(method.chi, theirs.chi_network.q_nets)
    names = ("observations", "next_observations", "actions", "rewards", "costs", "done", "first")
    stats = theirs.update([batch[name] for name in names])
    nu, nu_next = (method.nu(batch[name]).amin(0) for name in ("observations", "next_observations"))
    multiplier = nn.functional.softplus(method.multiplier).detach()
    e = advantage(batch, nu, nu_next, multiplier, 0.99)
    loss = dual_loss(e, nu * batch["first"] / method.first, 0.5, 0.99)
    assert float(loss.detach()) == pytest.approx(stats["loss/nu_loss"], rel=1e-4)
    assert float(multiplier) == pytest.approx(stats["loss/lmbda"])
    metrics = method.update(batch)
    assert float(metrics["kl"]) == pytest.approx(stats["loss/D_kl"], rel=1e-3)
    assert method.limit() == pytest.approx(theirs.qc_thres)


def test_cdt(data):
    config = CDTConfig(width=16, heads=2, layers=2, cost_limit=8, eval_episodes=0, batch_size=8)
    method = learner_of("cdt")(config, data, CPU)
    theirs = osrl.CDT(**DIMS, seq_len=10, episode_len=200, embedding_dim=16, num_layers=2, num_heads=2, use_rew=True,
                      use_cost=True, cost_transform=True, stochastic=True, target_entropy=-2)  # fmt: skip
    torch.manual_seed(0)
    for p in theirs.parameters():
        nn.init.normal_(p, std=0.2)
    policy = method.policy
    with torch.no_grad():
        policy.times.weight.copy_(theirs.timestep_emb.weight[:200])
        pairs = [
            *zip(policy.embed, (theirs.return_emb, theirs.cost_emb, theirs.state_emb, theirs.action_emb), strict=True),
            *zip(policy.norms, (theirs.emb_norm, theirs.out_norm), strict=True),
            (policy.cost_head, theirs.cost_pred_head),
        ]
        for ours, other in zip(policy.blocks, theirs.blocks, strict=True):
            pairs += zip(ours.norms, (other.norm1, other.norm2), strict=True)
            pairs += [(ours.join, other.attention.out_proj), (ours.widen, other.mlp[0]), (ours.narrow, other.mlp[2])]
            ours.attend.weight.copy_(other.attention.in_proj_weight)
            ours.attend.bias.copy_(other.attention.in_proj_bias)
        for ours, other in pairs:
            ours.load_state_dict(other.state_dict())
        head = (theirs.action_head.mu, theirs.action_head.log_std)
        fill_mlp(policy.action_head, [head])
    with learner.seeded(CPU, 0):
        batch = method.batch()
    s, a, returns, to_pay, times = (batch[k] for k in ("observations", "actions", "returns", "to_pay", "times"))
    expected, costs, _ = theirs(s, a, returns, to_pay, times, ~batch["mask"])
    following, logits = policy(s, a, returns, to_pay, times)
    mask = batch["mask"]
    close(following.log_prob(a)[mask].mean(), expected.log_prob(a)[mask].mean())
    close(following.entropy()[mask].mean(), expected.entropy()[mask].mean())
    close(logits.log_softmax(-1)[mask], costs[mask])
