"""FP4: E2M1 numbers, two a byte, with a power-of-two scale per 32, and their lossless way into FP8.

E2M1 knows eight magnitudes, 0 .5 1 1.5 2 3 4 6. With one scale per 32 numbers that is enough for expert weights and for the
indexer's keys. The first number of a pair is in the low nibble; bit 3 of a nibble is the sign.

FP4 experts can run on FP8 hardware without loss. A 128×128 block holds 128×4 FP4 scales; take the largest, divide it by 2^6, and
that is the FP8 block's scale. Then 6·2^6 = 384 fits below 448, and the smallest non-zero number, half of the smallest scale, is at
least E4M3's smallest, 2^-9, while largest / smallest scale <= 2^14. Two mantissa bits always fit into three.

Shapes: numbers [..., n] with n even, packed int8 [..., n/2], scales ue8m0 [..., ceil(n/32)].
Source: SPEC section 3. Slow, exact codecs.
"""
from __future__ import annotations

import torch
from torch import Tensor

from .fp8 import to_e4m3
from .scale import SMALLEST, group_amax, power_of_two_scale, product_dtype, runs, scale_values, tiles, untile

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # value of codes 0 to 7; 8 to 15 are their negatives
E2M1_MAX = 6.0
GROUP = 32
_HEADROOM = 2.0**6  # largest FP4 scale of a block over the block's FP8 scale


def encode_fp4(x: Tensor) -> tuple[Tensor, Tensor]:
    """Packed E2M1 int8 [..., n/2] and ue8m0 scales [..., ceil(n/32)] of numbers [..., n], n even; a NaN or infinity makes its scale NaN."""
    x = x.float()
    scale = power_of_two_scale(group_amax(x, GROUP), E2M1_MAX, E2M1_MAX * SMALLEST)
    codes = to_e2m1(runs(x, GROUP) / scale_values(scale)[..., None])
    return pack_e2m1(codes.flatten(-2)[..., : x.shape[-1]]), scale


def decode_fp4(packed: Tensor, scale: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers [..., n] in `dtype` from packed E2M1 [..., n/2] and scales [..., ceil(n/32)]."""
    compute = product_dtype(scale, dtype)
    x = runs(_unpack_values(packed, compute), GROUP) * scale_values(scale).to(compute)[..., None]
    return x.flatten(-2)[..., : 2 * packed.shape[-1]].to(dtype)


def to_e2m1(x: Tensor) -> Tensor:
    """Codes 0 to 15 (uint8) of the nearest E2M1, ties to the even code, beyond ±6 to ±6; zero keeps its sign."""
    a = x.abs()
    code = torch.zeros_like(x, dtype=torch.uint8)
    for low, (this, above) in enumerate(zip(E2M1, E2M1[1:])):  # one comparison a border; a tie goes up exactly when the lower code is odd
        border = (this + above) / 2
        code += (a >= border) if low % 2 else (a > border)
    return code | (torch.signbit(x).to(torch.uint8) << 3)


def pack_e2m1(codes: Tensor) -> Tensor:
    """Codes [..., n] two a byte, int8 [..., n/2], the first of a pair in the low nibble."""
    return (codes[..., 0::2] | (codes[..., 1::2] << 4)).view(torch.int8)


def unpack_e2m1(packed: Tensor) -> Tensor:
    """Codes uint8 [..., n] from bytes [..., n/2]."""
    raw = packed.view(torch.uint8)
    return torch.stack((raw & 15, raw >> 4), dim=-1).flatten(-2)


def fp4_to_fp8(packed: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, bool]:
    """An FP4 matrix in FP8: E4M3 values [..., out, in], ue8m0 block scales, and whether nothing was lost.

    Exact while largest / smallest scale within each 128×128 block is at most 2^14 (the small scale of a group of zeros doesn't
    matter); beyond that the smallest numbers are rounded to nearest even, and the third result says so.

    Args:
        packed: int8 [..., out, in/2].  scale: ue8m0 [..., out, ceil(in/32)].
    """
    rows, cols = packed.shape[-2], 2 * packed.shape[-1]
    scales = scale_values(scale).repeat_interleave(GROUP, dim=-1)[..., :cols]  # [..., out, in]
    fp8_scale = (tiles(scales).amax((-3, -1)) / _HEADROOM).clamp(min=2.0**-127)  # ue8m0's smallest; only scales near it are clamped
    exact = tiles(_unpack_values(packed, torch.float32)) * (tiles(scales) / fp8_scale[..., :, None, :, None])
    values = to_e4m3(exact)
    return untile(values, rows, cols), fp8_scale.to(torch.float8_e8m0fnu), bool((values.float() == exact).all())


def _unpack_values(packed: Tensor, dtype: torch.dtype) -> Tensor:
    """Values [..., n] in fp32 or bf16 from bytes [..., n/2]: a table of 256 pairs, each taken as one integer of twice the width."""
    signed = torch.tensor([*E2M1, *(-v for v in E2M1)], dtype=dtype, device=packed.device)
    byte = torch.arange(256, device=packed.device)
    pairs = torch.stack((signed[byte & 15], signed[byte >> 4]), dim=-1).view(torch.int64 if dtype == torch.float32 else torch.int32)
    taken = pairs.flatten().index_select(0, packed.contiguous().view(torch.uint8).flatten().int())
    return taken.view(dtype).view(*packed.shape[:-1], 2 * packed.shape[-1])
