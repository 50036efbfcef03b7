"""Which segments an update sees: a function of the run's seed and the number of the update."""

import numpy as np

# What a run's random numbers are for; with the run's seed and a counter this is the key of each draw.
ORDER, MASKS = 0, 1


class Batches:
    """An endless stream of permutations of the segments, cut into batches; batch t is a function of seed and t.

    >>> Batches(segments=10, batch_size=4, seed=0).at(1, updates=3).shape
    (3, 4)
    """

    def __init__(self, segments: int, batch_size: int, seed: int):
        self.segments, self.batch_size, self.seed = segments, batch_size, seed
        self.epoch, self.permutation = -1, np.empty(0, dtype=np.int64)

    def at(self, step: int, updates: int = 1) -> np.ndarray:
        """Indices (updates, batch_size) of that many updates, from `step` on, which counts from 1."""
        position, stop, parts = (step - 1) * self.batch_size, (step - 1 + updates) * self.batch_size, []
        while position < stop:
            epoch, offset = divmod(position, self.segments)
            if epoch != self.epoch:
                key = np.random.SeedSequence(self.seed, spawn_key=(ORDER, epoch))
                self.epoch, self.permutation = epoch, np.random.default_rng(key).permutation(self.segments)
            parts.append(self.permutation[offset : offset + stop - position])
            position += len(parts[-1])
        return np.concatenate(parts).reshape(updates, self.batch_size)
