"""Reading: every spelling and format ends in the same tensors, and whatever is wrong is said in one line."""
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fathom.checkpoint import open_checkpoint, save_checkpoint
from fathom.checkpoint.names import LEAF, STACKED, TOP, published_name
from fathom.config import parameters
from fathom.errors import UserError
from tests.checkpoint.models import empty_like, official, published, random_tensors, same, small, tiny, write_folder


def loaded(folder: Path, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    checkpoint = open_checkpoint(folder)
    targets = empty_like(checkpoint.config, dtype)
    checkpoint.load_into(targets)
    return targets


def test_a_single_published_file(tmp_path: Path):
    config, tensors = tiny(), random_tensors(tiny())
    folder = write_folder(tmp_path / "c", config, published(config, tensors))
    assert open_checkpoint(folder).config == config and not open_checkpoint(folder).notices
    assert same(loaded(folder), tensors)


def test_shards_with_and_without_an_index(tmp_path: Path):
    config, tensors = tiny(), random_tensors(tiny())
    named = list(published(config, tensors).items())
    weight_map = {}
    (tmp_path / "config.json").write_text(json.dumps({}))
    write_folder(tmp_path, config, {"embed.weight": tensors["embed.weight"]})
    (tmp_path / "model.safetensors").unlink()
    for i in range(3):
        save_file(dict(named[i::3]), tmp_path / f"part-{i}.safetensors")
        weight_map |= {name: f"part-{i}.safetensors" for name, _ in named[i::3]}
    assert same(loaded(tmp_path), tensors)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    save_file({"stray": torch.ones(1)}, tmp_path / "not-in-the-index.safetensors")
    assert same(loaded(tmp_path), tensors)

    (tmp_path / "part-1.safetensors").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"1 of 3 shards are missing, the first is part-1\.safetensors"):
        open_checkpoint(tmp_path)
    (tmp_path / "elsewhere").rename(tmp_path / "part-1.safetensors")
    part = tmp_path / "part-2.safetensors"
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"part-2\.safetensors.*cut short"):
        open_checkpoint(tmp_path)
    save_file(dict(named[2::3][1:]), part)
    with pytest.raises(UserError, match="index.json: 1 tensors are not in the shard it names"):
        open_checkpoint(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(UserError, match="not a readable index"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("experts", ["fp4", "fp8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_an_official_file_reads_back_exactly(tmp_path: Path, experts: str, dtype: torch.dtype):
    config = small()
    files, means = official(config, seed=1, experts=experts)
    folder = write_folder(tmp_path, config, files, expert_dtype=experts)
    targets = loaded(folder, dtype)
    for p in parameters(config):
        expected = means[p.name] if p.storage == "int64" else means[p.name].to(dtype)
        assert torch.equal(targets[p.name], expected), p.name
    one = open_checkpoint(folder).tensor("layers.1.ffn.experts.w2")
    assert one.dtype == torch.bfloat16 and torch.equal(one.float(), means["layers.1.ffn.experts.w2"])
    stored = open_checkpoint(folder).stored("layers.1.ffn.experts.3.w2.weight")
    assert stored.quantised == experts and stored.shape == (256, 128)


def test_older_exports_call_their_scales_weight_scale_inv(tmp_path: Path):
    config = small()
    files, means = official(config, experts="fp8")
    older = {name.replace(".scale", ".weight_scale_inv"): t.float() if name.endswith(".scale") else t for name, t in files.items()}
    assert same(loaded(write_folder(tmp_path, config, older)), means)


def test_large_matrices_come_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("fathom.checkpoint.stored.PIECE_BYTES", 1)  # 128 rows at a time
    config = small()
    files, means = official(config)
    assert same(loaded(write_folder(tmp_path, config, files)), means)


def test_a_parameter_alone(tmp_path: Path):
    config, tensors = tiny(), random_tensors(tiny())
    checkpoint = open_checkpoint(write_folder(tmp_path, config, published(config, tensors)))
    assert torch.equal(checkpoint.tensor("layers.2.ffn.experts.w3"), tensors["layers.2.ffn.experts.w3"])
    assert torch.equal(checkpoint.tensor("head.weight", torch.float16), tensors["head.weight"].half())


def test_progress_ends_at_the_total(tmp_path: Path):
    config, tensors = tiny(), random_tensors(tiny())
    checkpoint, calls = open_checkpoint(write_folder(tmp_path, config, published(config, tensors))), []
    targets = empty_like(config, torch.bfloat16)
    checkpoint.load_into(targets, progress=lambda done, total: calls.append((done, total)))
    size = sum(t.numel() * t.element_size() for t in targets.values())
    assert len(calls) == len(parameters(config)) and calls[-1] == (size, size) and calls == sorted(calls)


def test_parameters_that_need_gradients_are_filled_too(tmp_path: Path):
    config, tensors = tiny(), random_tensors(tiny())
    targets = {n: t.requires_grad_() if t.is_floating_point() else t for n, t in empty_like(config).items()}
    open_checkpoint(write_folder(tmp_path, config, published(config, tensors))).load_into(targets)
    assert all(torch.equal(targets[n], tensors[n]) for n in tensors)


# --- MTP ---

def test_without_mtp_tensors_the_model_goes_without(tmp_path: Path):
    config, tensors = tiny(), random_tensors(tiny())
    named = {n: t for n, t in published(config, tensors).items() if not n.startswith("mtp.")}
    checkpoint = open_checkpoint(write_folder(tmp_path, config, named))
    assert checkpoint.config == config.without_mtp() and "MTP" in checkpoint.notices[0]
    assert loaded(tmp_path).keys() == {p.name for p in parameters(config.without_mtp())}


def test_an_mtp_block_that_config_json_does_not_count_is_passed_over(tmp_path: Path):
    config, tensors = tiny(), random_tensors(tiny())
    checkpoint = open_checkpoint(write_folder(tmp_path, config.without_mtp(), published(config, tensors)))
    assert checkpoint.config.num_nextn_predict_layers == 0 and "MTP" in checkpoint.notices[0]


def test_half_an_mtp_block_is_a_damaged_checkpoint(tmp_path: Path):
    config, tensors = tiny(), random_tensors(tiny())
    named = published(config, tensors)
    del named["mtp.0.e_proj.weight"], named["mtp.0.attn.wkv.weight"]
    with pytest.raises(UserError, match=r"lack 2 tensors: mtp\.0\.e_proj\.weight, mtp\.0\.attn\.wkv\.weight"):
        open_checkpoint(write_folder(tmp_path, config, named))


def test_repeated_embedding_and_head_are_passed_over(tmp_path: Path):
    config, tensors = tiny(), random_tensors(tiny())
    repeated = {"mtp.0.emb.tok_emb.weight": tensors["embed.weight"] * 2, "mtp.0.embed.weight": tensors["embed.weight"] * 3,
                "mtp.0.head.weight": tensors["head.weight"] * 4}
    assert same(loaded(write_folder(tmp_path, config, {**published(config, tensors), **repeated})), tensors)


# --- what is wrong is said ---

def test_missing_unexpected_and_misshapen_in_one_line(tmp_path: Path):
    config = tiny()
    named = published(config, random_tensors(config))
    for e in range(4):
        del named[f"layers.0.ffn.experts.{e}.w1.weight"]
    named["layers.0.attn.wq_c.weight"] = torch.ones(2)
    named["head.weight"] = torch.ones(24, 96)
    with pytest.raises(UserError) as caught:
        open_checkpoint(write_folder(tmp_path, config, named))
    line = str(caught.value)
    assert "\n" not in line and str(tmp_path) in line and "doesn't hold the model of its config.json" in line
    assert "lack 4 tensors: layers.0.ffn.experts.0.w1.weight" in line and "and 1 more" in line
    assert "1 tensor unknown to config.json: layers.0.attn.wq_c.weight" in line
    assert "head.weight is 24×96 float32 instead of 96×24" in line


def test_a_model_of_another_configuration(tmp_path: Path):
    config = tiny()
    folder = write_folder(tmp_path, config, published(config, random_tensors(config)))
    targets = empty_like(tiny(vocab_size=97, num_hidden_layers=2, compress_ratios=(0, 4, 0), hash_routed=(True, False)))
    with pytest.raises(UserError, match="another configuration.*lack 2[0-9] tensors.*of another shape: embed.weight is 96×24 in the "
                                        "checkpoint, 97×24 in the model.*build the model from the config.json"):
        open_checkpoint(folder).load_into(targets)
    assert all((t == (-7.5 if t.is_floating_point() else -7)).all() for t in targets.values())  # nothing was touched


@pytest.mark.parametrize("change", ["dtype", "no scale", "scale of bf16", "scale shape", "wrong width"])
def test_formats_that_are_none(tmp_path: Path, change: str):
    config = small()
    files, _ = official(config)
    name = "layers.0.attn.wq_a"
    if change == "dtype":
        files[f"{name}.weight"] = torch.ones(128, 256, dtype=torch.int32)
    elif change == "no scale":
        del files[f"{name}.scale"]
    elif change == "scale of bf16":
        files[f"{name}.weight"] = torch.ones(128, 256, dtype=torch.bfloat16)
    elif change == "scale shape":
        files[f"{name}.scale"] = torch.ones(2, 2)
    else:
        files[f"{name}.weight"] = torch.ones(128, 256, dtype=torch.int8)  # FP4 would be 128 wide
    with pytest.raises(UserError, match=rf"1 tensor of another shape: {name}\.weight is .* instead of 128×256"):
        open_checkpoint(write_folder(tmp_path, config, files))


@pytest.mark.parametrize("row", [[2, 2], [0, 4], [-1, 0]])
def test_routing_tables_must_hold_distinct_experts(tmp_path: Path, row: list[int]):
    config, tensors = tiny(), random_tensors(tiny())
    tensors["layers.0.ffn.gate.tid2eid"][5] = torch.tensor(row)
    checkpoint = open_checkpoint(write_folder(tmp_path, config, published(config, tensors)))
    for use in (lambda: checkpoint.load_into(empty_like(config)), lambda: checkpoint.tensor("layers.0.ffn.gate.tid2eid")):
        with pytest.raises(UserError, match=rf"layers\.0\.ffn\.gate\.tid2eid = \[{row[0]}, {row[1]}\] for token 5.*distinct"):
            use()


def test_a_tensor_that_comes_twice(tmp_path: Path):
    config, tensors = tiny(), random_tensors(tiny())
    named = {**published(config, tensors), "model.norm.weight": tensors["norm.weight"] + 1}
    with pytest.raises(UserError, match=r"norm\.weight \(which model\.safetensors has as"):
        open_checkpoint(write_folder(tmp_path, config, named))


def test_numbers_too_large_for_fp16_are_refused_by_name(tmp_path: Path):
    config, tensors = tiny(), random_tensors(tiny())
    tensors["layers.1.attn.wo_b.weight"][3, 4] = 1e5
    checkpoint = open_checkpoint(write_folder(tmp_path, config, published(config, tensors)))
    with pytest.raises(UserError, match=r"layers\.1\.attn\.wo_b\.weight.*65504.*bf16"):
        checkpoint.load_into(empty_like(config, torch.float16))


def test_nothing_there(tmp_path: Path):
    with pytest.raises(UserError, match="nowhere.*no such folder"):
        open_checkpoint(tmp_path / "nowhere")
    with pytest.raises(UserError, match="config.json.*no such file"):
        open_checkpoint(tmp_path)
    save_checkpoint(tmp_path / "c", tiny(), random_tensors(tiny()))
    (tmp_path / "c" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no \*\.safetensors in it"):
        open_checkpoint(tmp_path / "c")


def test_every_row_of_the_alias_tables_leads_to_a_parameter():
    names = {name for p in parameters(small()) for name in p.tensor_names()}
    leaves = {name.split(".", 2)[2] for name in names if name.startswith("layers.")}
    assert set(TOP.values()) <= names and set(LEAF.values()) <= leaves
    assert {f"ffn.experts.0.{m}.weight" for matrices in STACKED.values() for m in matrices} <= leaves
    assert all(published_name(name) == published_name(f"model.{name}") == name for name in names)
    assert published_name("model.layers.3.self_attn.q_b_proj.weight_scale_inv") == "layers.3.attn.wq_b.scale"
    assert published_name("layers.3.attn_hc.scale") == "layers.3.hc_attn_scale"
