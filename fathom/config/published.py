"""config.json in and out: the published spelling and the one that transformers writes.

Two spellings describe the same model. The published files give `compress_ratios`, `num_hash_layers`, `qk_rope_head_dim` and a
flat `rope_scaling`; transformers rewrites them as `layer_types` with `compress_rates`, `mlp_layer_types`,
`partial_rotary_factor` and nested `rope_parameters`. Each spelling is turned into `ModelConfig` fields; where both are present
they must agree. A key that can be placed nowhere is refused with the nearest known one, since a silently dropped key is a
different model. What we write is the published spelling plus the keys without which transformers would build another model.
"""
from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError
from .model import CSA_RATIO, ModelConfig, Yarn

LAYER_TYPES = {"sliding_attention": 0, "compressed_sparse_attention": CSA_RATIO, "heavily_compressed_attention": 128}
_FIXED = {  # keys with one value that means V4; any other would be another architecture
    "model_type": "deepseek_v4", "hidden_act": "silu", "scoring_func": "sqrtsoftplus", "topk_method": "noaux_tc", "norm_topk_prob": True,
    "num_key_value_heads": 1, "n_shared_experts": 1, "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False,
    "attention_dropout": 0.0,
}
_INERT = {  # written by transformers or by exporters, without effect on what the network computes
    "architectures", "torch_dtype", "dtype", "transformers_version", "use_cache", "pad_token_id", "router_aux_loss_coef",
    "router_jitter_noise", "output_router_logits", "output_attentions", "output_hidden_states", "return_dict", "is_encoder_decoder",
    "id2label", "label2id", "problem_type", "chunk_size_feed_forward", "_name_or_path", "_attn_implementation", "auto_map",
    "intermediate_size", "num_local_experts", "default_theta",
}
_PLACED_ELSEWHERE = {"compress_ratios", "layer_types", "compress_rates", "num_hash_layers", "mlp_layer_types", "rope_scaling",
                     "rope_parameters", "partial_rotary_factor", "quantization_config", "compress_rate_csa", "compress_rate_hca"}
_OWN = {f.name for f in dataclasses.fields(ModelConfig)} - {"hash_routed", "quantized", "compress_ratios", "rope_scaling"}
KNOWN_KEYS = frozenset(_OWN | set(_FIXED) | _INERT | _PLACED_ELSEWHERE)


def read_config(path: str | Path) -> ModelConfig:
    """The model of a config.json file, or of the folder that holds one.

    Raises:
        UserError: no such file, not JSON, an unknown key (with the nearest known one) or an impossible value.
    """
    path = Path(path)
    file = path / "config.json" if path.is_dir() else path
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(str(file), None, "no such file", "give a run or checkpoint folder that holds a config.json") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise UserError(str(file), None, f"not a JSON file ({e})", "copy it again from its source") from None
    if not isinstance(raw, dict):
        raise UserError(str(file), None, "holds no JSON object", "copy it again from its source")
    return config_from_dict(raw)


def config_from_dict(raw: Mapping[str, Any]) -> ModelConfig:
    """ModelConfig from the keys of a config.json in either spelling. Raises UserError as `read_config`."""
    for key in raw:
        if key not in KNOWN_KEYS:
            near = difflib.get_close_matches(key, KNOWN_KEYS, n=1)
            raise UserError(f"config key {key}", raw[key], "not a key of a DeepSeek-V4 model",
                            f"did you mean {near[0]}?" if near else "remove it")
    for key, value in _FIXED.items():
        if key in raw and raw[key] != value:
            raise UserError(key, raw[key], f"only {value} is DeepSeek-V4")
    fields: dict[str, Any] = {k: raw[k] for k in _OWN if k in raw and raw[k] is not None}
    if isinstance(fields.get("eos_token_id"), list):
        fields["eos_token_id"] = fields["eos_token_id"][0]
    layers, mtp = raw.get("num_hidden_layers"), fields.get("num_nextn_predict_layers", 0)
    if not isinstance(layers, int) or not isinstance(mtp, int):
        raise UserError("num_hidden_layers", layers, "a whole number of at least 1")
    fields["compress_ratios"] = _ratios(raw, layers, mtp)
    fields["hash_routed"] = _hash_routed(raw, layers)
    fields.update(_rope(raw, fields))
    fields.update(_quantization(raw))
    missing = [f.name for f in dataclasses.fields(ModelConfig) if f.default is dataclasses.MISSING and f.name not in fields]
    if missing:
        raise UserError("config.json", None, f"lacks {', '.join(missing)}", "copy the model's complete config.json")
    return ModelConfig(**fields)


def config_to_dict(config: ModelConfig, dtype: str = "bfloat16") -> dict[str, Any]:
    """The keys of a config.json that we, the published code and transformers all read as this model.

    Args:
        dtype: storage type of the unquantised matrices, by torch's name ("float32", "bfloat16", "float16").
    """
    out: dict[str, Any] = {"architectures": ["DeepseekV4ForCausalLM"], **_FIXED}
    for field in dataclasses.fields(ModelConfig):
        if field.name not in ("hash_routed", "quantized", "rope_scaling", "expert_dtype"):
            value = getattr(config, field.name)
            out[field.name] = list(value) if isinstance(value, tuple) else value
    out["torch_dtype"] = dtype
    if config.rope_scaling is not None:
        out["rope_scaling"] = {"type": "yarn", **dataclasses.asdict(config.rope_scaling)}
    out["num_hash_layers"] = sum(config.hash_routed)
    if list(config.hash_routed) != sorted(config.hash_routed, reverse=True):  # not a prefix: only transformers' spelling can say it
        del out["num_hash_layers"]
        out["mlp_layer_types"] = ["hash_moe" if h else "moe" for h in config.hash_routed]
    out.update(_transformers_ratios(config))
    if config.quantized:
        out["quantization_config"] = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "scale_fmt": "ue8m0",
                                      "weight_block_size": [128, 128]}
    if config.expert_dtype:
        out["expert_dtype"] = config.expert_dtype
    return dict(sorted(out.items()))


def _transformers_ratios(config: ModelConfig) -> dict[str, Any]:
    """transformers maps only 0, 4 and 128 by itself; one other HCA ratio needs its own spelling beside ours."""
    ratios = config.compress_ratios[: config.num_hidden_layers]
    dense = {r for r in ratios if r not in (0, CSA_RATIO)}
    if dense <= {128} or len(dense) > 1:
        return {}
    names = {0: "sliding_attention", CSA_RATIO: "compressed_sparse_attention"}
    return {"layer_types": [names.get(r, "heavily_compressed_attention") for r in ratios],
            "compress_rates": {"compressed_sparse_attention": CSA_RATIO, "heavily_compressed_attention": dense.pop()}}


def _ratios(raw: Mapping[str, Any], layers: int, mtp: int) -> tuple[int, ...]:
    rates = {**LAYER_TYPES, **(raw.get("compress_rates") or {})}
    for key, name in (("compress_rate_csa", "compressed_sparse_attention"), ("compress_rate_hca", "heavily_compressed_attention")):
        if key in raw:
            rates[name] = raw[key]
    unknown = set(rates) - set(LAYER_TYPES)
    if unknown:
        raise UserError("compress_rates", sorted(unknown)[0], f"one of {', '.join(LAYER_TYPES)}")
    if rates["compressed_sparse_attention"] != CSA_RATIO:
        raise UserError("compress_rates", rates["compressed_sparse_attention"], f"compressed sparse attention has ratio {CSA_RATIO}")
    if rates["heavily_compressed_attention"] == CSA_RATIO:
        raise UserError("compress_rates", CSA_RATIO, f"ratio {CSA_RATIO} means compressed sparse attention, not heavily compressed")
    listed = raw.get("compress_ratios")
    typed = raw.get("layer_types")
    if typed is not None:
        bad = [t for t in typed if t not in LAYER_TYPES]
        if bad:
            raise UserError("layer_types", bad[0], f"one of {', '.join(LAYER_TYPES)}")
        from_types = tuple(rates[t] for t in typed)
        if listed is None:
            listed = [*from_types[:layers], *([0] * mtp)]  # transformers doesn't keep the MTP block's ratio; published ones are 0
        elif from_types[:layers] != tuple(listed[:layers]):
            raise UserError("layer_types", None, "contradicts compress_ratios", "keep one of the two")
    if listed is None:
        raise UserError("compress_ratios", None, "missing", "give one ratio a layer: 0, 4 or 128")
    if len(listed) == layers and mtp:
        listed = [*listed, *([0] * mtp)]
    if len(listed) == layers + 1 and not mtp:
        listed = listed[:layers]  # a checkpoint whose MTP block was dropped often keeps its ratio
    return tuple(listed)


def _hash_routed(raw: Mapping[str, Any], layers: int) -> tuple[bool, ...]:
    types, count = raw.get("mlp_layer_types"), raw.get("num_hash_layers")
    if types is not None:
        bad = [t for t in types if t not in ("hash_moe", "moe")]
        if bad:
            raise UserError("mlp_layer_types", bad[0], "hash_moe or moe")
        routed = tuple(t == "hash_moe" for t in types)
        if count is not None and sum(routed) != min(count, layers):
            raise UserError("num_hash_layers", count, "contradicts mlp_layer_types", "keep one of the two")
        return routed
    if count is None:
        count = 3  # the published models', and transformers' default
    if not isinstance(count, int) or count < 0:
        raise UserError("num_hash_layers", count, "a whole number, 0 or more")
    return tuple(layer < count for layer in range(layers))


_YARN_KEYS = {"type", "rope_type", "factor", "original_max_position_embeddings", "beta_fast", "beta_slow"}
_ROPE_KEYS = _YARN_KEYS | {"rope_theta", "partial_rotary_factor", "attention_factor"}


def _rope(raw: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    nested, flat = raw.get("rope_parameters") or {}, raw.get("rope_scaling") or {}
    out: dict[str, Any] = {}
    compress, main = dict(flat), {}
    if isinstance(nested.get("main"), Mapping) and isinstance(nested.get("compress"), Mapping):
        compress, main = dict(nested["compress"]), dict(nested["main"])
    elif nested:
        compress = {k: v for k, v in nested.items() if k not in ("main", "compress")}
    for part in (main, compress):
        for key in part:
            if key not in _ROPE_KEYS:
                near = difflib.get_close_matches(key, _ROPE_KEYS, n=1)
                raise UserError(f"rope_scaling key {key}", part[key], "not known", f"did you mean {near[0]}?" if near else "remove it")
    if main.get("rope_type", main.get("type", "default")) != "default":
        raise UserError("rope_parameters.main", main.get("rope_type"), "window-only layers have plain RoPE: default")
    if compress.get("attention_factor", 1.0) not in (1, 1.0, None):
        raise UserError("attention_factor", compress["attention_factor"], "V4 doesn't scale cos and sin: 1.0")
    kind = compress.get("rope_type", compress.get("type", "default"))
    if kind == "yarn":
        try:
            yarn = {k: compress[k] for k in ("factor", "original_max_position_embeddings")}
        except KeyError as e:
            raise UserError("rope_scaling", None, f"lacks {e.args[0]}", "YaRN needs factor and original_max_position_embeddings") from None
        out["rope_scaling"] = Yarn(**yarn, **{k: compress[k] for k in ("beta_fast", "beta_slow") if compress.get(k) is not None})
    elif kind != "default":
        raise UserError("rope_scaling type", kind, "yarn or default")
    if "rope_theta" in main:
        out["rope_theta"] = main["rope_theta"]
    if "rope_theta" in compress and nested:
        out["compress_rope_theta"] = compress["rope_theta"]
    factor = raw.get("partial_rotary_factor", main.get("partial_rotary_factor"))
    if factor is not None and "head_dim" in fields:
        rope_dims = int(round(fields["head_dim"] * factor))
        if fields.get("qk_rope_head_dim", rope_dims) != rope_dims:
            raise UserError("partial_rotary_factor", factor, f"contradicts qk_rope_head_dim = {fields['qk_rope_head_dim']}",
                            "keep one of the two")
        out["qk_rope_head_dim"] = rope_dims
    return out


def _quantization(raw: Mapping[str, Any]) -> dict[str, Any]:
    quant = raw.get("quantization_config")
    if not quant:
        return {}
    expected = {"quant_method": "fp8", "fmt": "e4m3", "scale_fmt": "ue8m0", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
    for key, value in quant.items():
        if key in expected and value != expected[key]:
            raise UserError(f"quantization_config.{key}", value, f"{expected[key]}")
        if key not in expected and key not in ("expert_dtype", "modules_to_not_convert"):
            raise UserError(f"quantization_config.{key}", value, "not known", "remove it")
    out: dict[str, Any] = {"quantized": True}
    if quant.get("expert_dtype"):
        out["expert_dtype"] = quant["expert_dtype"]
    return out
