"""The experts of a layer, packed: all of them, or as many as memory allows.

A layer's routed and shared experts form a `Bank`; w1 and w3 share its first matrix, their panels alternating, so that one pass makes
gate and up of the same values. Kernels find each expert by its address. In a `LargerBank` only some routed experts are in memory: the
ones that were used last. Others are read from the checkpoint's memory-mapped files when a token is routed to them, and take the place of
those that were unused for longest. Results are the same bits, later.
"""
from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ...quant import STREAM_PARTS
from .packed import CODES, Grouped, Packed, Split, empty

Read = Callable[[int, Packed], None]  # fills a matrix with that of an expert


class Bank:
    """All experts of one layer: E routed in one format, then the shared one in its own.

    Attributes:
        pointers: [E + 1, 4] int64 addresses: gate_up (panels of w1 and w3 in turn), its scales (0 without), down, its scales.
        codes: formats of routed and shared experts.
    """

    def __init__(self, experts: int, width: int, hidden: int, routed: str | None, shared: str | None, places: int | None = None) -> None:
        """places: routed experts that there is room for; all unless given."""
        self.experts, self.width, self.hidden, self.kinds = experts, width, hidden, (routed, shared)
        self.codes = CODES[routed], CODES[shared]
        places = experts if places is None else places
        self._routed = _pair(places, width, hidden, routed, 2), _pair(places, hidden, width, routed, 1)
        self._shared = _pair(1, width, hidden, shared, 2), _pair(1, hidden, width, shared, 1)
        self.pointers = torch.zeros(experts + 1, 4, dtype=torch.int64)
        self.pointers[experts] = torch.tensor(_addresses(self._shared, 0))
        for expert in range(places if places == experts else 0):
            self.pointers[expert] = torch.tensor(_addresses(self._routed, expert))

    @property
    def nbytes(self) -> int:
        """Allocated bytes of all experts."""
        return sum(t.nbytes for parts in (self._routed, self._shared) for pair in parts for t in pair if t is not None)

    def turns(self, chosen: Tensor) -> Iterable[Tensor | None]:
        """Which experts (uint8 [E + 1]; None: all) can be computed for these choices, one group after the other: here all at once."""
        return (None,)

    def matrix(self, which: str, place: int) -> Packed:
        """w1, w2 or w3 of the routed expert at a place, or of the shared one at place E."""
        parts, i, kind = (self._shared, 0, self.kinds[1]) if place == self.experts else (self._routed, place, self.kinds[0])
        if which == "w2":
            (data, scale), rows, columns = parts[1], self.hidden, self.width
            return Packed(rows, columns, kind, data[i], None if scale is None else scale[i])
        (data, scale), first = parts[0], {"w1": 0, "w3": 1}[which]
        return Packed(self.width, self.hidden, kind, data[i, first::2], None if scale is None else scale[i, first::2])


class LargerBank(Bank):
    """A bank with room for `places` routed experts only.

    Attributes:
        held: place of each expert in memory, the longest unused first.
        hits, misses: routed experts that a batch needed and that were there, or had to be read.
    """

    def __init__(self, experts: int, width: int, hidden: int, routed: str | None, shared: str | None, places: int) -> None:
        super().__init__(experts, width, hidden, routed, shared, places)
        self.hits = self.misses = 0
        self._read: dict[str, Read] = {}
        self.held: OrderedDict[int, int] = OrderedDict()
        self._free = list(range(places))

    def attach(self, which: str, read: Read) -> None:
        """Where to read w1, w2 or w3 of an expert from."""
        self._read[which] = read

    def turns(self, chosen: Tensor) -> Iterator[Tensor]:
        """First the experts that are here, with the shared one; then the others, as many at a time as there is room for."""
        needed = chosen.unique().tolist()
        here = [e for e in needed if e in self.held]
        missing = [e for e in needed if e not in self.held]
        self.hits, self.misses = self.hits + len(here), self.misses + len(missing)
        for expert in here:
            self.held.move_to_end(expert)
        yield self._active([*here, self.experts])
        room = len(self.held) + len(self._free)
        for a in range(0, len(missing), room):
            for expert in missing[a : a + room]:
                self._fetch(expert)
            yield self._active(missing[a : a + room])

    def _fetch(self, expert: int) -> None:
        if self._free:
            place = self._free.pop()
        else:
            gone, place = self.held.popitem(last=False)
            self.pointers[gone] = 0
        for which in ("w1", "w2", "w3"):
            self._read[which](expert, self.matrix(which, place))
        self.held[expert] = place
        self.pointers[expert] = torch.tensor(_addresses(self._routed, place))

    def _active(self, experts: list[int]) -> Tensor:
        active = torch.zeros(self.experts + 1, dtype=torch.uint8)
        active[experts] = 1
        return active


class Experts:
    """The routed experts' w1, w2 or w3: experts by number, each written like a matrix."""

    def __init__(self, bank: Bank, which: str) -> None:
        self.bank, self.which = bank, which
        self.shape = (bank.experts, *bank.matrix(which, 0).shape)

    dtype, element_size, detach = Packed.dtype, Packed.element_size, Packed.detach

    def __getitem__(self, expert: int) -> Packed:
        if not 0 <= expert < self.bank.experts:
            raise IndexError(expert)
        return self.bank.matrix(self.which, expert)

    @property
    def nbytes(self) -> int:
        """Allocated bytes."""
        return sum(self[expert].nbytes for expert in range(self.bank.experts))

    def numel(self) -> int:
        """Values of all experts' matrices."""
        return self.shape[0] * self.shape[1] * self.shape[2]

    def copy_(self, values: Tensor) -> None:
        """Packs all experts from [E, rows, columns]."""
        for expert, matrix in enumerate(values):
            self[expert].copy_(matrix)


class DistantExperts(Experts):
    """The routed experts' w1, w2 or w3 of a larger bank: nothing is written, a reader is attached."""

    def __getitem__(self, expert: int) -> Packed:
        raise TypeError("these experts are read when they are needed: attach a reader")

    def attach(self, read: Read) -> None:
        """Where to read an expert's matrix from."""
        assert isinstance(self.bank, LargerBank)
        self.bank.attach(self.which, read)


class Shared(Packed):
    """The shared expert's w1, w2 or w3: the last of its bank."""

    def __init__(self, bank: Bank, which: str) -> None:
        matrix = bank.matrix(which, bank.experts)
        super().__init__(matrix.rows, matrix.columns, matrix.format, matrix.data, matrix.scale)
        self.bank = bank


class Packer:
    """Makes the packed weights of one model, by the roles that the table of parameters gives them.

    Args:
        formats: "fp8" or "fp4" for weights that should be held so, by name. A bank is held so if all of its routed (or shared) matrices
            should be, in the same format.
        resident: routed experts of a layer that are in memory at a time; None for all.
        stream_parts: bf16 parts that a stream mixer is split into.

    Attributes:
        banks: of all layers, by the layer's name.
    """

    def __init__(self, formats: Mapping[str, str], resident: int | None = None, *, stream_parts: int = STREAM_PARTS["bf16"]) -> None:
        self.formats, self.resident, self.stream_parts = formats, resident, stream_parts
        self.banks: dict[str, Bank] = {}

    def place(self, name: str, role: str, shape: tuple[int, ...], groups: int) -> Any:
        """What stands for the parameter `name` in the model.

        Args:
            role: see config.params.Param.  shape: of the plain parameter.  groups: independent blocks of a grouped matrix.
        """
        rows, columns = shape[-2:]
        if role == "matrix":
            return Packed(rows, columns, self.formats.get(name))
        if role == "grouped":
            return Grouped(rows, columns, groups)
        if role == "streams":
            return Split(rows, columns, self.stream_parts)
        layer, which = name.partition(".experts." if role == "expert" else ".shared_experts.")[::2]
        if layer not in self.banks:
            assert role == "expert", "the routed experts come first in the table"
            self.banks[layer] = self._bank(layer, shape[0], *(shape[1:] if which != "w2" else shape[:0:-1]))
        bank = self.banks[layer]
        if role == "shared":
            return Shared(bank, which.removesuffix(".weight"))
        return (DistantExperts if isinstance(bank, LargerBank) else Experts)(bank, which)

    def _bank(self, layer: str, experts: int, width: int, hidden: int) -> Bank:
        kinds = (self._common(f"{layer}.experts.{w}" for w in ("w1", "w2", "w3")),
                 self._common(f"{layer}.shared_experts.{w}.weight" for w in ("w1", "w2", "w3")))
        if self.resident is not None and self.resident < experts:
            return LargerBank(experts, width, hidden, *kinds, self.resident)
        return Bank(experts, width, hidden, *kinds)

    def _common(self, names: Iterable[str]) -> str | None:
        kinds = {self.formats.get(name) for name in names}
        return kinds.pop() if len(kinds) == 1 else None


def _pair(count: int, rows: int, columns: int, format: str | None, times: int) -> tuple[Tensor, Tensor | None]:
    """Room for `count` experts' data and scales, each of `times` matrices."""
    data, scale = empty(rows, columns, format)
    more = lambda t: torch.zeros(count, times * t.shape[0], *t.shape[1:], dtype=t.dtype)
    return more(data), None if scale is None else more(scale)


def _addresses(parts: Any, place: int) -> list[int]:
    return [0 if t is None else t[place].data_ptr() for pair in parts for t in pair]
