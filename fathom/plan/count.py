"""How many parameters a model has, by part, and how many of them one token uses.

Everything is counted from the one table of parameters (`fathom.config.parameters`); no formula here knows a shape. The routing
table of hash layers (token id to experts) is data, not parameters, and is left out.

"Active" needs its counting said, since published figures differ in it. Ours (`ACTIVE_COUNTING`): all parameters that one token's
forward pass computes with. So the routed experts count by the share that is chosen, the output matrix counts, the embedding table
doesn't (one row of it is copied, nothing is multiplied), the MTP block doesn't (plain decoding never runs it). That gives the
published 13 B and 49 B.

Source: SPEC sections 1 and 11.
"""
from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

from ..config import ModelConfig, Param, parameters

PARTS = ("embedding", "head", "attention", "indexer", "compressors", "experts", "shared", "router", "mhc", "norms", "mtp")
ACTIVE_COUNTING = ("parameters that one token's forward pass computes with: all but the embedding table (one row is copied), the experts "
                   "that were not chosen, and the MTP block")


def part_of(param: Param) -> str:
    """Which of `PARTS` a parameter belongs to. The MTP block is one part with all it holds; the indexer includes its own compressor."""
    name = param.name
    if name.startswith("mtp."):
        return "mtp"
    for part, marks in _MARKS:
        if any(mark in name for mark in marks):
            return part
    raise AssertionError(f"no part for parameter {name}")


_MARKS = (  # the first that fits; norms before what they normalise
    ("embedding", ("embed.weight",)),
    ("mhc", ("hc_attn_", "hc_ffn_", "hc_head_")),
    ("norms", ("norm.weight",)),
    ("head", ("head.weight",)),
    ("indexer", (".attn.indexer.",)),
    ("compressors", (".attn.compressor.",)),
    ("attention", (".attn.",)),
    ("experts", (".ffn.experts.",)),
    ("shared", (".ffn.shared_experts.",)),
    ("router", (".ffn.gate.",)),
)


def parameters_by_part(config: ModelConfig) -> dict[str, int]:
    """Number of parameters of each of `PARTS`, in that order; a part that the model lacks is 0."""
    return _sum((part_of(p), p.numel) for p in parameters(config) if p.is_parameter)


def total_parameters(config: ModelConfig, *, mtp: bool = True) -> int:
    """Number of parameters, with or without the MTP block."""
    counts = parameters_by_part(config)
    return sum(counts.values()) - (0 if mtp else counts["mtp"])


def active_by_part(config: ModelConfig) -> dict[str, int]:
    """Parameters of each of `PARTS` that one token uses, counted as `ACTIVE_COUNTING` says."""
    return _sum((part_of(p), int(p.numel * active_share(config, p))) for p in parameters(config) if p.is_parameter)


def active_parameters(config: ModelConfig) -> int:
    """Parameters that one token's forward pass computes with (`ACTIVE_COUNTING`)."""
    return sum(active_by_part(config).values())


def active_share(config: ModelConfig, param: Param) -> Fraction:
    """The part of a parameter that one token computes with: 0, 1, or the share of the experts that are chosen."""
    if part_of(param) in ("embedding", "mtp") or not param.is_parameter:
        return Fraction(0)
    return Fraction(config.num_experts_per_tok, config.n_routed_experts) if param.experts else Fraction(1)


def _sum(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    counts = dict.fromkeys(PARTS, 0)
    for part, number in pairs:
        counts[part] += number
    return counts
