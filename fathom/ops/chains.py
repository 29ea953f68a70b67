"""Chains: operators that always follow one another, under one name, so that a kernel may serve them in one call.

What a chain means is its composition of the table's operators, written here and nowhere else; with the kernels `k` chosen for a
model it is what they compute, in any precision, forwards and backwards. A row of the kernel table may take a chain's place (decoding
one token, the calls cost more than many of the sums); it must give the same numbers.

Shapes as in model/attention.py and model/moe.py: T tokens, D hidden, H heads, C head_dim, R rope dims, G output groups, J index heads,
K index head dim (in `moe` experts a token), E experts.
"""
from __future__ import annotations

from typing import Any

from torch import Tensor


def mhc_read(k: Any, X: Tensor, fn: Any, scale: Tensor, base: Tensor, norm: Tensor, *, sinkhorn_steps: int, norm_eps: float,
             eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The normed input of a sublayer, and what its output is written back with: `mhc_mix`, then `rms_norm` of h by norm [D]."""
    h, post, comb = k.mhc_mix(X, fn, scale, base, sinkhorn_steps=sinkhorn_steps, norm_eps=norm_eps, eps=eps)
    return k.rms_norm(h, norm, norm_eps), post, comb


def attention_inputs(k: Any, h: Tensor, wq_a: Any, q_norm: Tensor, wq_b: Any, wkv: Any, kv_norm: Tensor, heads: int, eps: float, cos: Tensor,
                     sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Query latent c_q [T, q_lora_rank], queries [T, H, C] and key-value rows [T, C] of h [T, D], rotated by cos, sin [T, R/2].

    Source: SPEC section 2, attention items 1 to 3.
    """
    c_q = k.rms_norm(k.linear_fp8(h, wq_a), q_norm, eps)
    q = k.norm_rope(k.linear_fp8(c_q, wq_b).view(len(h), heads, -1), None, eps, cos, sin)
    return c_q, q, k.norm_rope(k.linear_fp8(h, wkv), kv_norm, eps, cos, sin)


def attention_output(k: Any, out: Tensor, cos: Tensor, back: Tensor, wo_a: Any, wo_b: Any, groups: int) -> Tensor:
    """[T, D] of what the heads gathered, out [T, H, C]: turned back (contributions become relative to the query's position), then the
    grouped projection.

    Source: SPEC section 2, attention items 5 and 6.
    """
    return k.linear_fp8(k.linear_grouped(k.rope(out, cos, back).view(len(out), groups, -1), wo_a), wo_b)


def index_inputs(k: Any, h: Tensor, c_q: Tensor, wq_b: Any, weights_proj: Any, heads: int, cos: Tensor, sin: Tensor,
                 factor: float) -> tuple[Tensor, Tensor]:
    """Index queries [T, J, K] and head weights [T, J], fp32 and times `factor`, of h [T, D] and c_q [T, q_lora_rank].

    Source: SPEC section 2, lightning indexer.
    """
    q = k.rope(k.linear_fp8(c_q, wq_b).view(len(h), heads, -1), cos, sin)
    return k.index_queries(q), k.linear_fp32(h, weights_proj) * factor


def moe(k: Any, h: Tensor, gate: Any, w1: Any, w2: Any, w3: Any, shared: tuple[Any, Any, Any], *, bias: Tensor | None, chosen: Tensor | None,
        top_k: int, factor: float, limit: float) -> tuple[Tensor, Tensor, Tensor]:
    """Output [T, D] of the experts for h [T, D], the router's scores [T, E] and its choice [T, K]; arguments as in `route` and `experts`."""
    scores, weights, experts = k.route(k.linear_fp32(h, gate), bias=bias, chosen=chosen, top_k=top_k, factor=factor)
    return k.experts(h, weights, experts, w1, w2, w3, shared, limit), scores, experts
