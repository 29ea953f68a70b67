"""transformers' DeepseekV4ForCausalLM as oracle: the same weights in both models, with names mapped here, independently of ours.

transformers picks entries and experts with plain torch.topk, whose order among exact ties is open; `stable_topk` gives it the
order that SPEC section 2 asks for.
"""
from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from fathom.config import ModelConfig, config_to_dict
from fathom.model import Batch, Routing, Transformer
from fathom.ops import cross_entropy

_OUTER = {"embed.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight", "head.weight": "lm_head.weight",
          "hc_head_fn": "model.hc_head.hc_fn", "hc_head_base": "model.hc_head.hc_base", "hc_head_scale": "model.hc_head.hc_scale"}
_ATTN = {"wq_a.weight": "q_a_proj.weight", "wq_b.weight": "q_b_proj.weight", "wkv.weight": "kv_proj.weight", "wo_a.weight": "o_a_proj.weight",
         "wo_b.weight": "o_b_proj.weight", "q_norm.weight": "q_a_norm.weight", "kv_norm.weight": "kv_norm.weight", "attn_sink": "sinks",
         "indexer.wq_b.weight": "compressor.indexer.q_b_proj.weight",
         "indexer.weights_proj.weight": "compressor.indexer.scorer.weights_proj.weight"}
_COMPRESSOR = {"ape": "position_bias", "wkv.weight": "kv_proj.weight", "wgate.weight": "gate_proj.weight", "norm.weight": "kv_norm.weight"}
_ATTN |= {f"compressor.{a}": f"compressor.{b}" for a, b in _COMPRESSOR.items()}
_ATTN |= {f"indexer.compressor.{a}": f"compressor.indexer.{b}" for a, b in _COMPRESSOR.items()}
_FFN = {"gate.weight": "gate.weight", "gate.bias": "gate.e_score_correction_bias", "gate.tid2eid": "gate.tid2eid",
        "experts.w2": "experts.down_proj", "shared_experts.w1.weight": "shared_experts.gate_proj.weight",
        "shared_experts.w2.weight": "shared_experts.down_proj.weight", "shared_experts.w3.weight": "shared_experts.up_proj.weight"}
_LAYER = {"attn_norm.weight": "input_layernorm.weight", "ffn_norm.weight": "post_attention_layernorm.weight"}
_LAYER |= {f"hc_{s}_{p}": f"{s}_hc.{p}" for s in ("attn", "ffn") for p in ("fn", "base", "scale")}
_LAYER |= {f"attn.{a}": f"self_attn.{b}" for a, b in _ATTN.items()} | {f"ffn.{a}": f"mlp.{b}" for a, b in _FFN.items()}


def oracle_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors (or gradients) under transformers' names; w1 and w3 stacked into gate_up_proj; MTP left out."""
    out = {}
    for name, value in tensors.items():
        if name.startswith("mtp."):
            continue
        if name in _OUTER:
            out[_OUTER[name]] = value
            continue
        _, layer, rest = name.split(".", 2)
        if rest == "ffn.experts.w1":
            rest, value = "mlp.experts.gate_up_proj", torch.cat((value, tensors[name.replace("w1", "w3")]), dim=1)
        elif rest == "ffn.experts.w3":
            continue
        else:
            rest = _LAYER[rest]
        out[f"model.layers.{layer}.{rest}"] = value
    return out


def build_oracle(model: Transformer, dtype: torch.dtype = torch.float32):
    """transformers' model with our weights; raises when a name is left over on either side."""
    from transformers import DeepseekV4Config, DeepseekV4ForCausalLM

    hf_config = DeepseekV4Config(**config_to_dict(model.config.without_mtp()))
    hf_config._attn_implementation = "eager"
    oracle = DeepseekV4ForCausalLM(hf_config).eval()
    oracle.load_state_dict(oracle_tensors(model.tensors()), strict=True)
    return oracle.to(dtype) if dtype != torch.float32 else oracle


@contextlib.contextmanager
def stable_topk() -> Iterator[None]:
    """torch.topk in descending order with ties to the lower index, while the oracle runs."""
    real_function, real_method = torch.topk, torch.Tensor.topk

    def topk(x: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True):
        assert largest
        values, order = torch.sort(x, dim=dim, descending=True, stable=True)
        return torch.return_types.topk((values.narrow(dim, 0, k), order.narrow(dim, 0, k)))

    torch.topk, torch.Tensor.topk = topk, topk
    try:
        yield
    finally:
        torch.topk, torch.Tensor.topk = real_function, real_method


@torch.no_grad()
def randomise(model: Transformer, seed: int, scale: float = 0.7) -> Transformer:
    """Weights under which every mechanism matters: ape, sinks, router biases, norms and mHC all away from their trivial values."""
    g = torch.Generator().manual_seed(seed)
    model.init_weights(seed)
    for name, t in model.tensors().items():
        leaf = name.rsplit(".", 1)[-1]
        if not t.is_floating_point():
            continue
        noise = torch.randn(t.shape, generator=g).to(t.dtype)
        if name.endswith("norm.weight"):
            t.copy_(1 + 0.2 * noise)
        elif leaf.endswith("_scale"):
            t.copy_(1 + 0.3 * noise)
        elif leaf in ("ape", "attn_sink") or leaf.endswith("_base"):
            t.copy_(0.7 * noise)
        elif leaf == "bias":
            t.copy_(0.1 * noise)
        elif name == "embed.weight":
            t.copy_(noise)
        else:
            t.copy_(scale * noise / t.shape[-1] ** 0.5)
    return model


def joint_loss(model: Transformer, tokens: Tensor, batch: Batch) -> tuple[Tensor, list[Routing]]:
    """Loss of the next token and, at 0.3, of the one after (MTP), and what all routers did; tokens [T] are the batch's."""
    out = model(batch)
    second, routing = model.predict_second(out.streams, tokens.roll(-1), batch)
    head = model.head.weight
    return cross_entropy(out.hidden, head, tokens.roll(-1)) + 0.3 * cross_entropy(second, head, tokens.roll(-2)), [*out.routing, routing]


def tiny_config(**changes: object) -> ModelConfig:
    """A small model with every mechanism, for tests; `changes` are ModelConfig fields."""
    base = dict(vocab_size=64, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, head_dim=16, qk_rope_head_dim=8, q_lora_rank=16,
                o_groups=2, o_lora_rank=8, n_routed_experts=8, num_experts_per_tok=3, moe_intermediate_size=16, index_n_heads=2,
                index_head_dim=8, index_topk=5, compress_ratios=(0, 4, 16), hash_routed=(True, False, False), sliding_window=9,
                max_position_embeddings=4096, hc_mult=4, hc_sinkhorn_iters=20)
    return ModelConfig(**{**base, **changes})
