"""The reference kernels: pure torch, complete, differentiable. They are the oracle that every faster kernel is held to.

One file an operator. All of them compute in fp32, or in fp64 when they are given fp64 (gradient checks), and return the input's
dtype unless they say otherwise. None of them makes a tensor that grows with the square of the sequence.
"""
from torch import Tensor

from .attention import attend
from .compress import compress
from .index import index_topk
from .index_loss import index_loss
from .linear import linear, linear_fp32, linear_fp32_pair, linear_grouped
from .loss import cross_entropy
from .mhc import mhc_expand, mhc_head, mhc_mix
from .moe import experts
from .norm import norm_rope, rms_norm, rope
from .remember import remember
from .route import route


def as_it_is(x: Tensor) -> Tensor:
    """What the encoders of the official formats are in every other precision."""
    return x


__all__ = ["as_it_is", "attend", "compress", "cross_entropy", "experts", "index_loss", "index_topk", "linear", "linear_fp32",
           "linear_fp32_pair", "linear_grouped", "mhc_expand", "mhc_head", "mhc_mix", "norm_rope", "remember", "rms_norm", "rope", "route"]
