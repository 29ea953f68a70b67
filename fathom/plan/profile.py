"""A model boiled down to the few dozen numbers that a deployment depends on.

Everything that follows (what fits, how fast, what it costs) is plain arithmetic on this record and a chip's; so the record can be
put into a web page, where the same arithmetic runs again with the reader's own settings. All of it comes from the table of
parameters and the state's layout; nothing is typed in.

The matrices outside the experts are split in two: those that tensor parallelism cuts and those that every rank holds and computes
whole (the latent projections, compressors, router and stream mixing), because the second kind is what makes wide tensor
parallelism a bad bargain for this model.
"""
from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..config import ModelConfig, parameters
from ..config.formats import entry_bytes, index_key_bytes
from .count import active_share, part_of
from .flops import formats_of, is_matrix
from .size import param_bytes, param_format, state_precision, state_size

_ITEM = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 2, "official": 2}  # bytes of an activation between layers
_SENT = {"fp32": 8, "bf16": 4, "fp16": 4, "fp8": 3, "official": 3}  # bytes a hidden value costs on its way to an expert and back


@dataclass(frozen=True)
class Profile:
    """One model at one precision. Bytes and FLOPs are of the whole main model (no MTP block) unless said otherwise.

    Attributes:
        layers, hidden, streams, heads, head_dim, groups, index_heads, window, topk, experts, chosen, expert_width: as configured.
        vocab: rows of the output matrix.  max_context: longest sequence.
        ratios: per kind of layer (compression ratio, 1 if it selects by index else 0, number of such layers).
        cut_bytes, whole_bytes: weights outside experts, embedding and head that tensor parallelism cuts, or doesn't.
        expert_bytes: all routed experts.  vocab_bytes: embedding and head together.
        cut_flops, whole_flops: FLOPs a token by format, output matrix included.  expert_flops: of the chosen experts, one token.
        expert_format, core_format, index_format: what those products are computed in.
        entry_flops: core attention FLOPs a head-summed entry.  key_flops: index FLOPs a key.
        entry_bytes, key_bytes: bytes of one compressed (or window) entry and of one index key.
        fixed_bytes: window and tail of one sequence.  block_bytes, block_tokens: one block of its compressed state.
        item: bytes of an activation value.  sent: bytes that one hidden value costs on its way to an expert and back.
    """

    layers: int
    hidden: int
    streams: int
    heads: int
    head_dim: int
    groups: int
    index_heads: int
    window: int
    topk: int
    experts: int
    chosen: int
    expert_width: int
    vocab: int
    max_context: int
    ratios: tuple[tuple[int, int, int], ...]
    cut_bytes: int
    whole_bytes: int
    expert_bytes: int
    vocab_bytes: int
    cut_flops: dict[str, int]
    whole_flops: dict[str, int]
    expert_flops: int
    expert_format: str
    core_format: str
    index_format: str
    entry_flops: int
    key_flops: int
    entry_bytes: int
    key_bytes: int
    fixed_bytes: int
    block_bytes: int
    block_tokens: int
    item: int
    sent: int

    def data(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)


def profile(config: ModelConfig, precision: str = "official") -> Profile:
    """The numbers of a model at a precision. Raises UserError for an unknown precision."""
    c = config.without_mtp()
    formats, state = formats_of(precision), state_size(c, precision)
    sizes = dict.fromkeys(("cut", "whole", "expert", "vocab"), 0)
    flops: dict[str, dict[str, int]] = {"cut": {}, "whole": {}}
    expert_flops = 0
    for p in parameters(c):
        kind = "cut" if p.tp_axis is not None else "whole"
        place = "expert" if p.experts else "vocab" if part_of(p) in ("embedding", "head") else kind
        sizes[place] += param_bytes(c, p, precision)
        if not is_matrix(p):
            continue
        work = int(2 * p.numel * active_share(c, p))
        if p.experts:
            expert_flops += work
        else:
            fmt = _product_format(param_format(c, p, precision))
            flops[kind][fmt] = flops[kind].get(fmt, 0) + work
    kinds: dict[tuple[int, int], int] = {}
    for layer, ratio in enumerate(c.compress_ratios):
        kinds[ratio, int(c.is_csa(layer))] = kinds.get((ratio, int(c.is_csa(layer))), 0) + 1
    official = state_precision(precision) == "official"
    item = _ITEM[precision]
    return Profile(
        layers=c.num_hidden_layers, hidden=c.hidden_size, streams=c.hc_mult, heads=c.num_attention_heads, head_dim=c.head_dim,
        groups=c.o_groups, index_heads=c.index_n_heads, window=c.sliding_window, topk=c.index_topk, experts=c.n_routed_experts,
        chosen=c.num_experts_per_tok, expert_width=c.moe_intermediate_size, vocab=c.vocab_size, max_context=c.max_position_embeddings,
        ratios=tuple((ratio, csa, count) for (ratio, csa), count in sorted(kinds.items())),
        cut_bytes=sizes["cut"], whole_bytes=sizes["whole"], expert_bytes=sizes["expert"], vocab_bytes=sizes["vocab"],
        cut_flops=flops["cut"], whole_flops=flops["whole"], expert_flops=expert_flops,
        expert_format=formats["experts"], core_format=formats["core"], index_format=formats["index"],
        entry_flops=4 * c.num_attention_heads * c.head_dim, key_flops=2 * c.index_n_heads * c.index_head_dim,
        entry_bytes=entry_bytes(c.head_dim, c.qk_rope_head_dim) if official else c.head_dim * item,
        key_bytes=index_key_bytes(c.index_head_dim) if official else c.index_head_dim * item,
        fixed_bytes=state.fixed, block_bytes=state.block, block_tokens=state.block_tokens, item=item, sent=_SENT[precision],
    )


def _product_format(stored: str) -> str:
    """What a matrix stored so is multiplied in: FP4 weights meet FP8 activations, fp32 mixing runs at BF16's rate or better."""
    return {"fp4": "fp8", "fp32": "bf16"}.get(stored, stored)
