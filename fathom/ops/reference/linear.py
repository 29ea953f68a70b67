"""Matrix products with weights stored [out, in].

Weights may be wider than the activations (fp32 masters under bf16 compute): they are rounded to the activation's type for the
product, so gradients reach the masters through the rounding. `linear_fp32` goes the other way; V4 computes its compressor
projections, router and logits in fp32 whatever the model's precision (SPEC 2 and 3).
"""
import torch
from torch import Tensor
from torch.nn import functional as F

from ..widen import widen
from .slices import wants_gradient

OUTPUTS = 1024  # rows of a weight that are widened at once where no gradient is wanted: the output matrix has many


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x [..., in] · weight [out, in]ᵀ → [..., out] in x's dtype."""
    return F.linear(x, weight.to(x.dtype))


def linear_fp32(x: Tensor, weight: Tensor) -> Tensor:
    """x [..., in] · weight [out, in]ᵀ → [..., out] in at least fp32."""
    x = widen(x)
    if wants_gradient(x, weight) or weight.dtype == x.dtype or len(weight) <= OUTPUTS:
        return F.linear(x, weight.to(x.dtype))
    flat, out, wide = x.reshape(-1, x.shape[-1]), x.new_empty(*x.shape[:-1], len(weight)), x.new_empty(OUTPUTS, x.shape[-1])
    for part, target in zip(weight.split(OUTPUTS), out.view(-1, len(weight)).split(OUTPUTS, dim=1), strict=True):
        torch.mm(flat, wide[: len(part)].copy_(part).T, out=target)
    return out


def linear_fp32_pair(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Two products of x [T, in] with weights [out, in], side by side: [T, 2, out] in at least fp32."""
    return linear_fp32(x, torch.cat((first, second))).unflatten(-1, (2, -1))


def linear_grouped(x: Tensor, weight: Tensor) -> Tensor:
    """Block-diagonal product: group g of x [T, G, in] by its own weight block; weight [G·out, in] → [T, G·out].

    It is the first half of the grouped output projection (report §2.3; SPEC 2, attention item 6).
    """
    T, G, width = x.shape
    w = weight.to(x.dtype).view(G, -1, width)
    return (x.transpose(0, 1) @ w.transpose(1, 2)).transpose(0, 1).reshape(T, -1)
