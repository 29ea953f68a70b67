"""Our safetensors reader and writer against the safetensors library, and against damage."""
import json
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from fathom.checkpoint.tensorfile import DTYPES, TensorFile, write_tensor_file
from fathom.errors import UserError


def samples() -> dict[str, torch.Tensor]:
    """A tensor of every dtype, with shapes that include a scalar and an empty one; random bytes."""
    g = torch.Generator().manual_seed(0)
    shapes = [(3, 5), (), (0, 4), (7,), (2, 3, 4)]
    out = {}
    for i, dtype in enumerate(DTYPES.values()):
        shape = shapes[i % len(shapes)]
        count = torch.Size(shape).numel() * dtype.itemsize
        raw = torch.randint(0, 2 if dtype == torch.bool else 256, (count,), generator=g, dtype=torch.uint8)
        out[f"t{i}.{str(dtype).removeprefix('torch.')}"] = raw.view(dtype).view(shape)
    return out


def bits(x: torch.Tensor) -> list[int]:
    return x.contiguous().flatten().view(torch.uint8).tolist()


def test_what_we_write_the_library_reads(tmp_path: Path):
    tensors = dict(sorted(samples().items(), key=lambda item: -item[1].dtype.itemsize))
    specs = [(name, t.dtype, tuple(t.shape)) for name, t in tensors.items()]
    pieces = [part for t in tensors.values() for part in (t.split(2) if t.ndim else [t])]  # in pieces of two rows
    write_tensor_file(tmp_path / "x.safetensors", specs, pieces)
    read = load_file(tmp_path / "x.safetensors")
    assert read.keys() == tensors.keys()
    for name, t in tensors.items():
        assert read[name].dtype == t.dtype and read[name].shape == t.shape and bits(read[name]) == bits(t)


def test_what_the_library_writes_we_read(tmp_path: Path):
    tensors = samples()
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    file = TensorFile(tmp_path / "x.safetensors")
    assert file.entries.keys() == tensors.keys()
    for _ in range(2):  # the second time after the pages were given back
        for name, t in tensors.items():
            read = file.tensor(name)
            assert read.dtype == t.dtype and read.shape == t.shape and bits(read) == bits(t)
            file.release(name)


def test_a_tensor_at_an_odd_address_is_read_all_the_same(tmp_path: Path):
    header = {"a": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]}, "b": {"dtype": "F32", "shape": [2], "data_offsets": [3, 11]}}
    text = json.dumps(header).encode()
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(text)) + text + b"\1\2\3" + struct.pack("<2f", 1.5, -2.0))
    assert TensorFile(tmp_path / "x").tensor("b").tolist() == [1.5, -2.0]


def test_views_outlive_the_file_object(tmp_path: Path):
    save_file({"a": torch.arange(5.0)}, tmp_path / "x")
    view = TensorFile(tmp_path / "x").tensor("a")
    assert view.tolist() == [0, 1, 2, 3, 4]


@given(st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_named(tmp_path_factory: pytest.TempPathFactory, part: float):
    path = tmp_path_factory.mktemp("cut") / "shard.safetensors"
    save_file({"a": torch.arange(50.0), "b": torch.ones(3)}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(UserError, match=r"shard\.safetensors.*cut short.*copy this file again"):
        TensorFile(path)


@pytest.mark.parametrize("damage, told", [
    (lambda b: b + b"x", "header announces"),
    (lambda b: b"<html>404 not found</html>" * 10, "not a readable safetensors file"),
    (lambda b: b[:8] + b"[" + b[9:], "not a readable safetensors file"),
    (lambda b: b.replace(b"F32", b"F31", 1), "dtype F31, which Fathom doesn't know"),
    (lambda b: b.replace(b"[50]", b"[49]", 1), "shape and byte range disagree"),
    (lambda b: b.replace(b"[50]", b"[-5]", 1), "shape and byte range disagree"),
    (lambda b: b.replace(b"[200,212]", b"[196,208]", 1), "overlap"),
    (lambda b: b.replace(b'"shape"', b'"shade"', 1), "KeyError"),
])
def test_other_damage_is_named(tmp_path: Path, damage, told: str):
    path = tmp_path / "shard.safetensors"
    save_file({"a": torch.arange(50.0), "b": torch.ones(3)}, path)
    before = path.read_bytes()
    assert damage(before) != before
    path.write_bytes(damage(before))
    with pytest.raises(UserError, match=rf"shard\.safetensors.*{told}"):
        TensorFile(path)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(UserError, match="nowhere.*no such file"):
        TensorFile(tmp_path / "nowhere")


def test_a_writer_that_is_given_too_little_is_our_bug(tmp_path: Path):
    with pytest.raises(AssertionError, match="8 bytes"):
        write_tensor_file(tmp_path / "x", [("a", torch.float32, (4,))], [torch.ones(2)])
