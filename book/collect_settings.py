"""How each of the book's logs is made: the settings of `book/collect.py`, by task."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Collection:
    """How one task's data is made."""

    max_cost: int  # costlier episodes are dropped [cost per episode]; DSRL's range
    trajectories: int  # at most this many are kept; bounded by the size of the file
    steps: int  # length of training [simulator steps]
    limits: tuple[tuple[int, float], ...]  # (training step, cost limit), linear in between
    checkpoint_every: int  # steps between updates of λ, each with rollouts; a whole number of episodes
    rollouts: int  # noise-free episodes recorded at each checkpoint
    reward_scale: float  # the agent sees scale * (r - λ c)
    integral_gain: float  # change of λ at a checkpoint for each unit of cost over the limit
    proportional_gain: float  # λ on top of the integral for each unit of cost over the limit
    max_multiplier: float  # λ stays in [0, max]
    target_entropy: float  # of the training policy [nat]; lower is closer to deterministic
    refill: int = 0  # more rollouts where the costs near the checkpoint's have few episodes so far
    scarce: int = 80  # few: under this many within a sixteenth of the cost range on either side
    gamma: float = 0.98  # discount per step
    hidden: tuple[int, ...] = (128, 128)
    learning_rate: float = 1e-3
    batch_size: int = 256
    learning_starts: int = 2_000  # uniformly random actions before this step
    train_freq: int = 4  # steps between updates of the networks
    gradient_steps: int = 1  # gradient steps at each update
    search: float = 0.0  # above 0: augmented random search in place of SAC, with this step in the weights
    polar: bool = False  # SAC's networks see the body from the centre of its circle, see `collect_polar.py`
    cost_bins: int = 16  # of the grid over [0, max_cost] x [lowest, highest return] on which episodes are thinned
    return_bins: int = 20


SETTINGS = {
    "BallRun": Collection(
        max_cost=80,
        trajectories=940,
        steps=44_800,
        limits=((0, 100), (6_000, 85), (39_000, 0)),
        checkpoint_every=400,
        rollouts=8,
        reward_scale=0.3,
        integral_gain=0.04,
        proportional_gain=0.3,
        max_multiplier=60,
        target_entropy=-4,
        refill=20,
    ),
    "BallCircle": Collection(
        max_cost=80,
        trajectories=600,
        steps=70_000,
        limits=((0, 200), (12_000, 200), (18_000, 75), (60_000, 0)),
        checkpoint_every=400,
        rollouts=4,
        reward_scale=0.3,
        integral_gain=0.016,
        proportional_gain=0.05,
        max_multiplier=40,
        target_entropy=-4,
        refill=20,
    ),
    "CarCircle": Collection(
        max_cost=100,
        trajectories=420,
        steps=150_000,
        limits=((0, 300), (60_000, 300), (66_000, 95), (135_000, 0)),
        checkpoint_every=600,
        rollouts=4,
        reward_scale=1.0,
        integral_gain=0.012,
        proportional_gain=0.03,
        max_multiplier=4,
        target_entropy=-2,
        train_freq=2,
        refill=8,
        scarce=60,
        cost_bins=8,
    ),
    "CarRun": Collection(
        max_cost=40,
        trajectories=640,
        steps=60_000,
        limits=((0, 60), (8_000, 60), (12_000, 45), (56_000, 0)),
        checkpoint_every=800,
        rollouts=4,
        reward_scale=0.3,
        integral_gain=0.02,
        proportional_gain=0.02,
        max_multiplier=8,
        target_entropy=-3,
        train_freq=2,
        refill=8,
    ),
    "DroneRun": Collection(
        max_cost=140,
        trajectories=640,
        steps=120_000,
        limits=((0, 200), (30_000, 200), (36_000, 135), (112_000, 0)),
        checkpoint_every=600,
        rollouts=4,
        reward_scale=0.3,
        integral_gain=0.015,
        proportional_gain=0.04,
        max_multiplier=12,
        target_entropy=-6,
        train_freq=2,
        refill=8,
    ),
    "DroneCircle": Collection(
        max_cost=100,
        trajectories=400,
        steps=420_000,
        limits=((0, 300), (240_000, 300), (250_000, 95), (400_000, 0)),
        checkpoint_every=1_800,
        rollouts=4,
        reward_scale=0.3,
        integral_gain=0.02,
        proportional_gain=0.06,
        max_multiplier=15,
        target_entropy=-4,
        gamma=0.99,
        train_freq=2,
        refill=8,
    ),
    "AntRun": Collection(
        max_cost=150,
        trajectories=320,
        steps=260_000,
        limits=((0, 200), (80_000, 200), (90_000, 145), (240_000, 0)),
        checkpoint_every=1_000,
        rollouts=4,
        reward_scale=0.3,
        integral_gain=0.012,
        proportional_gain=0.035,
        max_multiplier=10,
        target_entropy=-8,
        train_freq=2,
        refill=8,
    ),
    # Each direction needs a gait of its own in the frame of the world, where SAC learned nothing in 132,000 steps (with
    # other settings). With random actions the ant falls after some fifty steps, which ends the episode.
    "AntCircle": Collection(
        max_cost=200,
        trajectories=176,
        steps=900_000,
        limits=((0, 500), (440_000, 500), (450_000, 195), (860_000, 0)),
        checkpoint_every=2_000,
        rollouts=3,
        reward_scale=2.0,
        integral_gain=0.004,
        proportional_gain=0.012,
        max_multiplier=3,
        target_entropy=-8,
        gamma=0.99,
        train_freq=2,
        refill=6,
        polar=True,
    ),
    # SAC had not learned to swim after 60,000 steps.
    "SwimmerVelocity": Collection(
        max_cost=200,
        trajectories=240,
        steps=3_200_000,
        limits=((0, 100), (2_000_000, 10), (3_200_000, 210)),
        checkpoint_every=16_000,
        rollouts=4,
        reward_scale=1.0,
        integral_gain=0.0003,
        proportional_gain=0.002,
        max_multiplier=1.2,
        target_entropy=0,
        refill=3,
        learning_rate=0.012,
        search=0.03,
    ),
    "HopperVelocity": Collection(
        max_cost=250,
        trajectories=208,
        steps=260_000,
        limits=((0, 300), (60_000, 250), (240_000, 0)),
        checkpoint_every=2_000,
        rollouts=2,
        reward_scale=0.3,
        integral_gain=0.004,
        proportional_gain=0.004,
        max_multiplier=6,
        target_entropy=-3,
        train_freq=2,
        refill=3,
        gamma=0.99,
    ),
    "HalfCheetahVelocity": Collection(
        max_cost=250,
        trajectories=128,
        steps=200_000,
        limits=((0, 300), (20_000, 250), (184_000, 0)),
        checkpoint_every=2_000,
        rollouts=2,
        reward_scale=0.3,
        integral_gain=0.005,
        proportional_gain=0.005,
        max_multiplier=10,
        target_entropy=-6,
        train_freq=2,
        refill=3,
        gamma=0.99,
    ),
    "PointCircle1": Collection(
        max_cost=200,
        trajectories=208,
        steps=300_000,
        limits=((0, 500), (120_000, 500), (130_000, 195), (285_000, 0)),
        checkpoint_every=1_000,
        rollouts=3,
        reward_scale=5.0,
        integral_gain=0.0007,
        proportional_gain=0.002,
        max_multiplier=0.3,
        target_entropy=-2,
        train_freq=2,
        refill=6,
    ),
    "PointGoal1": Collection(
        max_cost=100,
        trajectories=112,
        steps=300_000,
        limits=((0, 100), (150_000, 50), (280_000, 0)),
        checkpoint_every=3_000,
        rollouts=3,
        reward_scale=10.0,
        integral_gain=0.0005,
        proportional_gain=0.001,
        max_multiplier=0.5,
        target_entropy=-2,
        train_freq=2,
    ),
    # Without a penalty on speed the car leaves the road before it has learned to drive: the limit begins below 0, where
    # λ goes to its largest value, and is loosened. A step at speed v earns v / 36 and costs (v - 10) / 100, so that λ
    # near 2.8 is where cost stops to pay.
    "easysparse": Collection(
        max_cost=85,
        trajectories=160,
        steps=160_000,
        limits=((0, -300), (30_000, -300), (40_000, -5), (45_000, 5), (150_000, 85)),
        checkpoint_every=1_000,
        rollouts=2,
        reward_scale=1.0,
        integral_gain=0.004,
        proportional_gain=0.02,
        max_multiplier=4,
        target_entropy=-2,
        refill=4,
        gamma=0.99,
        learning_rate=5e-4,
        learning_starts=3_000,
        train_freq=2,
    ),
}
