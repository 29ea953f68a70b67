"""Attention over window rows and compressed entries, with a sink.

All query heads share one key-value head whose rows are keys and values at once. A query attends, in one softmax, to its sliding
window, to compressed entries (CSA: those the indexer chose; HCA: all visible), and to a learned sink logit that only takes
probability away. Work goes tile by tile: the window is a band, never an S×S matrix.

Chosen entries are either gathered per query or, while few entries are visible, read as one block with the others masked out. Both
compute the same softmax; the block is a plain matrix product and, under autograd, spares a scatter.

Shapes: T queries, H heads, C head_dim, Q queries of a tile, K entries chosen per query.
Source: SPEC section 2, attention item 4; logit scale C^-0.5, softmax in fp32.
"""
import torch
from torch import Tensor

from ..spans import Entries, Spans
from ..widen import widen

ALIGN = 16  # window keys of a tile come in multiples of this
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
    outputs = []
    for q0, q1, _, _ in window_spans.tiles:
        outputs.append(_softmax_sum(tile_logits(q, q0, q1, window, window_spans, entries, entry_spans, chosen), sink).to(q.dtype))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def tile_logits(q: Tensor, q0: int, q1: int, window: Tensor, window_spans: Spans, entries: Entries | None, entry_spans: Spans | None,
                chosen: Tensor | None) -> list[tuple[Tensor, Tensor]]:
    """What queries q0..q1 look at: (logits [Q, H, n], values) of the window and, where any are visible, of the entries."""
    query = widen(q[q0:q1]) * q.shape[-1] ** -0.5
    w0, w1 = window_spans.reach(q0, q1)
    w0 = max(0, w1 - -(-(w1 - w0) // ALIGN) * ALIGN)  # a few more keys, masked out, for a faster product
    parts = [_block(query, window[w0:w1], window_spans.outside(q0, q1, w0, w1))]
    if entries is not None and entry_spans is not None:
        e0, e1 = entry_spans.reach(q0, q1)
        if chosen is None and e1 > e0:
            parts.append(_block(query, entries.slice(e0, e1), entry_spans.outside(q0, q1, e0, e1)))
        elif chosen is not None and e1 > e0:
            parts.append(_chosen(query, entries, chosen[q0:q1], e0, e1))
    return parts


def as_block(reach: int, top_k: int) -> bool:
    """Whether chosen entries are read as one masked block of `reach` entries rather than gathered."""
    return reach <= GATHER_FROM * top_k


def not_chosen(picked: Tensor, e0: int, e1: int) -> Tensor:
    """[Q, e1 - e0] True for entries e0..e1 that aren't among picked [Q, K]."""
    outside = torch.ones(picked.shape[0], e1 - e0 + 1, dtype=torch.bool, device=picked.device)
    outside.scatter_(1, torch.where(picked < 0, e1 - e0, picked - e0), False)  # the last column takes the -1s
    return outside[:, :-1]


def _chosen(query: Tensor, entries: Entries, picked: Tensor, e0: int, e1: int) -> tuple[Tensor, Tensor]:
    """Logits of the chosen entries and their values: gathered, or as one block of all entries e0..e1 with the others masked out."""
    if as_block(e1 - e0, picked.shape[1]):
        return _block(query, entries.slice(e0, e1), not_chosen(picked, e0, e1))
    values = entries.take(picked.clamp(min=0))  # [Q, K, C]
    logits = query @ widen(values).transpose(1, 2)
    return _masked(logits, (picked < 0).unsqueeze(1)), values


def _block(query: Tensor, keys: Tensor, outside: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [Q, H, n] of queries [Q, H, C] against shared rows [n, C], -inf where outside [Q, n]; and the rows as values."""
    Q, H, C = query.shape
    logits = (query.reshape(Q * H, C) @ widen(keys).T).view(Q, H, -1)
    return _masked(logits, outside.unsqueeze(1)), keys


def _masked(logits: Tensor, outside: Tensor) -> Tensor:
    return logits.masked_fill(outside, float("-inf")) if logits.requires_grad else logits.masked_fill_(outside, float("-inf"))


def _softmax_sum(parts: list[tuple[Tensor, Tensor]], sink: Tensor) -> Tensor:
    """Σ softmax(logits, sink) · values over all parts: values are [n, C] (shared by all queries) or [Q, n, C]."""
    Q, H, _ = parts[0][0].shape
    sink = sink.to(parts[0][0].dtype).unsqueeze(1)  # [H, 1]
    with torch.no_grad():
        top = torch.maximum(torch.stack([logits.amax(-1, keepdim=True) for logits, _ in parts]).amax(0), sink)
    total, below = None, (sink - top).exp()
    for logits, values in parts:
        p = (logits - top).exp() if logits.requires_grad else logits.sub_(top).exp_()
        below = below + p.sum(-1, keepdim=True)
        weights = p.to(values.dtype)  # one of the published rounding points: weights take the values' type for the product
        term = widen(weights @ values if values.dim() == 3 else (weights.reshape(Q * H, -1) @ values).view(Q, H, -1))
        total = term if total is None else total + term
    return total / below
