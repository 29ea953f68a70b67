"""Bytes of a model's weights as the native CPU kernels hold them, and how many experts fit under a budget.

Matrices lie in padded panels (config/formats.py), in bf16 or as stored in FP8 and FP4; mHC's mixers as two or three bf16 parts; everything
else as it is. With a budget below the whole, dense weights are all in memory and each layer keeps as many routed experts as fit.

Source: DESIGN, native extension; SPEC section 3.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..config import ModelConfig, Param, parameters
from ..config.formats import STREAM_PARTS, packed_bytes
from ..errors import UserError


@dataclass(frozen=True)
class PackedSize:
    """Bytes of all that is always in memory (dense), of one routed expert in all layers that have it (expert), and of everything."""

    dense: int
    expert: int
    total: int


def packed_size(config: ModelConfig, formats: Mapping[str, str] | None = None, precision: str = "bf16") -> PackedSize:
    """Sizes of packed weights in bf16, but for those that `formats` (by name) keeps in "fp8" or "fp4"; for precision "bf16" or "official"."""
    formats = formats or {}
    sizes = {p: _bytes(p, formats.get(p.name, "bf16"), precision) for p in parameters(config)}
    routed = sum(n for p, n in sizes.items() if p.role == "expert")
    total = sum(sizes.values())
    return PackedSize(total - routed, routed // config.n_routed_experts, total)


def resident_experts(config: ModelConfig, budget: int, formats: Mapping[str, str] | None = None, precision: str = "bf16") -> int | None:
    """Routed experts of each layer that fit under `budget` bytes; None where all do.

    Raises:
        UserError: the budget holds less than the dense weights and one token's experts.
    """
    size = packed_size(config, formats, precision)
    if size.total <= budget:
        return None
    count = (budget - size.dense) // size.expert
    if count < config.num_experts_per_tok:
        least = size.dense + config.num_experts_per_tok * size.expert
        raise UserError("weights_budget", f"{budget / 1e9:.2f} GB",
                        f"at least {least / 1e9:.2f} GB: the dense weights and {config.num_experts_per_tok} experts a layer",
                        "give more, or convert the checkpoint to the official formats")
    return count


def _bytes(p: Param, format: str, precision: str) -> int:
    rows, columns = p.shape[-2:] if len(p.shape) > 1 else (1, p.shape[0])
    if p.role in ("matrix", "shared", "expert"):
        return max(1, p.experts) * packed_bytes(rows, columns, format)
    if p.role == "grouped":
        return len(p.row_parts) * packed_bytes(rows // len(p.row_parts), columns, "bf16")
    if p.role == "streams":
        return packed_bytes(STREAM_PARTS[precision] * rows, columns, "bf16")
    return p.numel * {"int64": 8, "fp32": 4}.get(p.storage, 2)
