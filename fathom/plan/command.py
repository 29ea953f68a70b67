"""The verb `plan`: what a model is, takes and costs. Arithmetic on the configuration only; no weights, no torch, no network.

`plan_command(measure)` makes the command; `measure` times the machine for --calibrate and is handed in, since measuring needs the
floors above. Four things can be asked, and the options say which: the model's sizes (none of the others), a serving plan (any option about
chips or the service), a training plan (--train-tokens), and the memory of one step of our trainer (--micro-batch). An option that the
chosen one has no use for is refused.
"""
from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType

from ..config import ModelConfig, resolve_config
from ..errors import UserError
from ..prices import load_prices
from .chips import Chip, chip_toml, find_chip, load_chips, with_price
from .cost import BreakEven, break_even
from .page import plan_page
from .plot import cost_plot
from .search import Wishes, best_by_devices, nothing_fits, plan_serving
from .serving import Load
from .step import Micro, saved_by_operator, step_memory
from .summary import summary
from .tables import serving_tables, step_table, summary_tables, training_tables
from .training import Run, plan_training

DEFAULT_CHIP, DEFAULT_CONTEXT = "h200", 65536  # of a serving plan for which nobody said
SERVED: dict[str, Any] = {"users": 64, "answer": 1024, "hit": 0.0, "speed": 0.0, "wait": math.inf}
TRAINED: dict[str, Any] = {"batch": 64e6, "length": 4096}
TOP = 8
MEASURED = "here"  # id of the chip that --calibrate makes
_SERVING, _TRAINING = "Serving", "Training"
_ON_CHIPS = {"chip", "devices", "chips", "price", "calibrate", "save_chip", "top"}
USES = {  # the options of each kind of plan, besides the model, --precision and --json
    "the model's sizes": {"context"},
    "a serving plan": _ON_CHIPS | {"context", "prices", "html", "plot"} | SERVED.keys(),
    "a training plan": _ON_CHIPS | {"train_tokens", "days"} | TRAINED.keys(),
    "a step's memory": {"micro_batch"},
}


def plan_command(measure: Callable[[], Chip] | None = None) -> Callable[..., None]:
    """The command's function for typer.

    Args:
        measure: times this machine and returns it as a chip; None where measuring isn't possible, and --calibrate then says so.
    """

    def plan(
        model: Annotated[str, typer.Argument(help="v4-flash, v4-pro, bench-130m, nano, or a folder or file with a config.json.")],
        context: Annotated[int | None, typer.Option(help="Tokens of one sequence: the model's longest, 65536 for serving.")] = None,
        precision: Annotated[str | None, typer.Option(help="fp32, bf16, fp16, fp8, official (FP8, FP4 experts) [official; a step's memory: bf16].")]
        = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print every figure as JSON, in base units.")] = False,
        chip: Annotated[list[str] | None, typer.Option(help="Chip to plan with, or all; may be repeated [h200].")] = None,
        devices: Annotated[int | None, typer.Option(help="Exactly so many devices; if not given, every usual number is tried.")] = None,
        chips: Annotated[list[Path] | None, typer.Option(help="Your own chips, a TOML file laid over the shipped one.")] = None,
        price: Annotated[float | None, typer.Option(help="US$ an hour and device, in place of the chips' own.")] = None,
        calibrate: Annotated[bool, typer.Option("--calibrate", help="Measure this machine and plan with it (as chip 'here').")] = False,
        save_chip: Annotated[Path | None, typer.Option(help="Where to keep what --calibrate measured, for --chips.")] = None,
        top: Annotated[int | None, typer.Option(min=1, help="How many layouts to show [8].")] = None,
        users: Annotated[int | None, typer.Option(help="Sequences at once [64].", rich_help_panel=_SERVING)] = None,
        answer: Annotated[int | None, typer.Option(help="Generated tokens of the context [1024].", rich_help_panel=_SERVING)] = None,
        hit: Annotated[float | None, typer.Option(help="Share of the prompt found in the prefix cache [0].", rich_help_panel=_SERVING)] = None,
        speed: Annotated[float | None, typer.Option(help="Tokens/s that a user must get at least.", rich_help_panel=_SERVING)] = None,
        wait: Annotated[float | None, typer.Option(help="Seconds to the first token at most.", rich_help_panel=_SERVING)] = None,
        prices: Annotated[list[Path] | None, typer.Option(help="Your own price rows, a TOML file.", rich_help_panel=_SERVING)] = None,
        html: Annotated[Path | None, typer.Option(help="Write one page with sliders.", rich_help_panel=_SERVING)] = None,
        plot: Annotated[Path | None, typer.Option(help="Draw cost over load (.png, .svg).", rich_help_panel=_SERVING)] = None,
        train_tokens: Annotated[float | None, typer.Option(help="Plan a run on so many tokens.", rich_help_panel=_TRAINING)] = None,
        batch: Annotated[float | None, typer.Option(help="Tokens a step [64e6].", rich_help_panel=_TRAINING)] = None,
        length: Annotated[int | None, typer.Option(help="Tokens a sequence [4096].", rich_help_panel=_TRAINING)] = None,
        micro_batch: Annotated[str | None, typer.Option(help="Memory of a step of our trainer: ROWSxLENGTH.", rich_help_panel=_TRAINING)] = None,
        days: Annotated[float | None, typer.Option(help="The run may take so many days.", rich_help_panel=_TRAINING)] = None,
    ) -> None:
        """What a model is, what it takes to serve or train it, and what that costs.

        Examples:

            fathom plan v4-pro

            fathom plan v4-flash --context 131072 --precision bf16 --json

            fathom plan v4-pro --chip h200 --chip b200 --users 256 --hit 0.5 --html pro.html

            fathom plan v4-pro --chip h800 --train-tokens 33e12 --batch 94.4e6 --days 90

            fathom plan nano --micro-batch 8x512 --precision bf16
        """
        every = set().union(*USES.values())
        given = {name: value for name, value in locals().items() if name in every and value is not None and value is not False and value != []}
        asked = what_is_asked(given)
        config = resolve_config(model)
        if asked == "a step's memory":
            data = {"model": model, **_step(config, given["micro_batch"], precision or "bf16")}
            return _show(data, as_json, lambda: step_table(data))
        if asked == "the model's sizes":
            data = summary(config, model, context=context, precision=precision or "official")
            return _show(data, as_json, lambda: summary_tables(data))
        known = load_chips(chips or ())
        if calibrate:
            known[MEASURED] = _measured(measure, save_chip)
        elif save_chip:
            raise UserError("save-chip", save_chip, "only with --calibrate", "add --calibrate")
        names = chip or [MEASURED if calibrate else DEFAULT_CHIP]
        if price is not None:
            known = {name: with_price(found, price, "--price") for name, found in known.items()}
        usable = [find_chip(known, name) for name in (known if "all" in names else dict.fromkeys(names))]
        settings = {**SERVED, **TRAINED, "length": min(TRAINED["length"], config.max_position_embeddings), "top": TOP, **given}
        made = _serving if asked == "a serving plan" else _training
        return made(config, model, precision or "official", known, usable, settings, as_json)

    return plan


def what_is_asked(given: Mapping[str, Any]) -> str:
    """The kind of plan (a key of USES) that the given options mean. Raises UserError on one that doesn't go with the others."""
    kinds = list(USES)
    if "train_tokens" in given:
        asked = "a training plan"
    elif "micro_batch" in given:
        asked = "a step's memory"
    else:
        asked = "a serving plan" if given.keys() & (USES["a serving plan"] - {"context"}) else "the model's sizes"
    for name in given.keys() - USES[asked]:
        fitting = [kind for kind in kinds if name in USES[kind]]
        how = {"a training plan": "add --train-tokens", "a step's memory": "leave --train-tokens out"}.get(fitting[-1], "leave it out")
        raise UserError(name.replace("_", "-"), given[name], f"an option of {' or '.join(fitting)}, but {asked} is asked for", how)
    return asked


def _step(config: ModelConfig, micro_batch: str, precision: str) -> dict[str, Any]:
    rows, _, length = micro_batch.partition("x")
    if not (rows.isdecimal() and length.isdecimal()):
        raise UserError("micro-batch", micro_batch, "ROWSxLENGTH, such as 8x512")
    micro = Micro(int(length), int(rows), precision)
    return {"precision": precision, "rows": micro.rows, "length": micro.length, "bytes": step_memory(config, micro),
            "saved_per_token": saved_by_operator(config, micro)}


def _measured(measure: Callable[[], Chip] | None, save: Path | None) -> Chip:
    if measure is None:
        raise UserError("calibrate", None, "nothing here can measure", "run it from the command line: fathom plan MODEL --calibrate")
    if save:
        _write("save-chip", save, save.read_text(encoding="utf-8") if save.is_file() else "")  # to hear of trouble before measuring
    chip = measure()
    if save:
        _write("save-chip", save, chip_toml(chip))
    return chip


def _write(option: str, path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(option, path, f"cannot be written: {error.strerror}", "give another place") from None


def _show(data: dict[str, Any], as_json: bool, tables: Callable[[], RenderableType]) -> None:
    if as_json:
        typer.echo(json.dumps(data, indent=2, allow_nan=False))
    else:
        Console().print(tables())


def _serving(config: ModelConfig, name: str, precision: str, known: dict[str, Chip], chips: list[Chip], s: dict[str, Any],
             as_json: bool) -> None:
    devices = s.get("devices")
    load = Load(s.get("context") or min(DEFAULT_CONTEXT, config.max_position_embeddings), s["users"], s["answer"], s["hit"])
    prices, today = load_prices(s.get("prices") or ()), datetime.now(UTC).date()
    wishes = Wishes(s["speed"], s["wait"])
    plan = plan_serving(config, load, chips, precision=precision, devices=devices, wishes=wishes)
    if "html" in s:
        page = plan_page(config, name, load, known, chips[0].id, precision=precision, devices=devices, wishes=wishes, prices=prices, day=today)
        _write("html", s["html"], page)
    if "plot" in s:
        cost_plot(s["plot"], config, name, load, chips, precision=precision, devices=devices, prices=prices, day=today, wishes=wishes)
    if not plan.options:
        raise nothing_fits(config, name, plan, chips, devices)
    rows = [prices.at(m, today) for m in prices.models() if any(r.model == m and r.since <= today for r in prices.rows)]
    incomes: list[BreakEven] = [break_even(plan.options[0].costs, row, load) for row in rows]
    data = {"model": name, "precision": precision, "load": asdict(load), "options": [o.data() for o in best_by_devices(plan.options)[:s["top"]]],
            "break_even": [b.data() for b in incomes], "rejected": [r.data() for r in plan.rejected], "tried": plan.tried,
            "chips": {c.id: c.data() for c in chips}}
    _show(data, as_json, lambda: serving_tables(plan, name, known, incomes, s["top"]))


def _training(config: ModelConfig, name: str, precision: str, known: dict[str, Chip], chips: list[Chip], s: dict[str, Any],
              as_json: bool) -> None:
    run = Run(s["train_tokens"], s["batch"], s["length"])
    plan = plan_training(config, run, chips, precision=precision, devices=s.get("devices"), days=s.get("days"))
    if not plan.options:
        nearest = plan.misses[-1] if plan.misses else None
        why = f"on {nearest[1].devices} × {nearest[0]} it {nearest[2]}" if nearest else "no grid of so many devices"
        raise UserError(f"training {name}", None, why, "take more or larger devices, or allow more days")
    data = {"model": name, "precision": plan.precision, "tokens": run.tokens, "batch": run.batch, "length": run.length,
            "flops": plan.flops, "options": [o.data() for o in plan.options[:s["top"]]],
            "misses": [{"chip": c, "devices": layout.devices, "layout": str(layout), "why": why} for c, layout, why in plan.misses]}
    _show(data, as_json, lambda: training_tables(plan, name, known, s["top"]))
