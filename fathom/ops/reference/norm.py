"""RMSNorm and rotary position embedding.

RoPE here is interleaved (dims 2i and 2i+1 turn together) and touches the LAST R dims of a head. `cos` and `sin` are [T, R/2] in
fp32; the inverse rotation is the same function with -sin. Norm and rotation together round once, at the end.

Source: SPEC section 2, attention items 1 to 3 and 5; the weight of the norm is applied before the cast.
"""
import torch
from torch import Tensor

from ..widen import widen
from .slices import by_slices


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [..., D] / rms(x) · weight [D], in x's dtype."""
    return by_slices(lambda x: _normed(x, eps) * weight, x, dtype=x.dtype)


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates the last R dims of x [T, C] or [T, H, C] by the angles of cos, sin [T, R/2]; x's dtype."""
    plain, turning = _parts(x, cos)
    return torch.cat((plain, by_slices(_rotate, turning, cos, sin, dtype=x.dtype)), dim=-1)


def norm_rope(x: Tensor, weight: Tensor | None, eps: float, cos: Tensor, sin: Tensor) -> Tensor:
    """RMSNorm over the last dim of x [T, C] or [T, H, C] (weight [C], or none for queries), then RoPE; x's dtype."""
    def work(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        plain, turning = _parts(_normed(x, eps) if weight is None else _normed(x, eps) * weight, cos)
        return torch.cat((plain, _rotate(turning, cos, sin)), dim=-1)

    return by_slices(work, x, cos, sin, dtype=x.dtype)


def _normed(x: Tensor, eps: float) -> Tensor:
    wide = widen(x)
    return wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)


def _parts(x: Tensor, cos: Tensor) -> tuple[Tensor, Tensor]:
    """The dims that stay and the last R, which turn."""
    first = x.shape[-1] - 2 * cos.shape[-1]
    return x[..., :first], x[..., first:]


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [T, R] or [T, H, R] in fp32. Each pair (a, b) becomes (a·cos - b·sin, b·cos + a·sin): both times cos, plus the pair swapped times
    (-sin, sin)."""
    both, cross = torch.stack((cos, cos), dim=-1).flatten(-2), torch.stack((-sin, sin), dim=-1).flatten(-2)  # [T, R]
    if x.dim() == 3:
        both, cross = both.unsqueeze(1), cross.unsqueeze(1)
    wide = widen(x)
    swapped = wide.unflatten(-1, (-1, 2)).roll(1, -1).flatten(-2)
    return wide * both + swapped * cross
