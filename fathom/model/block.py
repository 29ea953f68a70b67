"""One transformer block: two sublayers, attention and experts, each reading from and writing to the N residual streams.

Source: SPEC section 2, streams (mHC); technical report §2.2.
"""
from __future__ import annotations

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
        self.config = config
        routed_by_hash = block < config.num_hidden_layers and config.hash_routed[block]
        for sublayer in ("attn", "ffn"):
            setattr(self, f"{sublayer}_norm", build.weight(f"{name}.{sublayer}_norm"))
            for part in ("fn", "base", "scale"):
                build.add(self, f"{name}.hc_{sublayer}_{part}")
        self.attn = Attention(config, block, f"{name}.attn", build)
        self.ffn = MoE(config, f"{name}.ffn", routed_by_hash, build)

    def forward(self, X: Tensor, token_ids: Tensor, geometry: Geometry, memory: Memory, k: Kernels, mode: Mode) -> tuple[Tensor, Routing]:
        """New streams and what the router did."""
        c = self.config
        constants = {"sinkhorn_steps": c.hc_sinkhorn_iters, "norm_eps": c.rms_norm_eps, "eps": c.hc_eps}
        h, post, comb = k.mhc_read(X, self.hc_attn_fn, self.hc_attn_scale, self.hc_attn_base, self.attn_norm.weight, **constants)
        X = k.mhc_expand(X, self.attn(h, geometry, memory, k, mode), post, comb)
        h, post, comb = k.mhc_read(X, self.hc_ffn_fn, self.hc_ffn_scale, self.hc_ffn_base, self.ffn_norm.weight, **constants)
        out, routing = self.ffn(h, token_ids, k)
        return k.mhc_expand(X, out, post, comb), routing
