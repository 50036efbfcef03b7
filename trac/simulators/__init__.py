"""The quirks of DSRL's suites, a module for each, named as `Task.suite`; `trac.envs` puts them behind one function.

Each has `build(task)`, a Gymnasium environment without a time limit that draws without a display and whose
`info["cost"]` is there on every step; and `NEEDS`, how its packages are installed.
"""

from contextlib import contextmanager

import numpy as np


@contextmanager
def numpy_state(state):
    """Put a state into NumPy's global generator, and the caller's back."""
    before = np.random.get_state()
    np.random.set_state(state)
    try:
        yield
    finally:
        np.random.set_state(before)
