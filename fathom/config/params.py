"""THE table of parameters: every tensor of a V4 model, once, with all that any room needs to know of it.

A row says: the published tensor name, the name of the parameter in our module tree, its shape, how each checkpoint format stores
it, which axis stacks the experts, who optimises it and in which independent parts, how it starts, and along which axes it may be
cut. The model is built from it, checkpoints are read and written by it, the planner counts it, the optimizer groups by it. So a
parameter that is added here exists everywhere, and one that is missing here exists nowhere.

Module names are checkpoint names; only the routed experts differ: the checkpoint has one matrix per expert, we hold them stacked
([E, out, in]) so that one grouped matmul serves all.

Letters in shapes: D hidden size, H heads, C head_dim, N streams, E experts, I expert width, V vocabulary.
Source: SPEC section 4 (names, formats) and section 5 (Muon's groups and parts, initial values).
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from .model import CSA_RATIO, ModelConfig

Storage = Literal["fp8", "expert", "bf16", "fp32", "int64"]
Optimizer = Literal["muon", "adamw", "none"]
Init = Literal["normal", "zeros", "ones", "hash", "mhc_scale"]
Role = Literal["", "matrix", "grouped", "expert", "shared", "streams"]


@dataclass(frozen=True)
class Param:
    """One parameter (or table) of the module tree.

    Attributes:
        name: where it is in the module tree, e.g. "layers.3.attn.wq_a.weight".
        shape: its shape there, experts stacked.
        storage: what the official format keeps it in: FP8 blocks, the experts' format (FP4 or FP8), BF16, FP32, or int64.
        experts: number of stacked experts, 0 for all but the routed experts' matrices. The stack axis is 0.
        optimizer: Muon, AdamW, or none for tables that are not trained by gradient (routing table and bias).
        row_parts: row counts of the logically independent matrices fused into this one; () when it is one matrix.
        init: distribution of its first value.
        role: which product it takes part in, for kernels with a layout of their own: a matrix, a block-diagonal one (of len(row_parts) blocks),
            the routed or the shared experts', mHC's fn; "" for what isn't multiplied so (vectors, tables, the embedding).
        tp_axis: axis that tensor parallelism may cut, None when every rank holds it whole.  ep_axis: likewise for expert parallelism.
        dtype_fp32: kept in fp32 whatever precision the matrices have (hc_*, ape, sinks, router bias).
    """

    name: str
    shape: tuple[int, ...]
    storage: Storage
    experts: int = 0
    optimizer: Optimizer = "muon"
    row_parts: tuple[int, ...] = ()
    init: Init = "normal"
    role: Role = ""
    tp_axis: int | None = None
    ep_axis: int | None = None

    @property
    def dtype_fp32(self) -> bool:
        return self.storage == "fp32"

    @property
    def numel(self) -> int:
        """Number of values."""
        n = 1
        for size in self.shape:
            n *= size
        return n

    @property
    def is_parameter(self) -> bool:
        """Whether it counts as a model parameter; the hash routing table is data, not weights."""
        return self.storage != "int64"

    def tensor_names(self) -> list[str]:
        """Published tensor names that make up this parameter, in stacking order."""
        if not self.experts:
            return [self.name]
        stem, matrix = self.name.rsplit(".", 1)
        return [f"{stem}.{e}.{matrix}.weight" for e in range(self.experts)]


def parameters(config: ModelConfig) -> list[Param]:
    """Every parameter of the model, in the order of the forward pass."""
    c = config
    rows = [Param("embed.weight", (c.vocab_size, c.hidden_size), "bf16", optimizer="adamw", tp_axis=0)]
    for layer in range(c.num_hidden_layers):
        rows += _block(c, f"layers.{layer}.", c.compress_ratios[layer], c.hash_routed[layer])
    rows += [*_head_mix(c, ""), _norm("norm.weight", c.hidden_size)]
    rows.append(Param("head.weight", (c.vocab_size, c.hidden_size), "bf16", optimizer="adamw", role="matrix", tp_axis=0))
    for depth in range(c.num_nextn_predict_layers):
        p, d = f"mtp.{depth}.", c.hidden_size
        rows += [Param(p + "e_proj.weight", (d, d), "fp8", role="matrix"), Param(p + "h_proj.weight", (d, d), "fp8", role="matrix"),
                 _norm(p + "enorm.weight", d), _norm(p + "hnorm.weight", d)]
        rows += _block(c, p, c.compress_ratios[c.num_hidden_layers + depth], hash_routed=False)
        rows += [*_head_mix(c, p), _norm(p + "norm.weight", d)]
    return rows


def _block(c: ModelConfig, p: str, ratio: int, hash_routed: bool) -> Iterator[Param]:
    yield from _mhc(c, p + "hc_attn_")
    yield _norm(p + "attn_norm.weight", c.hidden_size)
    yield from _attention(c, p + "attn.", ratio)
    yield from _mhc(c, p + "hc_ffn_")
    yield _norm(p + "ffn_norm.weight", c.hidden_size)
    yield from _ffn(c, p + "ffn.", hash_routed)


def _attention(c: ModelConfig, p: str, ratio: int) -> Iterator[Param]:
    d, heads, dim, groups = c.hidden_size, c.num_attention_heads, c.head_dim, c.o_groups
    yield Param(p + "wq_a.weight", (c.q_lora_rank, d), "fp8", role="matrix")
    yield _norm(p + "q_norm.weight", c.q_lora_rank)
    yield Param(p + "wq_b.weight", (heads * dim, c.q_lora_rank), "fp8", role="matrix", tp_axis=0)
    yield Param(p + "wkv.weight", (dim, d), "fp8", role="matrix")
    yield _norm(p + "kv_norm.weight", dim)
    if ratio:
        yield from _compressor(c, p + "compressor.", dim, ratio)
    if ratio == CSA_RATIO:
        i = p + "indexer."
        yield Param(i + "wq_b.weight", (c.index_n_heads * c.index_head_dim, c.q_lora_rank), "fp8", role="matrix", tp_axis=0)
        yield Param(i + "weights_proj.weight", (c.index_n_heads, d), "bf16", role="matrix", tp_axis=0)
        yield from _compressor(c, i + "compressor.", c.index_head_dim, ratio)
    yield Param(p + "attn_sink", (heads,), "fp32", optimizer="adamw", init="zeros", tp_axis=0)
    yield Param(p + "wo_a.weight", (groups * c.o_lora_rank, heads * dim // groups), "fp8", row_parts=(c.o_lora_rank,) * groups, role="grouped",
                tp_axis=0)
    yield Param(p + "wo_b.weight", (d, groups * c.o_lora_rank), "fp8", role="matrix", tp_axis=1)


def _compressor(c: ModelConfig, p: str, dim: int, ratio: int) -> Iterator[Param]:
    series = 2 if ratio == CSA_RATIO else 1  # CSA: series a, then series b
    parts = (dim,) * series if series > 1 else ()
    yield Param(p + "ape", (ratio, series * dim), "fp32", optimizer="adamw", init="zeros")
    yield Param(p + "wkv.weight", (series * dim, c.hidden_size), "bf16", row_parts=parts, role="matrix")
    yield Param(p + "wgate.weight", (series * dim, c.hidden_size), "bf16", row_parts=parts, role="matrix")
    yield _norm(p + "norm.weight", dim)


def _ffn(c: ModelConfig, p: str, hash_routed: bool) -> Iterator[Param]:
    d, inner, experts = c.hidden_size, c.moe_intermediate_size, c.n_routed_experts
    yield Param(p + "gate.weight", (experts, d), "bf16", role="matrix")
    if hash_routed:
        yield Param(p + "gate.tid2eid", (c.vocab_size, c.num_experts_per_tok), "int64", optimizer="none", init="hash")
    else:
        yield Param(p + "gate.bias", (experts,), "fp32", optimizer="none", init="zeros")
    for matrix, shape in (("w1", (inner, d)), ("w2", (d, inner)), ("w3", (inner, d))):
        yield Param(f"{p}experts.{matrix}", (experts, *shape), "expert", experts=experts, role="expert", ep_axis=0,
                    tp_axis=1 if matrix != "w2" else 2)
    for matrix, shape in (("w1", (inner, d)), ("w2", (d, inner)), ("w3", (inner, d))):
        yield Param(f"{p}shared_experts.{matrix}.weight", shape, "fp8", role="shared", tp_axis=0 if matrix != "w2" else 1)


def _mhc(c: ModelConfig, p: str) -> Iterator[Param]:
    n = c.hc_mult
    yield Param(p + "fn", ((2 + n) * n, n * c.hidden_size), "fp32", row_parts=(n, n, n * n), role="streams")
    yield Param(p + "base", ((2 + n) * n,), "fp32", optimizer="adamw", init="zeros")
    yield Param(p + "scale", (3,), "fp32", optimizer="adamw", init="mhc_scale")


def _head_mix(c: ModelConfig, p: str) -> Iterator[Param]:
    n = c.hc_mult
    yield Param(p + "hc_head_fn", (n, n * c.hidden_size), "fp32", role="streams")
    yield Param(p + "hc_head_base", (n,), "fp32", optimizer="adamw", init="zeros")
    yield Param(p + "hc_head_scale", (1,), "fp32", optimizer="adamw", init="mhc_scale")


def _norm(name: str, size: int) -> Param:
    return Param(name, (size,), "bf16", optimizer="adamw", init="ones")
