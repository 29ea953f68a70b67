"""RMSNorm and rotary position embedding.

RoPE here is interleaved (dims 2i and 2i+1 turn together) and touches the LAST R dims of a head. `cos` and `sin` are [T, R/2] in
fp32; the inverse rotation is the same function with -sin. Norm and rotation together round once, at the end.

Source: SPEC section 2, attention items 1 to 3 and 5; the weight of the norm is applied before the cast.
"""
import torch
from torch import Tensor

from ..widen import widen


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [..., D] / rms(x) · weight [D], in x's dtype."""
    wide = widen(x)
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight).to(x.dtype)


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates the last R dims of x [T, C] or [T, H, C] by the angles of cos, sin [T, R/2]; x's dtype."""
    return _rotate(widen(x), cos, sin).to(x.dtype)


def norm_rope(x: Tensor, weight: Tensor | None, eps: float, cos: Tensor, sin: Tensor) -> Tensor:
    """RMSNorm over the last dim of x [T, C] or [T, H, C] (weight [C], or none for queries), then RoPE; x's dtype."""
    wide = widen(x)
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    if weight is not None:
        wide = wide * weight
    return _rotate(wide, cos, sin).to(x.dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    R = 2 * cos.shape[-1]
    if x.dim() == 3:
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    plain, turned = x.split([x.shape[-1] - R, R], dim=-1)
    even, odd = turned.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)
    return torch.cat((plain, turned), dim=-1)
