"""The mixture of experts: every token through its K routed experts and the shared one.

Tokens are laid out expert by expert, so that each expert's matrix meets all of its rows in one product; the products write into one
tensor. (Padding all experts to the fullest one, for a single batched product, computed up to twice as many rows.) The shared expert
is one more, which every token chooses with weight 1. No token is ever dropped. Moving rows to experts and back is a gather in both
directions, forward and backward, because every token has exactly K + 1 places.

The routing weight multiplies the activation, before the second matrix, as in the published code. Gate values are clamped from
above, up values on both sides (swiglu_limit). Routed and shared outputs are summed in fp32.

Shapes: T tokens, D hidden, E experts, I expert width, K experts per token, R = T·(K + 1) rows of the layout.
Source: SPEC section 2, MoE.
"""
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..widen import widen
from .slices import by_slices, slices

ALIGN, MANY = 16, 64  # see _products


def experts(x: Tensor, weights: Tensor, chosen: Tensor, w1: Tensor, w2: Tensor, w3: Tensor, shared: tuple[Tensor, Tensor, Tensor],
            limit: float) -> Tensor:
    """Sum of the routed experts' and the shared expert's outputs.

    Args:
        x: [T, D].  weights: [T, K] fp32.  chosen: [T, K] int64, distinct experts.
        w1, w3: [E, I, D].  w2: [E, D, I].  shared: the shared expert's (w1, w2, w3).
        limit: swiglu_limit.

    Returns:
        [T, D] in x's dtype.
    """
    T, E = len(x), w1.shape[0]
    flat = torch.cat((chosen, chosen.new_full((T, 1), E)), dim=1).flatten()
    order = flat.argsort(stable=True)  # [R] choices, expert by expert, in token order
    place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device)).view(T, -1)  # row of each choice
    counts = torch.bincount(flat, minlength=E + 1).tolist()
    weight = torch.cat((weights, weights.new_ones(T, 1)), dim=1).flatten()[order].unsqueeze(1)
    rows = _Dispatch.apply(x, order // place.shape[1], place)
    gate, up = (_Grouped.apply(rows, w.to(x.dtype), s.to(x.dtype), counts) for w, s in ((w1, shared[0]), (w3, shared[2])))
    act = _Swiglu.apply(gate, up, weight, limit)
    out = _Grouped.apply(act, w2.to(x.dtype), shared[1].to(x.dtype), counts)
    return _Combine.apply(out, order // place.shape[1], place)


class _Swiglu(torch.autograd.Function):
    """silu(min(gate, limit)) · clamp(up, ±limit) · weight, computed in fp32: [R, I] in the type of gate and up. weight: [R, 1].

    Written out because autograd would keep five wide tensors of this size.
    """

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, weight: Tensor, limit: float) -> Tensor:
        ctx.save_for_backward(gate, up, weight)
        ctx.limit = limit

        def work(gate: Tensor, up: Tensor, weight: Tensor) -> Tensor:
            return F.silu(widen(gate).clamp(max=limit), inplace=True).mul_(widen(up).clamp(-limit, limit)).mul_(weight)

        return by_slices(work, gate, up, weight, dtype=gate.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gate, up, weight = ctx.saved_tensors
        grad_gate, grad_up, grad_weight = torch.empty_like(gate), torch.empty_like(up), torch.empty_like(weight)
        for part in slices(gate):
            g, u, d = widen(gate[part]), widen(up[part]), widen(grad[part])
            a, b = g.clamp(max=ctx.limit), u.clamp(-ctx.limit, ctx.limit)
            sigmoid = a.sigmoid()
            silu = a * sigmoid
            torch.sum(d * silu * b, -1, keepdim=True, out=grad_weight[part])
            d = d * weight[part]
            grad_up[part] = (d * silu).mul_(u == b)
            grad_gate[part] = (sigmoid + silu * (1 - sigmoid)).mul_(d).mul_(b).mul_(g == a)
        return grad_gate, grad_up, grad_weight, None


class _Grouped(torch.autograd.Function):
    """Rows [R, in], counts[e] of them for expert e in order, by their expert's matrix: [R, out]. Matrices of [E, out, in], then `last`."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, last: Tensor, counts: list[int]) -> Tensor:
        ctx.save_for_backward(rows, weight, last)
        ctx.counts = counts
        return _products(rows, [w.T for w in (*weight.unbind(0), last)], counts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, last = ctx.saved_tensors
        grad_weight, grad_last = torch.zeros_like(weight), torch.empty_like(last)
        for target, g, r in zip((*grad_weight.unbind(0), grad_last), grad.split(ctx.counts), rows.split(ctx.counts), strict=True):
            if len(g):
                torch.mm(g.T, r, out=target)
        return _products(grad, [*weight.unbind(0), last], ctx.counts), grad_weight, grad_last, None


def _products(rows: Tensor, matrices: Sequence[Tensor], counts: list[int]) -> Tensor:
    """Each expert's rows of [R, a] by its matrix [a, b]: [R, b].

    Many rows are taken in multiples of ALIGN, because products are prepared for each number of rows that is met for the first time.
    Rows too many belong to the next expert, whose product comes later and writes over theirs.
    """
    out, start = rows.new_empty(len(rows), matrices[0].shape[1]), 0
    for count, matrix in zip(counts, matrices, strict=True):
        taken = -(-count // ALIGN) * ALIGN if count > MANY else count
        if count:
            torch.mm(rows[start : start + taken], matrix, out=out[start : start + taken])
        start += count
    return out


class _Dispatch(torch.autograd.Function):
    """Tokens [T, D] to rows [R, D]. Backward: each token sums its rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, source: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(place)
        return x.index_select(0, source)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (place,) = ctx.saved_tensors
        return _sum_rows(grad, place), None, None


class _Combine(torch.autograd.Function):
    """Rows [R, D] to tokens [T, D], each the sum of its rows. Backward: each row takes its token's gradient."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, source: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(source)
        return _sum_rows(rows, place)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (source,) = ctx.saved_tensors
        return grad.index_select(0, source), None, None


def _sum_rows(rows: Tensor, place: Tensor) -> Tensor:
    """The sum of the rows of [R, D] that each token names in `place` [T, K + 1], in fp32, rounded once: [T, D]."""
    return F.embedding_bag(place, rows, mode="sum")
