"""The verb `plan`: what a model is, takes and costs. Arithmetic on the configuration only; no weights, no torch, no network.

`plan_command(measure)` makes the command; `measure` times the machine for --calibrate and is handed in, since measuring needs the
floors above. Four things can be asked: the model's sizes (default), a serving plan (--chip, --calibrate, --html or --plot), a training
plan (--train-tokens), and the memory of one step of our trainer (--micro-batch).
"""
from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType

from ..config import ModelConfig, resolve_config
from ..errors import UserError
from ..prices import PriceTable, load_prices
from .chips import Chip, chip_toml, find_chip, load_chips
from .cost import BreakEven, break_even
from .page import plan_page
from .plot import cost_plot
from .search import ServingPlan, Wishes, best_by_devices, nothing_fits, plan_serving
from .serving import Load
from .step import Micro, saved_by_operator, step_memory
from .summary import summary
from .tables import serving_tables, step_table, summary_tables, training_tables
from .training import Run, TrainingPlan, plan_training

DEFAULT_CHIP, DEFAULT_CONTEXT = "h200", 65536  # of a serving plan for which nobody said
MEASURED = "here"  # id of the chip that --calibrate makes
_SERVING, _TRAINING = "Serving", "Training"


def plan_command(measure: Callable[[], Chip] | None = None) -> Callable[..., None]:
    """The command's function for typer.

    Args:
        measure: times this machine and returns it as a chip; None where measuring isn't possible, and --calibrate then says so.
    """

    def plan(
        model: Annotated[str, typer.Argument(help="v4-flash, v4-pro, bench-130m, nano, or a folder or file with a config.json.")],
        context: Annotated[int | None, typer.Option(help="Tokens of one sequence: the model's longest, 65536 for serving.")] = None,
        precision: Annotated[str, typer.Option(help="fp32, bf16, fp16, fp8 or official (FP8 with FP4 experts).")] = "official",
        as_json: Annotated[bool, typer.Option("--json", help="Print every figure as JSON, in base units.")] = False,
        chip: Annotated[list[str] | None, typer.Option(help="Chip to plan with, or all; may be repeated.")] = None,
        devices: Annotated[int | None, typer.Option(help="Exactly so many devices; if not given, every usual number is tried.")] = None,
        chips: Annotated[list[Path] | None, typer.Option(help="Your own chips, a TOML file laid over the shipped one.")] = None,
        calibrate: Annotated[bool, typer.Option("--calibrate", help="Measure this machine and plan with it (as chip 'here').")] = False,
        save_chip: Annotated[Path | None, typer.Option(help="Where to keep what --calibrate measured, for --chips.")] = None,
        top: Annotated[int, typer.Option(min=1, help="How many layouts to show.")] = 8,
        users: Annotated[int, typer.Option(help="Sequences at once.", rich_help_panel=_SERVING)] = 64,
        answer: Annotated[int, typer.Option(help="Generated tokens of the context.", rich_help_panel=_SERVING)] = 1024,
        hit: Annotated[float, typer.Option(help="Share of the prompt found in the prefix cache.", rich_help_panel=_SERVING)] = 0.0,
        speed: Annotated[float, typer.Option(help="Tokens/s that a user must get at least.", rich_help_panel=_SERVING)] = 0.0,
        wait: Annotated[float, typer.Option(help="Seconds to the first token at most.", rich_help_panel=_SERVING)] = float("inf"),
        prices: Annotated[list[Path] | None, typer.Option(help="Your own price rows, a TOML file.", rich_help_panel=_SERVING)] = None,
        html: Annotated[Path | None, typer.Option(help="Write one page with sliders.", rich_help_panel=_SERVING)] = None,
        plot: Annotated[Path | None, typer.Option(help="Draw cost over load (.png, .svg).", rich_help_panel=_SERVING)] = None,
        train_tokens: Annotated[float | None, typer.Option(help="Plan a run on so many tokens.", rich_help_panel=_TRAINING)] = None,
        batch: Annotated[float, typer.Option(help="Tokens a step.", rich_help_panel=_TRAINING)] = 64e6,
        length: Annotated[int, typer.Option(help="Tokens a sequence.", rich_help_panel=_TRAINING)] = 4096,
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
        config = resolve_config(model)
        known = load_chips(chips or ())
        chosen = [*(chip or ())]
        if calibrate:
            known[MEASURED] = _measured(measure, save_chip)
            chosen = chosen or [MEASURED]
        elif save_chip:
            raise UserError("save-chip", save_chip, "only with --calibrate", "add --calibrate")
        usable = list(known) if "all" in chosen else chosen or [DEFAULT_CHIP]
        usable_chips = [find_chip(known, c) for c in usable]
        if micro_batch:
            data = {"model": model, "precision": precision, **_step(config, micro_batch, precision)}
            _show(data, as_json, lambda: step_table(data))
        elif train_tokens is not None:
            run = Run(train_tokens, batch, min(length, config.max_position_embeddings))
            made = plan_training(config, run, usable_chips, precision=precision, devices=devices, days=days)
            _show_training(made, model, known, top, as_json)
        elif chosen or html or plot:
            load = Load(context or min(DEFAULT_CONTEXT, config.max_position_embeddings), users, answer, hit)
            table = load_prices(prices or ())
            serving = plan_serving(config, load, usable_chips, precision=precision, devices=devices, wishes=Wishes(speed, wait))
            today = datetime.now(UTC).date()
            if html:
                document = plan_page(config, model, load, known, usable[0], precision=precision, devices=devices, prices=table, day=today)
                html.write_text(document, encoding="utf-8")
            if plot:
                cost_plot(plot, config, model, load, usable_chips, precision=precision, devices=devices, prices=table, day=today)
            _show_serving(serving, config, model, known, usable_chips, table, devices, top, as_json)
        else:
            data = summary(config, model, context=context, precision=precision)
            _show(data, as_json, lambda: summary_tables(data))

    return plan


def _step(config: ModelConfig, micro_batch: str, precision: str) -> dict[str, Any]:
    rows, _, length = micro_batch.partition("x")
    if not (rows.isdecimal() and length.isdecimal()):
        raise UserError("micro-batch", micro_batch, "ROWSxLENGTH, such as 8x512")
    micro = Micro(int(length), int(rows), precision)
    return {"rows": micro.rows, "length": micro.length, "bytes": step_memory(config, micro),
            "saved_per_token": saved_by_operator(config, micro)}


def _measured(measure: Callable[[], Chip] | None, save: Path | None) -> Chip:
    if measure is None:
        raise UserError("calibrate", None, "nothing here can measure", "run it from the command line: fathom plan MODEL --calibrate")
    chip = measure()
    if save:
        save.write_text(chip_toml(chip), encoding="utf-8")
    return chip


def _show(data: dict[str, Any], as_json: bool, tables: Callable[[], RenderableType]) -> None:
    if as_json:
        typer.echo(json.dumps(data, indent=2))
    else:
        Console().print(tables())


def _show_serving(plan: ServingPlan, config: ModelConfig, name: str, known: dict[str, Chip], chips: list[Chip], prices: PriceTable,
                  devices: int | None, top: int, as_json: bool) -> None:
    if not plan.options:
        raise nothing_fits(config, name, plan, chips, devices)
    today, best = datetime.now(UTC).date(), plan.options[0]
    rows = [prices.at(m, today) for m in prices.models() if any(r.model == m and r.since <= today for r in prices.rows)]
    incomes: list[BreakEven] = [break_even(best.costs, row, plan.load) for row in rows]
    data = {"model": name, "precision": plan.precision, "load": {"context": plan.load.context, "users": plan.load.users,
            "answer": plan.load.answer, "hit": plan.load.hit}, "options": [o.data() for o in best_by_devices(plan.options)[:top]],
            "break_even": [b.data() for b in incomes], "rejected": [r.data() for r in plan.rejected], "tried": plan.tried,
            "chips": {c.id: c.data() for c in chips}}
    _show(data, as_json, lambda: serving_tables(plan, name, known, incomes, top))


def _show_training(plan: TrainingPlan, name: str, known: dict[str, Chip], top: int, as_json: bool) -> None:
    if not plan.options:
        nearest = plan.misses[-1] if plan.misses else None
        why = f"on {nearest[1].devices} × {nearest[0]} it {nearest[2]}" if nearest else "no grid of so many devices"
        raise UserError(f"training {name}", None, why, "take more or larger devices, or allow more days")
    data = {"model": name, "precision": plan.precision, "tokens": plan.run.tokens, "batch": plan.run.batch, "length": plan.run.length,
            "flops": plan.flops, "options": [o.data() for o in plan.options[:top]],
            "misses": [{"chip": c, "devices": layout.devices, "layout": str(layout), "why": why} for c, layout, why in plan.misses]}
    _show(data, as_json, lambda: training_tables(plan, name, known, top))
