"""Cross-entropy straight from hidden states, without ever holding the logits of a long row.

Logits of a slice of tokens are made in fp32, used, and dropped; when gradients are wanted they are formed in the same visit, so the
backward pass only scales them. Memory is slice × vocabulary, whatever the row's length.

Shapes: T tokens, D hidden size, V vocabulary.
"""
from typing import Any

import torch
from torch import Tensor

from ...errors import UserError
from ..widen import widen

CELLS = 1 << 22  # logits held at once
IGNORE = -100


def cross_entropy(hidden: Tensor, head: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
    """Negative log-likelihood of `targets` under softmax(hidden · headᵀ).

    Args:
        hidden: [T, D].  head: [V, D].  targets: [T] int64; IGNORE (-100) leaves a token out.
        reduction: "mean" over the tokens that count (0 when there are none), "sum", or "none" ([T], no gradient).

    Returns:
        fp32 (fp64 for fp64 inputs).
    """
    if reduction == "none":
        with torch.no_grad():
            return torch.cat([_nll(h, head, t)[0] for h, t in _slices(hidden, targets, head.shape[0])])
    if reduction not in ("mean", "sum"):
        raise UserError("reduction", reduction, "mean, sum or none")
    total = _CrossEntropy.apply(hidden, head, targets)
    return total if reduction == "sum" else total / (targets != IGNORE).sum().clamp(min=1)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        wanted = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        compute = torch.promote_types(hidden.dtype, torch.float32)
        total = torch.zeros((), dtype=compute, device=hidden.device)
        grads_h, grad_w = [], torch.zeros_like(head) if wanted else None
        for h, t in _slices(hidden, targets, head.shape[0]):
            nll, log_p = _nll(h, head, t)
            total = total + nll.sum()
            if wanted:
                g = log_p.exp_()
                g[torch.arange(len(t), device=t.device), t.clamp(min=0)] -= 1
                g = g.masked_fill_((t == IGNORE).unsqueeze(1), 0).to(h.dtype)  # products of the backward pass in the model's precision
                grads_h.append(g @ head.to(h.dtype))
                grad_w += (g.T @ h).to(grad_w.dtype)
        if wanted:
            ctx.save_for_backward(torch.cat(grads_h), grad_w)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_h, grad_w = ctx.saved_tensors
        return grad_h * grad.to(grad_h.dtype), grad_w * grad.to(grad_w.dtype), None


def _slices(hidden: Tensor, targets: Tensor, vocabulary: int) -> list[tuple[Tensor, Tensor]]:
    step = max(1, CELLS // vocabulary)
    return list(zip(hidden.split(step), targets.split(step), strict=True))


def _nll(h: Tensor, head: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Losses [n] (0 where ignored) and log-probabilities [n, V] of one slice."""
    h = widen(h)
    log_p = (h @ head.to(h.dtype).T).log_softmax(-1)
    picked = log_p.gather(1, t.clamp(min=0).unsqueeze(1)).squeeze(1)
    return -picked.masked_fill(t == IGNORE, 0), log_p
