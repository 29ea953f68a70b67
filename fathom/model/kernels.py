"""Which kernels a model on a device should prefer: the user's word, or the fastest that cover it."""
from __future__ import annotations

import torch

from ..config import ModelConfig
from ..errors import UserError
from ..ops import DTYPES, Row, native

CHOICES = ("auto", "reference", *native.ISA_FLAGS)


def kernel_rows(config: ModelConfig, device: torch.device, precision: str, choice: str = "auto") -> tuple[Row, ...]:
    """Rows for `Transformer(rows=…)`: empty where only the reference serves.

    Args:
        choice: "auto", "reference", or one instruction set of the native kernels.

    Raises:
        UserError: an unknown choice, or native kernels where they can't serve.
    """
    if choice not in CHOICES:
        raise UserError("kernels", choice, f"one of {', '.join(CHOICES)}")
    assert precision in DTYPES
    covered = device.type == "cpu" and precision in ("bf16", "official")
    if choice not in ("auto", "reference") and not covered:
        raise UserError("kernels", choice, f"native kernels serve a CPU in bf16 or official, and this is {device.type} in {precision}",
                        "take --dtype bfloat16 on a CPU, or leave the choice to auto")
    if choice == "reference" or not covered:
        return ()
    return tuple(native.rows(None if choice == "auto" else choice, precision=precision, head_dim=config.head_dim, rope_dims=config.qk_rope_head_dim,
                             index_head_dim=config.index_head_dim, streams=config.hc_mult))
