"""Write a checkpoint: published names, shards and index, config.json; whole or not at all.

The layout is planned first (which tensor in which format in which shard), so that headers and sizes are known and the contents
can be streamed: a piece of a matrix is taken, brought into its format, written, forgotten. What writes does not ask where the
tensors come from: a model in memory (`save_checkpoint`) and another checkpoint (`convert`) are the same to it.

Precisions: fp32, bf16 and fp16 keep every matrix plain. fp8 and fp4-experts are the two official layouts: matrices as FP8, the routed
experts as FP8 or FP4, embedding, head, norms and the compressors' matrices bf16. Scales, biases, sinks and mHC are fp32 in all of them.
A matrix whose sides the blocks don't divide stays bf16. Source: SPEC sections 3 and 4.
"""
from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from ..config import ModelConfig, Param, config_to_dict, parameters
from ..errors import UserError
from .locate import INDEX, SINGLE, scale_name
from .read import Progress
from .replace import replace_folder
from .stored import DTYPES, FP4_GROUP, FP8_BLOCK, Format, Stored, shape_in, transcode
from .tensorfile import write_tensor_file

Precision = Literal["fp32", "bf16", "fp16", "fp8", "fp4-experts"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "fp16", "fp8", "fp4-experts")
SHARD_BYTES = 5_000_000_000
_DTYPE_NAMES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


class Source(Protocol):
    """Where tensors come from, by published name."""

    def stored(self, tensor_name: str) -> Stored:
        """The tensor in whatever format it is there."""

    def release(self, tensor_name: str) -> None:
        """It has been written and won't be asked for again."""


@dataclass
class Written:
    """What a write did.

    Attributes:
        bytes: of all tensors.  shards: number of files.
        plain: matrices that stayed bf16 in a quantised layout, because the blocks don't divide their sides.
        rounded: matrices that had to be rounded on the way from one quantised format into another.
    """

    bytes: int = 0
    shards: int = 0
    plain: list[str] = dataclasses.field(default_factory=list)
    rounded: list[str] = dataclasses.field(default_factory=list)


@dataclass(frozen=True)
class _Item:
    """A tensor to write, with its scales if its format has them."""

    name: str
    format: Format
    shape: tuple[int, ...]

    def specs(self) -> list[tuple[str, torch.dtype, tuple[int, ...]]]:
        weight, scale = shape_in(self.format, self.shape)
        specs = [(self.name, DTYPES[self.format], weight)]
        return specs if scale is None else [*specs, (scale_name(self.name), torch.float8_e8m0fnu, scale)]

    @property
    def bytes(self) -> int:
        return sum(math.prod(shape) * dtype.itemsize for _, dtype, shape in self.specs())


def save_checkpoint(folder: str | Path, config: ModelConfig, tensors: Mapping[str, Tensor], *, dtype: torch.dtype | str = torch.bfloat16,
                    quantize: Literal["fp8", "fp4-experts"] | None = None, max_shard_bytes: int = SHARD_BYTES,
                    extra_files: Mapping[str, bytes | Path] | None = None, progress: Progress | None = None) -> Written:
    """Write a model as a checkpoint folder; an older checkpoint there is replaced once the new one is complete.

    Args:
        tensors: every parameter by its name in the table (`Param.name`, routed experts stacked), any float dtype, any device.
        dtype: of matrices and norms: float32, bfloat16 or float16, or its name. In float32 a model comes back bit by bit.
        quantize: write one of the official layouts instead; the plain rest is then bfloat16.
        max_shard_bytes: a new file is begun before this many bytes of tensors; one tensor is never split.
        extra_files: further files of the folder, such as tokenizer.json: contents, or the file to copy.
        progress: called with (bytes written, bytes in all).

    Raises:
        UserError: the disk is full or the folder can't be written (nothing of the new checkpoint is left, the old one is intact); the
            folder exists and is no checkpoint; NaN or numbers too large for the format.
        ValueError: the tensors are not those of the configuration.
    """
    with replace_folder(folder) as new:
        written = write_model(new, config, tensors, dtype=dtype, quantize=quantize, max_shard_bytes=max_shard_bytes, progress=progress)
        for name, content in (extra_files or {}).items():
            write_file(new / name, content)
    return written


def write_model(folder: Path, config: ModelConfig, tensors: Mapping[str, Tensor], *, dtype: torch.dtype | str = torch.bfloat16,
                quantize: Literal["fp8", "fp4-experts"] | None = None, max_shard_bytes: int = SHARD_BYTES,
                progress: Progress | None = None) -> Written:
    """`save_checkpoint` into a folder that exists and is not yet anyone's: for callers with files of their own, under `replace_folder`.

    Raises:
        UserError, ValueError: as `save_checkpoint`.
        OSError: writing failed; `replace_folder` turns it into a UserError and clears up.
    """
    dtype = str(dtype).removeprefix("torch.")
    if dtype not in _DTYPE_NAMES or (quantize and dtype != "bfloat16"):
        raise ValueError(f"dtype {dtype}: one of {', '.join(_DTYPE_NAMES)}; bfloat16 with quantize")
    rows = parameters(config)
    wrong = {p.name for p in rows} ^ set(tensors) or {p.name for p in rows if tuple(tensors[p.name].shape) != p.shape}
    if wrong:
        raise ValueError(f"{len(wrong)} tensors missing, unknown or misshapen for this configuration, among them {sorted(wrong)[:3]}")
    return write_weights(folder, config, _InMemory(rows, tensors), quantize or _DTYPE_NAMES[dtype], max_shard_bytes, progress)


def write_weights(folder: Path, config: ModelConfig, source: Source, precision: str, max_shard_bytes: int = SHARD_BYTES,
                  progress: Progress | None = None) -> Written:
    """Write shards, index and config.json into an empty folder, from any source.

    Raises:
        UserError: unknown precision, nothing to quantise, no room on the disk, or numbers that the format can't hold.
        OSError: writing failed.
    """
    if max_shard_bytes < 1:
        raise UserError("max_shard_bytes", max_shard_bytes, "at least 1")
    written = Written()
    items = _plan(config, precision, written)
    shards = _shards(items, max_shard_bytes)
    written.bytes, written.shards = sum(item.bytes for item in items), len(shards)
    free = shutil.disk_usage(folder).free
    if free < written.bytes:
        raise UserError(str(folder.parent), f"{free / 1e9:.1f} GB free", f"the checkpoint takes {written.bytes / 1e9:.1f} GB",
                        "free disk space or choose another place")
    weight_map, done = {}, 0

    def pieces(shard: list[_Item]) -> Iterator[Tensor]:
        nonlocal done
        for item in shard:
            yield from _encoded(item, source, written)
            done += item.bytes
            if progress is not None:
                progress(done, written.bytes)

    for i, shard in enumerate(shards):
        name = SINGLE if len(shards) == 1 else f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        specs = [spec for item in shard for spec in item.specs()]
        write_tensor_file(folder / name, specs, pieces(shard))
        weight_map.update({tensor: name for tensor, _, _ in specs})
    if len(shards) > 1:
        write_file(folder / INDEX, _json({"metadata": {"total_size": written.bytes}, "weight_map": dict(sorted(weight_map.items()))}))
    plain = {"fp32": "float32", "fp16": "float16"}.get(precision, "bfloat16")
    write_file(folder / "config.json", _json(config_to_dict(_described(config, items), plain)))
    return written


def write_file(path: Path, content: bytes | Path) -> None:
    """A small file, from bytes or as a copy, flushed to the disk."""
    with open(path, "wb") as out:
        if isinstance(content, Path):
            with open(content, "rb") as original:
                shutil.copyfileobj(original, out)
        else:
            out.write(content)
        out.flush()
        os.fsync(out.fileno())


class _InMemory:
    """A model's tensors as a source: published tensors are slices of them."""

    def __init__(self, rows: list[Param], tensors: Mapping[str, Tensor]) -> None:
        self._slices = {name: (tensors[p.name], i if p.experts else None) for p in rows for i, name in enumerate(p.tensor_names())}

    def stored(self, tensor_name: str) -> Stored:
        tensor, expert = self._slices[tensor_name]
        return Stored(tensor_name, tensor.detach() if expert is None else tensor.detach()[expert])

    def release(self, tensor_name: str) -> None:
        """Nothing to do: the model keeps its tensors."""


def _plan(config: ModelConfig, precision: str, written: Written) -> list[_Item]:
    """Every tensor with its format, in the order of the table; what can't be quantised is noted in `written`."""
    if precision not in PRECISIONS:
        raise UserError("precision", precision, f"one of {', '.join(PRECISIONS)}")
    items, quantised = [], 0
    for param in parameters(config):
        shape = param.shape[1:] if param.experts else param.shape
        format = _format(param, shape, precision)
        if param.storage in ("fp8", "expert"):
            quantised += format in ("fp8", "fp4")
            if precision in ("fp8", "fp4-experts") and format not in ("fp8", "fp4"):
                written.plain += param.tensor_names()
        items += [_Item(name, format, shape) for name in param.tensor_names()]
    if precision in ("fp8", "fp4-experts") and not quantised:
        raise UserError("precision", precision, f"no matrix of this model has sides that are multiples of {FP8_BLOCK}",
                        "keep bf16, or train a model with wider layers")
    return items


def _format(param: Param, shape: tuple[int, ...], precision: str) -> Format:
    if param.storage in ("int64", "fp32"):
        return param.storage
    if precision == "fp4-experts" and param.storage == "expert" and shape[1] % FP4_GROUP == 0:
        return "fp4"
    if precision in ("fp8", "fp4-experts"):
        return "fp8" if param.storage in ("fp8", "expert") and not any(n % FP8_BLOCK for n in shape) else "bf16"
    return precision  # type: ignore[return-value]


def _shards(items: list[_Item], max_bytes: int) -> list[list[_Item]]:
    """Items in order, cut into files; within a file the widest dtype comes first, so that every tensor is aligned."""
    shards: list[list[_Item]] = []
    size = 0
    for item in items:
        if not shards or size + item.bytes > max_bytes:
            shards.append([])
            size = 0
        shards[-1].append(item)
        size += item.bytes
    return [sorted(shard, key=lambda item: -DTYPES[item.format].itemsize) for shard in shards]


def _encoded(item: _Item, source: Source, written: Written) -> Iterator[Tensor]:
    """A tensor's contents in its format, in pieces, then its scales."""
    scales, all_same = [], True
    for _, _, piece in source.stored(item.name).pieces():
        out, same = transcode(piece, item.format)
        all_same &= same
        yield out.weight
        if out.scale is not None:
            scales.append(out.scale)
    if not all_same:
        written.rounded.append(item.name)
    source.release(item.name)
    yield from scales


def _described(config: ModelConfig, items: list[_Item]) -> ModelConfig:
    """The configuration with the formats that the files really have."""
    formats = {"experts" if ".experts." in item.name else "dense": item.format for item in items if item.format in ("fp8", "fp4")}
    return dataclasses.replace(config, quantized=bool(formats), expert_dtype=formats.get("experts"))


def _json(content: dict) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
