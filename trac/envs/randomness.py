"""NumPy's global generator, from which the simulators draw, lent and given back."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


@contextmanager
def numpy_state(state: Any) -> Iterator[None]:
    """Put a state into NumPy's global generator, and the caller's back.

    >>> with numpy_state(np.random.RandomState(0).get_state()):
    ...     drawn = np.random.rand()
    >>> drawn == np.random.RandomState(0).rand()
    True
    """
    before = np.random.get_state()
    np.random.set_state(state)
    try:
        yield
    finally:
        np.random.set_state(before)
