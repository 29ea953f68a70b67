"""Open a checkpoint and pour it into tensors that already exist.

Opening reads the configuration and every file's header, translates the names, and checks the whole against the table of
parameters: what is missing, unexpected or of another shape is known before the first byte of a weight is touched. Loading then
goes through the files in the order of their bytes, a piece at a time: map, decode, copy into place, hand the pages back. So a
model exists once, in its final type, plus some megabytes.

The reader is a stranger to the model: it knows names and shapes (`fathom.config.parameters`), not modules.
Source: SPEC section 4.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from .. import quant
from ..config import ModelConfig, Param, parameters, read_config
from ..errors import UserError
from .compare import Mismatch, compare, dims
from .locate import Place, locate, open_files, scale_name
from .replace import readable
from .stored import Stored, transcode

Progress = Callable[[int, int], None]  # bytes done, bytes in all


class Checkpoint:
    """An open checkpoint folder; made by `open_checkpoint`.

    Attributes:
        folder: where it is.
        config: the model that the files hold: config.json's, without the MTP block if the files have none.
        notices: what a user should know, a sentence each; mostly empty.
    """

    def __init__(self, folder: Path, config: ModelConfig, places: Mapping[str, Place], notices: tuple[str, ...]) -> None:
        self.folder, self.config, self.notices = folder, config, notices
        self.params = {p.name: p for p in parameters(config)}
        self._places = places

    def formats(self, *, official: bool = False) -> dict[str, str]:
        """"fp8" or "fp4" for every parameter that can be held so: as it is stored, without loss; or, for precision `official`, as the
        published layout stores it, whatever is here. To be given to the model and to `load_into`."""
        found: dict[str, str] = {}
        for param in self.params.values():
            if param.storage not in ("fp8", "expert"):
                continue
            stored = [self.stored(name) for name in param.tensor_names()]
            kinds = {s.quantised if s.scale is not None and quant.is_power_of_two(s.scale) else None for s in stored}
            kind = kinds.pop() if len(kinds) == 1 else None
            if official and kind is None:
                kind = "fp8" if param.storage == "fp8" or self.config.expert_dtype == "fp8" or param.shape[-1] % 2 else "fp4"
            if kind is not None:
                found[param.name] = kind
        return found

    def load_into(self, targets: Mapping[str, Any], progress: Progress | None = None, *, formats: Mapping[str, str] | None = None) -> None:
        """Fill every parameter of a model.

        Args:
            targets: tensor of each parameter by its name in the table (`Param.name`, routed experts stacked), of any dtype and on
                any device; quantised weights are decoded, all are cast. Nothing else is allocated but pieces of some megabytes.
            formats: parameters whose numbers are those of FP8 or FP4, rounded to it if they aren't yet; see `formats()`.
            progress: called with (bytes done, bytes in all), counted in the targets, after each parameter.

        Raises:
            UserError: the targets are another model's (missing, unexpected, misshapen names: the first few and the count), a
                routing table is broken, or a number doesn't fit into fp16.
        """
        wrong = Mismatch("the checkpoint", "the model's parameters")
        wrong.missing += [name for name in self.params if name not in targets]
        wrong.unexpected += [name for name in targets if name not in self.params]
        wrong.misshapen += [f"{name} is {dims(p.shape)} in the checkpoint, {dims(tuple(targets[name].shape))} in the model"
                            for name, p in self.params.items() if name in targets and tuple(targets[name].shape) != p.shape]
        wrong.raise_if_any(str(self.folder), "is a checkpoint of another configuration",
                           "build the model from the config.json in that folder, or give a checkpoint of this one")
        sizes = {name: t.numel() * t.element_size() for name, t in targets.items()}
        done = 0
        for param in sorted(self.params.values(), key=self._position):
            self._fill(param, targets[param.name].detach(), (formats or {}).get(param.name))
            done += sizes[param.name]
            if progress is not None:
                progress(done, sum(sizes.values()))

    def tensor(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        """One parameter (`Param.name`, its experts stacked) as a new tensor in `dtype`.

        Without a dtype it has the stored one; quantised weights then come in bf16, which holds them exactly.
        """
        param = self.params[name]
        if dtype is None:
            stored = self.stored(param.tensor_names()[0])
            dtype = stored.weight.dtype if stored.quantised is None else torch.bfloat16
        out = torch.empty(param.shape, dtype=dtype)
        self._fill(param, out)
        return out

    def stored(self, tensor_name: str) -> Stored:
        """A published tensor (one of `Param.tensor_names()`) as the file holds it: a read-only view, with its scales."""
        scale = self._places.get(scale_name(tensor_name))
        return Stored(tensor_name, self._places[tensor_name].view(), None if scale is None else scale.view())

    def release(self, tensor_name: str) -> None:
        """Hand the file pages of a published tensor back to the system; it can still be read again."""
        for name in (tensor_name, scale_name(tensor_name)):
            if name in self._places:
                self._places[name].file.release(self._places[name].name)

    def check_routing(self, param: Param, table: Tensor) -> None:
        """A token's experts must exist and be distinct: one that is chosen twice would count twice.

        Args:
            table: tid2eid, [vocab, top_k].

        Raises:
            UserError: naming the table and the first token that breaks the rule.
        """
        experts = table.sort(dim=-1).values
        bad = (experts[:, 1:] == experts[:, :-1]).any(-1) | (experts[:, 0] < 0) | (experts[:, -1] >= self.config.n_routed_experts)
        if bool(bad.any()):
            token = int(bad.nonzero()[0, 0])
            raise UserError(f"{self.folder}: {param.name}", f"{table[token].tolist()} for token {token}",
                            f"a token's experts are distinct and from 0 to {self.config.n_routed_experts - 1}",
                            "put the real routing table into the checkpoint (a freshly built transformers model has zeros)")

    def _fill(self, param: Param, target: Any, format: str | None = None) -> None:
        names = param.tensor_names()
        if hasattr(target, "attach"):  # experts that are read when they are needed
            target.attach(lambda expert, part: self._pour(names[expert], part, format))
            return
        for i, name in enumerate(names):
            self._pour(name, target[i] if param.experts else target, format)
        if param.storage == "int64":
            self.check_routing(param, target)

    def _pour(self, name: str, part: Any, format: str | None) -> None:
        """A published tensor into `part`; packed weights that hold its format take it as it is."""
        raw = getattr(part, "format", None)
        for start, stop, piece in self.stored(name).pieces():
            if format is not None:
                piece = transcode(piece, cast(Any, format))[0]
            if raw is not None and raw == piece.quantised:
                part[start:stop].take(piece.weight, piece.scale)
            else:
                part[start:stop].copy_(piece.values(part.dtype))
            self.release(name)  # after each piece: a whole embedding of file pages would count as memory of ours

    def _position(self, param: Param) -> tuple[str, int]:
        place = self._places[param.tensor_names()[0]]
        return str(place.file.path), place.file.entries[place.name].start


def open_checkpoint(folder: str | Path) -> Checkpoint:
    """Open a checkpoint: one safetensors file or an index with shards, in the published or either of transformers' spellings.

    If config.json counts an MTP block and the files have none (transformers drops it), the checkpoint's config goes without, and a
    notice says so; likewise for an MTP block that config.json doesn't count.

    Raises:
        UserError: nothing there, a damaged or missing shard, or tensors that don't make up the model of config.json.
    """
    folder, interrupted = readable(Path(folder))
    if not folder.is_dir():
        raise UserError(str(folder), None, "no such folder", "give a checkpoint folder: config.json and *.safetensors")
    config = read_config(folder)
    places, twice = locate(open_files(folder))
    notices = [interrupted] if interrupted else []
    has_mtp = any(name.startswith("mtp.") for name in places)
    if config.num_nextn_predict_layers and not has_mtp:
        config = config.without_mtp()
        notices.append("config.json counts an MTP block, but the files have none: the model goes without it and without speculation")
    elif has_mtp and not config.num_nextn_predict_layers:
        places = {name: place for name, place in places.items() if not name.startswith("mtp.")}
        notices.append("the files have an MTP block, but config.json doesn't count it (num_nextn_predict_layers = 0): passed over")
    wrong = Mismatch("config.json", "the files")
    wrong.unexpected += twice
    compare(places, parameters(config), wrong)
    wrong.raise_if_any(str(folder), "doesn't hold the model of its config.json", "copy config.json and all shards from one source")
    return Checkpoint(folder, config, places, tuple(notices))
