"""Who runs when: turns between owners (fairness.py), and which tokens make up the next step (scheduler.py)."""
from .scheduler import Scheduler, Work

__all__ = ["Scheduler", "Work"]
