"""The baselines' losses against those of the benchmark's package, osrl-lib, with the same weights, batch and noise.

`make test-osrl` installs that package where nothing else sees it, and runs these tests.
"""

import pytest
import torch
from baseline_cases import CPU, METHODS, small
from torch import nn

from trac.baselines import bc_all
from trac.baselines.coptidice import advantage, dual_loss
from trac.baselines.offline import seeded as drawn_from
from trac.config import TracConfig

pytest.importorskip("osrl", reason="osrl-lib is not installed: see make test-osrl")
import against_osrl


@pytest.fixture
def case(data):
    """Our run and osrl-lib's model of the same settings, neither of which moves, and a batch."""

    def make(name, rates=("actor_lr", "critic_lr"), **changes):
        method = METHODS[name](small(name, **changes), data, CPU)
        for optimizer in method.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = 0.0
        torch.manual_seed(0)
        theirs = against_osrl.model_of(method)
        theirs.setup_optimizers(**dict.fromkeys(rates, 0.0))
        return method, theirs, {key: values[:50] for key, values in method.data.items()}

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


def check_update(method, theirs, batch, between=lambda: None):
    """Each loss of an update. Ours draws the next actions once for both critics, theirs for each.

    Args:
        between: draws what ours draws between the critics and the policy, and theirs elsewhere.
    """
    metrics = seeded(method.update, batch)
    s, a, then, r, c, done = (
        batch[k] for k in ("observations", "actions", "next_observations", "rewards", "costs", "done")
    )
    close(metrics["vae_loss"], seeded(theirs.vae_loss, s, a)[0])
    state = torch.get_rng_state()
    close(metrics["critic_loss"], theirs.critic_loss(s, then, a, r, done)[0])
    between()
    close(metrics["policy_loss"], theirs.actor_loss(s)[0])
    torch.set_rng_state(state)
    close(metrics["cost_critic_loss"], theirs.cost_critic_loss(s, then, a, c, done)[0])


def fill_critics(method, theirs, networks):
    for ours, other in ((method.critic, theirs.critic), (method.cost_critic, theirs.cost_critic)):
        fill(ours, networks(other))
    method.critic_target.load_state_dict(method.critic.state_dict())
    method.cost_target.load_state_dict(method.cost_critic.state_dict())


def test_bc_all(data):
    run = bc_all(data, TracConfig(hidden=(16, 16), steps=1, bc_steps=1, eval_episodes=0), device="cpu", progress=False)
    theirs = against_osrl.package().BC(state_dim=8, action_dim=2, max_action=1.0, a_hidden_sizes=[16, 16])
    theirs.setup_optimizers(actor_lr=0.0)
    with torch.no_grad():
        for layer, ours in zip(linears(theirs), run.policy.layers, strict=True):
            layer.load_state_dict(ours.state_dict())
    s, a = (torch.as_tensor(array[:50]) for array in (data.observations, data.actions))
    # Ours is a sum over the two action dimensions, theirs a mean.
    close(-run.policy.log_prob(s, a).mean(), 2 * theirs.actor_loss(s, a)[0])


def test_cpq(case):
    rates = ("actor_lr", "critic_lr", "alpha_lr", "vae_lr")
    method, theirs, batch = case("cpq", rates, vae_hidden=16)
    fill_actor(method.policy, theirs.actor)
    fill_vae(method.vae, theirs.vae)
    fill_critics(method, theirs, lambda critic: critic.q_nets)
    theirs.log_alpha.fill_(-torch.inf)  # its penalty is a constant in the loss
    assert method.limit() == pytest.approx(theirs.q_thres)
    samples = method.config.samples
    # The penalty's actions.
    check_update(method, theirs, batch, lambda: torch.randn(50 * samples, 2))


def test_bcq_lag(case):
    method, theirs, batch = case("bcq_lag", ("actor_lr", "critic_lr", "vae_lr"), critics=2, vae_hidden=16)
    fill_mlp(method.policy.perturbation, linears(theirs.actor))
    method.perturbation_target.load_state_dict(method.policy.perturbation.state_dict())
    fill_vae(method.policy.vae, theirs.vae)
    fill_critics(method, theirs, lambda critic: [*critic.q1_nets, *critic.q2_nets])
    check_update(method, theirs, batch)


@pytest.mark.parametrize("kernel", ["gaussian", "laplacian"])
def test_bear_lag(case, kernel):
    rates = ("actor_lr", "critic_lr", "vae_lr", "alpha_lr")
    method, theirs, batch = case("bear_lag", rates, critics=2, vae_hidden=16, kernel=kernel)
    fill_actor(method.policy, theirs.actor)
    method.policy_target.load_state_dict(method.policy.state_dict())
    fill_vae(method.vae, theirs.vae)
    fill_critics(method, theirs, lambda critic: [*critic.q1_nets, *critic.q2_nets])
    check_update(method, theirs, batch)


def test_coptidice(case):
    method, theirs, batch = case("coptidice", ("actor_lr", "critic_lr", "scalar_lr"), normalized_limit=False)
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
    method = METHODS["cdt"](small("cdt", layers=2), data, CPU)
    theirs = against_osrl.model_of(method)
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
    with drawn_from(CPU, 0):
        batch = method.batch()
    s, a, returns, cost_to_go, times = (batch[k] for k in ("observations", "actions", "returns", "cost_to_go", "times"))
    expected, costs, _ = theirs(s, a, returns, cost_to_go, times, ~batch["mask"])
    following, logits = policy(s, a, returns, cost_to_go, times)
    mask = batch["mask"]
    close(following.log_prob(a)[mask].mean(), expected.log_prob(a)[mask].mean())
    close(following.entropy()[mask].mean(), expected.entropy()[mask].mean())
    close(logits.log_softmax(-1)[mask], costs[mask])


@pytest.mark.parametrize("name", METHODS)
def test_an_update_of_the_benchmark_moves_the_weights(data, name):
    method = METHODS[name](small(name), data, CPU)
    model = against_osrl.model_of(method)
    update = against_osrl.update_of(model, method)
    before = [p.detach().clone() for p in model.parameters()]
    update()
    assert any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
