"""What a running sequence must remember: every buffer of the inference state, by shape.

The state has a fixed part, one row per sequence, and a paged part, one row per 128-token block:

    window      the last W roped key-values of a layer, a ring indexed by position
    tail        projections (kv', gate) of tokens whose window isn't complete, a ring; CSA keeps one full window more, since series
                "a" of the last full window belongs to the next entry. Main and index compressor each have one
    streams     the MTP block reads the main model's final streams of the token before, which must outlive the step
    entries     compressed key-values, block_size / ratio a block
    index_keys  the indexer's compressed keys, as many

This list is the single source: the model allocates exactly it, the planner adds up exactly it. `drafts` widens the rings so that
rejected speculative tokens can be overwritten without having destroyed what they stood on.

Source: SPEC section 6 (state), section 3 (bytes of the official formats).
"""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ..config import ModelConfig
from ..config.formats import entry_bytes, index_key_bytes
from ..errors import UserError

PRECISIONS = ("fp32", "bf16", "fp16", "official")
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "uint8": 1, "int64": 8}
_ENTRY_DTYPE = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True)
class Buffer:
    """One buffer of the state: `shape` is that of one unit, a sequence or a block; dtype by torch's name."""

    name: str
    per: Literal["sequence", "block"]
    shape: tuple[int, ...]
    dtype: str

    @property
    def unit_bytes(self) -> int:
        """Bytes of one unit."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


def state_layout(config: ModelConfig, precision: str = "bf16", *, drafts: int = 0, mtp: bool = False) -> list[Buffer]:
    """All buffers of the inference state.

    Args:
        precision: "fp32", "bf16" and "fp16" keep entries in that type, "official" in FP8 + BF16 and FP4 rows of bytes.
        drafts: speculative tokens that may have to be taken back.
        mtp: also keep the MTP block's state (needed only for speculative decoding).
    """
    if precision not in PRECISIONS:
        raise UserError("precision", precision, f"one of {', '.join(PRECISIONS)}")
    c = config

    def row(dim: int, official: int) -> tuple[int, str]:
        return (official, "uint8") if precision == "official" else (dim, _ENTRY_DTYPE[precision])

    entry, entry_dtype = row(c.head_dim, entry_bytes(c.head_dim, c.qk_rope_head_dim))
    key, key_dtype = row(c.index_head_dim, index_key_bytes(c.index_head_dim))
    buffers = []
    for block, ratio in enumerate(c.compress_ratios[: c.num_blocks if mtp else c.num_hidden_layers]):
        name = block_name(config, block)
        buffers.append(Buffer(f"{name}.window", "sequence", (c.sliding_window + drafts, entry), entry_dtype))
        if not ratio:
            continue
        series = 2 if c.is_csa(block) else 1
        slots = series * ratio + drafts
        buffers.append(Buffer(f"{name}.tail", "sequence", (slots, 2, series * c.head_dim), "float32"))
        buffers.append(Buffer(f"{name}.entries", "block", (c.block_size // ratio, entry), entry_dtype))
        if c.is_csa(block):
            buffers.append(Buffer(f"{name}.index_tail", "sequence", (slots, 2, series * c.index_head_dim), "float32"))
            buffers.append(Buffer(f"{name}.index_keys", "block", (c.block_size // ratio, key), key_dtype))
    if mtp and c.num_nextn_predict_layers:
        streams = "bfloat16" if precision == "official" else _ENTRY_DTYPE[precision]
        buffers.append(Buffer("mtp.0.streams", "sequence", (c.hc_mult, c.hidden_size), streams))
    return buffers


def block_name(config: ModelConfig, block: int) -> str:
    """Module name of transformer block `block`; MTP blocks count on after the layers."""
    layers = config.num_hidden_layers
    return f"layers.{block}" if block < layers else f"mtp.{block - layers}"


def sequence_bytes(layout: list[Buffer]) -> int:
    """Fixed bytes of one sequence."""
    return sum(b.unit_bytes for b in layout if b.per == "sequence")


def block_bytes(layout: list[Buffer]) -> int:
    """Bytes of one block of tokens."""
    return sum(b.unit_bytes for b in layout if b.per == "block")
