"""FP8: E4M3 numbers with a power-of-two scale per block of weights or per run of activations.

E4M3 has 4 exponent and 3 mantissa bits, no infinity, largest value 448, smallest 2^-9. Weights share one scale per 128×128 block,
so a scale covers what one tile of a matmul multiplies; activations are quantised as they come, one scale per token and 128
channels, since outliers sit in single channels of single tokens. Both follow the rule of `scale.py` and round to nearest even.

Encoding is idempotent: encoding decoded values gives the same values again (maybe with a smaller scale), because a smaller power
of two holds every value that a larger one did. bf16 holds any decoded value in its exponent range exactly.

Shapes: weights [..., out, in] with scales [..., ceil(out/128), ceil(in/128)]; activations [..., K] with scales [..., ceil(K/128)].
Source: SPEC section 3. These are the slow, exact codecs; kernels are held to them bit by bit.
"""
from __future__ import annotations

import torch
from torch import Tensor

from .scale import BLOCK, SMALLEST, group_amax, power_of_two_scale, product_dtype, runs, scale_values, tiles, untile

E4M3_MAX = 448.0
ACTIVATION_FLOOR = 1e-4  # amax of activations and cache entries counts as at least this


def encode_fp8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """E4M3 values [..., out, in] and ue8m0 block scales of a float matrix [..., out, in]; a NaN or infinity makes its block's scale NaN."""
    rows, cols = weight.shape[-2:]
    blocks = tiles(weight.float())
    scale = power_of_two_scale(blocks.abs().amax((-3, -1)), E4M3_MAX, E4M3_MAX * SMALLEST)
    return untile(to_e4m3(blocks / scale_values(scale)[..., :, None, :, None]), rows, cols), scale


def decode_fp8(values: Tensor, scale: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The matrix [..., out, in] in `dtype` from E4M3 values and block scales (ue8m0, or fp32 in older exports)."""
    rows, cols = values.shape[-2:]
    compute = product_dtype(scale, dtype)
    blocks = tiles(values.to(compute)) * scale_values(scale).to(compute)[..., :, None, :, None]
    return untile(blocks.to(dtype), rows, cols)


def encode_activations(x: Tensor) -> tuple[Tensor, Tensor]:
    """E4M3 values [..., K] and ue8m0 scales [..., ceil(K/128)] of activations [..., K], amax floored at 1e-4."""
    return encode_runs(x, BLOCK)


def decode_activations(values: Tensor, scale: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Activations [..., K] in `dtype` from E4M3 values and their scales."""
    return decode_runs(values, scale, BLOCK, dtype)


def encode_runs(x: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """E4M3 with one ue8m0 scale per run of `size` along the last axis, amax floored at 1e-4; a ragged last run has its own scale."""
    x = x.float()
    scale = power_of_two_scale(group_amax(x, size), E4M3_MAX, ACTIVATION_FLOOR)
    values = to_e4m3(runs(x, size) / scale_values(scale)[..., None])
    return values.flatten(-2)[..., : x.shape[-1]].contiguous(), scale


def decode_runs(values: Tensor, scale: Tensor, size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Inverse of `encode_runs`, in `dtype`."""
    x = runs(values.float(), size) * scale_values(scale)[..., None]
    return x.flatten(-2)[..., : values.shape[-1]].to(dtype)


def to_e4m3(x: Tensor) -> Tensor:
    """fp32 to the nearest E4M3, ties to even, beyond ±448 to ±448, NaN to NaN.

    Clamped first: what a bare cast does with larger numbers, NaN or 448, differs between versions of torch.
    """
    return x.clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)
