"""Slots and blocks: how many a budget of bytes allows, and which are free.

A running sequence has one slot (its rings) and a table of blocks (its compressed entries). Both are numbers in the model's State. A
block is free, private to one sequence, or owned by a node of the prefix cache, which counts its users (prefix.py).
"""
from __future__ import annotations

from ...config import ModelConfig
from ...errors import UserError
from ...plan.layout import block_bytes, sequence_bytes, state_layout


class Pool:
    """Free numbers below `count`. The last given back is the first taken again, so memory that was never used stays untouched."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._returned: list[int] = []
        self._fresh = 0

    @property
    def free(self) -> int:
        """How many are free."""
        return self.count - self._fresh + len(self._returned)

    def take(self) -> int | None:
        """A free number, or None."""
        if self._returned:
            return self._returned.pop()
        if self._fresh == self.count:
            return None
        self._fresh += 1
        return self._fresh - 1

    def give(self, number: int) -> None:
        """Frees one that was taken."""
        self._returned.append(number)


def block_count(config: ModelConfig, precision: str, *, slots: int, memory: int, drafts: int, mtp: bool) -> int:
    """Blocks that fit beside `slots` slots into `memory` bytes; never more than all slots with full contexts could use.

    Raises:
        UserError: not even a context of one block fits.
    """
    layout = state_layout(config, precision, drafts=drafts, mtp=mtp)
    most = slots * -(-config.max_position_embeddings // config.block_size)
    fixed, each = slots * sequence_bytes(layout), block_bytes(layout)
    count = most if not each else min(most, (memory - fixed) // each)
    if memory < fixed or count < 1:
        raise UserError("memory", f"{memory} bytes", f"{slots} sequences take {fixed} bytes and {each} for every {config.block_size} tokens",
                        "give more memory, or allow fewer sequences at once")
    return count
