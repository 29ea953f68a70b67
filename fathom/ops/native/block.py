"""Transformer blocks as one native call (src/block.h): for a decoded token, calls between operators cost more than many of the sums.

It computes what model/block.py composes of operators, with the same bits. Blocks' weights and their buffers in the paged state are read
and checked once; who sees what, once a forward.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .bank import LargerBank
from .packed import Packed, Split


def describe(sizes: Mapping[str, float], weights: Mapping[str, Any], buffers: Mapping[str, Tensor]) -> tuple[Any, ...] | None:
    """What src/block.h's Block reads; None where its experts aren't all in memory. Arguments as in ops.table, sizes with those of Native."""
    bank = weights["ffn.experts.w1"].bank
    if isinstance(bank, LargerBank):
        return None
    plain = {name: _plain(w) for name, w in weights.items() if ".experts." not in name and ".shared_experts." not in name}
    return dict(sizes), plain, dict(buffers), bank.pointers, bank.width, *bank.codes


def sight(geometry: Any, ratio: int, overlap: bool) -> tuple[Any, ...]:
    """Of a batch's geometry (model/geometry.py), what src/block.h's Sight reads for blocks of one ratio."""
    g, c = geometry, geometry.config
    tables, per_block = (g.block_tables, c.block_size // ratio) if ratio else (None, 0)
    return g.runs.tensor, g.runs.known_tensor, c.sliding_window, ratio, overlap, g.frequency[ratio > 0], tables, per_block


def _plain(weight: Any) -> Any:
    if isinstance(weight, Split):
        return weight.packed.parts
    return weight.parts if isinstance(weight, Packed) else weight
