"""The verb `plan`: what a model is, takes and costs. Arithmetic on the configuration only; no weights, no torch, no network."""
from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console

from ..config import resolve_config
from .summary import summary
from .tables import summary_tables


def plan(
    model: Annotated[str, typer.Argument(help="A preset (v4-flash, v4-pro, bench-130m, nano), or a folder or file with a config.json.")],
    context: Annotated[int | None, typer.Option(help="Tokens of one sequence; the model's longest if not given.")] = None,
    precision: Annotated[str, typer.Option(help="fp32, bf16, fp16, fp8 or official (FP8 with FP4 experts).")] = "official",
    as_json: Annotated[bool, typer.Option("--json", help="Print every figure as JSON, in parameters, bytes and FLOPs.")] = False,
) -> None:
    """What a model is and takes: parameters, bytes, state and FLOPs.

    Examples:

        fathom plan v4-pro

        fathom plan v4-flash --context 131072 --precision bf16 --json
    """
    data = summary(resolve_config(model), model, context=context, precision=precision)
    if as_json:
        typer.echo(json.dumps(data, indent=2))
    else:
        Console().print(summary_tables(data))
