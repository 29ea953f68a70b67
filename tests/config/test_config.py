"""What a configuration accepts and refuses, in both spellings; and that every field of it is read by somebody."""
from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import fathom.config
from fathom.config import PRESETS, ModelConfig, config_from_dict, config_to_dict, parameters, preset, read_config, resolve_config
from fathom.errors import UserError
from tests.oracle import tiny_config

NANO = config_to_dict(preset("nano"))


@pytest.mark.parametrize(("change", "said"), [
    ({"hiden_size": 3}, "did you mean hidden_size?"),
    ({"rope_scaling": {"type": "yarn", "factr": 2, "original_max_position_embeddings": 9}}, "did you mean factor?"),
    ({"rope_scaling": {"type": "linear", "factor": 2}}, "yarn or default"),
    ({"quantization_config": {"quant_method": "gptq"}}, "fp8"),
    ({"hidden_size": 0}, "at least 1"),
    ({"hidden_size": "big"}, "whole number"),
    ({"num_experts_per_tok": 99}, "n_routed_experts"),
    ({"compress_ratios": [0, 4]}, "one a layer"),
    ({"compress_ratios": [0, 4, -1, 4, 0]}, "0 (window only)"),
    ({"qk_rope_head_dim": 15}, "even"),
    ({"o_groups": 3}, "divisor"),
    ({"eos_token_id": 99999}, "vocab_size"),
    ({"num_nextn_predict_layers": 2}, "0 or 1"),
    ({"hidden_act": "gelu"}, "only silu"),
    ({"model_type": "llama"}, "only deepseek_v4"),
    ({"rms_norm_eps": 0}, "above 0"),
    ({"layer_types": ["sliding_attention"] * 4}, "contradicts compress_ratios"),
    ({"mlp_layer_types": ["moe"] * 4}, "contradicts mlp_layer_types"),
    ({"compress_rates": {"compressed_sparse_attention": 8}}, "ratio 4"),
    ({"partial_rotary_factor": 0.5}, "contradicts qk_rope_head_dim"),
])
def test_refused_in_one_line(change: dict, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)) as e:
        config_from_dict({**NANO, **change})
    assert len(str(e.value).splitlines()) == 1


def test_a_missing_field_is_named() -> None:
    with pytest.raises(UserError, match="q_lora_rank"):
        config_from_dict({k: v for k, v in NANO.items() if k != "q_lora_rank"})


def test_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(NANO))
    assert read_config(tmp_path) == read_config(tmp_path / "config.json") == preset("nano") == resolve_config(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    for path, said in ((tmp_path, "not a JSON file"), (tmp_path / "no.json", "no such file")):
        with pytest.raises(UserError, match=said):
            read_config(path)
    with pytest.raises(UserError, match="v4-flash"):
        resolve_config("v5")
    with pytest.raises(UserError, match="v4-flash"):
        preset("v5")


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_writing(name: str) -> None:
    config = preset(name)
    assert config_from_dict(config_to_dict(config)) == config
    assert config.without_mtp().num_blocks == config.num_hidden_layers


def test_other_ratios_and_scattered_hash_layers_survive() -> None:
    config = tiny_config(compress_ratios=(16, 4, 0), hash_routed=(False, True, False))
    written = config_to_dict(config)
    assert written["layer_types"][0] == "heavily_compressed_attention" and written["mlp_layer_types"][1] == "hash_moe"
    assert config_from_dict(written) == config and config.block_size == 16


def test_every_field_is_read_somewhere() -> None:
    """No knob connected to nothing: each field's name is used as an attribute outside the file that declares it."""
    root = Path(fathom.config.__file__).parents[1]
    source = "\n".join(p.read_text() for p in root.rglob("*.py") if p != root / "config" / "model.py")
    for field in ModelConfig.__dataclass_fields__:
        assert re.search(rf"\.{field}\b", source), f"nobody reads {field}"


def test_the_table_has_no_name_twice_and_splits_add_up() -> None:
    rows = parameters(tiny_config(num_nextn_predict_layers=1, compress_ratios=(0, 4, 16, 4)))
    names = [name for row in rows for name in row.tensor_names()]
    assert len(names) == len(set(names))
    assert all(sum(row.row_parts) in (0, row.shape[0]) for row in rows)
    assert {row.name for row in rows if row.optimizer == "none"} == {"layers.0.ffn.gate.tid2eid", "layers.1.ffn.gate.bias", "layers.2.ffn.gate.bias",
                                                                     "mtp.0.ffn.gate.bias"}
