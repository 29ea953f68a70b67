"""Sizes of rows and matrices in memory: one formula for those who plan them and those who hold them.

Cache rows are those of the official formats. Packed matrices are what the native kernels read: panels of 16 rows, columns in steps of
32, and for FP8 and FP4 the scales (ops/native/packed.py).

Source: SPEC section 3 (KV entries, indexer) and section 6.
"""
from __future__ import annotations

ENTRY_RUN = 64  # plain dims of a key-value entry that share a ue8m0 scale
KEY_RUN = 32  # dims of an index key that share one
ENTRY_ALIGN = 8  # bytes that a key-value row is padded to a multiple of


def entry_bytes(head_dim: int, rope_dims: int) -> int:
    """Bytes of one key-value entry: E4M3 non-rope dims, BF16 rope dims, the scales, padding (584 at 512/64)."""
    plain = head_dim - rope_dims
    return -(-(plain + 2 * rope_dims + -(-plain // ENTRY_RUN)) // ENTRY_ALIGN) * ENTRY_ALIGN


def index_key_bytes(index_dim: int) -> int:
    """Bytes of one index key: two E2M1 values a byte and the scales (68 at 128)."""
    return -(-index_dim // 2) + -(-index_dim // KEY_RUN)


PANEL, STEP = 16, 32  # rows of a panel of a packed matrix; its columns are a multiple of
SCALE_COLUMNS = {"fp8": 128, "fp4": 32}  # columns that share a scale
STREAM_PARTS = {"bf16": 2, "official": 3}  # bf16 parts of mHC's fp32 mixers, by precision: 16 significant bits, or all


def packed_bytes(rows: int, columns: int, format: str) -> int:
    """Bytes of a packed matrix in "bf16", "fp8" or "fp4", scales included."""
    panels, width = -(-rows // PANEL), -(-columns // STEP) * STEP
    values = panels * PANEL * width
    if format == "bf16":
        return 2 * values
    scales = -(-width // SCALE_COLUMNS[format]) * panels
    return values + scales if format == "fp8" else values // 2 + scales * PANEL
