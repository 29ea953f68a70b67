"""Weights in the order that the native kernels read them, filled straight from a checkpoint.

A packed weight takes the place of a parameter in the model. It is written like a tensor (`copy_`, row ranges, experts by number), so a
checkpoint streams into it and the plain layout is never held. The layout is described in src/packed.h: panels of 16 rows, pairs of
columns side by side, [panels, K/2, 16, 2] with K a multiple of 32.

A model's routed and shared experts of one layer form a `Bank`; w1 and w3 share its first matrix, their panels alternating, so that one
pass makes gate and up of the same values. Stream mixers (mHC's fn, fp32) are split into two bf16 parts, 16 significant bits in all.
"""
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

LANES, STEP = 16, 32  # rows of a panel; K is a multiple of


class Packed:
    """A matrix [rows, columns] of bf16 values in panels; `data` may be a view into something larger."""

    def __init__(self, rows: int, columns: int, data: Tensor | None = None) -> None:
        self.rows, self.columns = rows, columns
        self.data = empty(rows, columns) if data is None else data

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the plain matrix."""
        return (self.rows, self.columns)

    @property
    def dtype(self) -> torch.dtype:
        """In which values are written."""
        return torch.bfloat16

    @property
    def nbytes(self) -> int:
        """Allocated bytes, padding included."""
        return self.data.nbytes

    def numel(self) -> int:
        """Values of the plain matrix."""
        return self.rows * self.columns

    def element_size(self) -> int:
        """Bytes of a written value."""
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
        """Packs rows first, first + 1, … from values [n, columns]."""
        pairs = torch.zeros(len(values), self.data.shape[1], 2, dtype=torch.bfloat16)
        pairs.flatten(1)[:, : self.columns] = values
        at = 0
        while at < len(values):
            panel, lane = divmod(first + at, LANES)
            if lane == 0 and len(values) - at >= LANES:
                whole = (len(values) - at) // LANES
                self.data[panel : panel + whole] = pairs[at : at + whole * LANES].unflatten(0, (whole, LANES)).transpose(1, 2)
                at += whole * LANES
            else:
                some = min(LANES - lane, len(values) - at)
                self.data[panel, :, lane : lane + some] = pairs[at : at + some].transpose(0, 1)
                at += some

    def plain(self) -> Tensor:
        """The matrix [rows, columns], for checks."""
        return self.data.transpose(1, 2).flatten(0, 1).flatten(1)[: self.rows, : self.columns].contiguous()


class RowRange:
    """Rows first … last of a packed matrix, to be written."""

    def __init__(self, matrix: Packed | Split, first: int, last: int) -> None:
        self.matrix, self.first, self.last = matrix, first, last

    def copy_(self, values: Tensor) -> None:
        """Packs these rows."""
        assert len(values) == self.last - self.first
        self.matrix.write(self.first, values)


class Grouped(Packed):
    """A block-diagonal matrix of `groups` blocks below each other; each block begins a panel."""

    def __init__(self, rows: int, columns: int, groups: int) -> None:
        super().__init__(rows, columns, torch.stack([empty(rows // groups, columns) for _ in range(groups)]))
        self.groups = groups

    def write(self, first: int, values: Tensor) -> None:
        """Packs rows first, first + 1, … of all blocks' rows."""
        size, at = self.rows // self.groups, 0
        while at < len(values):
            group, row = divmod(first + at, size)
            some = min(size - row, len(values) - at)
            Packed(size, self.columns, self.data[group]).write(row, values[at : at + some])
            at += some

    def plain(self) -> Tensor:
        """The blocks below each other."""
        return torch.cat([Packed(self.rows // self.groups, self.columns, block).plain() for block in self.data])


class Split:
    """An fp32 matrix [rows, columns] as two packed parts, one below the other: bf16 of it, and bf16 of what that leaves over."""

    def __init__(self, rows: int, columns: int) -> None:
        self.rows, self.columns, self.packed = rows, columns, Packed(2 * rows, columns)

    shape, dtype = Packed.shape, torch.float32
    numel, detach, __getitem__, copy_ = Packed.numel, Packed.detach, Packed.__getitem__, Packed.copy_

    @property
    def nbytes(self) -> int:
        """Allocated bytes of both parts."""
        return self.packed.nbytes

    def element_size(self) -> int:
        """Bytes of a written value."""
        return 4

    def write(self, first: int, values: Tensor) -> None:
        """Packs rows first, first + 1, … from fp32 values."""
        high = values.bfloat16()
        self.packed.write(first, high)
        self.packed.write(self.rows + first, (values - high.float()).bfloat16())


class Bank:
    """All experts of one layer: E routed, then the shared one.

    Attributes:
        gate_up: [E + 1, 2·⌈I/16⌉, …] panels of w1 and w3 in turn.  down: [E + 1, ⌈D/16⌉, …].
        pointers: [E + 1, 4] int64 addresses: gate_up, its scales (0), down, its scales (0).
    """

    def __init__(self, experts: int, width: int, hidden: int) -> None:
        self.experts, self.width, self.hidden = experts, width, hidden
        one_up, one_down = empty(width, hidden).shape, empty(hidden, width).shape
        self.gate_up = torch.zeros(experts + 1, 2 * one_up[0], *one_up[1:], dtype=torch.bfloat16)
        self.down = torch.zeros(experts + 1, *one_down, dtype=torch.bfloat16)
        up, down = self.gate_up.data_ptr(), self.down.data_ptr()
        self.pointers = torch.tensor([[up + e * self.gate_up[0].nbytes, 0, down + e * self.down[0].nbytes, 0] for e in range(experts + 1)])

    def matrix(self, which: str, expert: int) -> Packed:
        """w1, w2 or w3 of one expert."""
        if which == "w2":
            return Packed(self.hidden, self.width, self.down[expert])
        return Packed(self.width, self.hidden, self.gate_up[expert, {"w1": 0, "w3": 1}[which] :: 2])


class Experts:
    """The routed experts' w1, w2 or w3: experts by number, each written like a matrix."""

    def __init__(self, bank: Bank, which: str) -> None:
        self.bank, self.which = bank, which
        self.shape = (bank.experts, *bank.matrix(which, 0).shape)

    dtype, element_size, detach = Packed.dtype, Packed.element_size, Packed.detach

    def __len__(self) -> int:
        return self.bank.experts

    def __getitem__(self, expert: int) -> Packed:
        if not 0 <= expert < self.bank.experts:
            raise IndexError(expert)
        return self.bank.matrix(self.which, expert)

    @property
    def nbytes(self) -> int:
        """Allocated bytes."""
        return sum(matrix.data.nbytes for matrix in self)

    def numel(self) -> int:
        """Values of all experts' matrices."""
        return self.shape[0] * self.shape[1] * self.shape[2]

    def copy_(self, values: Tensor) -> None:
        """Packs all experts from [E, rows, columns]."""
        for expert, matrix in enumerate(values):
            self[expert].copy_(matrix)


class Shared(Packed):
    """The shared expert's w1, w2 or w3: the last of its bank."""

    def __init__(self, bank: Bank, which: str) -> None:
        matrix = bank.matrix(which, bank.experts)
        super().__init__(matrix.rows, matrix.columns, matrix.data)
        self.bank = bank


class Packer:
    """Makes the packed weights of one model, by the roles that the table of parameters gives them."""

    def __init__(self) -> None:
        self._banks: dict[str, Bank] = {}

    def place(self, name: str, role: str, shape: tuple[int, ...], groups: int) -> Any:
        """What stands for the parameter `name` in the model.

        Args:
            role: see config.params.Param.  shape: of the plain parameter.  groups: independent blocks of a grouped matrix.
        """
        if role == "matrix":
            return Packed(*shape)
        if role == "grouped":
            return Grouped(*shape, groups)
        if role == "streams":
            return Split(*shape)
        layer, which = name.partition(".experts." if role == "expert" else ".shared_experts.")[::2]
        if layer not in self._banks:
            assert role == "expert", "the routed experts come first in the table"
            width, hidden = shape[1:] if which != "w2" else shape[:0:-1]
            self._banks[layer] = Bank(shape[0], width, hidden)
        bank = self._banks[layer]
        return Experts(bank, which) if role == "expert" else Shared(bank, which.removesuffix(".weight"))


def empty(rows: int, columns: int) -> Tensor:
    """Room for a matrix, padding zeroed."""
    return torch.zeros(-(-rows // LANES), -(-columns // STEP) * STEP // 2, LANES, 2, dtype=torch.bfloat16)
