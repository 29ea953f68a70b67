"""Manifold-constrained hyper-connections: N residual streams instead of one.

A block reads one vector per token as a mixture of its N streams, and writes back to all of them:

    h = Σ_j pre_j · X_j                          mix
    X'_k = post_k · F(h) + Σ_j comb_jk · X_j     expand

The weights depend on the token. `comb` is pushed onto the doubly stochastic matrices (Sinkhorn–Knopp), so mixing through any
depth can't amplify: its spectral norm is at most 1. All of it is at least fp32; twenty normalisations in bf16 leave the manifold.

The normalisations work on N×N matrices laid out [N, N, T], so that every one of the forty is a few long vector operations and
not T tiny ones.

Shapes: T tokens, N streams, D hidden size, M = (2 + N)·N mixing coefficients.
Source: technical report §2.2, SPEC section 2; normalisation order and places of eps as in the published inference code.
"""
from typing import Any

import torch
from torch import Tensor

from ..widen import widen
from .slices import by_slices


def mhc_mix(X: Tensor, fn: Tensor, scale: Tensor, base: Tensor, *, sinkhorn_steps: int, norm_eps: float, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Sublayer input and the weights to write its output back with.

    Args:
        X: streams [T, N, D].  fn: [M, N·D], scale: [3] (pre, post, comb), base: [M]; fp32.
        sinkhorn_steps: row/column normalisations (hc_sinkhorn_iters).  norm_eps: rms_norm_eps.  eps: hc_eps.

    Returns:
        h [T, D] in X's dtype; post [T, N] in (0, 2) and comb [T, N, N], fp32 or wider. comb[t, j, k] takes stream j to stream k.
    """
    T, N, _ = X.shape
    mixes = []

    def read(X: Tensor) -> Tensor:
        wide = widen(X)
        mix = _project(wide, fn, norm_eps)
        mixes.append(mix[:, N:])
        return _read(wide, torch.sigmoid(mix[:, :N] * scale[0] + base[:N]) + eps)

    h = by_slices(read, X, dtype=X.dtype)
    mix = torch.cat(mixes)
    post = 2 * torch.sigmoid(mix[:, :N] * scale[1] + base[N : 2 * N])
    comb = sinkhorn((mix[:, N:] * scale[2] + base[2 * N :]).T.reshape(N, N, T), sinkhorn_steps, eps)
    return h, post, comb.permute(2, 0, 1).contiguous()


def mhc_expand(X: Tensor, out: Tensor, post: Tensor, comb: Tensor) -> Tensor:
    """New streams [T, N, D] from the old ones and the sublayer's output `out` [T, D]; comb is summed over its FIRST stream axis."""
    def work(X: Tensor, out: Tensor, post: Tensor, comb: Tensor) -> Tensor:
        return torch.baddbmm(post.unsqueeze(2) * widen(out).unsqueeze(1), comb.transpose(1, 2), widen(X))

    return by_slices(work, X, out, post, comb, dtype=X.dtype)


def mhc_head(X: Tensor, fn: Tensor, scale: Tensor, base: Tensor, *, norm_eps: float, eps: float) -> Tensor:
    """The final mix of streams X [T, N, D] into one [T, D]: sigmoid weights, no Sinkhorn. fn [N, N·D], scale [1], base [N]."""
    def work(X: Tensor) -> Tensor:
        wide = widen(X)
        return _read(wide, torch.sigmoid(_project(wide, fn, norm_eps) * scale + base) + eps)

    return by_slices(work, X, dtype=X.dtype)


def sinkhorn(logits: Tensor, steps: int, eps: float) -> Tensor:
    """Nearly doubly stochastic matrices from logits [N, N, T]: axis 0 are rows, axis 1 columns; ends with the columns."""
    return _Normalise.apply(logits.softmax(1) + eps, steps, eps)  # the softmax is the first row normalisation, safe from overflow


class _Normalise(torch.autograd.Function):
    """Columns, then (steps - 1) times rows and columns, each y = x / (Σx + eps).

    Written out because autograd would keep three tensors and visit seven for each of the forty. The backward pass makes the
    intermediate matrices again: with g the gradient of y, that of x is (g - Σ g·y) / (Σx + eps).
    """

    @staticmethod
    def forward(ctx: Any, m: Tensor, steps: int, eps: float) -> Tensor:
        ctx.save_for_backward(m)
        ctx.steps, ctx.eps = steps, eps
        N, _, T = m.shape
        framed = m.new_full((N + 1, N + 1, T), eps)  # a row and a column of eps, so that a sum has it in already
        inner = framed[:N, :N].copy_(m)
        with_eps = framed[:, :N], framed[:N]
        for axis in _axes(steps):
            inner.div_(with_eps[axis].sum(axis, keepdim=True))
        return inner

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (m,) = ctx.saved_tensors
        grad = grad.contiguous()  # it arrives permuted; forty strided visits cost four times as much
        seen = []
        for axis in _axes(ctx.steps):
            inverse = m.sum(axis, keepdim=True).add_(ctx.eps).reciprocal_()
            m = m * inverse
            seen.append((axis, m, inverse))
        for axis, y, inverse in reversed(seen):
            grad = (grad - (grad * y).sum(axis, keepdim=True)).mul_(inverse)
        return grad, None, None


def _axes(steps: int) -> list[int]:
    return [0, *([1, 0] * (steps - 1))]


def _project(wide: Tensor, fn: Tensor, norm_eps: float) -> Tensor:
    """Mixing coefficients [T, M], normalised after the matmul: one pass over the streams."""
    flat = wide.flatten(1)
    return (flat @ fn.to(flat.dtype).T) * torch.rsqrt(flat.square().mean(-1, keepdim=True) + norm_eps)


def _read(wide: Tensor, pre: Tensor) -> Tensor:
    return (pre.unsqueeze(1) @ wide).squeeze(1)
