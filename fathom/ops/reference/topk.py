"""Top-k with a defined order: descending score, exact ties to the lower index.

torch.topk leaves the order of ties open, and it differs between shapes: prefill and decode would then choose different entries.
A score and its index are folded into one integer key, unique by construction, whose order is the one wanted. Keys also make a
running top-k over tiles exact: the best of (best so far, new tile) doesn't depend on how the row was cut.
"""
import torch
from torch import Tensor

LOWEST = -(2**63)  # key of what may not be chosen
_LOW32 = 0xFFFFFFFF


def keys(scores: Tensor, first: int = 0) -> Tensor:
    """Unique int64 keys of scores [..., n] fp32, ordered as (score, lower index first); `first` is the index of column 0."""
    bits = (scores.float() + 0.0).contiguous().view(torch.int32)  # a copy; + 0.0 makes -0.0 tie with 0.0
    bits.bitwise_xor_((bits >> 31).bitwise_and_(0x7FFFFFFF))  # floats as integers, in the order of the reals
    low = _LOW32 - torch.arange(first, first + scores.shape[-1], device=scores.device)
    return bits.to(torch.int64).bitwise_left_shift_(32).add_(low)


def indices(chosen: Tensor) -> Tensor:
    """The indices behind keys; -1 for LOWEST."""
    return torch.where(chosen == LOWEST, -1, _LOW32 - (chosen & _LOW32))


def topk_stable(scores: Tensor, k: int) -> Tensor:
    """Indices [..., k] of the largest scores [..., n], best first, ties to the lower index. fp64 is ranked in fp64."""
    if scores.dtype == torch.float64:
        return scores.sort(dim=-1, descending=True, stable=True).indices[..., :k]
    return indices(keys(scores).topk(k, dim=-1).values)
