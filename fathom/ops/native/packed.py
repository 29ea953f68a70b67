"""Weights in the order that the native kernels read them, filled straight from a checkpoint.

A packed weight takes the place of a parameter in the model. It is written like a tensor (`copy_`, row ranges, experts by number), so a
checkpoint streams into it and the plain layout is never held. The layout is described in src/packed.h and src/unpack.h: panels of 16
rows, pairs of columns side by side, [panels, K/2, 16, 2] with K a multiple of 32. FP8 weights keep that order, FP4 weights hold four
pairs together; their scales lie beside them. They take the values that a file holds (`take`), since the kernels decode them exactly.

Stream mixers (mHC's fn, fp32) are split into bf16 parts: two hold 16 significant bits, three all. Experts are in bank.py.
"""
from __future__ import annotations

import torch
from torch import Tensor

from ...quant import PANEL, SCALE_COLUMNS, STEP, encode_fp4, encode_fp8

CODES = {None: 0, "fp8": 1, "fp4": 2}  # table.h: Format


class Packed:
    """A matrix [rows, columns] in panels.

    Attributes:
        format: None (bf16), "fp8" or "fp4".
        data: bf16 [panels, K/2, 16, 2]; uint8 [panels, K/2, 16, 2] (E4M3); or uint8 [panels, K/8, 16, 4] (E2M1, see `_in_fours`).
        scale: ue8m0 bytes: None; [panels, ⌈K/128⌉]; or [panels, K/32, 16].
        parts: data, scale, rows, columns and the format's number: what the kernels take for a matrix.
    """

    def __init__(self, rows: int, columns: int, format: str | None = None, data: Tensor | None = None, scale: Tensor | None = None) -> None:
        self.rows, self.columns, self.format = rows, columns, format
        if data is None:
            data, scale = empty(rows, columns, format)
        self.data, self.scale = data, scale
        self.parts = data, scale, rows, columns, CODES[format]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the plain matrix."""
        return (self.rows, self.columns)

    @property
    def dtype(self) -> torch.dtype:
        """In which plain values are written."""
        return torch.bfloat16

    @property
    def nbytes(self) -> int:
        """Allocated bytes, padding and scales included."""
        return self.data.nbytes + (0 if self.scale is None else self.scale.nbytes)

    def numel(self) -> int:
        """Values of the plain matrix."""
        return self.rows * self.columns

    def element_size(self) -> int:
        """Bytes of a value, for a progress bar."""
        return 2

    def detach(self) -> Packed:
        """Itself: it has no gradient."""
        return self

    def __getitem__(self, rows: slice) -> RowRange:
        return RowRange(self, *rows.indices(self.rows)[:2])

    def copy_(self, values: Tensor) -> None:
        """Packs the whole matrix."""
        self.write(0, values)

    def write(self, first: int, values: Tensor) -> None:
        """Packs rows first, first + 1, … from values [n, columns]; quantised, if the format asks for it, n and first whole blocks."""
        if self.format is not None:
            return self.take(first, *(encode_fp8 if self.format == "fp8" else encode_fp4)(values.float()))
        pairs = torch.zeros(len(values), self.data.shape[1], 2, dtype=torch.bfloat16)
        pairs.flatten(1)[:, : self.columns] = values
        self._place(first, pairs, self.data)

    def take(self, first: int, weight: Tensor, scale: Tensor) -> None:
        """Packs rows first, first + 1, … of a matrix that is stored in this format; `first` begins a block of 128 rows.

        Args:
            weight: E4M3 [n, columns] with scale [⌈n/128⌉, ⌈columns/128⌉], or two E2M1 a byte, [n, columns/2], with scale [n, ⌈columns/32⌉].
        """
        assert self.scale is not None and first % 128 == 0
        raw, scales = weight.view(torch.uint8), scale.view(torch.uint8)
        if self.format == "fp8":
            pairs = torch.zeros(len(raw), self.data.shape[1], 2, dtype=torch.uint8)
            pairs.flatten(1)[:, : self.columns] = raw
            panels = -(-len(raw) // PANEL)
            self.scale[first // PANEL : first // PANEL + panels] = scales.repeat_interleave(128 // PANEL, 0)[:panels]
        else:
            pairs = torch.zeros(len(raw), self.data.shape[1] * 4, dtype=torch.uint8)
            pairs[:, : self.columns // 2] = raw
            self._place(first, scales, self.scale)
            return self._place(first, _in_fours(pairs), self.data.view(torch.int32).squeeze(-1))
        self._place(first, pairs, self.data)

    @staticmethod
    def _place(first: int, rows: Tensor, target: Tensor) -> None:
        """rows [n, k, …] into target [panels, k, 16, …]."""
        at = 0
        while at < len(rows):
            panel, lane = divmod(first + at, PANEL)
            if lane == 0 and len(rows) - at >= PANEL:
                whole = (len(rows) - at) // PANEL
                target[panel : panel + whole] = rows[at : at + whole * PANEL].unflatten(0, (whole, PANEL)).transpose(1, 2)
                at += whole * PANEL
            else:
                some = min(PANEL - lane, len(rows) - at)
                target[panel, :, lane : lane + some] = rows[at : at + some].transpose(0, 1)
                at += some

    def plain(self) -> Tensor:
        """The matrix [rows, columns] of a bf16 one, for checks."""
        assert self.format is None
        return self.data.transpose(1, 2).flatten(0, 1).flatten(1)[: self.rows, : self.columns].contiguous()


class RowRange:
    """Rows first … last of a packed matrix, to be written."""

    def __init__(self, matrix: Packed | Split, first: int, last: int) -> None:
        self.matrix, self.first, self.last = matrix, first, last

    def copy_(self, values: Tensor) -> None:
        """Packs these rows."""
        assert len(values) == self.last - self.first
        self.matrix.write(self.first, values)

    def take(self, weight: Tensor, scale: Tensor) -> None:
        """Packs these rows as they are stored."""
        assert isinstance(self.matrix, Packed) and len(weight) == self.last - self.first
        self.matrix.take(self.first, weight, scale)


class Grouped(Packed):
    """A block-diagonal matrix of `groups` blocks below each other; each block begins a panel. Always bf16: blocks needn't be whole
    blocks of FP8, and what it multiplies isn't rounded to FP8 either."""

    def __init__(self, rows: int, columns: int, groups: int) -> None:
        super().__init__(rows, columns, None, torch.stack([empty(rows // groups, columns, None)[0] for _ in range(groups)]))
        self.groups = groups
        self.parts = self.data, None, rows // groups, columns, CODES[None]

    def write(self, first: int, values: Tensor) -> None:
        """Packs rows first, first + 1, … of all blocks' rows."""
        size, at = self.rows // self.groups, 0
        while at < len(values):
            group, row = divmod(first + at, size)
            some = min(size - row, len(values) - at)
            Packed(size, self.columns, None, self.data[group]).write(row, values[at : at + some])
            at += some

    def plain(self) -> Tensor:
        """The blocks below each other."""
        return torch.cat([Packed(self.rows // self.groups, self.columns, None, block).plain() for block in self.data])


class Split:
    """An fp32 matrix [rows, columns] as packed parts, one below the other: bf16 of it, bf16 of what that leaves over, and so on."""

    def __init__(self, rows: int, columns: int, parts: int = 2) -> None:
        self.rows, self.columns, self.parts, self.packed = rows, columns, parts, Packed(parts * rows, columns)

    shape, dtype = Packed.shape, torch.float32
    numel, detach, __getitem__, copy_ = Packed.numel, Packed.detach, Packed.__getitem__, Packed.copy_

    @property
    def nbytes(self) -> int:
        """Allocated bytes of all parts."""
        return self.packed.nbytes

    def element_size(self) -> int:
        """Bytes of a written value."""
        return 4

    def write(self, first: int, values: Tensor) -> None:
        """Packs rows first, first + 1, … from fp32 values."""
        for part in range(self.parts):
            kept = values.bfloat16()
            self.packed.write(part * self.rows + first, kept)
            values = values - kept.float()


def empty(rows: int, columns: int, format: str | None) -> tuple[Tensor, Tensor | None]:
    """Room for a matrix and its scales, padding zeroed."""
    panels, K = -(-rows // PANEL), -(-columns // STEP) * STEP
    if format is None:
        return torch.zeros(panels, K // 2, PANEL, 2, dtype=torch.bfloat16), None
    per = SCALE_COLUMNS[format]
    if format == "fp8":
        return torch.zeros(panels, K // 2, PANEL, 2, dtype=torch.uint8), torch.zeros(panels, -(-K // per), dtype=torch.uint8)
    return torch.zeros(panels, K // 8, PANEL, 4, dtype=torch.uint8), torch.zeros(panels, K // per, PANEL, dtype=torch.uint8)


def _in_fours(pairs: Tensor) -> Tensor:
    """Four pairs of E2M1, a byte each and the low nibble first, as two 16-bit numbers of four nibbles: the pairs' first values, and their second
    ones. uint8 [n, K/2] → int32 [n, K/8]."""
    four = pairs.view(torch.int32)
    halves = []
    for nibbles in (four & 0x0F0F0F0F, (four >> 4).bitwise_and_(0x0F0F0F0F)):
        nibbles |= nibbles >> 4
        nibbles &= 0x00FF00FF
        nibbles |= nibbles >> 8
        halves.append(nibbles.bitwise_and_(0xFFFF))
    return halves[0].bitwise_or_(halves[1] << 16)
