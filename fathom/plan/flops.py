"""How much arithmetic one token takes, and a whole prompt, and a whole training run.

One token at position t of a sequence multiplies by every active matrix once (2 FLOPs a parameter) and then looks back:

    core attention    per head and entry 2·C for the logit and 2·C for the value product; entries are the window's, plus all visible
                      compressed ones (HCA) or the index_topk best of them (CSA)
    index scores      per index head and visible CSA entry 2·index_dim; this is all that still grows with the context in CSA layers

A FLOP isn't a FLOP: what the official formats multiply in BF16 costs twice an FP8 one on the chips the report speaks of, and FP4 by
FP4 half. `fp8_equivalents` weighs them so; weights of any format times FP8 activations count 1 (SPEC 6). Element-wise work (norms,
Sinkhorn, softmax, RoPE) isn't counted here: it never binds.

Source: SPEC sections 2 (visible entries), 6 and 11 (weights of the formats, the V3.2 reference).
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..config import ModelConfig, Param, parameters
from .count import active_parameters, active_share, part_of

FP8_COST = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "fp4": 0.5}  # cost of one FLOP by format, in FP8 FLOPs
WHOLE_BILLIONS_FROM = 10e9  # published sizes of models above this are whole billions


@dataclass(frozen=True)
class V32:
    """DeepSeek-V3.2, which the report compares with; the two published constants are the only source here (SPEC 11)."""

    active: float = 37e9
    layers: int = 61
    heads: int = 128
    latent: int = 512
    rope: int = 64
    topk: int = 2048
    index_heads: int = 64
    index_dim: int = 128
    kv_bytes_per_layer: int = 656 + 132  # one latent entry, one index key

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes that each token adds to the cache: 48 068."""
        return self.layers * self.kv_bytes_per_layer

    def fp8_equivalents(self, context: int) -> float:
        """Single-token FLOPs at a context: FP8 matrices and index scores (1), BF16 core attention over the chosen entries (2)."""
        core = 2 * (2 * self.latent + self.rope) * self.heads * min(context, self.topk) * self.layers
        index = 2 * self.index_heads * self.index_dim * context * self.layers
        return 2 * self.active + FP8_COST["bf16"] * core + index


@dataclass(frozen=True)
class TokenFlops:
    """FLOPs of one token, or of many, by kind.

    Attributes:
        linear: matrix products other than routed experts, in `linear_format`.  experts: routed experts, in `expert_format`.
        core: core attention.  index: index scores.  `formats` says what each is computed in.
    """

    linear: float
    experts: float
    core: float
    index: float
    formats: tuple[tuple[str, str], ...]

    @property
    def total(self) -> float:
        """All FLOPs, unweighted."""
        return self.linear + self.experts + self.core + self.index

    @property
    def fp8_equivalents(self) -> float:
        """FLOPs weighed by the cost of their format (`FP8_COST`)."""
        return sum(getattr(self, kind) * FP8_COST[fmt] for kind, fmt in self.formats)


def formats_of(precision: str) -> dict[str, str]:
    """What each kind of product is computed in. Official: FP8 matrices (FP4 experts meet FP8 activations), BF16 attention, FP4 index."""
    if precision in ("fp8", "official"):
        return {"linear": "fp8", "experts": "fp8", "core": "bf16", "index": "fp4"}
    return dict.fromkeys(("linear", "experts", "core", "index"), precision)


def token_flops(config: ModelConfig, context: int, precision: str = "official") -> TokenFlops:
    """FLOPs of the token at the end of a sequence of `context` tokens (itself included), without the MTP block."""
    return prompt_flops(config, context, precision, start=context - 1)


def prompt_flops(config: ModelConfig, context: int, precision: str = "official", *, start: int = 0) -> TokenFlops:
    """FLOPs of processing tokens `start` … `context` − 1 of a sequence; those before `start` came from a cache."""
    def visible(ratio: int) -> int:
        return visible_sum(context, ratio) - visible_sum(start, ratio)

    def chosen(ratio: int, most: int) -> int:
        return visible_sum(context, ratio, most) - visible_sum(start, ratio, most)

    return _flops(config, precision, context - start, visible, chosen, chosen(1, config.sliding_window))


def visible_sum(tokens: int, ratio: int, most: int | None = None) -> int:
    """Σ over positions 1…tokens of min(⌊position / ratio⌋, most), in closed form."""
    full = tokens if most is None else min(tokens, most * ratio)  # from here on every position sees `most`
    q, r = divmod(full, ratio)
    ramp = ratio * q * (q - 1) // 2 + q * (r + 1)  # positions 1…full: each value v < q stands `ratio` times, q stands r + 1 times
    return ramp + (0 if most is None else (tokens - full) * most)


def _flops(config: ModelConfig, precision: str, tokens: int, visible: Callable[[int], int], chosen: Callable[[int, int], int],
           window: int) -> TokenFlops:
    c = config
    per_entry = 4 * c.num_attention_heads * c.head_dim
    core = index = 0
    for layer in range(c.num_hidden_layers):
        ratio = c.compress_ratios[layer]
        entries = 0
        if c.is_csa(layer):
            entries = chosen(ratio, c.index_topk)
            index += 2 * c.index_n_heads * c.index_head_dim * visible(ratio)
        elif ratio:
            entries = visible(ratio)
        core += per_entry * (window + entries)
    linear = experts = 0
    for p in parameters(c):
        if is_matrix(p):
            flops = 2 * int(p.numel * active_share(c, p)) * tokens
            linear, experts = (linear, experts + flops) if p.experts else (linear + flops, experts)
    return TokenFlops(linear, experts, core, index, tuple(formats_of(precision).items()))


def is_matrix(param: Param) -> bool:
    """Whether a parameter is multiplied by (ape and the routing table are added or looked up; norms, biases and sinks are vectors)."""
    return len(param.shape) > 1 and param.is_parameter and not param.name.endswith(".ape") and part_of(param) != "embedding"


def v32_ratio(config: ModelConfig, context: int, *, exact: bool = False) -> float:
    """Single-token FP8-equivalent FLOPs at a context as a fraction of V3.2's (0.265 for Pro and 0.099 for Flash at 1 048 576).

    V3.2's active parameters are known in whole billions only, so ours count so too (13 B, 49 B); `exact` takes our exact count.
    """
    ours = token_flops(config, context)
    matrices = ours.linear + ours.experts
    if not exact:
        active = active_parameters(config)
        matrices = 2 * (round(active / 1e9) * 1e9 if active >= WHOLE_BILLIONS_FROM else active)
    attention = ours.core * FP8_COST["bf16"] + ours.index * FP8_COST["fp4"]
    return (matrices + attention) / V32().fp8_equivalents(context)


def training_flops(config: ModelConfig, tokens: float) -> float:
    """Training compute ≈ 6 × active parameters × tokens: forward 2, backward 4 (SPEC 11). Attention over entries isn't in it."""
    return 6.0 * active_parameters(config) * tokens
