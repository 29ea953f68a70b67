"""Rows of the official cache formats: a key-value entry in FP8 + BF16, an index key in FP4.

A key-value entry keeps its rope dims in BF16, because they carry positions up to a million, and the rest as E4M3 with one scale
per 64. Row: E4M3 of the C-R plain dims | BF16 of the R rope dims | one ue8m0 a run of 64 | zeros up to a multiple of 8 bytes.
At C = 512, R = 64: 448 + 128 + 7 + 1 = 584 bytes.

Index keys are rotated by a Hadamard matrix before they are rounded to FP4: it spreads an outlier over all dims, and as queries
are rotated too, q·k stays what it was. Row: E2M1 nibbles | one ue8m0 per 32; 64 + 4 = 68 bytes at 128 dims.

Source: SPEC section 3 (KV entries, indexer); the order of the parts within a row is ours.
"""
from __future__ import annotations

import torch
from torch import Tensor

from ..config.formats import ENTRY_RUN, entry_bytes, index_key_bytes
from ..errors import UserError
from .fp4 import decode_fp4, encode_fp4
from .fp8 import decode_runs, encode_runs


def encode_entries(x: Tensor, rope_dims: int) -> Tensor:
    """Rows uint8 [..., entry_bytes] of key-value entries [..., C] (after norm and RoPE; the last rope_dims of C are the roped ones)."""
    plain, rope = x[..., : x.shape[-1] - rope_dims], x[..., x.shape[-1] - rope_dims :]
    values, scale = encode_runs(plain, ENTRY_RUN)
    parts = [values.view(torch.uint8), rope.to(torch.bfloat16).contiguous().view(torch.uint8), scale.view(torch.uint8)]
    row = torch.cat(parts, dim=-1)
    return torch.nn.functional.pad(row, (0, entry_bytes(x.shape[-1], rope_dims) - row.shape[-1]))


def decode_entries(rows: Tensor, head_dim: int, rope_dims: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Entries [..., C] in `dtype` from rows uint8 [..., entry_bytes]; bf16 holds them exactly."""
    plain = head_dim - rope_dims
    values, rope, scale = rows.split_with_sizes([plain, 2 * rope_dims, rows.shape[-1] - plain - 2 * rope_dims], dim=-1)
    scale = scale[..., : -(-plain // ENTRY_RUN)].contiguous()  # without the padding
    # cloned, so that the bytes of a BF16 start at an even address whatever the number of plain dims
    roped = rope.clone(memory_format=torch.contiguous_format).view(torch.bfloat16)
    decoded = decode_runs(values.contiguous().view(torch.float8_e4m3fn), scale, ENTRY_RUN, dtype)
    return torch.cat((decoded, roped.to(dtype)), dim=-1)


def hadamard(x: Tensor) -> Tensor:
    """x [..., n] times the Hadamard matrix in natural order and n^-0.5, in x's dtype; its own inverse.

    Butterflies of stride 1, 2, 4, … in fp32, then the factor, then the cast: this order is part of the format, since sums round.

    Raises:
        UserError: n is no power of two; then there is no such matrix and no `official` index key.
    """
    n = x.shape[-1]
    if n & (n - 1):
        raise UserError("index_head_dim", n, "a power of two in official precision (Hadamard rotation)", "use precision bf16")
    y = x.float()
    stride = 1
    while stride < n:
        pairs = y.unflatten(-1, (-1, 2, stride))
        first, second = pairs[..., 0, :], pairs[..., 1, :]
        y = torch.stack((first + second, first - second), dim=-2).flatten(-3)
        stride *= 2
    return (y * n**-0.5).to(x.dtype)


def encode_index_keys(x: Tensor) -> Tensor:
    """Rows uint8 [..., index_key_bytes] of index keys [..., n] after RoPE: rotated, then FP4. Queries are treated alike.

    Raises:
        UserError: as `hadamard`.
    """
    packed, scale = encode_fp4(hadamard(x))
    return torch.cat((packed.view(torch.uint8), scale.view(torch.uint8)), dim=-1)


def decode_index_keys(rows: Tensor, index_dim: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Rotated keys [..., index_dim] in `dtype` from rows; they are not rotated back, since scores are taken between rotated ones."""
    packed, scale = rows[..., : index_dim // 2], rows[..., index_dim // 2 : index_key_bytes(index_dim)]
    return decode_fp4(packed, scale.contiguous(), dtype)

