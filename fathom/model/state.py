"""Where a forward keeps what later tokens need: nowhere (training), or in the paged inference state.

Both offer the same three calls, in which new values go in and everything a query may see comes out:

    window(block, kv)            key-value rows of history and new tokens, in the order of Geometry's windows
    tail(block, part, values)    projections of waiting and new tokens
    entries(block, part, new)    all compressed entries, old and new

`Scratch` builds them functionally, so gradients flow. `State` holds the buffers of `plan.layout` for a fixed number of sequences
and blocks and writes in place; which slot and which blocks a sequence gets is the engine's choice. Rings are indexed by position,
so nothing has to be cleared or shifted: a new sequence in an old slot overwrites what it will read.

What a sequence needs beside its blocks to go on at a mark (a block's end) is captured while its tokens pass, so a long run can leave
several behind it: window rows, and for CSA series "a" of the last full window. `restore` puts it into a slot.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from ..config import ModelConfig
from ..ops import Entries, Kernels
from ..plan.layout import block_name, state_layout
from .geometry import Compression, Geometry

POOLS = (("", "entries"), ("index_", "index_keys"))  # part, and its buffer in the layout


class Memory(Protocol):
    """What the layers ask of either. `part` is "" for the main compressor and "index_" for the indexer's.

    whole_blocks: what kernels made of blocks on this memory (model/block.py); None where they can't, since it has no buffers.
    """

    whole_blocks: dict[Any, Any] | None

    def window(self, block: int, kv: Tensor, geometry: Geometry, k: Kernels) -> Tensor:
        """Rows [R, C] of Geometry.window_spans from the tokens' kv [T, C]."""

    def tail(self, block: int, part: str, values: Tensor, c: Compression, k: Kernels) -> Tensor:
        """Rows [R, 2, P] of waiting tokens and tokens (kv' and gate), from those of the tokens [T, 2, P]; fp32."""

    def entries(self, block: int, part: str, new: Tensor | None, c: Compression) -> Entries:
        """All visible entries, given the new ones [n, C], or None when there are none."""

    def buffers_of(self, block: int) -> dict[str, Tensor]:
        """A block's buffers by their names in plan.layout, where there are any."""


class Scratch:
    """No memory: every run is a whole document and sees only this batch."""

    whole_blocks: dict[Any, Any] | None = None

    def window(self, block: int, kv: Tensor, geometry: Geometry, k: Kernels) -> Tensor:
        """The tokens themselves."""
        return kv

    def tail(self, block: int, part: str, values: Tensor, c: Compression, k: Kernels) -> Tensor:
        """The tokens themselves."""
        return values

    def entries(self, block: int, part: str, new: Tensor | None, c: Compression) -> Entries:
        """The new entries are all there is."""
        assert new is not None, "without a memory even no entries have a width"
        return Entries(new, c.places)

    def buffers_of(self, block: int) -> dict[str, Tensor]:
        """None."""
        return {}


class State:
    """Buffers of `num_slots` sequences and `num_blocks` blocks, allocated once and exactly as `state_layout` says.

    Args:
        precision: storage of entries and window rows ("fp32", "bf16", "fp16").
        drafts: speculative tokens that may have to be taken back.  mtp: keep the MTP block's state too.
    """

    def __init__(self, config: ModelConfig, *, num_slots: int, num_blocks: int, precision: str, device: torch.device | str = "cpu",
                 drafts: int = 0, mtp: bool = False) -> None:
        self.config, self.num_slots, self.num_blocks = config, num_slots, num_blocks
        self.layout = state_layout(config, precision, drafts=drafts, mtp=mtp)
        self.buffers: dict[str, Tensor] = {}
        self.whole_blocks: dict[Any, Any] | None = {}
        self.captured: dict[str, Tensor] = {}
        """By buffer, [marks, rows, ...] of the marks of the last forward of each block, in the batch's order."""
        for b in self.layout:
            units = num_slots if b.per == "sequence" else num_blocks
            self.buffers[b.name] = torch.empty((units, *b.shape), dtype=getattr(torch, b.dtype), device=device)
        blocks = range(config.num_blocks if mtp else config.num_hidden_layers)
        named = {(block, name): f"{block_name(config, block)}.{name}" for block in blocks for name in ("window", "tail", "index_tail")}
        self._by_block = {key: self.buffers[name] for key, name in named.items() if name in self.buffers}
        pools = {(block, part): f"{block_name(config, block)}.{name}" for block in blocks for part, name in POOLS}
        self._pools = {key: self.buffers[name].flatten(0, 1) for key, name in pools.items() if name in self.buffers}

    @property
    def nbytes(self) -> int:
        """Allocated bytes."""
        return sum(t.nbytes for t in self.buffers.values())

    def window(self, block: int, kv: Tensor, geometry: Geometry, k: Kernels) -> Tensor:
        """History from the ring, then the tokens; the last tokens replace the oldest rows of the ring."""
        rows = k.remember(self._buffer(block, "window"), kv, geometry.window_history)
        if geometry.marks:
            self.captured[f"{block_name(self.config, block)}.window"] = rows[geometry.window_marks]
        return rows

    def tail(self, block: int, part: str, values: Tensor, c: Compression, k: Kernels) -> Tensor:
        """Waiting projections, then the tokens'; the last tokens go into the ring."""
        rows = k.remember(self._buffer(block, part + "tail"), values, c.history)
        if c.tail_marks is not None:
            self.captured[f"{block_name(self.config, block)}.{part}tail"] = rows[c.tail_marks][..., : rows.shape[-1] // 2]
        return rows

    def entries(self, block: int, part: str, new: Tensor | None, c: Compression) -> Entries:
        """Writes the new entries to their pool rows."""
        pool = self._pools[block, part]
        if new is not None:
            pool[c.places.new] = new
        return Entries(pool, c.places)

    def buffers_of(self, block: int) -> dict[str, Tensor]:
        """A block's buffers by their names in the layout, pools as rows."""
        rings = {name: t for (own, name), t in self._by_block.items() if own == block}
        pools = {name: self._pools[block, part] for part, name in POOLS if (block, part) in self._pools}
        return rings | pools

    def restore(self, slot: int, position: int, captured: Mapping[str, Tensor]) -> None:
        """Lets the sequence in `slot` go on at `position`, from what was captured [rows, ...] at that mark."""
        for name, rows in captured.items():
            ring = self.buffers[name]
            count = min(len(rows), position)
            where = torch.arange(position - count, position, device=ring.device) % ring.shape[1]
            ring[slot, where, ..., : rows.shape[-1]] = rows[len(rows) - count :].to(ring.device)

    def clear(self, slot: int) -> None:
        """Zeros the rings of a slot, for a sequence that begins in the middle: its first windows aren't right, but they are numbers."""
        for b in self.layout:
            if b.per == "sequence":
                self.buffers[b.name][slot] = 0

    def _buffer(self, block: int, name: str) -> Tensor:
        return self._by_block[block, name]
