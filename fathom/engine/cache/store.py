"""The contract of the prefix cache's second tier: a store of named tensors under digests, on disk in practice (disk.py).

The cache above decides what a record means, and checks on the way back that its header fits. The store below keeps bytes whole or
not at all: a budget, least recently used records go first; a version and checksums, so that a damaged or foreign record is removed
and is then simply absent.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor


class BlockStore(Protocol):
    """Records: a key of 32 bytes, a header of JSON values, and tensors by name. From one thread at a time."""

    def put(self, key: bytes, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Keeps a record, replacing one under the same key. It may be written behind the caller's back: the caller changes neither
        header nor tensors (contiguous, on the CPU) afterwards. A record that can't be kept (too large, disk full) is dropped."""

    def get(self, key: bytes) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """Header and tensors of a record, also of one that is still being written; None when there is none, or none that is whole.
        Counts as use."""

    def __contains__(self, key: bytes) -> bool:
        """Whether `get` would probably find it; cheap, no use."""

    def discard(self, key: bytes) -> None:
        """Removes a record, if it is there."""

    def close(self) -> None:
        """Waits for what is being written."""
