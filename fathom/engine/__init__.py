"""The engine: token ids in, token ids out. It knows nothing of text."""
from .engine import Engine
from .request import Constraint, Journal, Logged, Output, Overloaded, Request, Stop, Ticket, Usage
from .sampler import Sampling, pick

__all__ = ["Constraint", "Engine", "Journal", "Logged", "Output", "Overloaded", "Request", "Sampling", "Stop", "Ticket", "Usage", "pick"]
