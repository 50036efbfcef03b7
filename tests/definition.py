"""What an update of TraC must compute, by autograd over the functions of trac/score.py, and what it must not do."""

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from trac import score
from trac.core.learner import _SUMS


def plain_update(stack, m, config, segments, step, masks=None):
    """Gradient (P,) and sums of run m's update: by autograd, from the weights and the batch that the learner has now.

    Args:
        masks: of (config, rows, step): what the hidden activations are multiplied with; None: without dropout.
    """
    device, chosen = stack.device, stack.batch_index[m].cpu().numpy() - stack.offsets[m]
    rows = segments.starts[chosen][:, None] + np.arange(segments.length)
    policy = stack.policies()[m].to(device)
    x, actions = (values[torch.as_tensor(rows, device=device)] for values in stack.data.values())
    x = x.flatten(0, 1)
    drawn = masks(config, len(x), step) if masks else [1.0] * len(config.hidden)
    for layer, mask in zip(policy.layers[:-1], drawn, strict=True):
        x = F.relu(layer(x)) * mask
    output = policy.layers[-1](x)
    log_prob = policy.log_prob_of(output, actions.flatten(0, 1)).view(rows.shape)
    label, weight = (torch.as_tensor(values[chosen], device=device) for values in (segments.labels, segments.weights))
    sums = dict.fromkeys(_SUMS, torch.zeros((), device=device)) | {"updates": torch.ones(())}
    if step <= config.bc_steps:
        loss = -log_prob.mean()
    else:
        reference = stack.references(step)[m].to(device)
        with torch.no_grad():
            cached = reference.log_prob(stack.data["observations"], stack.data["actions"])
        cached = cached[torch.as_tensor(rows, device=device)] * (config.reference != "none")
        s = score.segment_score(log_prob - cached, alpha=config.alpha, gamma=config.gamma)
        loss, accuracy = score.trac_loss(s, weight, label, config.eta, clamp=config.clamp, use=config.use)
        desirable = label.sum()
        loss = loss - config.bc_coef * (label * log_prob.mean(-1)).sum() / desirable.clamp(min=1)
        sums |= {"accuracy": accuracy, "desirable": desirable, "one_sided": desirable % len(label) == 0}
        sums |= {"scores": s.sum(), "scores_desirable": (s * label).sum()}
    gradient = torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(policy.parameters()))])
    sums |= {"loss": loss, "gradient_norm": gradient.norm()}
    return gradient, torch.stack([sums[name].detach().float().to(device) for name in _SUMS])


class Guard(TorchDispatchMode):
    """Fails on an operation that would make the host wait for a GPU, and notes the names of the others."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal")

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().split("::")[1].split(".")[0]
        assert name not in self.WAITS, f"{name} waits for the device"
        assert name != "index" or all(x is None or x.dtype != torch.bool for x in args[1]), "a mask's size is asked for"
        self.operations.append(name)
        return function(*args, **(kwargs or {}))
