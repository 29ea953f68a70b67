"""Mixture of experts of one block: router, routed experts, shared expert. Names as below `layers.N.ffn`.

Source: SPEC section 2, MoE; the formulas are ops `route` and `experts`.
"""
from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ..config import ModelConfig
from ..ops import Kernels
from .parameter import Builder


@dataclass(frozen=True)
class Routing:
    """What a router did, for balancing: scores [T, E] unbiased (differentiable), experts [T, K] int64."""

    name: str
    scores: Tensor
    experts: Tensor
    hash_routed: bool


class MoE(nn.Module):
    """h [T, D] → [T, D]."""

    def __init__(self, config: ModelConfig, name: str, hash_routed: bool, build: Builder) -> None:
        super().__init__()
        self.config, self.name, self.hash_routed = config, name, hash_routed
        self.gate = build.weight(name + ".gate")
        build.add(self.gate, name + (".gate.tid2eid" if hash_routed else ".gate.bias"))
        self.experts, self.shared_experts = nn.Module(), nn.Module()
        for matrix in ("w1", "w2", "w3"):
            build.add(self.experts, f"{name}.experts.{matrix}")
            setattr(self.shared_experts, matrix, build.weight(f"{name}.shared_experts.{matrix}"))

    def forward(self, h: Tensor, token_ids: Tensor, k: Kernels) -> tuple[Tensor, Routing]:
        """Output for the normed sublayer input h [T, D] of tokens [T], and the routing that was used."""
        c, gate, own, shared = self.config, self.gate, self.experts, self.shared_experts
        chosen = gate.tid2eid[token_ids] if self.hash_routed else None
        bias = None if self.hash_routed else gate.bias
        scores, weights, experts = k.route(k.linear_fp32(h, gate.weight), bias=bias, chosen=chosen, top_k=c.num_experts_per_tok,
                                           factor=c.routed_scaling_factor)
        out = k.experts(h, weights, experts, own.w1, own.w2, own.w3, (shared.w1.weight, shared.w2.weight, shared.w3.weight), c.swiglu_limit)
        return out, Routing(self.name, scores, experts, self.hash_routed)
