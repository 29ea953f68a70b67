"""The native operators under the reference's signatures, and their rows in the kernel table.

They serve inference on a CPU in bf16 and `official`: no gradients, packed weights (packed.py). A token's result has the same bits
whatever batch it comes in and however many threads there are. `mhc_expand` writes into the streams it is given.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...quant import STREAM_PARTS
from ..spans import Entries, History, Spans
from ..table import Row
from .bank import Experts, Packer
from .block import describe, sight
from .library import load
from .packed import Grouped, Packed, Split

WIDEST = 1024  # values of a key at most (src/products.h)
MOST_STREAMS = 8  # src/mhc.h


def rows(isa: str | None = None, *, precision: str = "bf16", head_dim: int, rope_dims: int, index_head_dim: int, streams: int) -> list[Row]:
    """Rows of the kernel table for a model of these sizes; rows without a kernel say why.

    Args:
        isa: the instruction set to use; the best there is unless given.  precision: "bf16" or "official".

    Raises:
        UserError: an instruction set that was asked for and can't be had.
    """
    assert precision in ("bf16", "official")
    ext, name = load(isa)
    reason = name if ext is None else ""
    for what, size in (("head_dim", head_dim), ("index_head_dim", index_head_dim)):
        if size % 2 or size > WIDEST:
            ext, reason = None, f"{what} = {size} is odd or above {WIDEST}"
    if streams > MOST_STREAMS:
        ext, reason = None, f"hc_mult = {streams} is above {MOST_STREAMS}"
    if ext is None:
        return [Row(op, "cpu", precision, False, "native", None, reason) for op in OPERATORS]
    kernels = Native(ext) if precision == "bf16" else Official(ext, rope_dims)
    why = "asked for" if isa else "the best that this processor and system have"
    return [Row(op, "cpu", precision, False, f"native {name}", getattr(kernels, op), why, kernels.packer) for op in OPERATORS]


class Native:
    """Operators in bf16 on one instruction set; contracts as the reference functions'."""

    official, coded = 0, -1  # rounding points and cache rows of precision `official`; rope dims of coded rows
    packer: Callable[..., Packer] = Packer

    def __init__(self, ext: Any) -> None:
        self.ext = ext
        self._rows = torch.empty(0, dtype=torch.bfloat16)  # of `experts`; kept, since fresh memory costs more than the sums over it

    def encode_entries(self, x: Tensor) -> Tensor:
        """[n, C], as it is."""
        return x

    encode_keys = index_queries = encode_entries

    def linear_fp8(self, x: Tensor, weight: Packed) -> Tensor:
        """[..., columns] → [..., rows], bf16."""
        return self._product(x, weight, 0)

    def linear(self, x: Tensor, weight: Packed) -> Tensor:
        """[..., columns] → [..., rows], bf16."""
        return self._product(x, weight, 0)

    def linear_fp32(self, x: Tensor, weight: Packed) -> Tensor:
        """[..., columns] → [..., rows], fp32."""
        return self._product(x, weight, 1)

    def _product(self, x: Tensor, weight: Packed, fp32: int) -> Tensor:
        if x.dim() == 2:
            return self.ext.linear(x, weight.parts, fp32)
        return self.ext.linear(x.reshape(-1, weight.columns), weight.parts, fp32).view(*x.shape[:-1], weight.rows)

    def linear_fp32_pair(self, x: Tensor, first: Packed, second: Packed) -> Tensor:
        """[T, columns] → [T, 2, rows], fp32."""
        return self.ext.linear_pair(x, first.parts, second.parts)

    def linear_grouped(self, x: Tensor, weight: Grouped) -> Tensor:
        """[T, G, columns] → [T, rows], bf16."""
        return self.ext.linear_grouped(x, weight.parts)

    def experts(self, x: Tensor, weights: Tensor, chosen: Tensor, w1: Experts, w2: Experts, w3: Experts, shared: tuple[Packed, Packed, Packed],
                limit: float) -> Tensor:
        """[T, D] → [T, D]; all matrices are those of one bank."""
        bank, rows = w1.bank, self._room(x.shape[0], chosen.shape[1], x.shape[1])
        for active in bank.turns(chosen):
            self.ext.experts(x, weights, chosen, bank.pointers, bank.width, *bank.codes, limit, self.official, active, rows)
        return self.ext.experts_sum(rows)

    def _room(self, T: int, top_k: int, D: int) -> Tensor:
        """[T, K + 1, D] to work in."""
        size = T * (top_k + 1) * D
        if self._rows.numel() < size:
            self._rows = torch.empty(size, dtype=torch.bfloat16)
        return self._rows[:size].view(T, top_k + 1, D)

    def route(self, logits: Tensor, *, bias: Tensor | None, chosen: Tensor | None, top_k: int, factor: float) -> tuple[Tensor, Tensor, Tensor]:
        """Scores, weights, experts."""
        return self.ext.route(logits, bias, chosen, top_k, factor)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Like x."""
        return self.ext.rms_norm(x, weight, eps)

    def norm_rope(self, x: Tensor, weight: Tensor | None, eps: float, cos: Tensor, sin: Tensor) -> Tensor:
        """Like x."""
        return self.ext.norm_rope(x, weight, eps, cos, sin, self.official)

    def rope(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Like x."""
        return self.ext.norm_rope(x, None, -1.0, cos, sin, 0)

    def mhc_mix(self, X: Tensor, fn: Split, scale: Tensor, base: Tensor, *, sinkhorn_steps: int, norm_eps: float,
                eps: float) -> tuple[Tensor, Tensor, Tensor]:
        """h, post, comb."""
        return self.ext.mhc_mix(X.contiguous(), fn.packed.parts, scale, base, sinkhorn_steps, norm_eps, eps)

    def mhc_head(self, X: Tensor, fn: Split, scale: Tensor, base: Tensor, *, norm_eps: float, eps: float) -> Tensor:
        """h [T, D]."""
        return self.ext.mhc_mix(X.contiguous(), fn.packed.parts, scale, base, 0, norm_eps, eps)

    def mhc_expand(self, X: Tensor, out: Tensor, post: Tensor, comb: Tensor) -> Tensor:
        """X, changed in place (a copy of it where its streams share memory)."""
        return self.ext.mhc_expand(X.contiguous(), out, post, comb)

    def remember(self, ring: Tensor, values: Tensor, history: History) -> Tensor:
        """Rows of history and tokens."""
        return self.ext.remember(ring, values, history.runs.tensor, history.tensor)

    def compress(self, rows: Tensor, ape: Tensor, own: Tensor, previous: Tensor | None, norm: Tensor, eps: float, cos: Tensor, sin: Tensor,
                 dtype: torch.dtype) -> Tensor:
        """Entries [n, C]."""
        assert dtype == torch.bfloat16
        return self.ext.compress(rows, ape, own, previous, norm, eps, cos, sin, self.official)

    def index_topk(self, q: Tensor, w: Tensor, entries: Entries, spans: Spans, top_k: int) -> Tensor:
        """[T, top_k]."""
        places = entries.places
        return self.ext.index_topk(q, w, entries.pool, places.table, spans.base_tensor, places.per_block, spans.runs.tensor, spans.base_tensor,
                                   spans.ratio, top_k)

    def attend(self, q: Tensor, window: Tensor, window_spans: Spans, sink: Tensor, entries: Entries | None = None, entry_spans: Spans | None = None,
               chosen: Tensor | None = None) -> Tensor:
        """Like q."""
        if entries is None or entry_spans is None:
            return self.ext.attend(q, window, window_spans.window, sink, None, None, None, 0, window_spans.runs.tensor, None, 0, None,
                                   self.coded)
        places, base = entries.places, entry_spans.base_tensor
        return self.ext.attend(q, window, window_spans.window, sink, entries.pool, places.table, base, places.per_block,
                               window_spans.runs.tensor, base, entry_spans.ratio, chosen, self.coded)

    def whole_blocks(self, blocks: Sequence[tuple[Mapping[str, float], Mapping[str, Any], Mapping[str, Tensor]]]) -> Callable[..., Any] | None:
        """Blocks in one call: see ops.table."""
        more = {"official": self.official, "coded": self.coded}
        known = [describe({**sizes, **more}, weights, buffers) for sizes, weights, buffers in blocks]
        if None in known:
            return None
        handles, top_k = tuple([self.ext.block(all_of_it) for all_of_it in known]), int(blocks[0][0]["top_k"])
        kinds = [(int(sizes["ratio"]), bool(sizes["overlap"])) for sizes, _, _ in blocks]

        def forward(X: Tensor, token_ids: Tensor, geometry: Any) -> tuple[Tensor, Tensor, Tensor]:
            X, sights = X.contiguous(), self._sights(geometry, kinds)
            return X, *self.ext.run_blocks(handles, sights, X, token_ids, self._room(X.shape[0], top_k, X.shape[2]))

        return forward

    def _sights(self, geometry: Any, kinds: Sequence[tuple[int, bool]]) -> tuple[Any, ...]:
        """Who sees what in a batch, for blocks of these ratios, with overlapping windows or without."""
        made: dict[int, Any] = {}
        for ratio, overlap in kinds:
            if ratio not in made:
                same = next((known for other, known in made.items() if other and ratio), None)
                made[ratio] = self.ext.sight(sight(geometry, ratio, overlap), same)
        return tuple([made[ratio] for ratio, _ in kinds])


class Official(Native):
    """Operators in precision `official`: activations in E4M3, cache rows of bytes, its rounding points."""

    official = 1
    packer = staticmethod(partial(Packer, stream_parts=STREAM_PARTS["official"]))

    def __init__(self, ext: Any, rope_dims: int) -> None:
        super().__init__(ext)
        self.coded = rope_dims

    def linear_fp8(self, x: Tensor, weight: Packed) -> Tensor:
        """[..., columns] → [..., rows], bf16; x is rounded to E4M3 first."""
        return self._product(self.ext.quantise(x), weight, 0)

    def encode_entries(self, x: Tensor) -> Tensor:
        """[n, C] → rows of bytes."""
        return self.ext.encode_entries(x, self.coded)

    def encode_keys(self, x: Tensor) -> Tensor:
        """[n, K] → rows of bytes."""
        return self.ext.encode_keys(x)

    def index_queries(self, x: Tensor) -> Tensor:
        """Like x, rotated and rounded to FP4."""
        return self.ext.index_queries(x)


OPERATORS = ("attend", "compress", "encode_entries", "encode_keys", "experts", "index_queries", "index_topk", "linear", "linear_fp8",
             "linear_fp32", "linear_fp32_pair", "linear_grouped", "mhc_expand", "mhc_head", "mhc_mix", "norm_rope", "remember", "rms_norm", "rope",
             "route", "whole_blocks")
