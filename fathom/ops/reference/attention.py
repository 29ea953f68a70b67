"""Attention over window rows and compressed entries, with a sink.

All query heads share one key-value head whose rows are keys and values at once. A query attends, in one softmax, to its sliding
window, to compressed entries (CSA: those the indexer chose; HCA: all visible), and to a learned sink logit that only takes
probability away. Work goes tile by tile, and the window is a band: nothing of S×S is ever made.

Chosen entries are either gathered per query or, while few entries are visible, read as one block with the others masked out. Both
compute the same softmax; the block is a plain matrix product and, under autograd, spares a scatter.

The logits of a tile stand side by side in one tensor: window, entries, sink. Its queries fall into groups that share keys: bands of
neighbours for the window, all of them for a block of entries, each its own for gathered ones. Every part is one batched product.

The backward pass is written out: it visits the same tiles and makes their weights again, so nothing of (query, key) size outlives a
tile in training either, and each gradient is added where it belongs instead of through full-size zeros.

Shapes: T queries, H heads, C head_dim, Q queries of a tile, G groups of them, n keys of a part, K entries chosen per query.
Source: SPEC section 2, attention item 4; logit scale C^-0.5, softmax in fp32.
"""
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..spans import Entries, Spans
from ..widen import widen
from .rows import select_rows

ALIGN = 16  # keys of a band, and logits of a query, come in multiples of this
GATHER_FROM = 6  # gather chosen entries once a tile sees more than this many times K
QUERIES = 64  # of a tile that looks at many entries: so that what it makes stays in cache
FEW = 1 << 16  # (query, entry) pairs up to which a tile may have more queries


def attend(q: Tensor, window: Tensor, window_spans: Spans, sink: Tensor, entries: Entries | None = None, entry_spans: Spans | None = None,
           chosen: Tensor | None = None) -> Tensor:
    """Attention output [T, H, C] in q's dtype, not yet rotated back.

    Args:
        q: [T, H, C] after RoPE.  window: rows [R, C] of history and new tokens.  sink: [H] fp32.
        window_spans: window rows each query sees; its tiles rule the work.
        entries, entry_spans: compressed entries and the visible range of each query; None for window-only layers.
        chosen: [T, K] flat entry numbers from the indexer, -1 for none; None means all visible ones.
    """
    pool = entries.pool if entries is not None else q.new_zeros(0, q.shape[-1])
    return _Attend.apply(q, window, sink, pool, window_spans, entries, entry_spans, chosen)


@dataclass(frozen=True)
class Part:
    """Keys that a tile looks at: what is added to their logits, [Q, n], -inf where a query doesn't see one; their rows as values, [G, n, C],
    one block for each group of queries; and where those rows are in the window (`pooled` False) or the pool: a slice holds the blocks
    of all groups at equal distances."""

    mask: Tensor
    values: Tensor
    rows: slice | Tensor
    pooled: bool


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, window: Tensor, sink: Tensor, pool: Tensor, window_spans: Spans, entries: Entries | None,
                entry_spans: Spans | None, chosen: Tensor | None) -> Tensor:
        ctx.arguments = window_spans, entries, entry_spans, chosen
        out = torch.empty_like(q)
        for q0, q1 in tiles(window_spans, entry_spans, chosen):
            parts = tile_parts(q0, q1, window, window_spans, entries, entry_spans, chosen)
            out[q0:q1] = _weighted_sum(tile_weights(q[q0:q1], parts, sink), parts)
        ctx.save_for_backward(q, window, sink, pool, out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, window, sink, pool, out = ctx.saved_tensors
        window_spans, entries, entry_spans, chosen = ctx.arguments
        delta = (widen(grad) * widen(out)).sum(-1)  # [T, H]
        grad_q, grad_rows = torch.empty_like(q), {False: torch.zeros_like(widen(window)), True: torch.zeros_like(widen(pool))}
        grad_sink = torch.zeros_like(delta[0])
        for q0, q1 in tiles(window_spans, entry_spans, chosen):
            query, g, d = q[q0:q1] * q.shape[-1] ** -0.5, grad[q0:q1], delta[q0:q1]
            parts = tile_parts(q0, q1, window, window_spans, entries, entry_spans, chosen)
            weights = tile_weights(q[q0:q1], parts, sink)
            total = torch.zeros_like(widen(query))
            for part, p in zip(parts, split_weights(weights, parts), strict=True):
                d_query, d_values = _part_gradients(p, part.values, query, g, d)
                total += d_query
                _add_rows(grad_rows[part.pooled], part.rows, d_values)
            grad_q[q0:q1] = total * q.shape[-1] ** -0.5
            grad_sink -= (weights[..., _keys(parts)] * d).sum(0)
        grad_pool = grad_rows[True].to(pool.dtype) if entries is not None else None
        return grad_q, grad_rows[False].to(window.dtype), grad_sink.to(sink.dtype), grad_pool, None, None, None, None


def tiles(window_spans: Spans, entry_spans: Spans | None, chosen: Tensor | None) -> Iterator[tuple[int, int]]:
    """(q0, q1) of queries that are computed together, in order."""
    for q0, q1, _, _ in window_spans.tiles:
        step = q1 - q0
        if entry_spans is not None:
            e0, e1 = entry_spans.reach(q0, q1)
            as_many = FEW // max(1, e1 - e0) // QUERIES * QUERIES if chosen is None or as_block(e1 - e0, chosen.shape[1]) else 0
            step = min(step, max(QUERIES, as_many))
        for a in range(q0, q1, step):
            yield a, min(a + step, q1)


def tile_parts(q0: int, q1: int, window: Tensor, window_spans: Spans, entries: Entries | None, entry_spans: Spans | None,
               chosen: Tensor | None) -> list[Part]:
    """What queries q0..q1 look at: the window and, where any are visible, the entries."""
    groups, w0, n = window_spans.bands(q0, q1, ALIGN)
    step = (q1 - q0) // groups
    rows = slice(w0, w0 + (groups - 1) * step + n)
    parts = [Part(window_spans.mask(q0, q1, w0, w0 + n, groups), window[rows].unfold(0, n, step).transpose(1, 2), rows, pooled=False)]
    if entries is not None and entry_spans is not None:
        e0, e1 = entry_spans.reach(q0, q1)
        if e1 > e0 and chosen is not None and not as_block(e1 - e0, chosen.shape[1]):
            picked = chosen[q0:q1]
            taken = entries.at(picked.clamp(min=0))
            mask = torch.zeros(picked.shape, dtype=torch.float32, device=picked.device).masked_fill_(picked < 0, float("-inf"))
            parts.append(Part(mask, select_rows(entries.pool, taken), taken, pooled=True))
        elif e1 > e0:
            mask = entry_spans.mask(q0, q1, e0, e1) if chosen is None else _chosen_only(chosen[q0:q1], e0, e1)
            block = entries.between(e0, e1)
            parts.append(Part(mask, select_rows(entries.pool, block).unsqueeze(0), block, pooled=True))
    return parts


def as_block(reach: int, top_k: int) -> bool:
    """Whether chosen entries are read as one masked block of `reach` entries rather than gathered."""
    return reach <= GATHER_FROM * top_k


def _chosen_only(picked: Tensor, e0: int, e1: int) -> Tensor:
    """[Q, e1 - e0] the mask of entries e0..e1 for queries that chose picked [Q, K]."""
    mask = torch.full((picked.shape[0], e1 - e0 + 1), float("-inf"), dtype=torch.float32, device=picked.device)
    return mask.scatter_(1, torch.where(picked < 0, e1 - e0, picked - e0), 0.0)[:, :-1]  # the last column takes the -1s


def tile_weights(q: Tensor, parts: list[Part], sink: Tensor) -> Tensor:
    """Attention weights [Q, H, N] in fp32 of queries q [Q, H, C]: softmax over the keys of all parts in order, the sink, and nothing up to
    a multiple of ALIGN."""
    Q, H, C = q.shape
    query, keys = widen(q) * C**-0.5, _keys(parts)
    logits = query.new_empty(Q, H, (keys // ALIGN + 1) * ALIGN)
    logits[..., keys:] = float("-inf")
    logits[..., keys] = sink
    for part, piece in zip(parts, split_weights(logits, parts), strict=True):
        products = _grouped(query, part.values) @ widen(part.values).transpose(1, 2)
        torch.add(part.mask.unsqueeze(1), products.view(Q, H, -1), out=piece)
    return logits.softmax(-1)


def split_weights(weights: Tensor, parts: list[Part]) -> tuple[Tensor, ...]:
    """Views [Q, H, n] of each part's own logits or weights; the sink's are left over."""
    return weights.split([*(part.mask.shape[1] for part in parts), weights.shape[-1] - _keys(parts)], dim=-1)[:-1]


def _keys(parts: list[Part]) -> int:
    """Keys of all parts; the sink's column comes after theirs."""
    return sum(part.mask.shape[1] for part in parts)


def times_values(weights: Tensor, values: Tensor) -> Tensor:
    """Σ weights [Q, H, n] · values [G, n, C] of each query's group, [Q, H, C] in the values' type."""
    return (_grouped(weights.to(values.dtype), values) @ values).view(*weights.shape[:2], -1)


def _grouped(x: Tensor, values: Tensor) -> Tensor:
    """x [Q, H, ·] by the groups of values [G, n, C]: [G, Q / G · H, ·]."""
    return x.reshape(len(values), -1, x.shape[-1])


def _weighted_sum(weights: Tensor, parts: list[Part]) -> Tensor:
    """Σ weights · values over all parts, [Q, H, C]. Weights take the values' type for the product: a published rounding point."""
    terms = [times_values(p, part.values) for part, p in zip(parts, split_weights(weights, parts), strict=True)]
    return terms[0] if len(terms) == 1 else widen(terms[0]) + terms[1]


def _part_gradients(p: Tensor, values: Tensor, query: Tensor, grad: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of one part: of the scaled queries [Q, H, C], and of its rows as values and keys together, shaped like `values`.

    Args:
        p: attention weights [Q, H, n].  grad: gradient of the output [Q, H, C].  delta: Σ_C grad · output [Q, H].
    """
    Q, H, C = query.shape
    p, query, grad, delta = (_grouped(x, values) for x in (p, query, grad, delta.unsqueeze(2)))
    d_values = p.to(values.dtype).transpose(1, 2) @ grad
    d_logits = widen(grad @ values.transpose(1, 2)).sub_(delta).mul_(p).to(values.dtype)
    return (d_logits @ values).view(Q, H, C), d_values + d_logits.transpose(1, 2) @ query


def _add_rows(target: Tensor, rows: slice | Tensor, values: Tensor) -> None:
    """Adds gradients of a part's values [G, n, C] to the rows that they are of."""
    groups, n, C = values.shape
    if isinstance(rows, slice):
        step = (rows.stop - rows.start - n) // max(1, groups - 1)
        for first, block in zip(range(rows.start, rows.stop, max(1, step)), values):
            target[first : first + n] += block
    else:
        target.index_add_(0, rows.flatten(), values.reshape(-1, C).to(target.dtype))
