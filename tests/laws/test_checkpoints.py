"""A checkpoint that Fathom writes is transformers', and transformers' is ours: no key too many or too few, the same logits."""
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fathom.checkpoint import open_checkpoint, save_checkpoint
from fathom.config import PRESETS, config_to_dict, parameters, preset
from fathom.model import Batch, Transformer
from tests.oracle import build_oracle, randomise, stable_topk, tiny_config

pytest.importorskip("transformers")
CONFIG = tiny_config(num_hidden_layers=4, compress_ratios=(0, 4, 16, 4, 0), hash_routed=(True, False, False, False), num_nextn_predict_layers=1)
IDS = torch.arange(3, 203) * 7 % CONFIG.vocab_size


@pytest.fixture(scope="module")
def model() -> Transformer:
    return randomise(Transformer(CONFIG), 8).requires_grad_(False)


def our_logits(model: Transformer) -> torch.Tensor:
    return model.logits(model(Batch.pack([IDS])).hidden)


def open_ours(folder: Path) -> Transformer:
    checkpoint = open_checkpoint(folder)
    model = Transformer(checkpoint.config).requires_grad_(False)
    checkpoint.load_into(model.tensors())
    return model


def test_bitwise_there_and_back(model: Transformer, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", CONFIG, model.tensors(), dtype="float32")
    again = open_ours(tmp_path / "c")
    assert again.config == CONFIG
    for name, value in model.tensors().items():
        assert torch.equal(value, again.tensors()[name]), name


def test_transformers_loads_what_we_write(model: Transformer, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    save_checkpoint(tmp_path / "c", CONFIG, model.tensors(), dtype="float32", max_shard_bytes=60_000)
    assert len(list((tmp_path / "c").glob("*.safetensors"))) > 1
    theirs, info = AutoModelForCausalLM.from_pretrained(tmp_path / "c", output_loading_info=True, dtype=torch.float32, attn_implementation="eager")
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    with torch.no_grad(), stable_topk():
        logits = theirs.eval()(IDS.unsqueeze(0), use_cache=False).logits[0]
    torch.testing.assert_close(our_logits(model), logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("naming", ["published", "hybrid", "transformers"])
def test_we_load_what_transformers_writes(model: Transformer, tmp_path: Path, naming: str) -> None:
    """Their save_pretrained, their state dict as it stands, and (through us) the published names. They keep no MTP block."""
    oracle = build_oracle(model)
    if naming == "published":
        save_checkpoint(tmp_path, CONFIG.without_mtp(), {p.name: model.tensors()[p.name] for p in parameters(CONFIG.without_mtp())}, dtype="float32")
    elif naming == "hybrid":
        oracle.save_pretrained(tmp_path)
    else:
        save_file({k: v.contiguous() for k, v in oracle.state_dict().items()}, tmp_path / "model.safetensors")
        oracle.config.save_pretrained(tmp_path)
    again = open_ours(tmp_path)
    assert again.config == CONFIG.without_mtp()
    torch.testing.assert_close(our_logits(again), our_logits(model), atol=0, rtol=0)
    with torch.no_grad(), stable_topk():
        theirs = oracle(IDS.unsqueeze(0), use_cache=False).logits[0]
    torch.testing.assert_close(our_logits(again), theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", PRESETS)
def test_the_table_counts_what_the_model_has(name: str) -> None:
    """On the meta device, nothing allocated: 284.33 B and 1573.0 B parameters without MTP."""
    config = preset(name)
    model = Transformer(config, device="meta")
    table = {p.name: p for p in parameters(config)}
    assert {n: tuple(t.shape) for n, t in model.tensors().items()} == {n: p.shape for n, p in table.items()}
    buffers = sum(t.numel() for n, t in model.named_buffers() if n.endswith("bias"))  # router biases count, hash tables don't
    total = sum(p.numel() for p in model.parameters()) + buffers
    assert total == sum(p.numel for p in table.values() if p.is_parameter)
    main = total - sum(p.numel for p in table.values() if p.is_parameter and p.name.startswith("mtp."))
    expected = {"v4-flash": 284.33e9, "v4-pro": 1573.0e9, "bench-130m": 130.37e6}
    if name in expected:
        assert main == pytest.approx(expected[name], rel=5e-5)


def test_config_survives_both_spellings() -> None:
    import json

    from transformers import DeepseekV4Config

    from fathom.config import config_from_dict

    for name in PRESETS:
        config = preset(name)
        assert config_from_dict(config_to_dict(config)) == config
        theirs = json.loads(DeepseekV4Config(**config_to_dict(config)).to_json_string(use_diff=False))
        assert config_from_dict(theirs) == config
