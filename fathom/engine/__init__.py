"""The engine: token ids in, token ids out, any number of requests at once. It knows nothing of text."""
from .engine import Engine, Stats
from .fingerprint import fingerprint
from .request import Constraint, Journal, Logged, Output, Overloaded, Request, Stop, Ticket, Usage
from .sampler import Sampling, pick

__all__ = ["Constraint", "Engine", "Journal", "Logged", "Output", "Overloaded", "Request", "Sampling", "Stats", "Stop", "Ticket", "Usage",
           "fingerprint", "pick"]
