"""Attention over window rows and compressed entries, with a sink.

All query heads share one key-value head whose rows are keys and values at once. A query attends, in one softmax, to its sliding
window, to compressed entries (CSA: those the indexer chose; HCA: all visible), and to a learned sink logit that only takes
probability away. Work goes tile by tile: the window is a band, never an S×S matrix.

Chosen entries are either gathered per query or, while few entries are visible, read as one block with the others masked out. Both
compute the same softmax; the block is a plain matrix product and, under autograd, spares a scatter.

The logits of a tile stand side by side in one tensor: window, entries, sink. Masks are written there first and the products added
to them, since filling through a broadcast mask costs as much as the softmax.

The backward pass is written out: it visits the same tiles and makes their weights again, so nothing of (query, key) size outlives a
tile in training either, and each gradient is added where it belongs instead of through full-size zeros.

Shapes: T queries, H heads, C head_dim, Q queries of a tile, n keys of a part, K entries chosen per query.
Source: SPEC section 2, attention item 4; logit scale C^-0.5, softmax in fp32.
"""
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..spans import Entries, Spans
from ..widen import widen
from .rows import select_rows

ALIGN = 16  # window keys of a tile, and the logits of a row, come in multiples of this
GATHER_FROM = 6  # gather chosen entries once a tile sees more than this many times K


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
    """Keys that a tile looks at: what is added to their logits, [Q, n], -inf where a query doesn't see one; their rows as values, [n, C]
    shared by all queries or [Q, n, C]; and where those rows are in the window (`pooled` False) or the pool."""

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
        for q0, q1, _, _ in window_spans.tiles:
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
        for q0, q1, _, _ in window_spans.tiles:
            query, g, d = q[q0:q1] * q.shape[-1] ** -0.5, grad[q0:q1], delta[q0:q1]
            parts = tile_parts(q0, q1, window, window_spans, entries, entry_spans, chosen)
            weights = tile_weights(q[q0:q1], parts, sink)
            total = torch.zeros_like(widen(query))
            for part, p in zip(parts, split_weights(weights, parts), strict=True):
                d_query, d_values = _part_gradients(p, part.values, query, g, d)
                total += d_query
                _add_rows(grad_rows[part.pooled], part.rows, d_values)
            grad_q[q0:q1] = total * q.shape[-1] ** -0.5
            grad_sink -= (weights[..., sum(part.mask.shape[1] for part in parts)] * d).sum(0)
        grad_pool = grad_rows[True].to(pool.dtype) if entries is not None else None
        return grad_q, grad_rows[False].to(window.dtype), grad_sink.to(sink.dtype), grad_pool, None, None, None, None


def tile_parts(q0: int, q1: int, window: Tensor, window_spans: Spans, entries: Entries | None, entry_spans: Spans | None,
               chosen: Tensor | None) -> list[Part]:
    """What queries q0..q1 look at: the window and, where any are visible, the entries."""
    w0, w1 = window_spans.reach(q0, q1)
    w0 = max(0, w1 - -(-(w1 - w0) // ALIGN) * ALIGN)  # a few more keys, masked out, for a faster product
    parts = [Part(window_spans.mask(q0, q1, w0, w1), window[w0:w1], slice(w0, w1), pooled=False)]
    if entries is not None and entry_spans is not None:
        e0, e1 = entry_spans.reach(q0, q1)
        if e1 > e0 and chosen is not None and not as_block(e1 - e0, chosen.shape[1]):
            picked = chosen[q0:q1]
            rows = entries.at(picked.clamp(min=0))
            mask = torch.zeros(picked.shape, device=picked.device).masked_fill_(picked < 0, float("-inf"))
            parts.append(Part(mask, select_rows(entries.pool, rows), rows, pooled=True))
        elif e1 > e0:
            mask = entry_spans.mask(q0, q1, e0, e1) if chosen is None else _chosen_only(chosen[q0:q1], e0, e1)
            rows = entries.between(e0, e1)
            parts.append(Part(mask, select_rows(entries.pool, rows), rows, pooled=True))
    return parts


def as_block(reach: int, top_k: int) -> bool:
    """Whether chosen entries are read as one masked block of `reach` entries rather than gathered."""
    return reach <= GATHER_FROM * top_k


def _chosen_only(picked: Tensor, e0: int, e1: int) -> Tensor:
    """[Q, e1 - e0] the mask of entries e0..e1 for queries that chose picked [Q, K]."""
    mask = torch.full((picked.shape[0], e1 - e0 + 1), float("-inf"), device=picked.device)
    return mask.scatter_(1, torch.where(picked < 0, e1 - e0, picked - e0), 0.0)[:, :-1]  # the last column takes the -1s


def tile_weights(q: Tensor, parts: list[Part], sink: Tensor) -> Tensor:
    """Attention weights [Q, H, N] in fp32 of queries q [Q, H, C]: softmax over the keys of all parts in order, the sink, and nothing up to
    a multiple of ALIGN."""
    Q, H, C = q.shape
    query, keys_in_all = widen(q) * C**-0.5, sum(part.mask.shape[1] for part in parts)
    logits = query.new_empty(Q, H, (keys_in_all // ALIGN + 1) * ALIGN)
    logits[..., keys_in_all:] = float("-inf")
    logits[..., keys_in_all] = sink
    for part, piece in zip(parts, split_weights(logits, parts), strict=True):
        if part.values.dim() == 3:
            torch.add(part.mask.unsqueeze(1), query @ widen(part.values).transpose(1, 2), out=piece)
        else:
            piece.copy_(part.mask.unsqueeze(1))
    shared = _shared(parts)
    logits[..., : len(shared)].view(Q * H, -1).addmm_(query.view(Q * H, C), widen(shared).T)
    return logits.softmax(-1)


def split_weights(weights: Tensor, parts: list[Part]) -> tuple[Tensor, ...]:
    """Views [Q, H, n] of each part's own logits or weights; the sink's are left over."""
    sizes = [part.mask.shape[1] for part in parts]
    return weights.split([*sizes, weights.shape[-1] - sum(sizes)], dim=-1)[:-1]


def _shared(parts: list[Part]) -> Tensor:
    """Rows [n, C] of all parts that the queries share; these come first."""
    rows = [part.values for part in parts if part.values.dim() == 2]
    return rows[0] if len(rows) == 1 else torch.cat(rows)


def _weighted_sum(weights: Tensor, parts: list[Part]) -> Tensor:
    """Σ weights · values over all parts, [Q, H, C]. Weights take the values' type for the product: a published rounding point."""
    Q, H, _ = weights.shape
    shared = _shared(parts)
    weights = weights.to(shared.dtype)
    total = (weights[..., : len(shared)].flatten(0, 1) @ shared).view(Q, H, -1)
    for part, p in zip(parts, split_weights(weights, parts), strict=True):
        if part.values.dim() == 3:
            total = widen(total) + p @ part.values
    return total


def _part_gradients(p: Tensor, values: Tensor, query: Tensor, grad: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of one part: of the scaled queries [Q, H, C], and of its rows as values and keys together, shaped like `values`.

    Args:
        p: attention weights [Q, H, n].  grad: gradient of the output [Q, H, C].  delta: Σ_C grad · output [Q, H].
    """
    Q, H, C = query.shape
    dtype = values.dtype
    if values.dim() == 3:
        d_p = widen(grad @ values.transpose(1, 2))
        d_values = p.to(dtype).transpose(1, 2) @ grad
        d_logits = d_p.sub_(delta.unsqueeze(2)).mul_(p).to(dtype)
        return d_logits @ values, d_values + d_logits.transpose(1, 2) @ query
    flat_grad, flat_query = grad.reshape(Q * H, C), query.reshape(Q * H, C)
    d_p = widen(flat_grad @ values.T)
    p = p.flatten(0, 1)
    d_values = p.to(dtype).T @ flat_grad
    d_logits = d_p.sub_(delta.reshape(Q * H, 1)).mul_(p).to(dtype)
    return (d_logits @ values).view(Q, H, C), d_values + d_logits.T @ flat_query


def _add_rows(target: Tensor, rows: slice | Tensor, values: Tensor) -> None:
    if isinstance(rows, slice):
        target[rows] += values
    else:
        target.index_add_(0, rows.flatten(), values.reshape(-1, target.shape[1]).to(target.dtype))
