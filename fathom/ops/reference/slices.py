"""Work on a slice of tokens at a time, where no gradient is wanted.

Operators that compute in fp32 make wide temporaries. Those of a whole chunk of tokens are fresh memory every time, and a page fault
costs more than the arithmetic on the page; those of a slice stay in cache. Under autograd every cut would cost a copy in the backward
pass, so there the work is done whole.
"""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

SLICE = 1 << 19  # values of the first tensor in one slice, about


def wants_gradient(*tensors: Tensor) -> bool:
    """Whether autograd records work on these tensors."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def by_slices(work: Callable[..., Tensor], *tensors: Tensor, dtype: torch.dtype) -> Tensor:
    """work(*tensors) rounded to dtype; every row (axis 0) of the result depends on the same rows of the tensors only."""
    rows, size = len(tensors[0]), max(1, SLICE // max(1, tensors[0][:1].numel()))
    if rows <= size or wants_gradient(*tensors):
        return work(*tensors).to(dtype)
    out = None
    for a in range(0, rows, size):
        part = work(*(t[a : a + size] for t in tensors))
        out = part.new_empty(rows, *part.shape[1:], dtype=dtype) if out is None else out
        out[a : a + size] = part
    return out
