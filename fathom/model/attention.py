"""Attention of one block: window only (ratio 0), Compressed Sparse (4), or Heavily Compressed (any other ratio).

Module and parameter names are the checkpoint's. One key-value head serves all query heads; its rows are keys and values at once,
so the value carries the rotation of its position, and the output is rotated back at the query's position.

Shapes: T tokens, D hidden, H heads, C head_dim, R rope dims, G output groups, J index heads, K index head dim.
Source: SPEC section 2, attention, compressor and lightning indexer; technical report §2.3.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..config import CSA_RATIO, ModelConfig
from ..ops import Entries, Kernels
from .geometry import Geometry
from .parameter import Builder
from .state import Memory


class Attention(nn.Module):
    """h [T, D] → [T, D]; names as in the checkpoint below `layers.N.attn`."""

    def __init__(self, config: ModelConfig, block: int, name: str, build: Builder) -> None:
        super().__init__()
        self.config, self.block, self.ratio = config, block, config.compress_ratios[block]
        self.wq_a, self.wq_b, self.wkv = build.weight(name + ".wq_a"), build.weight(name + ".wq_b"), build.weight(name + ".wkv")
        self.q_norm, self.kv_norm = build.weight(name + ".q_norm"), build.weight(name + ".kv_norm")
        self.wo_a, self.wo_b = build.weight(name + ".wo_a"), build.weight(name + ".wo_b")
        build.add(self, name + ".attn_sink")
        if self.ratio:
            self.compressor = Compressor(config, block, name + ".compressor", part="", build=build)
        if self.ratio == CSA_RATIO:
            self.indexer = Indexer(config, block, name + ".indexer", build)

    def forward(self, h: Tensor, geometry: Geometry, memory: Memory, k: Kernels, mode: Mode) -> Tensor:
        """Attention output of the normed sublayer input h [T, D]."""
        c, T = self.config, h.shape[0]
        cos, sin, back = geometry.angles(self.ratio > 0)
        c_q = k.rms_norm(k.linear_fp8(h, self.wq_a.weight), self.q_norm.weight, c.rms_norm_eps)
        q = k.linear_fp8(c_q, self.wq_b.weight).view(T, c.num_attention_heads, c.head_dim)
        q = k.norm_rope(q, None, c.rms_norm_eps, cos, sin)
        kv = k.norm_rope(k.linear_fp8(h, self.wkv.weight), self.kv_norm.weight, c.rms_norm_eps, cos, sin)
        window = memory.window(self.block, k.encode_entries(kv), geometry, k)
        entries, spans, chosen = None, None, None
        if self.ratio:
            spans = geometry.compression(self.ratio).spans
            entries = self.compressor(h, geometry, memory, k)
        if self.ratio == CSA_RATIO and (mode.sparse or mode.index_losses is not None):
            learns = mode.index_losses is not None
            index_q, w, keys = self.indexer(h.detach(), c_q.detach(), geometry, memory, k, learns)
            if mode.sparse:
                chosen = k.index_topk(index_q, w, keys, spans, c.index_topk)
            if mode.index_losses is not None:
                mode.index_losses.append(k.index_loss(index_q, w, keys, q, window, geometry.window_spans, self.attn_sink, entries, spans, chosen))
        out = k.attend(q, window, geometry.window_spans, self.attn_sink, entries, spans, chosen)
        out = k.rope(out, cos, back)  # contributions become relative to the query's position
        out = k.linear_grouped(out.view(T, c.o_groups, -1), self.wo_a.weight)
        return k.linear_fp8(out, self.wo_b.weight)


class Compressor(nn.Module):
    """Compressed entries of a block, or (part "index_") the indexer's keys. Projections and pooling are fp32."""

    def __init__(self, config: ModelConfig, block: int, name: str, part: str, build: Builder) -> None:
        super().__init__()
        self.config, self.block, self.part, self.ratio = config, block, part, config.compress_ratios[block]
        build.add(self, name + ".ape")
        self.wkv, self.wgate, self.norm = build.weight(name + ".wkv"), build.weight(name + ".wgate"), build.weight(name + ".norm")

    def forward(self, h: Tensor, geometry: Geometry, memory: Memory, k: Kernels) -> Entries:
        """All visible entries once the tokens' windows have been compressed; h [T, D]."""
        c = geometry.compression(self.ratio)
        rows = memory.tail(self.block, self.part, k.linear_fp32_pair(h, self.wkv.weight, self.wgate.weight), c, k)
        if not c.count and geometry.paged:
            return memory.entries(self.block, self.part, None, c)
        new = k.compress(rows, self.ape, c.own, c.previous, self.norm.weight, self.config.rms_norm_eps, *c.angles, h.dtype)
        return memory.entries(self.block, self.part, k.encode_keys(new) if self.part else k.encode_entries(new), c)


class Indexer(nn.Module):
    """What chooses, for each query, the index_topk visible entries that matter to it: queries, head weights and keys.

    No gradient passes through the choice; the indexer learns from its own loss (ops `index_loss`), on inputs detached from the model.
    """

    def __init__(self, config: ModelConfig, block: int, name: str, build: Builder) -> None:
        super().__init__()
        self.config = config
        self.wq_b, self.weights_proj = build.weight(name + ".wq_b"), build.weight(name + ".weights_proj")
        self.compressor = Compressor(config, block, name + ".compressor", part="index_", build=build)

    def forward(self, h: Tensor, c_q: Tensor, geometry: Geometry, memory: Memory, k: Kernels, learns: bool) -> tuple[Tensor, Tensor, Entries]:
        """Index queries [T, J, K], head weights [T, J] with both constants, and keys; from h [T, D] and query latent c_q [T, q_lora_rank]."""
        c = self.config
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            keys = self.compressor(h, geometry, memory, k)
            q = k.linear_fp8(c_q, self.wq_b.weight).view(h.shape[0], c.index_n_heads, c.index_head_dim)
            q = k.index_queries(k.rope(q, *geometry.angles(True)[:2]))
            w = k.linear_fp32(h, self.weights_proj.weight) * c.index_factor
            return q, w, keys


@dataclass(frozen=True)
class Mode:
    """How attention works in one forward: CSA sparse or (early in training) over all visible entries; where index losses are collected."""

    sparse: bool = True
    index_losses: list[Tensor] | None = None
