"""One transformer block: two sublayers, attention and experts, each reading from and writing to the N residual streams.

Source: SPEC section 2, streams (mHC); technical report §2.2.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..config import ModelConfig
from ..ops import Kernels
from .attention import Attention, Mode
from .geometry import Geometry
from .moe import MoE, Routing
from .parameter import Builder
from .state import Memory


class Block(nn.Module):
    """Streams X [T, N, D] → [T, N, D]. Parameter names are the checkpoint's below `layers.N` (or `mtp.0`)."""

    def __init__(self, config: ModelConfig, block: int, name: str, build: Builder) -> None:
        super().__init__()
        self.config, self.block = config, block
        routed_by_hash = block < config.num_hidden_layers and config.hash_routed[block]
        for sublayer in ("attn", "ffn"):
            setattr(self, f"{sublayer}_norm", build.weight(f"{name}.{sublayer}_norm"))
            for part in ("fn", "base", "scale"):
                build.add(self, f"{name}.hc_{sublayer}_{part}")
        self.attn = Attention(config, block, f"{name}.attn", build)
        self.ffn = MoE(config, f"{name}.ffn", routed_by_hash, build)
        self._places = build.places_below(name)

    def forward(self, X: Tensor, token_ids: Tensor, geometry: Geometry, memory: Memory, k: Kernels, mode: Mode) -> tuple[Tensor, Routing]:
        """New streams and what the router did."""
        c = self.config
        constants = {"sinkhorn_steps": c.hc_sinkhorn_iters, "norm_eps": c.rms_norm_eps, "eps": c.hc_eps}
        h, post, comb = k.mhc_mix(X, self.hc_attn_fn, self.hc_attn_scale, self.hc_attn_base, **constants)
        out = self.attn(k.rms_norm(h, self.attn_norm.weight, c.rms_norm_eps), geometry, memory, k, mode)
        X = k.mhc_expand(X, out, post, comb)
        h, post, comb = k.mhc_mix(X, self.hc_ffn_fn, self.hc_ffn_scale, self.hc_ffn_base, **constants)
        out, routing = self.ffn(k.rms_norm(h, self.ffn_norm.weight, c.rms_norm_eps), token_ids, k)
        return k.mhc_expand(X, out, post, comb), routing

    @property
    def sizes(self) -> dict[str, float]:
        """What kernels that do a whole block must know of the configuration."""
        c, ratio = self.config, self.config.compress_ratios[self.block]
        sizes = {
            "streams": c.hc_mult, "hidden": c.hidden_size, "heads": c.num_attention_heads, "head_dim": c.head_dim, "rope_dims": c.qk_rope_head_dim,
            "ratio": ratio, "overlap": c.is_csa(self.block), "top_k": c.num_experts_per_tok, "sinkhorn_steps": c.hc_sinkhorn_iters,
            "norm_eps": c.rms_norm_eps, "hc_eps": c.hc_eps, "factor": c.routed_scaling_factor, "limit": c.swiglu_limit,
        }
        if c.is_csa(self.block):
            sizes |= {"index_heads": c.index_n_heads, "index_head_dim": c.index_head_dim, "index_topk": c.index_topk, "index_factor": c.index_factor}
        return sizes

    @property
    def weights(self) -> dict[str, Any]:
        """Parameters by their checkpoint names below the block's, without ".weight"."""
        return {name: getattr(module, attribute) for name, (module, attribute) in self._places.items()}


def run_blocks(owner: nn.Module, blocks: Sequence[Block], X: Tensor, token_ids: Tensor, geometry: Geometry, memory: Memory, k: Kernels,
               mode: Mode) -> tuple[Tensor, list[Routing]]:
    """The blocks of `owner` one after the other: in one call where the kernels have one, and nothing but new streams and state is wanted."""
    if k.whole_blocks and memory.whole_blocks is not None and mode.sparse and mode.index_losses is None and not geometry.marks:
        if owner not in memory.whole_blocks:
            known = [(b.sizes, b.weights, memory.buffers_of(b.block)) for b in blocks]
            memory.whole_blocks[owner] = k.whole_blocks(known), [(b.ffn.name, b.ffn.hash_routed) for b in blocks]
        whole, routers = memory.whole_blocks[owner]
        if whole:
            X, scores, experts = whole(X, token_ids, geometry)
            return X, [Routing(name, s, e, hashed) for (name, hashed), s, e in zip(routers, scores.unbind(), experts.unbind(), strict=True)]
    routing = []
    for block in blocks:
        X, used = block(X, token_ids, geometry, memory, k, mode)
        routing.append(used)
    return X, routing
