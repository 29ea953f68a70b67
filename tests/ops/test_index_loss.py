"""The indexer's lesson: written-out KL on small cases, gradients, and that following it makes the choice better."""
from __future__ import annotations

import numpy as np
import pytest
import torch

from fathom.model import Batch, Transformer
from fathom.ops import Entries, reference
from tests.ops.layouts import given_places, given_spans
from tests.oracle import randomise, tiny_config

T, H, C, J, K = 6, 2, 4, 3, 5


def inputs(reach: int) -> tuple:
    g = torch.Generator().manual_seed(1)
    r = lambda *s: torch.randn(*s, generator=g, dtype=torch.float64)
    ends = np.arange(1, T + 1)
    window = given_spans(np.maximum(0, ends - 2), ends)
    last = np.minimum(ends - 1, 5) * reach // 5
    spans = given_spans(np.zeros(T, np.int64), last)
    return r(T, J, K), r(T, J), r(reach, K), r(T, H, C), r(T, C), window, r(H), r(reach, C), spans, last


@pytest.mark.parametrize(("reach", "top_k"), [(5, None), (5, 2), (20, 2)])
def test_equals_the_formula(reach: int, top_k: int | None) -> None:
    """All visible entries, chosen ones read as a block, chosen ones gathered."""
    iq, w, ik, q, kv, window, sink, pool, spans, last = inputs(reach)
    chosen = None if top_k is None else torch.tensor([[e if e < n else -1 for e in (3, 0)] for n in last])
    iq, w, ik = (x.requires_grad_() for x in (iq, w, ik))

    def loss(iq: torch.Tensor, w: torch.Tensor, ik: torch.Tensor) -> torch.Tensor:
        return reference.index_loss(iq, w, Entries(ik, given_places()), q, kv, window, sink, Entries(pool, given_places()), spans, chosen)

    expected = torch.zeros((), dtype=torch.float64)
    for t in range(T):
        seen = list(range(last[t])) if chosen is None else [e for e in chosen[t].tolist() if e >= 0]
        if not seen:
            continue
        logits = torch.cat((q[t] @ kv[max(0, t - 1) : t + 1].T, q[t] @ pool[seen].T), 1) * C**-0.5
        p = torch.cat((logits, sink[:, None]), 1).softmax(1)[:, -len(seen) - 1 : -1].sum(0)
        p = p / p.sum()
        scores = (w[t][:, None] * (iq[t] @ ik[seen].T).relu()).sum(0)
        expected = expected + (p * (p.log() - scores.log_softmax(0))).sum()
    torch.testing.assert_close(loss(iq, w, ik), expected)
    assert torch.autograd.gradcheck(loss, (iq, w, ik))


def test_only_the_indexer_learns_from_it_and_it_does() -> None:
    config = tiny_config(num_hidden_layers=2, compress_ratios=(4, 4), hash_routed=(True, False))
    model = randomise(Transformer(config), 2)
    batch = Batch.pack([torch.randint(0, 64, (200,), generator=torch.Generator().manual_seed(0))])
    losses = model(batch, sparse=False, index_loss=True).index_losses
    assert len(losses) == 2
    sum(losses).backward()
    touched = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert touched and all("indexer" in name for name in touched)
    assert {n for n, _ in model.named_parameters() if "indexer" in n} == touched
    indexer = [p for n, p in model.named_parameters() if "indexer" in n]
    optimizer = torch.optim.Adam(indexer, lr=1e-2)
    dense = model(batch, sparse=False).hidden.detach()

    def error() -> float:
        return float((model(batch).hidden.detach() - dense).square().mean())

    before, history = error(), []
    for _ in range(40):
        optimizer.zero_grad()
        loss = sum(model(batch, sparse=False, index_loss=True).index_losses)
        loss.backward()
        optimizer.step()
        history.append(float(loss.detach()))
    assert history[-1] < 0.5 * history[0]
    assert error() < before, "sparse attention must come closer to dense"
