"""NumPy's global generator, from which the simulators draw, lent and given back."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

# Held while what belongs to the whole process is lent: NumPy's and torch's global generators, the output streams.
PROCESS = threading.RLock()
if hasattr(os, "register_at_fork"):  # a child would wait for ever for a thread that it has not
    os.register_at_fork(before=PROCESS.acquire, after_in_parent=PROCESS.release, after_in_child=PROCESS.release)


@contextmanager
def numpy_state(state: Any) -> Iterator[None]:
    """Put a state into NumPy's global generator, and the caller's back.

    >>> with numpy_state(np.random.RandomState(0).get_state()):
    ...     drawn = np.random.rand()
    >>> drawn == np.random.RandomState(0).rand()
    True
    """
    with PROCESS:
        before = np.random.get_state()
        np.random.set_state(state)
        try:
            yield
        finally:
            np.random.set_state(before)
