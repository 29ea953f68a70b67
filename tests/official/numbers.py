"""Numbers of the slow simulation: float64 arrays whose values are those of fp32 or bf16, and every rounding spelled out.

A sum that the contract wants in fp32 is taken in float64 and rounded to fp32 once, which is what fp32 accumulation aims at whatever its
order. How far an honest fp32 accumulation may be from that is known: some units in the last place of the sum of its terms' magnitudes.
`Noise` moves every fp32 result by about so much, so that a computation repeated under several noises shows which of its outputs are
settled by the contract and which hang on the order of additions: results that nearly cancel, or that stand on a rounding that was a tie.

The codecs are those of tests/quant/independent.py. Nothing here comes from fathom.
"""
from __future__ import annotations

import numpy as np

from tests.quant import independent as codec

REACH = 2.0**-22  # how far a noise may move an fp32 result, over the sum of its terms' magnitudes


class Numbers:
    """fp32 and bf16 rounding. `noise`: None, a number (all results are moved by that part of REACH), or a seed (each by a part of its own)."""

    def __init__(self, noise: float | int | None = None) -> None:
        self.noise = noise
        self._random = np.random.default_rng(noise) if isinstance(noise, int) else None

    def f32(self, x: np.ndarray, terms: np.ndarray | None = None) -> np.ndarray:
        """x rounded to fp32. terms: the sum of the magnitudes that x was made of, |x| unless given."""
        if self.noise is not None:
            part = self.noise if self._random is None else self._random.uniform(-1, 1, np.shape(x))
            x = x + part * REACH * np.abs(x if terms is None else terms)
        return np.asarray(x, np.float64).astype(np.float32).astype(np.float64)

    def bf16(self, x: np.ndarray) -> np.ndarray:
        """fp32 numbers rounded to bf16."""
        return from_bits(codec.to_bf16_bits(np.asarray(x, np.float64)))

    def sum(self, terms: np.ndarray, axis: int = -1) -> np.ndarray:
        """An fp32 sum."""
        return self.f32(terms.sum(axis), np.abs(terms).sum(axis))

    def product(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        """x [..., K] · w [n, K]ᵀ, accumulated in fp32."""
        return self.f32(x @ w.T, np.abs(x) @ np.abs(w).T)


def from_bits(bits: np.ndarray) -> np.ndarray:
    """Values of bf16 patterns."""
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def quantised(x: np.ndarray, size: int = 128) -> np.ndarray:
    """Rows [n, K] through E4M3 with a scale per `size` of K: activations (128), key-value entries (64)."""
    codes, scales = codec.e4m3_runs(x, size, 1e-4)
    return codec.value(codes, codec.E4M3, 0x80) * 2.0 ** (np.repeat(scales.astype(np.int64), size, 1)[:, : x.shape[1]] - 127.0)


def through_fp4(x: np.ndarray) -> np.ndarray:
    """Rows [n, K] through E2M1 with a scale per 32 of K."""
    return codec.decode_e2m1(*codec.e2m1_groups(x))


def through_fp8_blocks(w: np.ndarray) -> np.ndarray:
    """A matrix [out, in] through E4M3 with a scale per 128×128 block."""
    codes, scales = codec.e4m3_blocks(w)
    spread = np.kron(scales.astype(np.int64), np.ones((128, 128), np.int64))[: w.shape[0], : w.shape[1]]
    return codec.value(codes, codec.E4M3, 0x80) * 2.0 ** (spread - 127.0)


def ordinal(x: np.ndarray, bits: int) -> np.ndarray:
    """Number of each bf16 (16 bits) or fp32 (32 bits) value among all of its format: neighbours differ by 1; both zeros are 0."""
    raw = np.asarray(x, np.float64).astype(np.float32).view(np.uint32).astype(np.int64) >> (32 - bits)
    sign, size = raw >> (bits - 1), raw & ((1 << (bits - 1)) - 1)
    return np.where(sign == 1, -size, size)
