"""Power-of-two scales: one byte of exponent (ue8m0) for a group of numbers.

A narrow format has little range, so a group of numbers shares a scale, and the format only holds the ratios. V4's scales are all
powers of two, stored as the biased exponent alone (code c means 2^(c-127), 255 means NaN). That makes scaling exact: dividing by
a power of two loses nothing, so all rounding happens once, in the conversion to the narrow format, and two implementations that
round to nearest even agree to the last bit.

The rule is everywhere the same: the smallest power of two that brings the group's largest magnitude within the format's largest
value, 2^ceil(log2(amax / largest)), with a floor under amax so that a group of zeros has a scale too. `amax · (1/largest)` in fp32,
as the published kernels compute it, gives this exact rule for both formats (a test goes through every mantissa).

Source: SPEC section 3; OCP Microscaling Formats v1.0 for the E8M0 code.
"""
from __future__ import annotations

import torch
from torch import Tensor

SMALLEST = 2.0**-126  # the floor's quotient: the smallest scale the rule gives, so that amax / largest never leaves fp32's normal range
BLOCK = 128  # rows and columns of an FP8 weight block, channels of an activation's run


def power_of_two_scale(amax: Tensor, largest: float, floor: float) -> Tensor:
    """Scale of each group, ue8m0, in amax's shape.

    Args:
        amax: largest magnitudes, >= 0, any float dtype.  A non-finite one gives the NaN scale, which makes its whole group NaN.
        largest: largest value of the narrow format: 448 for E4M3, 6 for E2M1.
        floor: amax counts as at least this; at least largest · 2^-126.
    """
    quotient = amax.float().clamp(min=floor) * (1.0 / largest)
    bits = quotient.view(torch.int32)  # biased exponent above 23 bits of mantissa
    code = (bits >> 23) + ((bits & 0x7FFFFF) != 0).int()
    return code.clamp(max=255).to(torch.uint8).view(torch.float8_e8m0fnu)


def scale_values(scale: Tensor) -> Tensor:
    """Scales as fp32: ue8m0 (also when stored as plain bytes), or scales that already are floats (older exports)."""
    return (scale.view(torch.float8_e8m0fnu) if scale.dtype == torch.uint8 else scale).float()


def is_power_of_two(scale: Tensor) -> bool:
    """Whether scales are stored as ue8m0."""
    return scale.dtype in (torch.uint8, torch.float8_e8m0fnu)


def product_dtype(scale: Tensor, dtype: torch.dtype) -> torch.dtype:
    """Narrowest dtype in which value · scale rounds as if it were computed in fp32 and then cast to `dtype`.

    bf16 has fp32's exponents and holds every E4M3, E2M1 and power of two, so with ue8m0 scales nothing is lost on the way to bf16,
    at half the memory traffic. fp16's exponents are too few for the scales.
    """
    return dtype if dtype == torch.bfloat16 and is_power_of_two(scale) else torch.float32


def group_amax(x: Tensor, size: int) -> Tensor:
    """Largest magnitude [..., ceil(n/size)] of each run of `size` along the last axis of x [..., n]; a ragged last run counts alone."""
    return runs(x.abs(), size).amax(-1)


def runs(x: Tensor, size: int) -> Tensor:
    """x [..., n] as [..., ceil(n/size), size], padded with zeros."""
    n = x.shape[-1]
    return (torch.nn.functional.pad(x, (0, -n % size)) if n % size else x).unflatten(-1, (-(-n // size), size))


def tiles(x: Tensor) -> Tensor:
    """x [..., out, in] as [..., ceil(out/128), 128, ceil(in/128), 128], padded with zeros."""
    rows, cols = x.shape[-2:]
    if rows % BLOCK or cols % BLOCK:
        x = torch.nn.functional.pad(x, (0, -cols % BLOCK, 0, -rows % BLOCK))
    return x.unflatten(-1, (-1, BLOCK)).unflatten(-3, (-1, BLOCK))


def untile(x: Tensor, rows: int, cols: int) -> Tensor:
    """Inverse of `tiles`: [..., rows, cols], contiguous."""
    return x.flatten(-4, -3).flatten(-2, -1)[..., :rows, :cols].contiguous()
