"""Chips as data: what a device holds, moves and computes, what it costs, and where each figure comes from.

`chips.toml` beside this file is the shipped table; the operator's files lie on top of it, figure by figure. A datasheet's peak is
not what a program sees, so each chip also has efficiencies; they are estimates unless `fathom plan --calibrate` measured them, and
every prediction is only as good as they are. A figure without a source is refused in the shipped table; in the operator's file the
file itself is the source.
"""
from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from ..errors import UserError

FORMATS = ("fp32", "bf16", "fp16", "fp8", "fp4")
FIGURES = ("memory", "bandwidth", "domain", "scale_up", "scale_out", "host", "price")
EFFICIENCIES = ("compute", "memory", "links", "usable", "traffic", "layer_overhead", "hop")
_SHARES = EFFICIENCIES[:4]
_WIDER = {"fp4": ("fp4", "fp8", "bf16", "fp16", "fp32"), "fp8": ("fp8", "bf16", "fp16", "fp32"), "bf16": ("bf16", "fp32"),
          "fp16": ("fp16", "fp32"), "fp32": ("fp32",)}


@dataclass(frozen=True)
class Efficiency:
    """What a program reaches of the datasheet.

    Attributes:
        compute, memory, links: reachable share of FLOP/s, memory bandwidth and link bandwidth, each in (0, 1].
        usable: share of the memory that tensors may take.
        traffic: how many times the activation bytes of fused kernels pass through memory.
        layer_overhead: seconds that a layer takes besides arithmetic and transfers, in every step.
        hop: seconds that a collective takes at least.
    """

    compute: float
    memory: float
    links: float
    usable: float
    traffic: float
    layer_overhead: float
    hop: float


@dataclass(frozen=True)
class Chip:
    """One kind of device; units as in chips.toml (bytes, bytes/s a direction, dense FLOP/s, US$ an hour).

    `sources` says for each figure where it comes from, `estimates` which of them are guesses.
    """

    id: str
    name: str
    memory: float
    bandwidth: float
    flops: Mapping[str, float]
    domain: int
    scale_up: float
    scale_out: float
    host: float
    price: float
    efficiency: Efficiency
    sources: Mapping[str, str] = field(default_factory=dict)
    estimates: frozenset[str] = frozenset()

    def rate(self, fmt: str) -> float:
        """Reachable FLOP/s in a format; a format that the chip lacks is computed in the next wider one."""
        return self.flops[self.computes_in(fmt)] * self.efficiency.compute

    def computes_in(self, fmt: str) -> str:
        """The format that the chip computes `fmt` in."""
        return next(f for f in _WIDER[fmt] if f in self.flops)

    def data(self) -> dict[str, Any]:
        """JSON-ready: every figure, the rate of each format resolved, sources and estimates."""
        return {"id": self.id, "name": self.name, **{f: getattr(self, f) for f in FIGURES}, "flops": dict(self.flops),
                "rates": {f: self.rate(f) for f in FORMATS}, "efficiency": asdict(self.efficiency), "sources": dict(self.sources),
                "estimates": sorted(self.estimates)}


def load_chips(paths: Iterable[str | Path] = ()) -> dict[str, Chip]:
    """The shipped chips with the operator's files on top, by id.

    Raises:
        UserError: a missing or malformed file, an unknown key, an impossible figure, a new chip that lacks one.
    """
    shipped = resources.files("fathom.plan").joinpath("chips.toml").read_text(encoding="utf-8")
    tables = _tables(shipped, "chips.toml", default_source=None)
    for path in paths:
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError("chips", path, f"cannot be read: {error}", "give a TOML file with one table a chip") from None
        for chip_id, table in _tables(text, str(path), default_source=str(path)).items():
            tables[chip_id] = {**tables.get(chip_id, {}), **table}
    return {chip_id: _chip(chip_id, table) for chip_id, table in tables.items()}


def find_chip(chips: Mapping[str, Chip], chip_id: str) -> Chip:
    """The chip of that id; raises UserError with the nearest one otherwise."""
    if chip_id not in chips:
        near = difflib.get_close_matches(chip_id, chips, 1, 0.4)
        remedy = f"did you mean {near[0]}?" if near else "or add it in a file of your own"
        raise UserError("chip", chip_id, f"one of {', '.join(chips)}", remedy)
    return chips[chip_id]


def with_price(chip: Chip, price: float, source: str) -> Chip:
    """The chip at another price an hour. Raises UserError on an impossible one."""
    if not _is_number(price) or price < 0:
        raise UserError("price", price, "US$ an hour and device, 0 or more")
    return replace(chip, price=price, sources={**chip.sources, "price": source}, estimates=chip.estimates - {"price"})


def chip_toml(chip: Chip) -> str:
    """A chip as a file that `load_chips` takes; used to keep what a calibration measured."""
    def quote(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    def figure(key: str, value: float) -> str:
        kind = "estimate" if key in chip.estimates else "source"
        return f"{key} = {{ value = {value!r}, {kind} = {quote(chip.sources[key])} }}"

    lines = [f"[{chip.id}]", f"name = {quote(chip.name)}", *(figure(f, getattr(chip, f)) for f in FIGURES),
             *(figure(f"flops.{fmt}", value) for fmt, value in chip.flops.items())]
    kind = "estimate" if "efficiency" in chip.estimates else "source"
    shares = ", ".join(f"{name} = {value!r}" for name, value in asdict(chip.efficiency).items())
    lines.append(f"efficiency = {{ {shares}, {kind} = {quote(chip.sources['efficiency'])} }}")
    return "\n".join(lines) + "\n"


def _tables(text: str, name: str, default_source: str | None) -> dict[str, dict[str, Any]]:
    """{chip: {"name": …, "memory": (value, source, is_estimate), "flops.bf16": …, "efficiency": ({…}, source, is_estimate)}}."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError("chips", name, f"is not TOML: {error}") from None
    out: dict[str, dict[str, Any]] = {}
    for chip_id, table in raw.items():
        where = f"{name}, {chip_id}"
        if not isinstance(table, dict):
            raise UserError(where, table, "one table a chip", f"write it under [{chip_id}]")
        flat = {k: v for k, v in table.items() if k != "flops"} | {f"flops.{k}": v for k, v in table.get("flops", {}).items()}
        out[chip_id] = {}
        for key, value in flat.items():
            known = ("name", *FIGURES, *(f"flops.{f}" for f in FORMATS), "efficiency")
            if key not in known:
                near = difflib.get_close_matches(key, known, 1)
                remedy = f"did you mean {near[0]}?" if near else ""
                raise UserError(f"{where}: {key}", None, f"unknown key, known: {', '.join(known)}", remedy)
            out[chip_id][key] = value if key == "name" else _figure(key, value, where, default_source)
    return out


def _figure(key: str, value: Any, where: str, default_source: str | None) -> tuple[Any, str, bool]:
    if not isinstance(value, dict):
        value = {"value": value}
    marks = {k: value[k] for k in ("source", "estimate") if k in value}
    if len(marks) != 1 and (marks or default_source is None):
        raise UserError(f"{where}: {key}", value, "exactly one of source and estimate", "say where the figure comes from")
    origin = str(next(iter(marks.values()), default_source))
    rest = {k: v for k, v in value.items() if k not in ("source", "estimate")}
    if key == "efficiency":
        if set(rest) != set(EFFICIENCIES):
            raise UserError(f"{where}: efficiency", sorted(rest), f"exactly {', '.join(EFFICIENCIES)}")
        for name, number in rest.items():
            if not _is_number(number) or number < 0 or (name in _SHARES and not 0 < number <= 1):
                allowed = "a share above 0, at most 1" if name in _SHARES else "a number, 0 or more"
                raise UserError(f"{where}: efficiency.{name}", number, allowed)
        return rest, origin, "estimate" in marks
    number = rest.get("value")
    if set(rest) != {"value"} or not _is_number(number) or number < 0 or (number == 0 and key != "price"):
        raise UserError(f"{where}: {key}", value, "{ value = a number above 0, source or estimate = text }")
    return number, origin, "estimate" in marks


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value and abs(value) != float("inf")


def _chip(chip_id: str, table: Mapping[str, Any]) -> Chip:
    missing = [key for key in ("name", *FIGURES, "efficiency") if key not in table]
    if missing or "flops.fp32" not in table:
        raise UserError(f"chip {chip_id}", None, f"lacks {', '.join(missing or ['flops.fp32'])}", "give every figure of a new chip")
    figures = {key: value[0] for key, value in table.items() if key in FIGURES}
    if figures["domain"] != int(figures["domain"]):
        raise UserError(f"chip {chip_id}: domain", figures["domain"], "a whole number of devices")
    figures["domain"] = int(figures["domain"])
    marked = {key: value for key, value in table.items() if key != "name"}
    return Chip(chip_id, str(table["name"]), flops={f: table[f"flops.{f}"][0] for f in FORMATS if f"flops.{f}" in table},
                efficiency=Efficiency(**table["efficiency"][0]), sources={key: value[1] for key, value in marked.items()},
                estimates=frozenset(key for key, value in marked.items() if value[2]), **figures)
