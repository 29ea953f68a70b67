"""One safetensors file: read through a memory map, written in one stream.

The format is eight bytes of header length, a JSON header (name → dtype, shape, byte range), then the tensors' bytes without gaps.
We read and write it ourselves, for three things that matter with models larger than memory: pages that have been read can be
handed back to the system (a shard's pages otherwise stay in the process's resident memory), a tensor can be written in pieces
that never exist together, and damage is named (which file, how many bytes are missing). Tests hold it to the safetensors library.

Tensors that are read are views of the map: nothing is copied until they are used, and they must not be written to.
Source: the safetensors format description (huggingface/safetensors, README).
"""
from __future__ import annotations

import json
import math
import mmap
import os
import struct
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from ..errors import UserError

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn,
          "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu, "I64": torch.int64, "I32": torch.int32, "I16": torch.int16,
          "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_LARGEST_HEADER = 100_000_000  # the format's own limit
_FETCHED = max(mmap.PAGESIZE, 2 << 20)  # a page that is touched brings its neighbours with it, up to a large page of the file cache
_COPY_AGAIN = "copy this file again from its source"


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies: dtype, shape, and its bytes [start, stop) counted from the beginning of the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


class TensorFile:
    """An open safetensors file.

    Attributes:
        path: the file.
        entries: its tensors by name.

    Raises:
        UserError: not there, not a safetensors file, cut short or otherwise damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open(path, "rb") as f:
                self.entries = _read_header(path, f)
                self._map = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise UserError(str(path), None, "no such file", "copy the missing file from the checkpoint's source") from None
        except OSError as e:
            raise UserError(str(path), None, f"can't be read ({e.strerror})") from e
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given buffer is not writable")  # we know: views are read-only by contract
            self._bytes = torch.frombuffer(self._map, dtype=torch.uint8)

    def tensor(self, name: str) -> Tensor:
        """The tensor as a read-only view of the file (a copy where its bytes don't lie on a multiple of the item size)."""
        entry = self.entries[name]
        raw = self._bytes[entry.start : entry.stop]
        if entry.start % entry.dtype.itemsize:
            raw = raw.clone()
        return raw.view(entry.dtype).view(entry.shape)

    def release(self, name: str) -> None:
        """Hand the tensor's pages, and those that came with them, back to the system; what is read again is fetched again."""
        if hasattr(mmap, "MADV_DONTNEED"):
            entry = self.entries[name]
            start, stop = entry.start // _FETCHED * _FETCHED, -(-entry.stop // _FETCHED) * _FETCHED
            if entry.stop > entry.start:
                self._map.madvise(mmap.MADV_DONTNEED, start, min(stop, len(self._map)) - start)


def write_tensor_file(path: Path, specs: Sequence[tuple[str, torch.dtype, tuple[int, ...]]], pieces: Iterable[Tensor]) -> None:
    """Write a safetensors file and wait until it is on the disk.

    Args:
        specs: name, dtype and shape of each tensor, widest dtype first (so that every tensor is aligned).
        pieces: the contents in that order; a tensor may come in several pieces, cut along its first axis, on any device.

    Raises:
        OSError: the disk is full or the file can't be written; the caller cleans up.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}  # without this key transformers refuses the file
    offset = 0
    for name, dtype, shape in specs:
        assert offset % dtype.itemsize == 0, "widest dtypes first"
        size = math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for piece in pieces:
            f.write(as_bytes(piece))
            offset -= piece.numel() * piece.element_size()
        assert offset == 0, f"{path.name}: {offset} bytes of its tensors were not given"
        f.flush()
        os.fsync(f.fileno())


def as_bytes(x: Tensor) -> memoryview:
    """The tensor's bytes in row order; no copy if it is contiguous in main memory."""
    return memoryview(x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())


def _read_header(path: Path, f: BinaryIO) -> dict[str, Entry]:
    size = os.fstat(f.fileno()).st_size
    prefix = f.read(8)
    length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
    if len(prefix) < 8 or (8 + length > size and length <= _LARGEST_HEADER):
        raise UserError(str(path), f"{size} bytes", "cut short within its header", _COPY_AGAIN)
    try:
        if length > _LARGEST_HEADER:
            raise ValueError("impossible header length")
        header = json.loads(f.read(length))
        header.pop("__metadata__", None)
        entries = {name: _entry(name, e, 8 + length) for name, e in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise UserError(str(path), None, f"not a readable safetensors file ({type(e).__name__}: {e})", _COPY_AGAIN) from None
    end = 8 + length
    for entry in sorted(entries.values(), key=lambda e: (e.start, e.stop)):
        if entry.start != end:
            raise UserError(str(path), None, "damaged: its tensors overlap or leave gaps", _COPY_AGAIN)
        end = entry.stop
    if size < end:
        raise UserError(str(path), f"{size} bytes", f"cut short: its header announces {end} bytes", _COPY_AGAIN)
    if size > end:
        raise UserError(str(path), f"{size} bytes", f"damaged: its header announces {end} bytes", _COPY_AGAIN)
    return entries


def _entry(name: str, fields: dict, data_start: int) -> Entry:
    """One tensor's row of the header. Raises ValueError, KeyError or TypeError where it contradicts itself."""
    if fields["dtype"] not in DTYPES:
        raise ValueError(f"{name} has dtype {fields['dtype']}, which Fathom doesn't know")
    dtype, shape = DTYPES[fields["dtype"]], tuple(int(n) for n in fields["shape"])
    start, stop = (int(n) for n in fields["data_offsets"])
    if min(shape, default=0) < 0 or start < 0 or stop - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name}'s shape and byte range disagree")
    return Entry(dtype, shape, data_start + start, data_start + stop)
