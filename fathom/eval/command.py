"""`fathom eval` as a command: the options, their help, and nothing else. evaluate.py does the work.

The command line hands in what this room may not reach: how a checkpoint folder is opened, and the key from the environment.
"""
from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from fathom.errors import UserError
from fathom.eval import choices
from fathom.eval.evaluate import OpenLocal, Options, evaluate

HELP = """Score a model with the YZ Index: any OpenAI-compatible endpoint, or a local checkpoint.

A smoke run (the default) asks 10 items and takes a minute; --full asks the whole index. All requests and answers are kept in
OUT/eval.sqlite; the same command continues an interrupted run and asks nothing twice. Reports: terminal, report.json, report.html.

Examples:

  fathom eval --endpoint http://127.0.0.1:8000/v1 --model fathom

  fathom eval --full --endpoint https://api.example.com/v1 --model deepseek-v4-pro --key-file key.txt --concurrency 32

  fathom eval --full --local runs/latest --context 4K --dimension grounding --dimension integrity

  fathom eval --long-context 1M --endpoint http://127.0.0.1:8000/v1 --model fathom

  fathom eval --compare runs/eval/A/report.json --compare runs/eval/B
"""


def make_command(open_local: OpenLocal, key_from_environment: Callable[[], str]) -> Callable[..., None]:
    """The function to mount with `app.command("eval", help=HELP)`.

    Args:
        open_local: opens a checkpoint folder; called only for --local.
        key_from_environment: the endpoint's key where no --key-file is given, "" for none; called only for --endpoint.
    """

    def command(
        endpoint: Annotated[str | None, typer.Option(help="Base URL of an OpenAI-compatible service.")] = None,
        model: Annotated[str | None, typer.Option(help="The model's name at the endpoint (or in the report, with --local).")] = None,
        local: Annotated[Path | None, typer.Option(help="A checkpoint or run folder, evaluated in this process.")] = None,
        key_file: Annotated[Path | None, typer.Option(help="File with the endpoint's key.")] = None,
        full: Annotated[bool, typer.Option("--full/--smoke", help="The whole index, or 2 items per dimension.")] = False,
        dimension: Annotated[list[str] | None, typer.Option(help="Only this dimension; may be repeated.")] = None,
        seed: Annotated[int | None, typer.Option(help="Decides the items; today's date by default.")] = None,
        context: Annotated[str, typer.Option(help="Longest grounding document in tokens, 2K to 1M.")] = "64K",
        long_context: Annotated[str | None, typer.Option(help="Also the needle heat map and its kin, 4K up to this length.")] = None,
        humaneval: Annotated[Path | None, typer.Option(help="Also the problems of this file in HumanEval's format.")] = None,
        mbpp: Annotated[Path | None, typer.Option(help="Also the problems of this file in MBPP's format.")] = None,
        repeats: Annotated[int | None, typer.Option(help="How often the stability items are asked [full: 3, smoke: 1].")] = None,
        concurrency: Annotated[int, typer.Option(help="Questions at a time; fewer while a service asks for patience.")] = 8,
        out: Annotated[Path, typer.Option(help="Folder for the store and the reports.")] = Path("runs/eval"),
        resume: Annotated[bool, typer.Option("--resume/--fresh", help="Continue an unfinished run, or begin anew.")] = True,
        compare: Annotated[list[str] | None, typer.Option(help="A report.json, its folder or a run's id; may be repeated.")] = None,
        prices: Annotated[list[Path] | None, typer.Option(help="TOML file with [[price]] rows, over the shipped ones.")] = None,
        price_model: Annotated[str | None, typer.Option(help="Whose price to take, if not --model's.")] = None,
        temperature: Annotated[float, typer.Option(help="Sampling temperature; below 0 to send none.")] = choices.TEMPERATURE,
        max_tokens: Annotated[int | None, typer.Option(help="At most so many tokens an answer, for models that don't end by themselves.")] = None,
        thinking_room: Annotated[int | None, typer.Option(help="Tokens on top of each item's limit [endpoint: 8192, local: 0].")] = None,
        timeout: Annotated[float, typer.Option(help="Seconds for one attempt.")] = 600.0,
        attempts: Annotated[int, typer.Option(help="Attempts per request before it is given up.")] = 8,
        extra: Annotated[str | None, typer.Option(help="JSON object laid over each request body; null removes a field.")] = None,
        proxy: Annotated[str | None, typer.Option(help="HTTP proxy for the endpoint.")] = None,
        sandbox: Annotated[str, typer.Option(help="bubblewrap, or limits: weaker, says so in the report.")] = "bubblewrap",
    ) -> None:
        key = read_key(key_file) if key_file else key_from_environment() if endpoint else ""
        evaluate(Options(
            endpoint=endpoint, model=model, key=key, local=local, full=full, dimensions=tuple(dict.fromkeys(dimension or ())), seed=seed,
            context=tokens("--context", context), long_context=None if long_context is None else tokens("--long-context", long_context),
            humaneval=humaneval, mbpp=mbpp, repeats=repeats, concurrency=concurrency, out=out, resume=resume, compare=tuple(compare or ()),
            prices=tuple(prices or ()), price_model=price_model, temperature=None if temperature < 0 else temperature,
            max_tokens=max_tokens, thinking_room=thinking_room, timeout=timeout, attempts=attempts, extra=extra_body(extra), proxy=proxy,
            sandbox=sandbox,
        ), open_local=open_local)

    return command


def tokens(name: str, text: str) -> int:
    """A number of tokens: 65536, 64K or 1M (powers of 1024). Raises UserError."""
    units = {"K": 1024, "M": 1024**2}
    digits, unit = (text[:-1], units[text[-1].upper()]) if text[-1:].upper() in units else (text, 1)
    if not digits.isascii() or not digits.isdigit():
        raise UserError(name, text, "a number of tokens such as 65536, 64K or 1M")
    return int(digits) * unit


def extra_body(text: str | None) -> dict[str, Any]:
    """The --extra object. Raises UserError on what isn't a JSON object, and on fields that the run itself decides."""
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise UserError("--extra", text, "a JSON object", "for example --extra '{\"thinking\": {\"type\": \"disabled\"}}'")
    if own := {"messages", "model", "stream"} & set(value):
        raise UserError("--extra", sorted(own)[0], "is decided by the run itself", "remove it")
    return value


def read_key(path: Path) -> str:
    """The key in a file: its only line. Raises UserError, without showing any of it."""
    try:
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("--key-file", path, f"can't be read: {type(error).__name__}") from None
    if not key or len(key.split()) != 1 or not key.isascii():
        raise UserError("--key-file", path, "one line with the key and nothing else")
    return key
