"""Precision `official`: the published number formats and rounding points, on the reference kernels.

What differs from bf16: activations are rounded to E4M3 before they meet a matrix that is stored in FP8 or FP4; key-value entries and
index keys are kept as rows of bytes; index queries are rotated and rounded as the keys are; a few intermediate values are rounded to
bf16. Sums are fp32, as everywhere. All formulas are those of the other reference operators, called with rounded inputs.

Source: SPEC section 3.
"""
from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional as F

from ...quant import decode_activations, decode_entries, decode_index_keys, encode_activations, encode_entries, encode_index_keys
from ..spans import Entries, Places, Spans
from . import attention, index, norm
from .compress import pool
from .linear import linear, linear_fp32


def quantise(x: Tensor) -> Tensor:
    """x [..., K] rounded to E4M3 per token and 128 channels, as bf16, which holds those values exactly."""
    return decode_activations(*encode_activations(x), dtype=torch.bfloat16)


def linear_fp8(x: Tensor, weight: Tensor) -> Tensor:
    """Product with a matrix that is stored in FP8 (its values, in bf16)."""
    return linear_fp32(quantise(x), weight).to(x.dtype)


def experts(x: Tensor, weights: Tensor, chosen: Tensor, w1: Tensor, w2: Tensor, w3: Tensor, shared: tuple[Tensor, Tensor, Tensor],
            limit: float) -> Tensor:
    """As the operator of this name; products take E4M3 activations and give bf16, gate and up as well as each expert's output."""
    total = torch.zeros_like(x, dtype=torch.float32)
    rounded = quantise(x)
    for e in range(w1.shape[0]):
        token, place = (chosen == e).nonzero(as_tuple=True)
        if len(token):
            out = _expert(rounded[token], w1[e], w2[e], w3[e], limit, weights[token, place].unsqueeze(1))
            total.index_put_((token,), out.float(), accumulate=True)
    return (total + _expert(rounded, *shared, limit, None).float()).to(x.dtype)


def _expert(x: Tensor, w1: Tensor, w2: Tensor, w3: Tensor, limit: float, weight: Tensor | None) -> Tensor:
    gate, up = (linear_fp32(x, w).to(x.dtype).float() for w in (w1, w3))
    act = F.silu(gate.clamp(max=limit)) * up.clamp(-limit, limit)
    act = (act if weight is None else act * weight).to(x.dtype)
    return linear_fp32(quantise(act), w2).to(x.dtype)


def norm_rope(x: Tensor, weight: Tensor | None, eps: float, cos: Tensor, sin: Tensor) -> Tensor:
    """RMSNorm, rounded, then RoPE, rounded again."""
    wide = norm.widen(x)
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return norm.rope((wide if weight is None else wide * weight).to(x.dtype), cos, sin)


def compress(rows: Tensor, ape: Tensor, own: Tensor, previous: Tensor | None, norm_weight: Tensor, eps: float, cos: Tensor, sin: Tensor,
             dtype: torch.dtype) -> Tensor:
    """As the operator of this name; the pooled value is rounded before its norm, and the normed one before its rotation."""
    return norm_rope(pool(rows, ape, own, previous).to(dtype), norm_weight, eps, cos, sin)


def index_queries(q: Tensor) -> Tensor:
    """Index queries [T, J, K] after RoPE: rotated by the Hadamard matrix and rounded to FP4, in bf16."""
    return decode_index_keys(encode_index_keys(q), q.shape[-1], dtype=torch.bfloat16)


class Rows:
    """The operators that read or write rows of bytes, for entries of `head_dim` numbers, of which the last `rope_dims` are kept in bf16."""

    def __init__(self, head_dim: int, rope_dims: int) -> None:
        self.head_dim, self.rope_dims = head_dim, rope_dims

    def encode_entries(self, x: Tensor) -> Tensor:
        """[..., C] bf16 → rows uint8."""
        return encode_entries(x, self.rope_dims)

    def encode_keys(self, x: Tensor) -> Tensor:
        """[..., K] bf16 → rows uint8."""
        return encode_index_keys(x)

    def attend(self, q: Tensor, window: Tensor, window_spans: Spans, sink: Tensor, entries: Entries | None = None, entry_spans: Spans | None = None,
               chosen: Tensor | None = None) -> Tensor:
        """As the operator of this name, on rows of bytes; weights are rounded to bf16, their products with values summed in fp32."""
        rows = decode_entries(window, self.head_dim, self.rope_dims)
        if entries is not None:
            entries = _visible(entries, decode_entries(_taken(entries), self.head_dim, self.rope_dims))
        out = torch.empty_like(q)
        for q0, q1 in attention.tiles(window_spans, entry_spans, chosen):
            parts = attention.tile_parts(q0, q1, rows, window_spans, entries, entry_spans, chosen)
            weights = attention.split_weights(attention.tile_weights(q[q0:q1], parts, sink).to(q.dtype).float(), parts)
            out[q0:q1] = sum(attention.times_values(p, part.values.float()) for p, part in zip(weights, parts, strict=True))
        return out

    def index_topk(self, q: Tensor, w: Tensor, entries: Entries, spans: Spans, top_k: int) -> Tensor:
        """As the operator of this name, on rows of bytes; scores are rounded to bf16 before they are compared."""
        keys = decode_index_keys(_taken(entries), q.shape[-1], dtype=torch.bfloat16)
        return index.index_topk(q, w, _visible(entries, keys), spans, top_k, rounding=torch.bfloat16)


def _taken(entries: Entries) -> Tensor:
    """The rows of all visible entries, in flat order."""
    places = entries.places
    count = int((places.spans.runs.stop // places.spans.ratio).sum())
    return entries.pool[entries.between(0, count)]


def _visible(entries: Entries, values: Tensor) -> Entries:
    """Visible entries by flat number."""
    return dataclasses.replace(entries, pool=values, places=Places(entries.places.spans, None, 1))


__all__ = ["Rows", "compress", "experts", "index_queries", "linear", "linear_fp8", "norm_rope", "quantise"]
