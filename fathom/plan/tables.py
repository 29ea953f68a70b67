"""The plan as tables in a terminal. They only lay out what `summary.py` computed; no number is made here."""
from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .units import bytes_text, count_text, flops_text

_PART_NAMES = {
    "embedding": "embedding", "head": "output head", "attention": "attention", "indexer": "indexer", "compressors": "compressors",
    "experts": "routed experts", "shared": "shared experts", "router": "router", "mhc": "mHC (streams)", "norms": "norms",
    "mtp": "MTP block", "tables": "hash routing tables",
}
_COMPARABLE_FROM = 10e9  # below this many parameters a comparison with V3.2 says nothing


def summary_tables(data: dict[str, Any]) -> RenderableType:
    """Tables of `summary(...)`: parts, weights, state and FLOPs."""
    title = Text(f"{data['model']} at a context of {data['context']:,} tokens, {data['precision']}", style="bold")
    return Group(title, Text(), _parts(data), Text(), _weights(data), Text(), _state(data), Text(), _flops(data))


def grid(title: str, *columns: str) -> Table:
    """An empty table in the plan's style: the first column names, the others are numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=bool(i))
    return table


def _parts(data: dict[str, Any]) -> RenderableType:
    p, stored = data["parameters"], data["weights"][data["precision"]]
    table = grid("Parameters", "part", "all", "active", "bytes")
    for part, name in _PART_NAMES.items():
        size = stored["by_part"][part]
        if size:
            table.add_row(name, count_text(p["by_part"].get(part, 0)), count_text(p["active_by_part"].get(part, 0)), bytes_text(size))
    table.add_row("total", count_text(p["total"]), count_text(p["active"]), bytes_text(stored["total"]), style="bold")
    if p["without_mtp"] != p["total"]:
        table.add_row("without MTP", count_text(p["without_mtp"]), count_text(p["active"]), bytes_text(stored["without_mtp"]))
    return Group(table, Text(f"active: {p['active_counting']}", style="dim"))


def _weights(data: dict[str, Any]) -> RenderableType:
    table = grid("Weights, with scales and routing tables", "precision", "all", "without MTP", "experts", "everything else")
    for precision, size in data["weights"].items():
        experts = size["by_part"]["experts"]
        table.add_row(precision, bytes_text(size["total"]), bytes_text(size["without_mtp"]), bytes_text(experts),
                      bytes_text(size["without_mtp"] - experts))
    return table


def _state(data: dict[str, Any]) -> RenderableType:
    s, v = data["state"], data["v32"]
    versus = _comparable(data)
    table = grid(f"State of one sequence, {s['precision']}", "", "this model", *(("DeepSeek-V3.2", "ratio") if versus else ()))
    for name, ours, theirs in (("cache per token", s["bytes_per_token"], v["bytes_per_token"]),
                               (f"cache at {data['context']:,}", s["cache"], v["cache"])):
        shown = [bytes_text(n) if n >= 1e5 else f"{n:,.0f} B" for n in (ours, theirs)]
        table.add_row(name, shown[0], *((shown[1], f"{ours / theirs:.1%}") if versus else ()))
    table.add_row("windows, fixed", bytes_text(s["window"]))
    table.add_row("un-compressed tails, fixed", bytes_text(s["tail"]))
    table.add_row("sequence in all", bytes_text(s["total"]), style="bold")
    return table


def _flops(data: dict[str, Any]) -> RenderableType:
    f = data["flops"]
    token, prompt = f["token"], f["prompt"]
    table = grid("Arithmetic", "", "last token", "whole prompt", "computed in")
    for key, kind, name in (("linear", "linear", "matrices but experts"), ("experts", "experts", "routed experts"),
                            ("core_attention", "core", "core attention"), ("index_scores", "index", "index scores")):
        table.add_row(name, flops_text(token[key]), flops_text(prompt[key]), token["formats"][kind])
    table.add_row("total", flops_text(token["total"]), flops_text(prompt["total"]), style="bold")
    table.add_row("in FP8 equivalents", flops_text(token["fp8_equivalents"]), flops_text(prompt["fp8_equivalents"]))
    note = f"Training takes about {flops_text(f['training_per_token'])} a token (6 × active)."
    if _comparable(data):
        note = (f"A token at this context takes {f['of_v32']:.1%} of DeepSeek-V3.2's FP8-equivalent FLOPs, both in official formats, their "
                f"active parameters in whole billions. {note}")
    return Group(table, Text(note, style="dim"))


def _comparable(data: dict[str, Any]) -> bool:
    return bool(data["parameters"]["total"] >= _COMPARABLE_FROM)
