"""Offline safe reinforcement learning by trajectory classification (TraC, AAAI 2025)."""

from trac import score
from trac.config import TracConfig
from trac.core.run import load_run
from trac.data.load import load
from trac.data.tasks import TASKS
from trac.evaluate import evaluate
from trac.partition import partition
from trac.train import train

__all__ = ["TASKS", "TracConfig", "evaluate", "load", "load_run", "partition", "score", "train"]
__version__ = "0.2.0"
