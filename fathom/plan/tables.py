"""The plan as tables in a terminal. They only lay out what was computed elsewhere; no number is made here."""
from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .chips import Chip
from .cost import BreakEven
from .search import Option, ServingPlan, best_by_devices
from .serving import KINDS, Layout
from .training import TrainingPlan
from .units import bytes_text, count_text, flops_text, money_text, time_text, tokens_text

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
    table = Table(title=title or None, title_justify="left", title_style="bold italic", box=None, pad_edge=False, collapse_padding=True,
                  header_style="dim")
    for i, column in enumerate(columns):
        words = column in ("layout", "reason", "nearest layout")
        table.add_column(column, justify="right" if i and not words else "left", no_wrap=column == "devices" or bool(i and not words))
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


def serving_tables(plan: ServingPlan, name: str, chips: dict[str, Chip], incomes: list[BreakEven], top: int) -> RenderableType:
    """Tables of a serving plan that has options: layouts, the cheapest one in detail, break-even, and why others fail."""
    load, best = plan.load, plan.options[0]
    title = (f"{name} at {plan.precision}: {load.users} at once, {load.context:,} tokens each, the last {load.answer:,} generated, "
             f"{load.hit:.0%} of the prompt cached")
    parts: list[RenderableType] = [Text(title, style="bold"), Text(), _options(best_by_devices(plan.options)[:top]), Text()]
    parts.append(_detail(best, chips[best.chip]))
    if incomes:
        parts += [Text(), _incomes(incomes)]
    if plan.rejected:
        parts += [Text(), _failures((r.chip, r.layout, r.text) for r in plan.rejected)]
    return Group(*parts, Text(), Text(f"{plan.tried:,} layouts tried. {_honesty(chips[best.chip])}", style="dim"))


def _options(options: list[Option]) -> RenderableType:
    table = grid("Cheapest request first; US$ a million tokens", "devices", "layout", "request", "output", "input", "cached", "tok/s",
                 "1st token", "bound by")
    for o in options:
        p, c = o.prediction, o.costs
        table.add_row(f"{o.layout.devices} × {o.chip}", str(o.layout), *map(money_text, (c.request, c.output, c.input, c.cached)),
                      f"{1 / p.token_time:.3g}", time_text(p.first_token), p.decode.binds)
    return Group(table, Text("tok/s: what one user gets; bound by: what takes most of a decode step", style="dim"))


def _detail(o: Option, chip: Chip) -> RenderableType:
    p = o.prediction
    memory = grid("", "memory a device", "")
    for part, size in p.memory.items():
        memory.add_row(part, bytes_text(size))
    memory.add_row("in all", bytes_text(p.needed), style="bold")
    memory.add_row("may be used", bytes_text(p.room))
    step = grid("", "time of a step", "decode", "prompt chunk")
    for kind in KINDS:
        step.add_row(kind, time_text(getattr(p.decode, kind)), time_text(getattr(p.prefill, kind)))
    step.add_row("in all", time_text(p.decode.total), time_text(p.prefill.total), style="bold")
    step.add_row("tokens/s, all users", f"{p.decode_rate:,.0f}", f"{p.prefill_rate:,.0f}")
    title = _title(f"The cheapest: {o.layout.devices} × {chip.name} ({o.layout}), {money_text(o.costs.hour)} an hour")
    lines: list[RenderableType] = [title, memory, Text(), step]
    if o.layout.ep > 1:
        can = "can" if p.reached_per_byte <= p.hides_up_to else "cannot"
        lines.append(Text(f"Experts' traffic {can} hide behind their work when compute binds. By the rule C/B ≤ 2d the limit is "
                          f"{p.hides_up_to:,.0f} FLOP a byte; C/B is {p.compute_per_byte:,.0f} on paper and {p.reached_per_byte:,.0f} at the "
                          "rates that are reached and with the bytes that do cross.", style="dim"))
    return Group(*lines)


def _incomes(incomes: list[BreakEven]) -> RenderableType:
    table = grid("Against price lists, at this mix of tokens", "price of", "since", "a request brings", "break-even load", "requests a day")
    for b in incomes:
        load = f"{b.load:.1%}" if b.load <= 1 else "never"
        table.add_row(b.model, b.since, money_text(b.income), load, f"{b.requests_per_day:,.0f}" if b.load <= 1 else "")
    return table


def training_tables(plan: TrainingPlan, name: str, chips: dict[str, Chip], top: int) -> RenderableType:
    """Tables of a training plan that has options."""
    run, best = plan.run, plan.options[0]
    title = (f"Training {name} on {tokens_text(run.tokens)} tokens, {tokens_text(run.batch)} a step, sequences of {run.length:,}, "
             f"{plan.precision}: {plan.flops:.3g} FLOP (6 × active × tokens)")
    table = grid("Cheapest first", "devices", "layout", "days", "cost", "MFU", "memory", "bound by")
    firsts = {(o.chip, o.layout.devices): o for o in reversed(plan.options)}
    for o in sorted(firsts.values(), key=lambda o: o.cost)[:top]:
        table.add_row(f"{o.layout.devices} × {o.chip}", str(o.layout), f"{o.days:,.1f}", money_text(o.cost), f"{o.use:.1%}",
                      bytes_text(o.needed), o.binds)
    memory, step = grid("", "memory a device", ""), grid("", "time of a step", "")
    for part, size in best.memory.items():
        memory.add_row(part, bytes_text(size))
    memory.add_row("in all", bytes_text(best.needed), style="bold")
    memory.add_row("may be used", bytes_text(best.room))
    for part, seconds in best.step.items():
        step.add_row(part, time_text(seconds))
    step.add_row("in all", time_text(sum(best.step.values())), style="bold")
    chip = chips[best.chip]
    parts: list[RenderableType] = [Text(title, style="bold"), Text(), table, Text(),
                                   _title(f"The cheapest: {best.layout.devices} × {chip.name} ({best.layout})"), memory, Text(), step]
    if plan.misses:
        parts += [Text(), _failures(plan.misses)]
    return Group(*parts, Text(), Text(_honesty(chip), style="dim"))


def step_table(data: dict[str, Any]) -> RenderableType:
    """Tables of one training step's memory: what --micro-batch prints."""
    title = f"A training step of {data['model']} on {data['rows']} × {data['length']} tokens, computed in {data['precision']}, one process"
    names = {"persistent": "weights, optimizer state, tables", "activations": "saved for the backward pass", "casts": "BF16 copies of weights",
             "loss": "gradients that the losses form", "logits": "a slice of logits", "gradients": "gradients of earlier micro-batches"}
    parts = grid("", "while losses are computed", "")
    for key, name in names.items():
        parts.add_row(name, bytes_text(data["bytes"][key]))
    stock = sum(data["bytes"][key] for key in names)
    parts.add_row("in all", bytes_text(stock))
    parts.add_row("while the optimizer works", bytes_text(data["bytes"]["persistent"] + data["bytes"]["optimizer"]))
    parts.add_row("peak", bytes_text(data["bytes"]["peak"]), style="bold")
    saved = grid("", "saved for the backward pass", "a token")
    for operator, size in sorted(data["saved_per_token"].items(), key=lambda row: -row[1]):
        saved.add_row(operator, bytes_text(size))
    return Group(_title(title), parts, Text(), saved)


def _failures(failures: Iterable[tuple[str, Layout, str]]) -> RenderableType:
    table = grid("Why others fail", "devices", "reason", "nearest layout")
    for chip, layout, why in failures:
        table.add_row(f"{layout.devices} × {chip}", why, str(layout))
    return table


def _title(text: str) -> Text:
    return Text(text, style="bold italic")


def _honesty(chip: Chip) -> str:
    guesses = sorted(chip.estimates)
    return f"Estimates among the figures of {chip.id}: {', '.join(guesses)}." if guesses else f"No figure of {chip.id} is an estimate."
