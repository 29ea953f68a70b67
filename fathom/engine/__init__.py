"""The engine: token ids in, token ids out. It knows nothing of text."""
from .engine import Engine, Output, Request
from .sampler import Sampling, pick

__all__ = ["Engine", "Output", "Request", "Sampling", "pick"]
