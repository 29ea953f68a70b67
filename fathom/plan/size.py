"""How many bytes a model and its sequences take, by part and precision.

Weights: the precision says what the matrices are kept in; what the table of parameters marks as fp32 (mHC, ape, sinks, router
bias) stays fp32, and the routing tables of hash layers are int64, whatever the precision.

    fp32, bf16, fp16   every other tensor in that type
    fp8                matrices in E4M3 with a one-byte scale per 128×128 block, experts too; embedding, head, norms, router in BF16
    official           the same, but the routed experts in FP4 (two values a byte, a one-byte scale per 32 inputs), unless the
                       configuration says that the checkpoint stores FP8 experts

A matrix whose dims don't divide its blocks stays BF16, as the writer of checkpoints does it. State: `layout.py` lists every buffer,
this file adds up. Compressed entries grow with the context (by whole blocks); windows and tails are the fixed price of a sequence.

Source: SPEC sections 3 and 6.
"""
from __future__ import annotations

from dataclasses import dataclass

from ..config import ModelConfig, Param, parameters
from ..errors import UserError
from .count import PARTS, part_of
from .layout import block_bytes, sequence_bytes, state_layout

WEIGHT_PRECISIONS = ("fp32", "bf16", "fp16", "fp8", "official")
FP8_BLOCK, FP4_GROUP = 128, 32  # weights that share one scale: a square block, a run along the input dim


def param_format(config: ModelConfig, param: Param, precision: str) -> str:
    """What a parameter is stored in: "int64", "fp32", "bf16", "fp16", "fp8" or "fp4". Raises UserError for an unknown precision."""
    check_precision(precision)
    if param.storage in ("int64", "fp32"):
        return param.storage
    if precision not in ("fp8", "official"):
        return precision
    if param.storage == "bf16":
        return "bf16"
    rows, cols = param.shape[-2:]
    fp4 = param.storage == "expert" and precision == "official" and config.expert_dtype != "fp8"
    if fp4:
        return "fp4" if cols % FP4_GROUP == 0 else "bf16"
    return "fp8" if rows % FP8_BLOCK == 0 and cols % FP8_BLOCK == 0 else "bf16"


def param_bytes(config: ModelConfig, param: Param, precision: str) -> int:
    """Bytes of one parameter with its scales."""
    kind = param_format(config, param, precision)
    if kind == "fp8":
        return param.numel + param.numel // FP8_BLOCK**2
    if kind == "fp4":
        return param.numel // 2 + param.numel // FP4_GROUP
    return param.numel * {"int64": 8, "fp32": 4, "bf16": 2, "fp16": 2}[kind]


def check_precision(precision: str) -> None:
    """Raises UserError for a precision that weights can't have."""
    if precision not in WEIGHT_PRECISIONS:
        raise UserError("precision", precision, f"one of {', '.join(WEIGHT_PRECISIONS)}")


def weight_bytes_by_part(config: ModelConfig, precision: str) -> dict[str, int]:
    """Bytes of each of `PARTS`, and of the hash layers' routing "tables"."""
    out = dict.fromkeys((*PARTS, "tables"), 0)
    for p in parameters(config):
        out[part_of(p) if p.is_parameter else "tables"] += param_bytes(config, p, precision)
    return out


def weight_bytes(config: ModelConfig, precision: str, *, mtp: bool = True) -> int:
    """Bytes of all weights, scales and tables, with or without the MTP block."""
    return sum(weight_bytes_by_part(config if mtp else config.without_mtp(), precision).values())


@dataclass(frozen=True)
class StateSize:
    """Bytes that one sequence's state takes.

    Attributes:
        per_token: bytes that each further token costs, averaged over a block (entries and index keys).
        window: bytes of the window rings.  tail: of the un-compressed tails.  streams: of the MTP block's last streams.
        block: bytes of one block of tokens.  block_tokens: tokens in it.
    """

    per_token: float
    window: int
    tail: int
    streams: int
    block: int
    block_tokens: int

    @property
    def fixed(self) -> int:
        """Bytes that a sequence takes whatever its length."""
        return self.window + self.tail + self.streams

    def paged(self, context: int) -> int:
        """Bytes of the whole blocks that `context` tokens need: what is called the KV cache."""
        return -(-context // self.block_tokens) * self.block

    def at(self, context: int) -> int:
        """Bytes of a sequence of `context` tokens, fixed part and blocks."""
        return self.fixed + self.paged(context)


def state_precision(precision: str) -> str:
    """The precision of the state beside weights of `precision`: FP8 weights come with official entries."""
    check_precision(precision)
    return "official" if precision == "fp8" else precision


def state_size(config: ModelConfig, precision: str = "official", *, drafts: int = 0, mtp: bool = False) -> StateSize:
    """Sizes of the inference state, added up from `state_layout` (same arguments; also takes "fp8", whose entries are official)."""
    layout = state_layout(config, state_precision(precision), drafts=drafts, mtp=mtp)
    block = block_bytes(layout)
    fixed = dict.fromkeys(("window", "tail", "streams"), 0)
    for buffer in layout:
        if buffer.per == "sequence":
            fixed[buffer.name.rpartition(".")[2].removeprefix("index_")] += buffer.unit_bytes
    size = StateSize(block / config.block_size, **fixed, block=block, block_tokens=config.block_size)
    assert size.fixed == sequence_bytes(layout), "a buffer of the state that no sum takes in"
    return size
