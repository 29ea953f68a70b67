"""Whether the tensors of some files are the tensors of a model; everything that is wrong, in one line.

A checkpoint of another configuration usually differs in hundreds of names. One message with the kinds, the counts and the first
few names says more than the first difference, and more than all of them.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from ..config import Param
from ..errors import UserError
from .locate import Place, scale_name
from .stored import shape_in


class Mismatch:
    """What separates two sets of tensors."""

    def __init__(self, here: str, there: str) -> None:
        self.here, self.there = here, there  # in words: who expects tensors, and who brings them
        self.missing: list[str] = []
        self.unexpected: list[str] = []
        self.misshapen: list[str] = []

    def raise_if_any(self, field: str, what: str, remedy: str) -> None:
        """Raise UserError, in one line, if anything was found."""
        parts = []
        if self.missing:
            parts.append(f"{self.there} lack {count(len(self.missing), 'tensor')}: {first(self.missing)}")
        if self.unexpected:
            parts.append(f"{count(len(self.unexpected), 'tensor')} unknown to {self.here}: {first(self.unexpected)}")
        if self.misshapen:
            parts.append(f"{count(len(self.misshapen), 'tensor')} of another shape: {first(self.misshapen, 1)}")
        if parts:
            raise UserError(field, None, f"{what} ({'; '.join(parts)})", remedy)


def compare(places: Mapping[str, Place], params: Iterable[Param], wrong: Mismatch) -> None:
    """Add to `wrong` what separates the files from the table of parameters."""
    used: set[str] = set()
    for param in params:
        shape = param.shape[1:] if param.experts else param.shape
        for name in param.tensor_names():
            place, scale = places.get(name), places.get(scale_name(name))
            if place is None:
                wrong.missing.append(name)
                continue
            used |= {name} if scale is None else {name, scale_name(name)}
            if not _fits(place, scale, shape, integer=param.storage == "int64"):
                found = f"{dims(place.shape)} {str(place.dtype).removeprefix('torch.')}"
                wrong.misshapen.append(f"{name} is {found}{f' with scales {dims(scale.shape)}' if scale else ''} instead of {dims(shape)}")
    wrong.unexpected += [place.name for name, place in places.items() if name not in used]


def _fits(place: Place, scale: Place | None, shape: tuple[int, ...], integer: bool) -> bool:
    """Whether dtypes and shapes are those of a plain, an FP8 or an FP4 tensor of this shape."""
    if scale is None:
        floating = place.dtype.is_floating_point
        return place.shape == shape and (not floating if integer else floating and place.dtype.itemsize > 1)
    if len(shape) != 2 or integer:
        return False
    if place.dtype == torch.float8_e4m3fn:
        return (place.shape, scale.shape) == shape_in("fp8", shape)
    return place.dtype in (torch.int8, torch.uint8) and (place.shape, scale.shape) == shape_in("fp4", shape)


def first(names: list[str], shown: int = 3) -> str:
    """The first few of a list, and how many more there are."""
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")


def count(n: int, noun: str, plural: str = "") -> str:
    """A number with its noun: "1 tensor", "7 tensors"."""
    return f"{n} {noun if n == 1 else plural or noun + 's'}"


def dims(shape: tuple[int, ...]) -> str:
    """"64×128"."""
    return "×".join(str(n) for n in shape)
