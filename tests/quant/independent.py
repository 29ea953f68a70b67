"""The number formats of SPEC section 3 a second time, from their bit layouts, in numpy and Python integers; shares nothing with fathom.

Every narrow number is found in a table of all values of the format, in float64, where these products and differences are exact.
"""
import math

import numpy as np


def e4m3_table() -> np.ndarray:
    """Values of bytes 0 to 127; 127 is NaN. Sign bit, 4 exponent bits with bias 7, 3 mantissa bits."""
    out = []
    for byte in range(128):
        exponent, mantissa = byte >> 3, byte & 7
        out.append(mantissa * 2.0**-9 if exponent == 0 else (8 + mantissa) * 2.0 ** (exponent - 10))
    return np.array([*out[:127], math.nan])


E4M3 = e4m3_table()
E2M1 = np.array([(m * 0.5 if e == 0 else (2 + m) * 2.0 ** (e - 2)) for e in range(4) for m in range(2)])  # 1 mantissa bit, bias 1


def nearest_even(x: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Codes of the nearest table entries (ascending magnitudes, code = index) to |x|, at most the last; ties to the even code."""
    a = np.minimum(np.abs(x.astype(np.float64)), table[-1])
    above = np.searchsorted(table, a)
    below = np.maximum(above - 1, 0)
    up, down = table[above] - a, a - table[below]
    code = np.where(up < down, above, np.where(down < up, below, np.where(above % 2 == 0, above, below)))
    return code.astype(np.uint8)


def encode(x: np.ndarray, table: np.ndarray, sign: int) -> np.ndarray:
    """Codes with the sign bit."""
    return (nearest_even(x, table) | (np.signbit(x).astype(np.uint8) * sign)).astype(np.uint8)


def exponent(amax: float, largest: int, floor: float) -> int:
    """Smallest k with max(amax, floor) <= largest · 2^k, by exact comparison."""
    amax = max(float(amax), float(np.float32(floor)))
    k = math.frexp(amax / largest)[1] - 2
    while amax > math.ldexp(largest, k):
        k += 1
    return k


def e4m3_runs(x: np.ndarray, size: int, floor: float) -> tuple[np.ndarray, np.ndarray]:
    """Bytes and scale bytes of a matrix [n, K], one scale per `size` of K."""
    codes, scales = np.zeros(x.shape, np.uint8), np.zeros((x.shape[0], -(-x.shape[1] // size)), np.uint8)
    for row in range(x.shape[0]):
        for run in range(scales.shape[1]):
            part = x[row, run * size : (run + 1) * size].astype(np.float64)
            k = exponent(np.abs(part).max(), 448, floor)
            codes[row, run * size : (run + 1) * size] = encode(part / 2.0**k, E4M3[:127], 0x80)
            scales[row, run] = k + 127
    return codes, scales


def e4m3_blocks(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bytes and scale bytes of a weight [out, in] in blocks of 128×128."""
    codes, scales = np.zeros(w.shape, np.uint8), np.zeros((-(-w.shape[0] // 128), -(-w.shape[1] // 128)), np.uint8)
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            cut = (slice(i * 128, (i + 1) * 128), slice(j * 128, (j + 1) * 128))
            part = w[cut].astype(np.float64)
            k = exponent(np.abs(part).max(), 448, 448 * 2.0**-126)
            codes[cut] = encode(part / 2.0**k, E4M3[:127], 0x80)
            scales[i, j] = k + 127
    return codes, scales


def e2m1_groups(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Packed bytes [n, K/2] and scale bytes [n, ceil(K/32)] of a matrix [n, K]."""
    codes, scales = np.zeros(x.shape, np.uint8), np.zeros((x.shape[0], -(-x.shape[1] // 32)), np.uint8)
    for row in range(x.shape[0]):
        for group in range(scales.shape[1]):
            part = x[row, group * 32 : (group + 1) * 32].astype(np.float64)
            k = exponent(np.abs(part).max(), 6, 6 * 2.0**-126)
            codes[row, group * 32 : (group + 1) * 32] = encode(part / 2.0**k, E2M1, 8)
            scales[row, group] = k + 127
    return (codes[:, 0::2] + 16 * codes[:, 1::2]).astype(np.uint8), scales


def value(codes: np.ndarray, table: np.ndarray, sign: int) -> np.ndarray:
    return np.where(codes & sign, -1.0, 1.0) * table[codes & (sign - 1)]


def decode_e2m1(packed: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """float64 [n, K] from packed bytes and scale bytes."""
    n, half = packed.shape
    codes = np.empty((n, 2 * half), np.uint8)
    codes[:, 0::2], codes[:, 1::2] = packed % 16, packed // 16
    return value(codes, E2M1, 8) * 2.0 ** (np.repeat(scales.astype(np.int64), 32, axis=1)[:, : 2 * half] - 127.0)


def hadamard(x: np.ndarray) -> np.ndarray:
    """Natural-order Hadamard product of rows in fp32, by recursion on halves."""
    n = x.shape[-1]
    if n == 1:
        return x
    a, b = hadamard(x[..., : n // 2]), hadamard(x[..., n // 2 :])
    return np.concatenate((a + b, a - b), axis=-1)


def to_bf16_bits(x: np.ndarray) -> np.ndarray:
    """uint16 patterns of fp32 numbers rounded to bf16, ties to even."""
    bits = x.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
