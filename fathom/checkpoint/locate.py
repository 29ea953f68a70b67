"""Where each published tensor lies in a folder of safetensors files, whatever the files call it.

One file or an index with shards; a tensor by itself or one expert's rows of a stacked one. Only headers are read here.
"""
from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError
from .names import is_duplicate, published_name, stacked_experts
from .tensorfile import TensorFile

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


@dataclass(frozen=True)
class Place:
    """A published tensor: a tensor of a file, or rows [start, stop) of one expert of a stacked [E, rows, in] one."""

    file: TensorFile
    name: str
    expert: int | None = None
    start: int = 0
    stop: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape as stored."""
        shape = self.file.entries[self.name].shape
        return shape if self.expert is None else (self.stop - self.start, *shape[2:])

    @property
    def dtype(self) -> torch.dtype:
        """Its stored dtype."""
        return self.file.entries[self.name].dtype

    def view(self) -> Tensor:
        """It, as a read-only view of the file."""
        tensor = self.file.tensor(self.name)
        return tensor if self.expert is None else tensor[self.expert, self.start : self.stop]


def scale_name(tensor_name: str) -> str:
    """Published name of a quantised matrix's scales."""
    return tensor_name.removesuffix(".weight") + ".scale"


def open_files(folder: Path) -> list[TensorFile]:
    """The weight files: those of the index; else model.safetensors; else every safetensors file.

    Raises:
        UserError: none there, shards missing, an index that doesn't fit its shards, or a damaged file.
    """
    if (folder / INDEX).exists():
        return _indexed(folder)
    paths = [folder / SINGLE] if (folder / SINGLE).is_file() else sorted(folder.glob("*.safetensors"))
    if not paths:
        raise UserError(str(folder), None, "no *.safetensors in it", "give a checkpoint folder: config.json and *.safetensors")
    return [TensorFile(path) for path in paths]


def _indexed(folder: Path) -> list[TensorFile]:
    try:
        weight_map = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        shards = sorted({str(shard) for shard in weight_map.values()})
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(str(folder / INDEX), None, "not a readable index (no weight_map)", "copy it again from its source") from None
    absent = [shard for shard in shards if not (folder / shard).is_file()]
    if absent:
        raise UserError(str(folder), None, f"{len(absent)} of {len(shards)} shards are missing, the first is {absent[0]}",
                        "copy them from the checkpoint's source")
    files = [TensorFile(folder / shard) for shard in shards]
    entries = {file.path.name: file.entries for file in files}
    lost = [tensor for tensor, shard in weight_map.items() if tensor not in entries[shard]]
    if lost:
        raise UserError(str(folder / INDEX), None, f"{len(lost)} tensors are not in the shard it names, the first is {lost[0]}",
                        "copy index and shards from one source")
    return files


def locate(files: Iterable[TensorFile]) -> tuple[dict[str, Place], list[str]]:
    """Published tensor name → place, and the tensors that came twice (in two files, or in two spellings).

    Tensors that repeat the main model's under the MTP block's name are passed over.
    """
    places: dict[str, Place] = {}
    twice: list[str] = []
    for file in files:
        for name in file.entries:
            if is_duplicate(name):
                continue
            for published, place in _unstacked(file, name):
                if published in places:
                    twice.append(f"{name} (which {places[published].file.path.name} has as {places[published].name})")
                places[published] = place
    return places, twice


def _unstacked(file: TensorFile, name: str) -> list[tuple[str, Place]]:
    """The published tensors that a file's tensor holds: one, or every expert's matrices."""
    stack, shape = stacked_experts(name), file.entries[name].shape
    if stack is None or len(shape) != 3:
        return [(published_name(name), Place(file, name))]
    prefix, matrices = stack
    height = shape[1] // len(matrices)
    return [(f"{prefix}{expert}.{matrix}.weight", Place(file, name, expert, i * height, (i + 1) * height))
            for expert in range(shape[0]) for i, matrix in enumerate(matrices)]
