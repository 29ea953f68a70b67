"""Every differentiable operator passes gradcheck in fp64."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from fathom.ops import Entries, Spans, cross_entropy, reference
from tests.ops.layouts import given_places, given_spans


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=g, dtype=torch.float64).requires_grad_()


def causal(T: int, width: int) -> Spans:
    last = np.arange(1, T + 1)
    return given_spans(np.maximum(0, last - width), last)


def test_linear() -> None:
    assert gradcheck(reference.linear, (rand(3, 4), rand(5, 4)))
    assert gradcheck(reference.linear_fp32, (rand(3, 4), rand(5, 4)))
    assert gradcheck(reference.linear_fp32_pair, (rand(3, 4), rand(5, 4), rand(5, 4, seed=1)))
    assert gradcheck(reference.linear_grouped, (rand(3, 2, 4), rand(6, 4)))


def test_norm_and_rope() -> None:
    cos, sin = rand(3, 2).detach().cos(), rand(3, 2).detach().sin()
    assert gradcheck(lambda x, w: reference.rms_norm(x, w, 1e-6), (rand(3, 6), rand(6)))
    assert gradcheck(lambda x: reference.rope(x, cos, sin), (rand(3, 2, 6),))
    assert gradcheck(lambda x, w: reference.norm_rope(x, w, 1e-6, cos, sin), (rand(3, 6), rand(6)))


def test_mhc() -> None:
    N, D = 3, 4
    constants = dict(sinkhorn_steps=4, norm_eps=1e-6, eps=1e-6)
    weights = (rand((2 + N) * N, N * D), rand(3), rand((2 + N) * N))
    assert gradcheck(lambda X, *w: reference.mhc_mix(X, *w, **constants), (rand(5, N, D), *weights))
    assert gradcheck(reference.mhc_expand, (rand(5, N, D), rand(5, D), rand(5, N), rand(5, N, N)))
    assert gradcheck(lambda X, f, s, b: reference.mhc_head(X, f, s, b, norm_eps=1e-6, eps=1e-6), (rand(5, N, D), rand(N, N * D), rand(1), rand(N)))


@pytest.mark.parametrize("overlap", [False, True])
def test_compress(overlap: bool) -> None:
    C, m = 4, 2
    own = torch.tensor([[0, 1], [2, 3]])
    previous = torch.tensor([[-1, -1], [0, 1]]) if overlap else None
    P = 2 * C if overlap else C
    cos, sin = torch.ones(2, 1, dtype=torch.float64) * 0.6, torch.ones(2, 1, dtype=torch.float64) * 0.8
    assert gradcheck(lambda rows, ape, norm: reference.compress(rows, ape, own, previous, norm, 1e-6, cos, sin, torch.float64),
                     (rand(5, 2, P), rand(m, P), rand(C)))


@pytest.mark.parametrize("kind", ["window", "dense", "block", "gather"])
def test_attend(kind: str) -> None:
    T, H, C = 7, 2, 4
    window, spans, chosen = causal(T, 3), None, None
    if kind != "window":
        last = np.arange(T) * 20 // T if kind == "gather" else np.arange(T) // 2
        spans = given_spans(np.zeros(T, np.int64), last)
        if kind != "dense":
            picks = [[e if e < n else -1 for e in (0, 2)] for n in last]
            chosen = torch.tensor(picks)
    pool = rand(20, C)

    def f(q: torch.Tensor, kv: torch.Tensor, sink: torch.Tensor, pool: torch.Tensor) -> torch.Tensor:
        return reference.attend(q, kv, window, sink, None if kind == "window" else Entries(pool, given_places()), spans, chosen)

    assert gradcheck(f, (rand(T, H, C), rand(T, C), rand(H), pool))


def test_route_weights() -> None:
    bias = torch.zeros(5, dtype=torch.float64)
    assert gradcheck(lambda x: reference.route(x, bias=bias, chosen=None, top_k=2, factor=1.5)[:2], (rand(4, 5),))


@pytest.mark.parametrize("skew", [False, True])
def test_experts(skew: bool) -> None:
    """Padded layout, and (all tokens at one expert) the ragged one."""
    T, D, E, inner = 6, 4, 5, 3
    chosen = torch.tensor([[4, 0]] * T) if skew else torch.tensor([[0, 1], [2, 3], [4, 0], [1, 2], [3, 4], [0, 2]])

    def f(x: torch.Tensor, weights: torch.Tensor, *w: torch.Tensor) -> torch.Tensor:
        return reference.experts(x, weights, chosen, *w[:3], w[3:], 10.0)

    assert gradcheck(f, (rand(T, D), rand(T, 2), rand(E, inner, D), rand(E, D, inner), rand(E, inner, D, seed=1), rand(inner, D), rand(D, inner),
                         rand(inner, D, seed=1)))


def test_cross_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut into slices of two tokens, with an ignored one."""
    monkeypatch.setattr("fathom.ops.reference.loss.CELLS", 14)
    targets = torch.tensor([3, -100, 0, 6, 2])
    for reduction in ("sum", "mean"):
        assert gradcheck(lambda h, w, r=reduction: cross_entropy(h, w, targets, reduction=r), (rand(5, 3), rand(7, 3)))
    h, w = rand(5, 3), rand(7, 3)
    torch.testing.assert_close(cross_entropy(h, w, targets), torch.nn.functional.cross_entropy(h @ w.T, targets))
    assert cross_entropy(h, w, targets, reduction="none")[1] == 0
