"""Where a forward keeps what later tokens need: nowhere (training), or in the paged inference state.

Both offer the same three calls, in which new values go in and everything a query may see comes out:

    window(block, kv)                 key-value rows of history and new tokens, in the order of Geometry's windows
    tail(block, part, kv, gate)       projections of waiting and new tokens
    entries(block, part, new)         all compressed entries, old and new

`Scratch` builds them functionally, so gradients flow. `State` holds the buffers of `plan.layout` for a fixed number of sequences
and blocks and writes in place; which slot and which blocks a sequence gets is the engine's choice. Rings are indexed by position,
so nothing has to be cleared or shifted: a new sequence in an old slot overwrites what it will read.
"""
from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ..config import ModelConfig
from ..ops import Entries
from ..plan.layout import block_name, state_layout
from .geometry import Compression, Geometry


class Memory(Protocol):
    """What the layers ask of either. `part` is "" for the main compressor and "index_" for the indexer's."""

    def window(self, block: int, kv: Tensor, geometry: Geometry) -> Tensor:
        """Rows [R, C] of Geometry.window_spans from the tokens' kv [T, C]."""

    def tail(self, block: int, part: str, kv: Tensor, gate: Tensor, geometry: Geometry, c: Compression) -> tuple[Tensor, Tensor]:
        """kv and gate rows [R, P] of tail and tokens from those of the tokens [T, P], fp32."""

    def entries(self, block: int, part: str, new: Tensor, c: Compression) -> Entries:
        """All visible entries, given the new ones [n, C]."""


class Scratch:
    """No memory: every run is a whole document and sees only this batch."""

    def window(self, block: int, kv: Tensor, geometry: Geometry) -> Tensor:
        """The tokens themselves."""
        return kv

    def tail(self, block: int, part: str, kv: Tensor, gate: Tensor, geometry: Geometry, c: Compression) -> tuple[Tensor, Tensor]:
        """The tokens themselves."""
        return kv, gate

    def entries(self, block: int, part: str, new: Tensor, c: Compression) -> Entries:
        """The new entries are all there is."""
        return Entries(new)


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
        for b in self.layout:
            units = num_slots if b.per == "sequence" else num_blocks
            self.buffers[b.name] = torch.empty((units, *b.shape), dtype=getattr(torch, b.dtype), device=device)

    @property
    def nbytes(self) -> int:
        """Allocated bytes."""
        return sum(t.nbytes for t in self.buffers.values())

    def window(self, block: int, kv: Tensor, geometry: Geometry) -> Tensor:
        """History from the ring, then the tokens; the last tokens replace the oldest rows of the ring."""
        ring = self.buffers[f"{block_name(self.config, block)}.window"]
        slot, position = geometry.window_history
        rows = torch.cat((ring[slot, position % ring.shape[1]], kv)) if len(slot) else kv
        _store(ring, kv, geometry)
        return rows if geometry.window_order is None else rows[geometry.window_order]

    def tail(self, block: int, part: str, kv: Tensor, gate: Tensor, geometry: Geometry, c: Compression) -> tuple[Tensor, Tensor]:
        """Waiting projections, then the tokens'; the last tokens go into the ring."""
        ring = self.buffers[f"{block_name(self.config, block)}.{part}tail"]  # [slots, L, 2, P]
        old = ring[c.tail_slot, c.tail_position % ring.shape[1]]
        _store(ring, torch.stack((kv, gate), dim=1), geometry)
        return torch.cat((old[:, 0], kv)), torch.cat((old[:, 1], gate))

    def entries(self, block: int, part: str, new: Tensor, c: Compression) -> Entries:
        """Writes the new entries to their pool rows."""
        name = {"": "entries", "index_": "index_keys"}[part]
        buffer = self.buffers[f"{block_name(self.config, block)}.{name}"]
        pool = buffer.view(-1, buffer.shape[-1])
        if len(new):
            pool[c.new] = new.to(pool.dtype)
        return Entries(pool, c.rows, c.base)


def _store(ring: Tensor, values: Tensor, geometry: Geometry) -> None:
    """Writes values [T, ...] of the tokens into ring [slots, L, ...] at their positions; of a long run only the last L survive."""
    keep = geometry.last_tokens(ring.shape[1])
    slot, position = geometry.slots, geometry.positions
    if keep is not None:
        slot, position, values = slot[keep], position[keep], values[keep]
    ring[slot, position % ring.shape[1]] = values.to(ring.dtype)
