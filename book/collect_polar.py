"""A running body of Bullet-Safety-Gym as it is seen from the centre of its circle."""

import gymnasium as gym
import torch
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor


class Polar(BaseFeaturesExtractor):
    """Turns observations about the centre, so that the body is always north of it.

    To run around the circle is then to run east, wherever the body is: one gait, not one for each direction. The cost
    depends on where the body is, so its position in the frame of the world is added at the end.

    An observation of Bullet-Safety-Gym begins with position, velocity, orientation (a quaternion, x y z w) and angular
    velocity. What follows does not depend on the frame.
    """

    def __init__(self, space: gym.spaces.Box):
        super().__init__(space, space.shape[0] + 2)

    def forward(self, observations: Tensor) -> Tensor:
        """(B, obs_dim) to (B, obs_dim + 2)."""
        position, velocity, orientation, spin, rest = observations.split((3, 3, 4, 3, observations.shape[1] - 13), 1)
        angle = torch.atan2(position[:, 0], position[:, 1])  # of the body, clockwise from north
        vectors = [torch.cat((_turn(v[:, :2], angle), v[:, 2:]), 1) for v in (position, velocity, spin)]
        x_y, w_z = _turn(orientation[:, :2], angle / 2), _turn(orientation[:, [3, 2]], angle / 2)
        sign = torch.where(w_z[:, :1] < 0, -1.0, 1.0)  # q and -q are the same orientation
        return torch.cat((*vectors, sign * x_y, sign * w_z, rest, position[:, :2]), 1)


def _turn(pairs: Tensor, angle: Tensor) -> Tensor:
    """(B, 2), counterclockwise by (B,) radians."""
    cos, sin = torch.cos(angle), torch.sin(angle)
    return torch.stack((cos * pairs[:, 0] - sin * pairs[:, 1], sin * pairs[:, 0] + cos * pairs[:, 1]), 1)
