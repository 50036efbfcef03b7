"""CDT's policy: a causal transformer that is asked for a return and a cost."""

from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.distributions import Normal

from trac.baselines.networks import LOG_STD_MAX, LOG_STD_MIN, BaselinePolicy

COST_SHIFT = 50.0  # the network sees this minus the cost to go (OSRL's cost_transform)


class Block(nn.Module):
    """A transformer layer: causal attention and a network of four times the width, each after a LayerNorm.

    >>> Block(width=8, heads=2, dropout=0.0)(torch.zeros(1, 3, 8)).shape
    torch.Size([1, 3, 8])
    """

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.attend, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, tokens, width) -> the same."""
        dropout = self.dropout if self.training else 0.0
        query, key, value = self.attend(self.norms[0](x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        x = x + F.dropout(self.join(seen.transpose(1, 2).flatten(2)), dropout)
        return x + F.dropout(self.narrow(F.gelu(self.widen(self.norms[1](x)))), dropout)


class DecisionTransformer(BaselinePolicy):
    """The policy and its memory of an episode: `start`, then `act` and `observe` in turn.

    Args:
        horizon: T, number of steps that have an embedding; later ones share the last.
        width: of the embeddings.
        layers: number of blocks.
        heads: of the attention in each block.
        dropout: of embeddings, attention and residuals.
        context: steps that the policy sees, the present one included.
        reward_scale: rewards are multiplied with it.

    Attributes:
        target: (2,) return, scaled, and cost to ask for.

    Example:
        >>> shape = dict(width=8, layers=1, heads=2, dropout=0.0, context=10, reward_scale=0.1)
        >>> policy = DecisionTransformer(7, 2, 100, **shape).aim(target_return=500, target_cost=20)
        >>> action = policy.act(data.observations[0])
        >>> policy.observe(reward=1.0, cost=0.0)
        >>> policy.target_cost
        20.0
    """

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        horizon: int,
        *,
        width: int,
        layers: int,
        heads: int,
        dropout: float,
        context: int,
        reward_scale: float,
    ):
        shape = dict(width=width, layers=layers, heads=heads, dropout=dropout, context=context)
        super().__init__(obs_dim=obs_dim, act_dim=act_dim, horizon=horizon, reward_scale=reward_scale, **shape)
        self.act_dim, self.context, self.scale = act_dim, context, reward_scale
        self.horizon, self.dropout = horizon, dropout
        self.times = nn.Embedding(horizon, width)
        self.embed = nn.ModuleList([nn.Linear(size, width) for size in (1, 1, obs_dim, act_dim)])
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.blocks = nn.ModuleList([Block(width, heads, dropout) for _ in range(layers)])
        self.action_head, self.cost_head = nn.Linear(width, 2 * act_dim), nn.Linear(width, 2)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        self.target: Tensor
        self.register_buffer("target", torch.zeros(2))
        self.start(0)

    def forward(
        self, observations: Tensor, actions: Tensor, returns: Tensor, costs: Tensor, times: Tensor
    ) -> tuple[Normal, Tensor]:
        """What follows each step of a window, from that step and those before it.

        Args:
            observations: (B, L, obs_dim).
            actions: (B, L, act_dim); an action is not seen by its own prediction.
            returns: (B, L) to go, scaled.
            costs: (B, L) to go.
            times: (B, L) int64, steps since the episode's start.

        Returns:
            The action's distribution (B, L, act_dim), and the logits (B, L, 2) that the step costs.
        """
        values = (returns.unsqueeze(-1), COST_SHIFT - costs.unsqueeze(-1), observations, actions)
        tokens = torch.stack([embed(x) for embed, x in zip(self.embed, values, strict=True)], 2)
        x = self.norms[0]((tokens + self.times(times).unsqueeze(2)).flatten(1, 2))
        x = F.dropout(x, self.dropout, self.training)
        for block in self.blocks:
            x = block(x)
        x = self.norms[1](x).unflatten(1, (-1, 4))
        mean, log_std = self.action_head(x[:, :, 2]).chunk(2, dim=-1)
        std = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX).exp()
        return Normal(mean, std, validate_args=False), self.cost_head(x[:, :, 3])

    def aim(self, target_return: float, target_cost: float) -> Self:
        """Ask for this return and this cost of an episode from now on; returns itself."""
        self.target.copy_(torch.tensor([target_return * self.scale, target_cost]))
        self.start(0)
        return self

    @property
    def target_return(self) -> float:
        """The return of an episode that is asked for."""
        return float(self.target[0]) / self.scale

    @property
    def target_cost(self) -> float:
        """The cost of an episode that is asked for."""
        return float(self.target[1])

    def start(self, seed: int) -> None:
        """Forget the episode. The seed is not used: the policy is deterministic."""
        self.wanted = [self.target.tolist()]
        self.seen: list[tuple[np.ndarray, np.ndarray]] = []

    def observe(self, reward: float, cost: float) -> None:
        """What the last action brought: it is no longer to go."""
        returns, costs = self.wanted[-1]
        self.wanted.append([returns - reward * self.scale, costs - cost])

    @torch.inference_mode()
    def act(self, observation: ArrayLike) -> np.ndarray:
        """The action after the steps since `start`: (obs_dim,) -> (act_dim,)."""
        if not self.seen:  # a state that was loaded since has another target
            self.wanted = [self.target.tolist()]
        self.seen.append((np.asarray(observation, dtype=np.float32), np.zeros(self.act_dim, dtype=np.float32)))
        if len(self.wanted) != len(self.seen):
            raise RuntimeError("call observe(reward, cost) after each action, and start(seed) before an episode.")
        first = max(0, len(self.seen) - self.context)
        device = self.target.device
        observations, actions = (
            torch.as_tensor(np.stack(x), device=device) for x in zip(*self.seen[first:], strict=True)
        )
        wanted = torch.tensor(self.wanted[first:], device=device)
        times = torch.arange(first, len(self.seen), device=device).clamp(max=self.horizon - 1)
        x = (observations, actions, wanted[:, 0], wanted[:, 1], times)
        training, _ = self.training, self.eval()
        action: np.ndarray = self(*(part.unsqueeze(0) for part in x))[0].mean[0, -1].clamp(-1, 1).cpu().numpy()
        self.train(training)
        self.seen[-1] = (self.seen[-1][0], action)
        return action
