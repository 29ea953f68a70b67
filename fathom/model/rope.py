"""Rotation frequencies. Window-only layers turn plainly; layers with a compressor use their own theta and YaRN for everything.

The angle is fp32(t) · fp32(f) also at a million, since that is what the weights were trained with.
Source: SPEC section 2, attention item 3.
"""
from __future__ import annotations

import math

import torch
from torch import Tensor

from ..config import ModelConfig, Yarn


def frequencies(config: ModelConfig, compressed: bool) -> Tensor:
    """Radians per position of each rotated pair, [R/2] fp32."""
    R = config.qk_rope_head_dim
    theta = config.compress_rope_theta if compressed else config.rope_theta
    f = 1.0 / theta ** (torch.arange(0, R, 2, dtype=torch.float32) / R)
    if compressed and config.rope_scaling is not None:
        ramp = _yarn_ramp(config.rope_scaling, R, theta)
        f = f * (1 - ramp) + f / config.rope_scaling.factor * ramp
    return f


def _yarn_ramp(yarn: Yarn, R: int, theta: float) -> Tensor:
    """How far each pair is interpolated: 0 for the fast ones, 1 for the slow ones, [R/2]."""
    def dim(turns: float) -> float:
        return R * math.log(yarn.original_max_position_embeddings / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = max(math.floor(dim(yarn.beta_fast)), 0), min(math.ceil(dim(yarn.beta_slow)), R - 1)
    width = (high - low) or 0.001
    return ((torch.arange(R // 2, dtype=torch.float32) - low) / width).clamp(0, 1)


def angles(frequency: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin [T, R/2] fp32 at positions [T] int64."""
    angle = positions.float().unsqueeze(1) * frequency
    return angle.cos(), angle.sin()
