"""Multi-token prediction: one more block that predicts the token after the next.

At position i it reads the main model's final streams X_i and the embedding of token i+1, and predicts token i+2 with the shared
embedding and output matrix. Trained, it densifies the signal; served, it drafts tokens for speculative decoding.

Source: SPEC section 2, MTP.
"""
from __future__ import annotations

from torch import Tensor, nn

from ..config import ModelConfig
from ..ops import Kernels
from .attention import Mode
from .block import Block, run_blocks
from .geometry import Geometry
from .moe import Routing
from .parameter import Builder
from .state import Memory


class MTP(Block):
    """Names as below `mtp.0`: a block's, and its own projections, norms and head mix."""

    def __init__(self, config: ModelConfig, depth: int, build: Builder) -> None:
        name = f"mtp.{depth}"
        super().__init__(config, config.num_hidden_layers + depth, name, build)
        self.e_proj, self.h_proj = build.weight(name + ".e_proj"), build.weight(name + ".h_proj")
        self.enorm, self.hnorm, self.norm = build.weight(name + ".enorm"), build.weight(name + ".hnorm"), build.weight(name + ".norm")
        for part in ("fn", "base", "scale"):
            build.add(self, f"{name}.hc_head_{part}")

    def predict(self, X: Tensor, embedded: Tensor, token_ids: Tensor, geometry: Geometry, memory: Memory, k: Kernels,
                mode: Mode) -> tuple[Tensor, Routing]:
        """Hidden states [T, D] that predict token i+2.

        Args:
            X: the main model's final streams [T, N, D].  embedded: embedding [T, D] of token i+1.  token_ids: those tokens [T].
        """
        c = self.config
        first = k.linear_fp8(k.rms_norm(embedded, self.enorm.weight, c.rms_norm_eps), self.e_proj.weight)
        streams = k.linear_fp8(k.rms_norm(X, self.hnorm.weight, c.rms_norm_eps), self.h_proj.weight) + first.unsqueeze(1)
        out, routing = run_blocks(self, [self], streams, token_ids, geometry, memory, k, mode)
        h = k.mhc_head(out, self.hc_head_fn, self.hc_head_scale, self.hc_head_base, norm_eps=c.rms_norm_eps, eps=c.hc_eps)
        return k.rms_norm(h, self.norm.weight, c.rms_norm_eps), routing[0]


def build_mtp(config: ModelConfig, build: Builder) -> nn.ModuleList:
    """The model's MTP blocks (none or one)."""
    return nn.ModuleList(MTP(config, depth, build) for depth in range(config.num_nextn_predict_layers))
