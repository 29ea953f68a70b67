"""The kernel table: which kernel serves which operator, decided once, before the first forward.

A row is found by (operator, device type, precision, whether gradients are wanted). The reference serves every device and precision
in both directions; faster kernels add rows for what they cover and give the reason when they don't (no compiler, instruction set, shape).
`select` resolves the whole table for one model and returns plain callables, so a call is a call: nothing is looked up, and
nothing falls back, while the model runs. `fathom doctor` prints the same rows.

To add a kernel: write it under the operator's file name in its own folder, describe it as `Row`s, pass them to `select`, and run
the operator's case list against the reference.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from . import reference
from .reference import official

PRECISIONS = ("fp32", "bf16", "fp16", "official")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "official": torch.bfloat16}  # of activations


@dataclass(frozen=True)
class Kernels:
    """One callable per operator; signatures and contracts are the reference functions'.

    whole_blocks: given sizes, weights and buffers in a paged state (by name: model/block.py) of some transformer blocks, makes a function of
        (streams, token ids, geometry) that does them one after the other in one call and returns (streams, router scores, experts), the
        last two stacked, with the bits of the operators one by one; or None where it can't. It stands for these operators, so it comes
        with all of them or not at all.
    packer: given weights' formats by name and how many experts of a layer fit, makes what holds them in these kernels' own layout
        (ops/native/bank.py); None where weights are plain tensors.
    """

    attend: Callable[..., Tensor] = reference.attend
    compress: Callable[..., Tensor] = reference.compress
    encode_entries: Callable[[Tensor], Tensor] = reference.as_it_is
    encode_keys: Callable[[Tensor], Tensor] = reference.as_it_is
    experts: Callable[..., Tensor] = reference.experts
    index_loss: Callable[..., Tensor] = reference.index_loss
    index_queries: Callable[[Tensor], Tensor] = reference.as_it_is
    index_topk: Callable[..., Tensor] = reference.index_topk
    linear: Callable[..., Tensor] = reference.linear
    linear_fp8: Callable[..., Tensor] = reference.linear
    linear_fp32: Callable[..., Tensor] = reference.linear_fp32
    linear_fp32_pair: Callable[..., Tensor] = reference.linear_fp32_pair
    linear_grouped: Callable[..., Tensor] = reference.linear_grouped
    mhc_expand: Callable[..., Tensor] = reference.mhc_expand
    mhc_head: Callable[..., Tensor] = reference.mhc_head
    mhc_mix: Callable[..., tuple[Tensor, Tensor, Tensor]] = reference.mhc_mix
    norm_rope: Callable[..., Tensor] = reference.norm_rope
    remember: Callable[..., Tensor] = reference.remember
    rms_norm: Callable[..., Tensor] = reference.rms_norm
    rope: Callable[..., Tensor] = reference.rope
    route: Callable[..., tuple[Tensor, Tensor, Tensor]] = reference.route
    whole_blocks: Callable[..., Callable[..., tuple[Tensor, Tensor, Tensor]] | None] | None = None
    packer: Callable[[Mapping[str, str], int | None], Any] | None = None


OPERATORS: tuple[str, ...] = tuple(name for name in Kernels.__dataclass_fields__ if name not in ("whole_blocks", "packer"))


@dataclass(frozen=True)
class Row:
    """One row of the table. device and precision "any" match all; `reason` says why the row is (not) used; `packer` as in Kernels."""

    operator: str
    device: str
    precision: str
    backward: bool
    source: str
    kernel: Callable | None
    reason: str
    packer: Callable[[Mapping[str, str], int | None], Any] | None = None


def reference_rows() -> list[Row]:
    """The rows that are always there."""
    plain = Kernels()
    return [Row(name, "any", "any", True, "reference", getattr(plain, name), "covers everything") for name in OPERATORS]


def official_rows(head_dim: int, rope_dims: int) -> list[Row]:
    """The operators that precision `official` changes, for entries of these sizes, on any device; for inference."""
    rows = official.Rows(head_dim, rope_dims)
    changed = {name: getattr(official, name) for name in ("compress", "experts", "index_queries", "linear_fp8", "norm_rope")}
    changed |= {name: getattr(rows, name) for name in ("attend", "encode_entries", "encode_keys", "index_topk")}
    return [Row(name, "any", "official", False, "reference", kernel, "the published number formats") for name, kernel in changed.items()]


def select(device_type: str, precision: str, *, training: bool, rows: Sequence[Row] = ()) -> tuple[Kernels, list[Row]]:
    """Kernels for one model, and the row that serves each operator.

    Args:
        device_type: type of the device the model runs on.  precision: one of PRECISIONS.
        training: gradients are wanted, so a kernel without a backward pass can't serve.
        rows: rows of faster kernels, best first; the reference stands behind them.

    Raises:
        UserError: unknown precision.
    """
    if precision not in PRECISIONS:
        raise UserError("precision", precision, f"one of {', '.join(PRECISIONS)}")
    reads_weights = ("experts", "linear", "linear_fp8", "linear_fp32", "linear_fp32_pair", "linear_grouped", "mhc_head", "mhc_mix")
    chosen: dict[str, Row] = {}
    kernels: dict[str, Any] = {}
    for row in [*rows, *reference_rows()]:
        fits = row.device in ("any", device_type) and row.precision in ("any", precision) and (row.backward or not training)
        if fits and row.kernel is not None and row.operator not in chosen:
            chosen[row.operator], kernels[row.operator] = row, row.kernel
    packers = {row.packer for name, row in chosen.items() if name in reads_weights}
    assert len(packers) == 1, "operators that read weights must agree on their layout"
    if "whole_blocks" in chosen and any(chosen[name].source != chosen["whole_blocks"].source for name in OPERATORS if name != "index_loss"):
        del chosen["whole_blocks"], kernels["whole_blocks"]
    return Kernels(**kernels, packer=packers.pop()), [chosen[name] for name in (*OPERATORS, "whole_blocks") if name in chosen]
