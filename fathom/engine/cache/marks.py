"""What a cached prefix needs beside its blocks, as one vector of bytes, and a block's rows likewise.

A *mark* is the state that isn't in blocks, as it was at a block's end: the last W - 1 window rows of every layer, and for CSA series
"a" of the last full window (SPEC section 6). Where the MTP block drafts too, its window and the streams of the last token. MTP reads a
token ahead, so its part is that of one position earlier: what it makes of the last token depends on the token that follows.

Both are packed in a fixed order, which is all there is to their format; what has another length isn't one.
"""
from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...model import State


@dataclass(frozen=True)
class _Part:
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class Packing:
    """Packs and unpacks marks and blocks of one State."""

    def __init__(self, state: State) -> None:
        self.state = state
        marks, blocks = [], []
        for b in state.layout:
            block, kind = b.name.rsplit(".", 1)
            dtype = state.buffers[b.name].dtype
            if b.per == "block":
                blocks.append(_Part(b.name, b.shape, dtype))
            elif kind == "window":
                marks.append(_Part(b.name, (state.config.sliding_window - 1, *b.shape[1:]), dtype))
            elif kind == "streams":
                marks.append(_Part(b.name, b.shape, dtype))
            elif f"{block}.index_keys" in state.buffers and not block.startswith("mtp"):  # a tail of CSA
                ratio = state.config.block_size // state.buffers[f"{block}.entries"].shape[1]
                marks.append(_Part(b.name, (ratio, *b.shape[1:-1], b.shape[-1] // 2), dtype))
        self._main = [p for p in _aligned(marks) if not p.name.startswith("mtp")]
        self._mtp = [p for p in _aligned(marks) if p.name.startswith("mtp")]
        self._block = [p for p in _aligned(blocks) if not p.name.startswith("mtp")]

    def pack_mark(self, captured: Mapping[str, Tensor]) -> Tensor:
        """One vector of bytes on the CPU, from rows by buffer; MTP's may be missing."""
        parts = self._main + (self._mtp if self._mtp and self._mtp[0].name in captured else [])
        return _pack([captured[p.name].to(p.dtype) for p in parts])

    def unpack_mark(self, mark: Tensor) -> dict[str, Tensor]:
        """Rows by buffer."""
        return _unpack(mark, self._main if len(mark) == _size(self._main) else self._main + self._mtp)

    def is_mark(self, mark: Tensor) -> bool:
        """Whether a vector has a mark's length, with or without MTP's part."""
        return mark.dtype == torch.uint8 and mark.dim() == 1 and len(mark) in (_size(self._main), _size(self._main + self._mtp))

    def has_mtp(self, mark: Tensor) -> bool:
        """Whether MTP's part is in it."""
        return bool(self._mtp) and len(mark) == _size(self._main + self._mtp)

    def read_block(self, block: int) -> Tensor:
        """A block's rows, as one vector of bytes on the CPU."""
        return _pack([self.state.buffers[p.name][block] for p in self._block])

    def write_block(self, block: int, rows: Tensor) -> bool:
        """The reverse; False where the vector isn't a block's."""
        if rows.dtype != torch.uint8 or rows.dim() != 1 or len(rows) != _size(self._block):
            return False
        for name, values in _unpack(rows, self._block).items():
            self.state.buffers[name][block] = values.to(self.state.buffers[name].device)
        return True


def _aligned(parts: list[_Part]) -> list[_Part]:
    """Wide types first, so that every part begins at a multiple of its own item size."""
    return sorted(parts, key=lambda p: (-p.dtype.itemsize, p.name))


def _size(parts: list[_Part]) -> int:
    return sum(p.nbytes for p in parts)


def _pack(tensors: list[Tensor]) -> Tensor:
    flat = [t.contiguous().view(torch.uint8).flatten() for t in tensors]
    return torch.cat(flat).cpu() if flat else torch.zeros(0, dtype=torch.uint8)


def _unpack(packed: Tensor, parts: list[_Part]) -> dict[str, Tensor]:
    out, at = {}, 0
    for p in parts:
        out[p.name] = packed[at : at + p.nbytes].clone().view(p.dtype).view(p.shape)  # a copy begins at an even address
        at += p.nbytes
    return out
