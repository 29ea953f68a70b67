"""What the engine keeps between requests: pools of state, prefixes in memory and on disk."""
from .store import BlockStore

__all__ = ["BlockStore"]
