"""What precision `official` computes, operator by operator, from SPEC sections 2 and 3 alone: slow, plain, without caches.

Every function takes a `Numbers` first and arrays of float64 that hold fp32 or bf16 values; matrices are [out, in] and hold the values that
their stored formats have. What is rounded where, and how SPEC section 3 is read where it is open:

- An activation is BF16: whatever goes from one step of SPEC section 2 to the next is rounded to it (products, norms, rotations, mixes,
  the Hadamard rotation, each expert's output). Inside a step arithmetic is fp32 and rounds only where the list of rounding points says.
- Products give BF16, but for those that the list keeps in fp32: the compressor's, the router's, the head's. So gate and up are BF16
  before they are clamped; from there to silu·up·weight it is fp32. The published code does the same.
- The indexer's head weights w are a factor of the score, which gets its format (BF16) as a whole and once; they stay fp32.
- q·rsqrt: mean, eps and root are fp32, the product is rounded, then comes the rotation, which is rounded again.
- RMSNorm before a rotation is rounded before it: "the cast" is the norm's own.
- Attention weights are the softmax's, with the sink in its denominator: they are divided first, then rounded to BF16. Kernels that round
  unscaled exponentials and divide at the end do something else, which depends on how they cut the history.
- The score's BF16 is that of the sum over heads; products of queries and keys and the sum are fp32.
- "Accumulate fp32 per 128 of K": a partial sum of each 128 (FP4: 32) columns, then the sum of those.

Shapes: T tokens, N streams, D hidden, H heads, C head_dim, R rope dims, J index heads, K index dim, E entries.
"""
from __future__ import annotations

import numpy as np

from tests.official.numbers import Numbers, quantised, through_fp4

Array = np.ndarray


# --- streams ---


def mix(n: Numbers, X: Array, fn: Array, scale: Array, base: Array, steps: int, norm_eps: float, eps: float) -> tuple[Array, Array, Array]:
    """Sublayer input h [T, D], post [T, N], comb [T, N, N] of streams X [T, N, D]."""
    T, N, _ = X.shape
    raw = _coefficients(n, X, fn, norm_eps)
    pre = n.f32(_sigmoid(n, raw[:, :N], scale[0], base[:N]) + eps)
    post = n.f32(2 * _sigmoid(n, raw[:, N : 2 * N], scale[1], base[N : 2 * N]))
    logits = _affine(n, raw[:, 2 * N :], scale[2], base[2 * N :]).reshape(T, N, N)
    comb = n.f32(_softmax(n, logits) + eps)
    comb = n.f32(comb / n.f32(n.sum(comb, 1) + eps)[:, None, :])
    for _ in range(steps - 1):
        comb = n.f32(comb / n.f32(n.sum(comb, 2) + eps)[:, :, None])
        comb = n.f32(comb / n.f32(n.sum(comb, 1) + eps)[:, None, :])
    return n.bf16(n.sum(pre[:, :, None] * X, 1)), post, comb


def head_mix(n: Numbers, X: Array, fn: Array, scale: Array, base: Array, norm_eps: float, eps: float) -> Array:
    """The final mix [T, D]."""
    pre = n.f32(_sigmoid(n, _coefficients(n, X, fn, norm_eps), scale[0], base) + eps)
    return n.bf16(n.sum(pre[:, :, None] * X, 1))


def expand(n: Numbers, X: Array, out: Array, post: Array, comb: Array) -> Array:
    """New streams [T, N, D]; comb is summed over its first stream axis."""
    kept = comb[:, :, :, None] * X[:, :, None, :]  # [T, j, k, D]
    return n.bf16(n.sum(np.concatenate((kept, (post[:, :, None] * out[:, None, :])[:, None]), 1), 1))


def _coefficients(n: Numbers, X: Array, fn: Array, norm_eps: float) -> Array:
    flat = X.reshape(len(X), -1)
    return n.f32(n.product(flat, fn) * _inverse_rms(n, flat, norm_eps)[:, None])


def _affine(n: Numbers, x: Array, scale: float, base: Array) -> Array:
    return n.f32(x * scale + base, np.abs(x * scale) + np.abs(base))


def _sigmoid(n: Numbers, x: Array, scale: float, base: Array) -> Array:
    return n.f32(1 / (1 + np.exp(-_affine(n, x, scale, base))))


def _softmax(n: Numbers, logits: Array) -> Array:
    weights = n.f32(np.exp(logits - logits.max(-1, keepdims=True)))
    return n.f32(weights / n.sum(weights)[..., None])


# --- rows ---


def rms_norm(n: Numbers, x: Array, weight: Array, eps: float) -> Array:
    """RMSNorm over the last axis, BF16."""
    return n.bf16(n.f32(n.f32(x * _inverse_rms(n, x, eps)[..., None]) * weight))


def frequencies(R: int, theta: float, yarn: tuple[float, float, float, float] | None) -> Array:
    """Radians per position [R/2]; yarn: factor, original length, beta_fast, beta_slow."""
    f = theta ** (-2 * np.arange(R // 2) / R)
    if yarn is not None:
        factor, length, fast, slow = yarn
        low, high = (R * np.log(length / (2 * np.pi * turns)) / (2 * np.log(theta)) for turns in (fast, slow))
        low, high = max(np.floor(low), 0), min(np.ceil(high), R - 1)
        r = np.clip((np.arange(R // 2) - low) / (high - low if high != low else 0.001), 0, 1)
        f = f * (1 - r) + f / factor * r
    return Numbers().f32(f)


def angles(positions: Array, frequency: Array) -> tuple[Array, Array]:
    """cos, sin [T, R/2], of angles that are fp32 products."""
    n = Numbers()
    angle = n.f32(n.f32(positions)[:, None] * frequency)
    return n.f32(np.cos(angle)), n.f32(np.sin(angle))


def rope(n: Numbers, x: Array, cos: Array, sin: Array) -> Array:
    """The last R dims of x [T, C] or [T, H, C] turned, BF16."""
    if x.ndim == 3:
        cos, sin = cos[:, None], sin[:, None]
    first, out = x.shape[-1] - 2 * cos.shape[-1], x.copy()
    a, b = x[..., first::2], x[..., first + 1 :: 2]
    out[..., first::2] = n.f32(a * cos - b * sin, np.abs(a * cos) + np.abs(b * sin))
    out[..., first + 1 :: 2] = n.f32(b * cos + a * sin, np.abs(b * cos) + np.abs(a * sin))
    return n.bf16(out)


def query_rope(n: Numbers, q: Array, eps: float, cos: Array, sin: Array) -> Array:
    """q·rsqrt, rounded, then turned."""
    return rope(n, n.bf16(n.f32(q * _inverse_rms(n, q, eps)[..., None])), cos, sin)


def norm_rope(n: Numbers, x: Array, weight: Array, eps: float, cos: Array, sin: Array) -> Array:
    """RMSNorm, rounded, then turned."""
    return rope(n, rms_norm(n, x, weight, eps), cos, sin)


def entry(n: Numbers, x: Array, rope_dims: int) -> Array:
    """What the cache keeps of key-value entries [n, C]; exact, so there is nothing for `n` to do."""
    plain = x.shape[-1] - rope_dims
    return np.concatenate((quantised(x[:, :plain], 64), x[:, plain:]), 1) if plain else x


def _inverse_rms(n: Numbers, x: Array, eps: float) -> Array:
    return n.f32(1 / np.sqrt(n.f32(n.sum(x * x) / x.shape[-1] + eps)))


# --- products ---


def linear_fp8(n: Numbers, x: Array, w: Array, columns: int = 128) -> Array:
    """E4M3 activations by a quantised matrix, BF16. columns: of a partial sum."""
    return n.bf16(_blocked(n, quantised(x), w, columns))


def linear_grouped(n: Numbers, x: Array, w: Array) -> Array:
    """x [T, G, in] by G blocks of w [G·out, in], BF16: its input isn't quantised."""
    blocks = np.split(w, x.shape[1])
    return n.bf16(np.concatenate([n.product(x[:, g], block) for g, block in enumerate(blocks)], 1))


def linear_fp32(n: Numbers, x: Array, w: Array) -> Array:
    """Products that stay fp32."""
    return n.product(x, w)


def projections(n: Numbers, x: Array, wkv: Array, wgate: Array) -> Array:
    """The compressor's kv' and gate, [T, 2, P], fp32."""
    return np.stack((n.product(x, wkv), n.product(x, wgate)), 1)


def _blocked(n: Numbers, x: Array, w: Array, columns: int) -> Array:
    total = np.zeros((len(x), len(w)))
    for a in range(0, x.shape[1], columns):
        total = n.f32(total + n.product(x[:, a : a + columns], w[:, a : a + columns]))
    return total


# --- compression and the indexer ---


def compress(n: Numbers, rows: Array, ape: Array, ratio: int, overlap: bool, weight: Array, eps: float, cos: Array, sin: Array) -> Array:
    """Entries [E, C] of all complete windows of one sequence; rows [T, 2, P] as `projections`; cos, sin at the windows' first positions."""
    C, pooled = ape.shape[1] // (2 if overlap else 1), []
    for i in range(len(rows) // ratio):
        own = slice(ratio * i, ratio * (i + 1))
        kv, gate = rows[own, 0], n.f32(rows[own, 1] + ape)
        if overlap:  # series b of its own window, series a of the one before
            kv, gate = kv[:, C:], gate[:, C:]
            if i > 0:
                before = slice(ratio * (i - 1), ratio * i)
                kv = np.concatenate((rows[before, 0, :C], kv))
                gate = np.concatenate((n.f32(rows[before, 1, :C] + ape[:, :C]), gate))
        weights = _softmax(n, gate.T)  # [C, slots]
        pooled.append(n.bf16(n.sum(weights * kv.T)))
    return norm_rope(n, np.array(pooled).reshape(-1, C), weight, eps, cos, sin)


def hadamard_fp4(n: Numbers, x: Array) -> Array:
    """Index queries or keys [..., K]: rotated, BF16, FP4."""
    K = x.shape[-1]
    matrix = np.array([[(-1.0) ** bin(i & j).count("1") for j in range(K)] for i in range(K)])
    turned = n.bf16(n.f32(n.product(x, matrix) * K**-0.5))
    return through_fp4(turned.reshape(-1, K)).reshape(x.shape)


def index_weights(n: Numbers, h: Array, w: Array, index_dim: int) -> Array:
    """Head weights [T, J] with both constants."""
    return n.f32(n.product(h, w) * (len(w) ** -0.5 * index_dim**-0.5))


def scores(n: Numbers, q: Array, w: Array, keys: Array) -> Array:
    """[T, E] BF16 scores of q [T, J, K], w [T, J] against all keys [E, K], visible or not."""
    return n.bf16(np.array([n.sum(n.f32(w[t][:, None] * np.maximum(n.product(q[t], keys), 0)), 0) for t in range(len(q))]))


def best(ranked: Array, k: int) -> Array:
    """Numbers of the k largest, ties to the lower number."""
    return np.argsort(-ranked, kind="stable")[:k]


# --- attention ---


def attend(n: Numbers, q: Array, window: Array, size: int, sink: Array, entries: Array, seen: list[Array]) -> Array:
    """[T, H, C] from queries, window rows [T, C], entries [E, C], of which query t sees those in seen[t]."""
    out = np.empty_like(q)
    for t in range(len(q)):
        keys = np.concatenate((window[max(0, t - size + 1) : t + 1], entries[seen[t]]))
        logits = n.f32(n.product(q[t], keys) * q.shape[-1] ** -0.5)
        top = np.maximum(logits.max(1), sink)
        weights, rest = n.f32(np.exp(logits - top[:, None])), n.f32(np.exp(sink - top))
        weights = n.bf16(n.f32(weights / n.f32(n.sum(weights) + rest)[:, None]))
        out[t] = n.bf16(n.product(weights, keys.T))
    return out


# --- experts ---


def route(n: Numbers, logits: Array, bias: Array | None, given: Array | None, top_k: int, factor: float) -> tuple[Array, Array, Array]:
    """Unbiased scores [T, E], weights [T, k], experts [T, k]."""
    affinity = n.f32(np.sqrt(n.f32(np.logaddexp(0, logits))))
    chosen = given if given is not None else np.array([best(n.f32(row + bias), top_k) for row in affinity])
    picked = np.take_along_axis(affinity, chosen, 1)
    return affinity, n.f32(n.f32(picked / n.f32(n.sum(picked) + 1e-20)[:, None]) * factor), chosen


def experts(n: Numbers, x: Array, weights: Array, chosen: Array, w1: Array, w2: Array, w3: Array, shared: tuple[Array, Array, Array],
            limit: float) -> Array:
    """Routed (FP4, sums per 32 columns) and shared (FP8, per 128) experts' outputs, each BF16, summed in fp32, BF16."""
    rows = np.zeros((len(x), chosen.shape[1] + 1, x.shape[1]))
    for e in range(len(w1)):
        token, place = np.nonzero(chosen == e)
        if len(token):
            rows[token, place] = _expert(n, x[token], w1[e], w2[e], w3[e], limit, weights[token, place][:, None], 32)
    rows[:, -1] = _expert(n, x, *shared, limit, None, 128)
    return n.bf16(n.sum(rows, 1))


def _expert(n: Numbers, x: Array, w1: Array, w2: Array, w3: Array, limit: float, weight: Array | None, columns: int) -> Array:
    gate, up = np.minimum(linear_fp8(n, x, w1, columns), limit), np.clip(linear_fp8(n, x, w3, columns), -limit, limit)
    act = n.f32(n.f32(gate / (1 + np.exp(-gate))) * up)
    return linear_fp8(n, n.bf16(act if weight is None else n.f32(act * weight)), w2, columns)


def add(n: Numbers, x: Array, y: Array) -> Array:
    """A sum of two activations."""
    return n.bf16(n.f32(x + y, np.abs(x) + np.abs(y)))
