"""transformers as oracle: its three spellings load here to equal tensors, and it loads what we write, quantised layouts included."""
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fathom.checkpoint import convert, open_checkpoint, save_checkpoint
from fathom.config import ModelConfig, Yarn, config_to_dict, parameters
from tests.checkpoint.models import empty_like, official, random_tensors, same, small, tiny, write_folder

transformers = pytest.importorskip("transformers")


def their_config(config: ModelConfig) -> "transformers.PreTrainedConfig":
    return transformers.DeepseekV4Config(**config_to_dict(config, "float32"))


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return tiny(num_hidden_layers=4, compress_ratios=(0, 4, 128, 4), hash_routed=(True, False, False, False), num_nextn_predict_layers=0,
                rope_scaling=Yarn(16.0, 256))


@pytest.fixture(scope="module")
def theirs(config: ModelConfig) -> "transformers.PreTrainedModel":
    """Their model with random weights, buffers included."""
    model = transformers.DeepseekV4ForCausalLM(their_config(config))
    g = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if name.endswith("tid2eid"):
            tensor.copy_(torch.rand(len(tensor), config.n_routed_experts, generator=g).argsort(-1)[:, : tensor.shape[1]])
        else:
            tensor.copy_(torch.randn(tensor.shape, generator=g))
    return model


@pytest.fixture(scope="module")
def spellings(config: ModelConfig, theirs: "transformers.PreTrainedModel", tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same weights in their save_pretrained form, in their module names, and in the published ones."""
    folder = tmp_path_factory.mktemp("spellings")
    theirs.save_pretrained(folder / "hybrid")
    theirs.save_pretrained(folder / "shards", max_shard_size="20KB")
    (folder / "full").mkdir()
    save_file({k: v.contiguous() for k, v in theirs.state_dict().items()}, folder / "full" / "model.safetensors")
    (folder / "full" / "config.json").write_text((folder / "hybrid" / "config.json").read_text())
    convert(folder / "hybrid", folder / "published", "fp32")
    return {path.name: path for path in folder.iterdir()}


def values(folder: Path) -> dict[str, torch.Tensor]:
    checkpoint = open_checkpoint(folder)
    targets = empty_like(checkpoint.config)
    checkpoint.load_into(targets)
    return targets


def test_all_three_spellings_load_to_equal_tensors(config: ModelConfig, theirs: "transformers.PreTrainedModel", spellings: dict[str, Path]):
    names = {kind: set(load_file(path / "model.safetensors")) for kind, path in spellings.items() if kind != "shards"}
    assert "model.layers.1.self_attn.compressor.indexer.scorer.weights_proj.weight" in names["full"]
    assert {"model.layers.0.attn.norm.weight", "head.weight", "model.hc_head.hc_fn"} <= names["hybrid"]
    assert names["published"] == {name for p in parameters(config) for name in p.tensor_names()}
    assert len(list(spellings["shards"].glob("*.safetensors"))) > 3
    full = values(spellings["full"])
    for kind, path in spellings.items():
        assert same(values(path), full), kind
        assert open_checkpoint(path).config == config, kind
    state = theirs.state_dict()  # and they are the right ones
    assert torch.equal(full["layers.2.ffn.experts.w3"], state["model.layers.2.mlp.experts.gate_up_proj"][:, config.moe_intermediate_size :])
    assert torch.equal(full["layers.0.ffn.gate.tid2eid"], state["model.layers.0.mlp.gate.tid2eid"])
    assert torch.equal(full["layers.1.ffn.gate.bias"], state["model.layers.1.mlp.gate.e_score_correction_bias"])


def read_by_transformers(folder: Path, dtype: torch.dtype, **options: object) -> dict[str, torch.Tensor]:
    model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True, **options)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.state_dict()


def test_transformers_loads_what_we_write(theirs: "transformers.PreTrainedModel", spellings: dict[str, Path]):
    assert same(read_by_transformers(spellings["published"], torch.float32), theirs.state_dict())


def test_transformers_loads_our_bf16_with_mtp_in_shards(tmp_path: Path):
    config = tiny()
    tensors = random_tensors(config)
    save_checkpoint(tmp_path / "c", config, tensors, max_shard_bytes=50_000)
    state = read_by_transformers(tmp_path / "c", torch.bfloat16)
    assert torch.equal(state["model.layers.1.mlp.experts.down_proj"], tensors["layers.1.ffn.experts.w2"].bfloat16())
    assert torch.equal(state["model.layers.1.attn_hc.fn"], tensors["layers.1.hc_attn_fn"])  # fp32 in both
    assert torch.equal(state["model.layers.1.self_attn.compressor.position_bias"], tensors["layers.1.attn.compressor.ape"])


@pytest.mark.needs("module:accelerate")  # transformers asks for it before it reads a quantised checkpoint
@pytest.mark.parametrize("experts", ["fp4", "fp8"])
def test_transformers_reads_the_official_layouts_as_we_do(tmp_path: Path, experts: str):
    """Its dequantising loader, a third implementation of the formats, on a file by hand and on the same written by us."""
    config = small(num_nextn_predict_layers=0, compress_ratios=(0, 4, 128), quantized=True, expert_dtype=experts)
    files, means = official(config, experts=experts)
    write_folder(tmp_path / "given", config, files)
    convert(tmp_path / "given", tmp_path / "ours", {"fp4": "fp4-experts"}.get(experts, experts))
    convert(tmp_path / "given", tmp_path / "plain", "bf16")
    dequantise = transformers.FineGrainedFP8Config(dequantize=True)
    plain = {name: t.float() for name, t in read_by_transformers(tmp_path / "plain", torch.bfloat16).items()}
    assert same(values(tmp_path / "ours"), means)
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["expert_dtype"] == experts
    for folder in ("given", "ours"):
        found = read_by_transformers(tmp_path / folder, torch.bfloat16, quantization_config=dequantise)
        assert same({name: t.float() for name, t in found.items()}, plain), folder  # as numbers: the types of their norms differ
