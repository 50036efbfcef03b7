"""Offline safe reinforcement learning by trajectory classification (TraC, AAAI 2025)."""

from trac import score
from trac.config import TracConfig
from trac.evaluate import evaluate
from trac.partition import partition
from trac.runs import load_run
from trac.sources import load
from trac.tasks import TASKS
from trac.train import train

__all__ = ["TASKS", "TracConfig", "evaluate", "load", "load_run", "partition", "score", "train"]
