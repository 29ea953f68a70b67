"""Writing: what is written comes back, in the formats the layout asks for, and an older checkpoint survives every failure."""
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from fathom import quant
from fathom.checkpoint import open_checkpoint, replace_folder, save_checkpoint
from fathom.config import parameters, read_config
from fathom.errors import UserError
from tests.checkpoint.models import empty_like, published, random_tensors, same, small, tiny

ROOT = Path(__file__).parents[2]


def load(folder: Path, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    checkpoint = open_checkpoint(folder)
    targets = empty_like(checkpoint.config, dtype)
    checkpoint.load_into(targets)
    return targets


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.mark.parametrize("shard_bytes", [1, 20_000, 10**9])
def test_fp32_comes_back_bit_by_bit(tmp_path: Path, shard_bytes: int):
    config, tensors = tiny(), random_tensors(tiny())
    tensors["norm.weight"][:3] = torch.tensor([float("nan"), float("inf"), -0.0])
    written = save_checkpoint(tmp_path / "c", config, tensors, dtype=torch.float32, max_shard_bytes=shard_bytes)
    back = load(tmp_path / "c")
    assert back.keys() == tensors.keys() and read_config(tmp_path / "c") == config
    for name in tensors:
        assert torch.equal(back[name].view(torch.uint8), tensors[name].view(torch.uint8)), name
    shards = sorted(p.name for p in (tmp_path / "c").glob("*.safetensors"))
    assert len(shards) == written.shards == {1: len(published(config, tensors)), 10**9: 1}.get(shard_bytes, len(shards))
    found = {}
    for shard in shards:  # with the safetensors library
        with safe_open(tmp_path / "c" / shard, "pt") as f:
            found |= dict.fromkeys(f.keys(), shard)
    assert found.keys() == published(config, tensors).keys()
    if len(shards) == 1:
        assert shards == ["model.safetensors"]
    else:
        index = json.loads((tmp_path / "c" / "model.safetensors.index.json").read_text())
        assert index["weight_map"] == found and index["metadata"]["total_size"] == written.bytes
        assert shard_bytes == 1 or all((tmp_path / "c" / s).stat().st_size < shard_bytes + 5000 for s in shards)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_plain_formats_keep_the_sensitive_tensors_in_fp32(tmp_path: Path, dtype: str):
    config, tensors = tiny(), random_tensors(tiny())
    save_checkpoint(tmp_path / "c", config, tensors, dtype=dtype)
    assert json.loads((tmp_path / "c" / "config.json").read_text())["torch_dtype"] == dtype
    narrow, checkpoint = getattr(torch, dtype), open_checkpoint(tmp_path / "c")
    for p in parameters(config):
        expected = tensors[p.name] if p.storage in ("fp32", "int64") else tensors[p.name].to(narrow)
        assert same({"": checkpoint.tensor(p.name)}, {"": expected}), p.name


@pytest.mark.parametrize("layout, experts", [("fp8", quant.encode_fp8), ("fp4-experts", quant.encode_fp4)])
def test_official_layouts(tmp_path: Path, layout: str, experts):
    config, tensors = small(), random_tensors(small())
    written = save_checkpoint(tmp_path / "c", config, tensors, quantize=layout)
    assert not written.plain and not written.rounded
    reopened = open_checkpoint(tmp_path / "c")
    assert reopened.config.quantized and reopened.config.expert_dtype == layout[:3]
    for p in parameters(config):
        for i, name in enumerate(p.tensor_names()):
            tensor, stored = tensors[p.name][i] if p.experts else tensors[p.name], reopened.stored(name)
            if p.storage in ("fp8", "expert"):
                weight, scale = (experts if p.storage == "expert" else quant.encode_fp8)(tensor)
                assert stored.weight.dtype == weight.dtype and stored.scale.dtype == torch.float8_e8m0fnu
                assert torch.equal(stored.weight.view(torch.uint8), weight.view(torch.uint8))
                assert torch.equal(stored.scale.view(torch.uint8), scale.view(torch.uint8))
            else:
                assert stored.scale is None and stored.weight.dtype == (torch.bfloat16 if p.storage == "bf16" else tensor.dtype)
                assert torch.equal(stored.weight, tensor.to(stored.weight.dtype))


def test_matrices_that_blocks_do_not_divide_stay_bf16_and_are_named(tmp_path: Path):
    config = small(moe_intermediate_size=96, q_lora_rank=64)
    written = save_checkpoint(tmp_path / "c", config, random_tensors(config), quantize="fp4-experts")
    assert {n.split(".", 2)[2] for n in written.plain} == {
        "attn.wq_a.weight", "attn.wq_b.weight", "attn.indexer.wq_b.weight", *(f"ffn.shared_experts.w{i}.weight" for i in (1, 2, 3))}
    assert open_checkpoint(tmp_path / "c").stored("layers.1.ffn.experts.0.w2.weight").quantised == "fp4"  # 96 is three times 32
    written = save_checkpoint(tmp_path / "d", config, random_tensors(config), quantize="fp8")
    assert "layers.1.ffn.experts.0.w2.weight" in written.plain
    assert open_checkpoint(tmp_path / "d").config.expert_dtype is None and open_checkpoint(tmp_path / "d").config.quantized
    with pytest.raises(UserError, match="precision = fp8: no matrix of this model.*128.*bf16"):
        save_checkpoint(tmp_path / "e", tiny(), random_tensors(tiny()), quantize="fp8")
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize("how, told", [({"quantize": "fp8"}, "NaN or infinity"), ({"dtype": "float16"}, "65504")])
def test_numbers_that_a_format_cannot_hold_are_refused_by_name(tmp_path: Path, how: dict, told: str):
    tensors = random_tensors(small())
    tensors["layers.1.ffn.experts.w1"][2, 5, 7] = float("inf")
    with pytest.raises(UserError, match=rf"layers\.1\.ffn\.experts\.2\.w1\.weight.*{told}"):
        save_checkpoint(tmp_path / "c", small(), tensors, **how)
    assert not list(tmp_path.iterdir())


def test_further_files_and_progress(tmp_path: Path):
    (tmp_path / "tokenizer.json").write_text("{}")
    calls: list[tuple[int, int]] = []
    written = save_checkpoint(tmp_path / "c", tiny(), random_tensors(tiny()), progress=lambda *call: calls.append(call),
                              extra_files={"tokenizer.json": tmp_path / "tokenizer.json", "note.txt": b"hello"})
    assert (tmp_path / "c" / "tokenizer.json").read_text() == "{}" and (tmp_path / "c" / "note.txt").read_bytes() == b"hello"
    assert calls == sorted(calls) and calls[-1] == (written.bytes, written.bytes)


def test_tensors_of_another_configuration_are_our_bug(tmp_path: Path):
    tensors = random_tensors(tiny())
    for change in ({**tensors, "more": torch.ones(1)}, {**tensors, "norm.weight": torch.ones(2)}):
        with pytest.raises(ValueError, match="1 tensors"):
            save_checkpoint(tmp_path / "c", tiny(), change)
    with pytest.raises(ValueError, match="bfloat16"):
        save_checkpoint(tmp_path / "c", tiny(), tensors, dtype="float32", quantize="fp8")
    assert not list(tmp_path.iterdir())


# --- an older checkpoint survives ---

def test_replacing_leaves_nothing_of_the_older_one(tmp_path: Path):
    save_checkpoint(tmp_path / "c", tiny(), random_tensors(tiny()), max_shard_bytes=10_000, extra_files={"old.txt": b""})
    new = random_tensors(tiny(), seed=1)
    save_checkpoint(tmp_path / "c", tiny(), new, dtype="float32")
    assert same(load(tmp_path / "c"), new)
    assert sorted(files(tmp_path / "c")) == ["config.json", "model.safetensors"] and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), RuntimeError("a bug")])
@pytest.mark.parametrize("call", [1, 2, 3])
def test_whatever_stops_a_save_the_older_checkpoint_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, call: int):
    save_checkpoint(tmp_path / "c", tiny(), random_tensors(tiny()))
    before, calls = files(tmp_path / "c"), []

    def fsync(handle: int) -> None:
        calls.append(handle)
        if len(calls) == call:
            raise error
    monkeypatch.setattr(os, "fsync", fsync)
    full = isinstance(error, OSError)
    told = r"/c: can't be written \(No space left.*before is untouched" if full else None
    with pytest.raises(UserError if full else type(error), match=told):
        save_checkpoint(tmp_path / "c", tiny(), random_tensors(tiny(), 1), max_shard_bytes=60_000)
    assert files(tmp_path / "c") == before and [p.name for p in tmp_path.iterdir()] == ["c"]


def test_a_failing_last_rename_brings_the_older_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save_checkpoint(tmp_path / "c", tiny(), random_tensors(tiny()))
    before, rename = files(tmp_path / "c"), Path.rename

    def failing(path: Path, target: Path) -> Path:
        if path.name == ".c.writing":
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, target)
    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(UserError, match="can't be written"):
        save_checkpoint(tmp_path / "c", tiny(), random_tensors(tiny(), 1))
    assert files(tmp_path / "c") == before and [p.name for p in tmp_path.iterdir()] == ["c"]


def test_too_little_room_is_noticed_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(UserError, match="0.0 GB free: the checkpoint takes"):
        save_checkpoint(tmp_path / "c", tiny(), random_tensors(tiny()))
    assert not list(tmp_path.iterdir())


def run(code: str, *args: object) -> subprocess.Popen:
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_real_limit_on_the_file_size(tmp_path: Path):
    """The operating system refuses the write halfway through a shard."""
    save_checkpoint(tmp_path / "c", tiny(), random_tensors(tiny()))
    before = files(tmp_path / "c")
    process = run("""
import resource, signal, sys
from pathlib import Path
from fathom.checkpoint import save_checkpoint
from tests.checkpoint.models import random_tensors, tiny
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    save_checkpoint(Path(sys.argv[1]), tiny(), random_tensors(tiny(), 1))
except Exception as e:
    print(type(e).__name__, e)
""", tmp_path / "c")
    out, err = process.communicate(timeout=100)
    assert out.startswith("UserError") and "can't be written (File too large)" in out, out + err
    assert files(tmp_path / "c") == before and [p.name for p in tmp_path.iterdir()] == ["c"]


def test_killed_at_any_moment_there_is_a_whole_checkpoint(tmp_path: Path):
    """A process replaces a checkpoint again and again and is killed; what is found is one of those it wrote."""
    tensors = [random_tensors(tiny(), seed) for seed in range(2)]
    save_checkpoint(tmp_path / "c", tiny(), tensors[0], dtype="float32")
    rng = random.Random(0)
    for _ in range(3):
        process = run("""
import sys
from fathom.checkpoint import save_checkpoint
from tests.checkpoint.models import random_tensors, tiny
tensors = [random_tensors(tiny(), seed) for seed in range(2)]
print("ready", flush=True)
for i in range(10**6):
    save_checkpoint(sys.argv[1], tiny(), tensors[i % 2], dtype="float32", max_shard_bytes=30_000)
""", tmp_path / "c")
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0.05, 0.4))
        process.send_signal(signal.SIGKILL)
        process.wait()
        found = load(tmp_path / "c")
        assert same(found, tensors[0]) or same(found, tensors[1])


def test_a_kill_between_the_two_renames(tmp_path: Path):
    tensors = random_tensors(tiny())
    save_checkpoint(tmp_path / "c", tiny(), tensors, dtype="float32")
    (tmp_path / "c").rename(tmp_path / ".c.previous")  # this is what is there then
    (tmp_path / ".c.writing").mkdir()
    checkpoint = open_checkpoint(tmp_path / "c")
    assert "interrupted" in checkpoint.notices[0] and torch.equal(checkpoint.tensor("head.weight"), tensors["head.weight"])
    with pytest.raises(RuntimeError), replace_folder(tmp_path / "c"):
        raise RuntimeError  # a failing write now must not cost the older one either
    assert torch.equal(open_checkpoint(tmp_path / "c").tensor("head.weight"), tensors["head.weight"])
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_only_checkpoints_are_replaced(tmp_path: Path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text("{}")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("dear diary")
    (tmp_path / "file").write_text("")
    for name in ("run", "notes", "file"):
        with pytest.raises(UserError, match=f"{name}: exists and is not a checkpoint folder"):
            save_checkpoint(tmp_path / name, tiny(), random_tensors(tiny()))
    assert (tmp_path / "notes" / "diary.txt").read_text() == "dear diary" and (tmp_path / "run" / "checkpoints").is_dir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    save_checkpoint(tmp_path / "link", tiny(), random_tensors(tiny()))
    assert (tmp_path / "link").is_symlink() and (tmp_path / "empty" / "config.json").exists()


def test_a_place_where_nothing_can_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't be written"):
        save_checkpoint(tmp_path / "file" / "c", tiny(), random_tensors(tiny()))
