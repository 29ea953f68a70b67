"""The lightning indexer's scoring: which compressed entries a query will attend to.

    score(t, i) = Σ_j w_tj · ReLU(q_tj · k_i)

over all visible entries i of the query's sequence, keeping the best k. Scores of a tile of queries against a tile of keys exist
only until the running top-k has seen them, so memory doesn't grow with the context. Ties (ReLU gives exact zeros) go to the lower
index; keys of equal rank can't occur (see topk.py), so the way the history is tiled doesn't show.

Source: SPEC section 2, lightning indexer; technical report §2.3.1.
"""
import torch
from torch import Tensor
from torch.nn import functional as F

from ..spans import Entries, Spans
from ..widen import widen
from .rows import select_rows
from .topk import LOWEST, indices, keys

CELLS = 1 << 21  # score cells (queries × heads × keys) of one tile


def index_topk(q: Tensor, w: Tensor, entries: Entries, spans: Spans, top_k: int, *, rounding: torch.dtype | None = None) -> Tensor:
    """The best visible entries of each query.

    Args:
        q: index queries [T, J, K] after RoPE.  w: head weights [T, J], fp32, both constant factors included.
        entries: index keys of all runs.  spans: which flat entries each query sees.
        rounding: round scores to this type before they are compared.

    Returns:
        [T, top_k] int64, flat entry numbers in no particular order; -1s at the end where a query sees fewer than top_k entries.
    """
    out = torch.full((q.shape[0], top_k), -1, dtype=torch.int64, device=q.device)
    with torch.no_grad():
        for q0, q1, e0, e1 in spans.tiles:
            if e1 > e0:
                out[q0:q1] = _tile(q[q0:q1], w[q0:q1], entries, spans, q0, e0, e1, top_k, rounding)
    return out


def _tile(q: Tensor, w: Tensor, entries: Entries, spans: Spans, q0: int, e0: int, e1: int, top_k: int,
          rounding: torch.dtype | None) -> Tensor:
    Q, J, _ = q.shape
    best = None
    short = int((spans.host_last[q0 : q0 + Q] - spans.host_first[q0 : q0 + Q]).min()) < top_k  # some get -1s, the lowest
    flat, step = widen(q).flatten(0, 1), max(64, CELLS // (Q * J))
    for a in range(e0, e1, step):
        b = min(a + step, e1)
        products = (flat @ widen(select_rows(entries.pool, entries.between(a, b))).T).view(Q, J, b - a)
        scores = torch.bmm(w.unsqueeze(1).to(products.dtype), products.relu_()).squeeze(1)  # [Q, b - a]
        ranked = keys(scores if rounding is None else scores.to(rounding), a)
        for c, d in spans.partly_seen(q0, q0 + Q, a, b):
            ranked[:, c - a : d - a].masked_fill_(spans.outside(q0, q0 + Q, c, d), LOWEST)
        if best is not None:
            ranked = torch.cat((best, ranked), dim=1)
        best = ranked.topk(min(top_k, ranked.shape[1]), dim=1, sorted=short).values  # sorting takes as long as choosing
    assert best is not None
    return indices(F.pad(best, (0, top_k - best.shape[1]), value=LOWEST))
