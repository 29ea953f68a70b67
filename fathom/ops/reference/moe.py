"""The mixture of experts: every token through its K routed experts and the shared one.

Tokens are laid out expert by expert, so one grouped product serves all experts (weights stacked [E, out, in]). Two layouts hold
the same rows: padded to the fullest expert (one batched matmul; best from a few tokens per expert on), or ragged (one product per
expert that has tokens, when padding would waste more than it saves). No token is ever dropped. Moving rows to experts and back is
a gather in both directions, forward and backward, because every token has exactly K places.

The routing weight multiplies the activation, before the second matrix, as in the published code. Gate values are clamped from
above, up values on both sides (swiglu_limit). Routed and shared outputs are summed in fp32.

Shapes: T tokens, D hidden, E experts, I expert width, K experts per token, R rows of the layout.
Source: SPEC section 2, MoE.
"""
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..widen import widen
from .linear import linear

PADDING = 2.0  # a padded layout may have this many times the rows of the ragged one


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
    layout = _arrange(chosen, w1.shape[0])
    rows = _Dispatch.apply(x, layout.source, layout.place)
    weight = torch.cat((weights.flatten(), weights.new_zeros(1)))[layout.choice]  # [R]; 0 on padding
    act = _swiglu(_grouped(rows, w1, layout), _grouped(rows, w3, layout), limit, weight.unsqueeze(1))
    routed = _Combine.apply(_grouped(act, w2, layout), layout.source, layout.place)
    s1, s2, s3 = shared
    common = linear(_swiglu(linear(x, s1), linear(x, s3), limit, None), s2)
    return (routed + widen(common)).to(x.dtype)


@dataclass(frozen=True)
class _Layout:
    """source [R]: token of each row, T on padding.  choice [R]: its place in chosen.flatten(), T·K on padding.  place [T, K]: row of
    each choice.  counts: rows of each expert.  capacity: rows per expert when padded, 0 when ragged."""

    source: Tensor
    choice: Tensor
    place: Tensor
    counts: list[int]
    capacity: int


def _arrange(chosen: Tensor, num_experts: int) -> _Layout:
    T, K = chosen.shape
    flat = chosen.flatten()
    order = flat.argsort(stable=True)  # choices, expert by expert, in token order
    counts = torch.bincount(flat, minlength=num_experts)
    host = counts.tolist()
    capacity = max(host)
    if num_experts * capacity > PADDING * T * K:
        place = torch.empty_like(flat).scatter_(0, order, torch.arange(T * K, device=flat.device))
        return _Layout(order // K, order, place.view(T, K), host, 0)
    expert = flat[order]
    within = torch.arange(T * K, device=flat.device) - (counts.cumsum(0) - counts)[expert]
    row = expert * capacity + within
    choice = torch.full((num_experts * capacity,), T * K, dtype=torch.int64, device=flat.device)
    choice[row] = order
    place = torch.empty_like(flat).scatter_(0, order, row)
    return _Layout(choice // K, choice, place.view(T, K), host, capacity)


def _grouped(rows: Tensor, weight: Tensor, layout: _Layout) -> Tensor:
    """Each row of [R, in] by its expert's matrix of [E, out, in]."""
    if layout.capacity:
        w = weight.to(rows.dtype)
        return torch.bmm(rows.view(w.shape[0], layout.capacity, -1), w.transpose(1, 2)).flatten(0, 1)
    parts = rows.split(layout.counts)
    return torch.cat([linear(part, weight[e]) for e, part in enumerate(parts) if layout.counts[e]])


def _swiglu(gate: Tensor, up: Tensor, limit: float, weight: Tensor | None) -> Tensor:
    """silu(min(gate, limit)) · clamp(up, ±limit) · weight, in fp32, rounded once to the input's dtype."""
    dtype, gate, up = gate.dtype, widen(gate), widen(up)
    if torch.is_grad_enabled():
        act = F.silu(gate.clamp(max=limit)) * up.clamp(-limit, limit)
        return (act if weight is None else act * weight).to(dtype)
    act = F.silu(gate.clamp_(max=limit), inplace=True).mul_(up.clamp_(-limit, limit))  # the same, without four large temporaries
    return (act if weight is None else act.mul_(weight)).to(dtype)


class _Dispatch(torch.autograd.Function):
    """Tokens [T, D] to rows [R, D]; padding rows are zero. Backward: each token sums its K rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, source: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(place)
        return _rows(x, source)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (place,) = ctx.saved_tensors
        return _sum_places(grad, place).to(grad.dtype), None, None


class _Combine(torch.autograd.Function):
    """Rows [R, D] to tokens [T, D], each the sum of its K rows, in fp32. Backward: each row takes its token's gradient."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, source: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(source)
        ctx.dtype = rows.dtype
        return _sum_places(rows, place)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (source,) = ctx.saved_tensors
        return _rows(grad.to(ctx.dtype), source), None, None


def _rows(x: Tensor, source: Tensor) -> Tensor:
    return torch.cat((x, x.new_zeros(1, x.shape[1])))[source]


def _sum_places(rows: Tensor, place: Tensor) -> Tensor:
    total = widen(rows[place[:, 0]])
    for k in range(1, place.shape[1]):
        total = total + rows[place[:, k]]
    return total
