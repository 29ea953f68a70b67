"""What other programs call the tensors: from any known spelling to the published name.

Three spellings of the same model are in circulation. The published files name tensors as our module tree does. transformers' own
module tree has long names and stacks the experts (`model.layers.3.self_attn.q_a_proj.weight`, `mlp.experts.gate_up_proj`). And its
save_pretrained renames most, but not all, back to the published ones: a `model.` prefix stays, `attn.norm` stands for `kv_norm`.
Each name is translated by itself, so a file may mix them. A name that is nowhere in these tables is handed on as it is; whether
it belongs to the model, the reader decides by the table of parameters.

Source: SPEC section 4; names observed in files that transformers 5 writes.
"""
from __future__ import annotations

import re

TOP = {
    "embed_tokens.weight": "embed.weight", "lm_head.weight": "head.weight",
    "hc_head.hc_fn": "hc_head_fn", "hc_head.hc_base": "hc_head_base", "hc_head.hc_scale": "hc_head_scale",
}
_COMPRESSOR = {"position_bias": "ape", "kv_proj.weight": "wkv.weight", "gate_proj.weight": "wgate.weight", "kv_norm.weight": "norm.weight"}
LEAF = {  # within a block
    "input_layernorm.weight": "attn_norm.weight", "post_attention_layernorm.weight": "ffn_norm.weight",
    **{f"{sub}_hc.{part}": f"hc_{sub}_{part}" for sub in ("attn", "ffn") for part in ("fn", "base", "scale")},
    "self_attn.sinks": "attn.attn_sink",
    "self_attn.q_a_proj.weight": "attn.wq_a.weight", "self_attn.q_a_norm.weight": "attn.q_norm.weight",
    "self_attn.q_b_proj.weight": "attn.wq_b.weight",
    "self_attn.kv_proj.weight": "attn.wkv.weight", "self_attn.kv_norm.weight": "attn.kv_norm.weight",
    "attn.norm.weight": "attn.kv_norm.weight",  # save_pretrained's
    "self_attn.o_a_proj.weight": "attn.wo_a.weight", "self_attn.o_b_proj.weight": "attn.wo_b.weight",
    **{f"self_attn.compressor.{theirs}": f"attn.compressor.{ours}" for theirs, ours in _COMPRESSOR.items()},
    **{f"self_attn.compressor.indexer.{theirs}": f"attn.indexer.compressor.{ours}" for theirs, ours in _COMPRESSOR.items()},
    "self_attn.compressor.indexer.q_b_proj.weight": "attn.indexer.wq_b.weight",
    "self_attn.compressor.indexer.scorer.weights_proj.weight": "attn.indexer.weights_proj.weight",
    "mlp.gate.weight": "ffn.gate.weight", "mlp.gate.e_score_correction_bias": "ffn.gate.bias", "mlp.gate.tid2eid": "ffn.gate.tid2eid",
    **{f"mlp.shared_experts.{theirs}_proj.weight": f"ffn.shared_experts.{ours}.weight"
       for theirs, ours in (("gate", "w1"), ("down", "w2"), ("up", "w3"))},
}
STACKED = {"mlp.experts.gate_up_proj": ("w1", "w3"), "mlp.experts.down_proj": ("w2",)}  # [E, rows of each in turn, in]

_BLOCK = re.compile(r"((?:layers|mtp)\.\d+\.)(.+)")
_DUPLICATE = re.compile(r"mtp\.\d+\.(.*emb.*|head\.weight)")  # the MTP block shares these with the model; some exports repeat them


def published_name(name: str) -> str:
    """The published spelling of a tensor's name; the name itself, without `model.` in front, where no other spelling is known."""
    name = name.removeprefix("model.")
    translated = _translated(name)
    if translated != name:
        return translated
    for suffix in (".weight_scale_inv", ".scale"):  # a quantised matrix's scales go by the name of the matrix
        if name.endswith(suffix):
            return _translated(name.removesuffix(suffix) + ".weight").removesuffix(".weight") + ".scale"
    return name


def stacked_experts(name: str) -> tuple[str, tuple[str, ...]] | None:
    """For a tensor that stacks all experts: what their published names begin with ("layers.3.ffn.experts."), and which matrices lie
    in it one below the other; None for any other tensor.
    """
    block = _BLOCK.fullmatch(name.removeprefix("model."))
    if block is None or block[2] not in STACKED:
        return None
    return block[1] + "ffn.experts.", STACKED[block[2]]


def is_duplicate(name: str) -> bool:
    """Whether the tensor repeats one of the main model's under the MTP block's name and is to be passed over."""
    return _DUPLICATE.fullmatch(name) is not None


def _translated(name: str) -> str:
    block = _BLOCK.fullmatch(name)
    if block is None:
        return TOP.get(name, name)
    return block[1] + LEAF.get(block[2], block[2])
