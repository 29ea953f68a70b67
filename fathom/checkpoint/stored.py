"""One matrix as a file holds it, and its way from any stored format into any other, a few rows at a time.

A checkpoint keeps a matrix plain (fp32, bf16, fp16), as FP8 with a scale per 128×128 block, or as FP4 with a scale per 32. Which
one is read off the dtypes and the shape of the scales, not from the configuration: instruct checkpoints have FP4 experts, base
ones FP8, and exports mix. Everything below works on slices of rows that are whole blocks, so that a matrix of gigabytes is
converted in megabytes.

Formats go into each other without a detour where that keeps the bits: the same format is copied, FP4 becomes FP8 by the lossless
rule; otherwise by way of fp32.
"""
from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .. import quant
from ..errors import UserError

Format = Literal["fp32", "bf16", "fp16", "int64", "fp8", "fp4"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int64": torch.int64, "fp8": torch.float8_e4m3fn,
          "fp4": torch.int8}
PIECE_BYTES = 32 << 20  # a piece of a matrix in fp32: what a conversion holds at a time
FP8_BLOCK, FP4_GROUP = 128, 32


@dataclass(frozen=True)
class Stored:
    """A tensor as stored: memory-mapped or in memory, not to be written to.

    Attributes:
        name: its published name, for messages.
        weight: the numbers: float or integer; E4M3 [out, in] with scales; or two E2M1 a byte, int8 [out, in/2], with scales.
        scale: None, [ceil(out/128), ceil(in/128)] for FP8 (ue8m0, fp32 in older exports), ue8m0 [out, in/32] for FP4.
    """

    name: str
    weight: Tensor
    scale: Tensor | None = None

    @property
    def quantised(self) -> Literal["fp8", "fp4"] | None:
        """Which of the two narrow formats it is in, if any."""
        if self.scale is None:
            return None
        return "fp8" if self.weight.dtype == torch.float8_e4m3fn else "fp4"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the matrix of numbers."""
        shape = tuple(self.weight.shape)
        return (*shape[:-1], 2 * shape[-1]) if self.quantised == "fp4" else shape

    def rows(self, start: int, stop: int) -> Stored:
        """Rows [start, stop); for FP8 start is a multiple of 128."""
        if self.scale is None:
            return Stored(self.name, self.weight[start:stop])
        if self.quantised == "fp4":
            return Stored(self.name, self.weight[start:stop], self.scale[start:stop])
        return Stored(self.name, self.weight[start:stop], self.scale[start // FP8_BLOCK : -(-stop // FP8_BLOCK)])

    def pieces(self) -> Iterator[tuple[int, int, Stored]]:
        """The matrix in order, in pieces of whole block rows and some megabytes: (first row, last row + 1, piece)."""
        shape = self.shape
        step = max(PIECE_BYTES // (4 * math.prod(shape[1:])) // FP8_BLOCK, 1) * FP8_BLOCK
        for start in range(0, shape[0], step):
            stop = min(start + step, shape[0])
            yield start, stop, self.rows(start, stop)

    def values(self, dtype: torch.dtype) -> Tensor:
        """The numbers in `dtype`, decoded; the stored tensor itself where it is in that type already.

        Raises:
            UserError: a number is too large for fp16.
        """
        if self.scale is None:
            out = self.weight.to(dtype)
        elif self.quantised == "fp8":
            out = quant.decode_fp8(self.weight, self.scale, dtype)
        else:
            out = quant.decode_fp4(self.weight, self.scale, dtype)
        if dtype == torch.float16 and self.weight.dtype != torch.float16 and bool(out.isinf().any()):
            raise UserError(self.name, None, "holds numbers beyond float16's largest, 65504", "take bf16 or fp32")
        return out


def shape_in(format: Format, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Shapes of a matrix's stored numbers and of its scales (None without) in a format."""
    if format == "fp8":
        return shape, tuple(-(-n // FP8_BLOCK) for n in shape)
    if format == "fp4":
        return (shape[0], shape[1] // 2), (shape[0], -(-shape[1] // FP4_GROUP))
    return shape, None


def transcode(piece: Stored, format: Format) -> tuple[Stored, bool]:
    """A piece of a matrix (whole block rows) in another format, and whether its numbers are still the same.

    "Same" is only asked where a quantised matrix becomes another quantised one; a plain one is rounded by intention.

    Raises:
        UserError: NaN or infinity in a matrix to be quantised, or a number too large for fp16.
    """
    if format not in ("fp8", "fp4"):
        return Stored(piece.name, piece.values(DTYPES[format])), True
    if piece.quantised == format:
        assert piece.scale is not None
        scale = piece.scale.to(torch.float8_e8m0fnu) if piece.scale.is_floating_point() else piece.scale.view(torch.float8_e8m0fnu)
        if torch.equal(quant.scale_values(scale), quant.scale_values(piece.scale)):  # not so for older exports with any float as scale
            return Stored(piece.name, piece.weight, scale), True
    if piece.quantised == "fp4" and format == "fp8":
        weight, scale, same = quant.fp4_to_fp8(piece.weight, piece.scale)
    else:
        values = piece.values(torch.float32)
        weight, scale = quant.encode_fp8(values) if format == "fp8" else quant.encode_fp4(values)
        same = piece.quantised is None or torch.equal(Stored(piece.name, weight, scale).values(torch.float32), values)
    if bool((scale.view(torch.uint8) == 255).any()):
        raise UserError(piece.name, None, "holds NaN or infinity, which can't be quantised", "check where this checkpoint comes from")
    return Stored(piece.name, weight, scale), same
