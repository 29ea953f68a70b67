"""Compression: a window of tokens becomes one key-value entry.

Per channel, a softmax over the window's slots of (gate + ape) weighs the projected tokens; the weighted sum is normalised and
rotated to the position of the window's first token. HCA pools its own window. CSA pools two: the "b" half of the channels over
its own window and the "a" half over the window before, in one softmax of 2m slots, so neighbouring entries overlap; the first
entry of a sequence has no window before, and those slots weigh nothing.

Shapes: R projected token rows, n entries, m ratio, C entry width, P = C (HCA) or 2C (CSA: series a, then series b).
Source: SPEC section 2, compressor; technical report §2.3.1 and §2.3.2 (which names the two series the other way round).
"""
import torch
from torch import Tensor

from .norm import norm_rope
from .rows import select_rows


def compress(rows: Tensor, ape: Tensor, own: Tensor, previous: Tensor | None, norm: Tensor, eps: float, cos: Tensor, sin: Tensor,
             dtype: torch.dtype) -> Tensor:
    """Entries of complete windows.

    Args:
        rows: projections kv' and gate, [R, 2, P], fp32 or wider.  ape: [m, P].
        own: [n, m] int64, rows of each entry's own window.
        previous: [n, m] rows of the window before (CSA), -1 where there is none; None for HCA.
        norm: RMSNorm weight [C].  cos, sin: [n, C_rope/2] at the windows' first positions.

    Returns:
        [n, C] in `dtype`.
    """
    return norm_rope(pool(rows, ape, own, previous), norm, eps, cos, sin).to(dtype)


def pool(rows: Tensor, ape: Tensor, own: Tensor, previous: Tensor | None) -> Tensor:
    """The weighted sums alone, [n, C]; arguments as `compress`."""
    values, gate = select_rows(rows, own).unbind(2)  # [n, m, P]
    logits = gate + ape
    if previous is not None:
        C = ape.shape[1] // 2
        values_a, gate_a = select_rows(rows[..., :C], previous.clamp(min=0)).unbind(2)
        logits_a = (gate_a + ape[:, :C]).masked_fill((previous < 0).unsqueeze(-1), float("-inf"))
        values = torch.cat((values_a, values[..., C:]), dim=1)  # [n, 2m, C]
        logits = torch.cat((logits_a, logits[..., C:]), dim=1)
    return (values * logits.softmax(1)).sum(1)
