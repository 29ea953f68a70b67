"""What a model is and takes, as plain data: the numbers behind `fathom plan MODEL` and its --json.

One dictionary with every figure in base units (parameters, bytes, FLOPs), so that a reader of the JSON needs no table of units. The
reference figures of V3.2 stand beside ours, since the published claims are ratios to it.
"""
from __future__ import annotations

from typing import Any

from ..config import ModelConfig
from ..errors import UserError
from .count import ACTIVE_COUNTING, active_by_part, parameters_by_part
from .flops import V32, TokenFlops, prompt_flops, token_flops, training_flops, v32_ratio
from .size import WEIGHT_PRECISIONS, check_precision, state_precision, state_size, weight_bytes, weight_bytes_by_part


def check_context(config: ModelConfig, context: int) -> None:
    """Raises UserError for a context that the model can't have."""
    if not 1 <= context <= config.max_position_embeddings:
        raise UserError("context", context, f"1 to {config.max_position_embeddings} tokens (max_position_embeddings)")


def summary(config: ModelConfig, name: str, *, context: int | None = None, precision: str = "official") -> dict[str, Any]:
    """Every figure of a model at one context and precision.

    Args:
        name: what to call the model in the output.
        context: tokens of one sequence; None takes the model's longest.
        precision: of the state and of the arithmetic; weights are given at every precision.

    Returns:
        JSON-ready dictionary: model, context, precision, parameters, weights, state, flops, v32 (the reference).

    Raises:
        UserError: unknown precision, or a context beyond the model's.
    """
    check_precision(precision)
    context = config.max_position_embeddings if context is None else context
    check_context(config, context)
    return {
        "model": name, "context": context, "precision": precision,
        "parameters": _parameters(config),
        "weights": {p: {"total": weight_bytes(config, p), "without_mtp": weight_bytes(config, p, mtp=False),
                        "by_part": weight_bytes_by_part(config, p)} for p in WEIGHT_PRECISIONS},
        "state": _state(config, context, precision),
        "flops": {
            "token": _flops(token_flops(config, context, precision)),
            "prompt": _flops(prompt_flops(config, context, precision)),
            "of_v32": v32_ratio(config, context), "of_v32_exact_count": v32_ratio(config, context, exact=True),
            "training_per_token": training_flops(config, 1),
        },
        "v32": {"bytes_per_token": V32().kv_bytes_per_token, "cache": V32().kv_bytes_per_token * context,
                "token_fp8_equivalents": V32().fp8_equivalents(context)},
    }


def _parameters(config: ModelConfig) -> dict[str, Any]:
    counts, active = parameters_by_part(config), active_by_part(config)
    total = sum(counts.values())
    return {"total": total, "without_mtp": total - counts["mtp"], "active": sum(active.values()), "active_counting": ACTIVE_COUNTING,
            "by_part": counts, "active_by_part": active}


def _state(config: ModelConfig, context: int, precision: str) -> dict[str, Any]:
    size = state_size(config, precision)
    return {"precision": state_precision(precision), "bytes_per_token": size.per_token, "block_tokens": size.block_tokens,
            "window": size.window, "tail": size.tail, "fixed": size.fixed, "cache": size.paged(context), "total": size.at(context)}


def _flops(flops: TokenFlops) -> dict[str, Any]:
    return {"linear": flops.linear, "experts": flops.experts, "core_attention": flops.core, "index_scores": flops.index,
            "total": flops.total, "fp8_equivalents": flops.fp8_equivalents, "formats": dict(flops.formats)}
