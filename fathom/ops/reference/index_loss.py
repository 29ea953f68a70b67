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
from .attention import as_block, tile_parts


def index_loss(index_q: Tensor, w: Tensor, index_keys: Entries, q: Tensor, window: Tensor, window_spans: Spans, sink: Tensor, entries: Entries,
               entry_spans: Spans, chosen: Tensor | None) -> Tensor:
    """Σ over queries that see an entry of KL(attention ‖ indexer), fp32 scalar.

    Args:
        index_q, w, index_keys: as for `index_topk`; gradients flow to these only.
        q, window, window_spans, sink, entries, entry_spans: as for `attend`.
        chosen: [T, K] entries that attention was given, None for all visible ones.
    """
    total = torch.zeros((), dtype=torch.promote_types(q.dtype, torch.float32), device=q.device)
    for q0, q1, _, _ in window_spans.tiles:
        e0, e1 = entry_spans.reach(q0, q1)
        if e1 == e0:
            continue
        with torch.no_grad():
            target, unseen = _target([p.logits for p in tile_parts(q, q0, q1, window, window_spans, entries, entry_spans, chosen)], sink)
        picked = None if chosen is None else chosen[q0:q1]
        scores = _scores(index_q[q0:q1], w[q0:q1], index_keys, picked, e0, e1)
        log_p = scores.masked_fill(unseen, float("-inf")).masked_fill(unseen.all(1, keepdim=True), 0).log_softmax(1)
        total = total + torch.xlogy(target, target).sum() - (target * log_p.masked_fill(unseen, 0)).sum()
    return total


def _target(parts: list[Tensor], sink: Tensor) -> tuple[Tensor, Tensor]:
    """Head-summed attention over the tile's entries, [Q, n], rows summing to 1 (0 where a query sees none); and what it can't see."""
    logits = parts[-1]
    unseen = logits[:, 0] == float("-inf")
    Q, H, n = logits.shape
    last = sink.to(logits.dtype).view(1, H, 1).expand(Q, H, 1)
    mass = torch.cat([*parts, last], dim=-1).softmax(-1)[..., -n - 1 : -1].sum(1)
    return mass / mass.sum(-1, keepdim=True).clamp(min=torch.finfo(mass.dtype).tiny), unseen


def _scores(q: Tensor, w: Tensor, keys: Entries, picked: Tensor | None, e0: int, e1: int) -> Tensor:
    """Index scores [Q, n] of the same entries, in the same layout as attention's tile."""
    q = widen(q)
    if picked is None or as_block(e1 - e0, picked.shape[1]):
        products = q @ widen(keys.pool[keys.between(e0, e1)]).T  # [Q, J, n]
    else:
        products = q @ widen(keys.pool[keys.at(picked.clamp(min=0))]).transpose(1, 2)
    return (w.unsqueeze(2).to(products.dtype) * products.relu()).sum(1)

