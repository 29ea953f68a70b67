"""Conversion: any format into any other, without loss where none is due, and the command around it."""
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from fathom import quant
from fathom.checkpoint import PRECISIONS, convert, open_checkpoint
from fathom.checkpoint.command import convert_command
from fathom.config import parameters
from fathom.errors import UserError
from tests.checkpoint.models import official, published, random_tensors, same, small, tiny, write_folder

ROOT = Path(__file__).parents[2]


def values(folder: Path) -> dict[str, torch.Tensor]:
    """All parameters in fp32."""
    checkpoint = open_checkpoint(folder)
    return {name: checkpoint.tensor(name, torch.int64 if p.storage == "int64" else torch.float32) for name, p in checkpoint.params.items()}


def stored_bits(folder: Path) -> dict[str, tuple]:
    """What the files hold, tensor by tensor."""
    checkpoint, out = open_checkpoint(folder), {}
    for p in checkpoint.params.values():
        for name in p.tensor_names():
            s = checkpoint.stored(name)
            out[name] = (s.weight.dtype, s.weight.contiguous().view(torch.uint8).numpy().tobytes(),
                         None if s.scale is None else s.scale.view(torch.uint8).numpy().tobytes())
    return out


@pytest.fixture
def fp4(tmp_path: Path) -> Path:
    """A small checkpoint in the official instruct layout."""
    return write_folder(tmp_path / "fp4", small(), official(small())[0], expert_dtype="fp4")


def test_from_official_nothing_is_lost(tmp_path: Path, fp4: Path):
    means = official(small())[1]
    for precision in ("bf16", "fp32", "fp8", "fp4-experts"):
        written, notices = convert(fp4, tmp_path / precision, precision)
        assert not written.rounded and not written.plain and not notices
        assert same(values(tmp_path / precision), means), precision
    assert open_checkpoint(tmp_path / "bf16").config == small()
    assert open_checkpoint(tmp_path / "fp8").config.expert_dtype == "fp8"
    assert stored_bits(tmp_path / "fp4-experts") == stored_bits(fp4)
    # through bf16 and back: the same numbers, though maybe with smaller scales
    for way in ("fp8", "fp4-experts"):
        convert(tmp_path / "bf16", tmp_path / f"bf16-{way}", way)
        assert same(values(tmp_path / f"bf16-{way}"), means), way


def test_fp4_scales_too_far_apart_for_fp8_are_told(tmp_path: Path):
    files, means = official(small(), spread=16)
    write_folder(tmp_path / "fp4", small(), files)
    written, _ = convert(tmp_path / "fp4", tmp_path / "fp8", "fp8")
    experts = [name for p in parameters(small()) if p.experts for name in p.tensor_names()]
    assert sorted(written.rounded) == sorted(experts)
    back = values(tmp_path / "fp8")
    assert not same(back, means) and all(torch.allclose(back[n].float(), means[n].float(), rtol=0.07, atol=2.0**-20) for n in means)


def test_fp8_to_fp4_rounds_and_says_so(tmp_path: Path):
    files, means = official(small(), experts="fp8")
    write_folder(tmp_path / "fp8", small(), files)
    written, _ = convert(tmp_path / "fp8", tmp_path / "fp4", "fp4-experts")
    assert len(written.rounded) == sum(p.experts for p in parameters(small()))
    back = values(tmp_path / "fp4")
    for p in parameters(small()):
        expected = quant.decode_fp4(*quant.encode_fp4(means[p.name])) if p.experts else means[p.name]
        assert torch.equal(back[p.name], expected)


def test_older_scales_that_are_no_powers_of_two_are_encoded_anew(tmp_path: Path):
    config = small()
    files, _ = official(config, experts="fp8")
    older = {n.replace(".scale", ".weight_scale_inv"): t.float() * (1 + 0.3 * (i % 2)) if n.endswith(".scale") else t
             for i, (n, t) in enumerate(files.items())}
    write_folder(tmp_path / "older", config, older)
    convert(tmp_path / "older", tmp_path / "fp8", "fp8")
    before, after = values(tmp_path / "older"), values(tmp_path / "fp8")
    for p in parameters(config):
        expected = quant.decode_fp8(*quant.encode_fp8(before[p.name])) if p.storage in ("fp8", "expert") else before[p.name]
        assert torch.equal(after[p.name], expected), p.name


@pytest.mark.parametrize("start, precision", list(itertools.product(["fp32", "bf16", "fp8", "fp4-experts"], PRECISIONS)))
def test_pieces_make_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str, precision: str):
    """A matrix taken 128 rows at a time, in many shards, ends as it does taken whole; so does a second conversion to the same."""
    config = small(num_hidden_layers=1, compress_ratios=(4,), hash_routed=(True,), num_nextn_predict_layers=0)
    write_folder(tmp_path / "plain", config, published(config, random_tensors(config)))
    convert(tmp_path / "plain", tmp_path / "start", start)
    convert(tmp_path / "start", tmp_path / "whole", precision)
    monkeypatch.setattr("fathom.checkpoint.stored.PIECE_BYTES", 1)
    convert(tmp_path / "start", tmp_path / "pieces", precision, max_shard_bytes=100_000)
    assert len(list((tmp_path / "pieces").glob("*.safetensors"))) > 1
    convert(tmp_path / "whole", tmp_path / "again", precision)
    assert stored_bits(tmp_path / "pieces") == stored_bits(tmp_path / "whole") == stored_bits(tmp_path / "again")


def test_the_small_files_come_along_and_the_rest_does_not(tmp_path: Path, fp4: Path):
    for name in ("tokenizer.json", "tokenizer_config.json", "LICENSE", "pytorch_model.bin", ".hidden"):
        (fp4 / name).write_text(name)
    (fp4 / "inference").mkdir()
    convert(fp4, tmp_path / "c")
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["LICENSE", "config.json", "model.safetensors", "tokenizer.json",
                                                                 "tokenizer_config.json"]
    assert (tmp_path / "c" / "tokenizer.json").read_text() == "tokenizer.json"


def test_an_existing_target_needs_the_option_even_if_it_is_the_source(tmp_path: Path, fp4: Path):
    before = stored_bits(fp4)
    with pytest.raises(UserError, match="fp4: exists already.*--overwrite"):
        convert(fp4, fp4, "bf16")
    assert stored_bits(fp4) == before
    convert(fp4, fp4, "bf16", overwrite=True)
    assert same(values(fp4), official(small())[1])
    (tmp_path / "home" / "letters").mkdir(parents=True)
    with pytest.raises(UserError, match="not a checkpoint folder"):
        convert(fp4, tmp_path / "home", overwrite=True)


def test_what_is_wrong_with_the_source_leaves_no_target(tmp_path: Path, fp4: Path):
    with pytest.raises(UserError, match="precision = int8: one of fp32, bf16"):
        convert(fp4, tmp_path / "c", "int8")
    with pytest.raises(UserError, match="no such folder"):
        convert(tmp_path / "nowhere", tmp_path / "c")
    tensors = random_tensors(tiny())
    tensors["layers.0.ffn.gate.tid2eid"][:] = 0
    write_folder(tmp_path / "zeros", tiny(), published(tiny(), tensors))
    with pytest.raises(UserError, match="distinct"):
        convert(tmp_path / "zeros", tmp_path / "c")
    assert not (tmp_path / "c").exists()


def app() -> typer.Typer:
    cli = typer.Typer()
    cli.command("convert")(convert_command)
    return cli


def test_the_command(tmp_path: Path, fp4: Path):
    (tmp_path / "fp4" / "tokenizer.json").write_text("{}")
    result = CliRunner().invoke(app(), [str(fp4), str(tmp_path / "c"), "--precision", "fp8", "--shard-gb", "0.001"])
    assert result.exit_code == 0 and "files" in result.stderr and " GB in " in result.stderr
    assert open_checkpoint(tmp_path / "c").config.expert_dtype == "fp8" and len(list((tmp_path / "c").glob("*.safetensors"))) > 1
    quiet = CliRunner().invoke(app(), [str(fp4), str(tmp_path / "c"), "--quiet", "--overwrite"])
    assert quiet.exit_code == 0 and quiet.output == ""
    help_ = CliRunner().invoke(app(), ["--help"]).output
    assert "Example" in help_ and "--precision" in help_ and "fp4-experts" in help_
    refused = CliRunner().invoke(app(), [str(fp4), str(tmp_path / "d"), "--shard-gb", "0"])
    assert isinstance(refused.exception, UserError)


@pytest.mark.check
def test_memory_stays_small(tmp_path: Path):
    """216 MiB of weights through a process that may grow by less: file pages are handed back, nothing is held twice."""
    config = small(hidden_size=2048, moe_intermediate_size=2048, n_routed_experts=4, num_hidden_layers=1, compress_ratios=(0,),
                   hash_routed=(False,), num_nextn_predict_layers=0, vocab_size=12000)
    write_folder(tmp_path / "c", config, {n: t.bfloat16() for n, t in published(config, random_tensors(config)).items()})
    assert os.path.getsize(tmp_path / "c" / "model.safetensors") > 200e6
    code = """
import sys
import torch
from fathom.checkpoint import convert, open_checkpoint
from fathom.config import parameters
from tests.checkpoint.models import empty_like

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) // 1024

source = sys.argv[1]
torch.ones(512, 512) @ torch.ones(512, 512)
start = peak()
convert(source, source + "-fp4", "fp4-experts")
convert(source + "-fp4", source + "-bf16", "bf16")
converted = peak() - start
checkpoint = open_checkpoint(source + "-fp4")
targets = empty_like(checkpoint.config, torch.bfloat16)
size, before = sum(t.nbytes for t in targets.values()) >> 20, peak()
checkpoint.load_into(targets)
print(converted, max(peak() - before, 0), size)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "c")], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    converted, loaded, size = map(int, done.stdout.split())  # MiB
    assert size > 190 and converted < 200 and loaded < 100, done.stdout
