"""What teaches the lightning indexer: its scores should rank entries as attention itself weighs them.

The target is the main attention's probability of each entry, summed over the heads and normalised over the same entries; it is
detached, and so are the indexer's inputs, so the two learn apart. The loss of a query is KL(target ‖ softmax(scores)), over all
visible entries while attention is dense, over the chosen ones once it is sparse.

Source: SPEC section 5, attention (V3.2's recipe; V4 gives no numbers).
"""
import torch
from torch import Tensor

from ..spans import Entries, Spans
from ..widen import widen
from .attention import as_block, split_weights, tile_parts, tile_weights, tiles
from .rows import select_rows


def index_loss(index_q: Tensor, w: Tensor, index_keys: Entries, q: Tensor, window: Tensor, window_spans: Spans, sink: Tensor, entries: Entries,
               entry_spans: Spans, chosen: Tensor | None) -> Tensor:
    """Σ over queries that see an entry of KL(attention ‖ indexer), fp32 scalar.

    Args:
        index_q, w, index_keys: as for `index_topk`; gradients flow to these only.
        q, window, window_spans, sink, entries, entry_spans: as for `attend`.
        chosen: [T, K] entries that attention was given, None for all visible ones.
    """
    total = torch.zeros((), dtype=torch.promote_types(q.dtype, torch.float32), device=q.device)
    for q0, q1 in tiles(window_spans, entry_spans, chosen):
        e0, e1 = entry_spans.reach(q0, q1)
        if e1 == e0:
            continue
        with torch.no_grad():
            parts = tile_parts(q0, q1, window, window_spans, entries, entry_spans, chosen)
            target, unseen = _target(split_weights(tile_weights(q[q0:q1], parts, sink), parts)[-1]), parts[-1].mask < 0
        picked = None if chosen is None else chosen[q0:q1]
        scores = _scores(index_q[q0:q1], w[q0:q1], index_keys, picked, e0, e1)
        log_p = scores.masked_fill(unseen, float("-inf")).masked_fill(unseen.all(1, keepdim=True), 0).log_softmax(1)
        total = total + torch.xlogy(target, target).sum() - (target * log_p.masked_fill(unseen, 0)).sum()
    return total


def _target(weights: Tensor) -> Tensor:
    """Head-summed attention over the tile's entries, from weights [Q, H, n] to [Q, n], rows summing to 1 (0 where a query sees none)."""
    mass = weights.sum(1)
    return mass / mass.sum(-1, keepdim=True).clamp(min=torch.finfo(mass.dtype).tiny)


def _scores(q: Tensor, w: Tensor, keys: Entries, picked: Tensor | None, e0: int, e1: int) -> Tensor:
    """Index scores [Q, n] of the same entries, in the same layout as attention's tile."""
    q = widen(q)
    if picked is None or as_block(e1 - e0, picked.shape[1]):
        products = q @ widen(select_rows(keys.pool, keys.between(e0, e1))).T  # [Q, J, n]
    else:
        products = q @ widen(select_rows(keys.pool, keys.at(picked.clamp(min=0)))).transpose(1, 2)
    return (w.unsqueeze(2).to(products.dtype) * products.relu()).sum(1)

