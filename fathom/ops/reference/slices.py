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


def slices(tensor: Tensor) -> list[slice]:
    """Cuts of a tensor's rows (axis 0) into slices of about SLICE values."""
    rows, size = len(tensor), max(1, SLICE // max(1, tensor[:1].numel()))
    return [slice(a, min(a + size, rows)) for a in range(0, rows, size)]


def by_slices(work: Callable[..., Tensor], *tensors: Tensor, dtype: torch.dtype) -> Tensor:
    """work(*tensors) rounded to dtype; every row (axis 0) of the result depends on the same rows of the tensors only."""
    if tensors[0].numel() <= SLICE or wants_gradient(*tensors):
        return work(*tensors).to(dtype)
    out = None
    for part in slices(tensors[0]):
        result = work(*(t[part] for t in tensors))
        out = result.new_empty(len(tensors[0]), *result.shape[1:], dtype=dtype) if out is None else out
        out[part] = result
    assert out is not None
    return out
