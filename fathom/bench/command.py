"""`fathom bench`: measures, shows a table, writes a CSV and plots."""
from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ..device import choose_device
from ..report.plots import line_plot
from .speed import COLUMNS, Case, run_cases

SHOWN = {"side": "side", "kernels": "kernels", "precision": "precision", "context": "context", "batch": "batch",
         "prefill_tokens_per_second": "prefill tok/s", "decode_tokens_per_second": "decode tok/s", "peak_gb": "peak GB", "clean_samples": "clean"}


def bench_command(
    model: Annotated[str, typer.Option(help="A preset such as bench-130m, or a folder with a config.json; weights are random.")] = "bench-130m",
    context: Annotated[list[int] | None, typer.Option(help="Prompt length in tokens; may be repeated [2048, 8192, 16384].")] = None,
    alone: Annotated[list[int] | None, typer.Option(help="Prompt length for our own sides only; may be repeated.")] = None,
    side: Annotated[list[str] | None, typer.Option(help="native, reference, amx, avx512, avx512f, avx2, portable, transformers or llama.cpp; may be "
                                                        "repeated [native, transformers; on an accelerator reference, transformers].")] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Different sequences at once, at the first context; may be repeated.")] = None,
    precision: Annotated[str, typer.Option(help="bf16, fp32, fp16 or official.")] = "bf16",
    device: Annotated[str, typer.Option(help="cpu, auto, or an accelerator.")] = "cpu",
    samples: Annotated[int, typer.Option(help="Undisturbed samples wanted of each figure.")] = 3,
    budget: Annotated[float, typer.Option(help="Seconds to try for them.")] = 60,
    rounds: Annotated[int, typer.Option(help="Times that all of it is measured, side after side; medians are kept.")] = 1,
    decode: Annotated[int, typer.Option(help="Tokens of one decoding sample; 0 leaves decoding out.")] = 32,
    llama_bench: Annotated[str | None, typer.Option(help="llama.cpp's llama-bench, for the side llama.cpp.")] = None,
    llama_model: Annotated[str | None, typer.Option(help="The GGUF file that it runs.")] = None,
    out: Annotated[Path, typer.Option(help="CSV file; plots go beside it.")] = Path("bench/speed.csv"),
) -> None:
    """Measure prefill and decoding speed beside other engines, in one run.

    Examples:

      fathom bench

      fathom bench --context 2048 --context 131072 --side native --batch 16

      fathom bench --side reference --side transformers --context 2048 --context 8192 --alone 32768 --rounds 3

      fathom bench --device cuda --out bench/cuda.csv
    """
    found = choose_device(device)
    sides, contexts = side or ["native" if found.type == "cpu" else "reference", "transformers"], context or [2048, 8192, 16384]
    options: dict[str, Any] = dict(model=model, precision=precision, samples=samples, budget=budget, decode=decode, device=device)
    cases = [Case(s, context=c, batch=1, **options) for c in contexts for s in sides]
    cases += [Case(s, context=c, batch=1, **options) for c in alone or () for s in sides if s not in ("transformers", "llama.cpp")]
    cases += [Case(s, context=contexts[0], batch=b, **options) for b in batch or () for s in sides if s != "llama.cpp"]
    console = Console()
    llama = (llama_bench, llama_model) if llama_bench and llama_model else None
    rows = run_cases(cases, lambda row: console.print("  ".join(f"{SHOWN[k]} {row[k]}" for k in SHOWN if row[k] != ""), highlight=False), llama,
                     rounds)
    _show(rows, console)
    _write(rows, out)
    console.print(f"written to {out}", highlight=False)


def _show(rows: list[dict[str, Any]], console: Console) -> None:
    table = Table(*SHOWN.values())
    for row in rows:
        table.add_row(*(str(row[k]) for k in SHOWN))
    console.print(table)
    for row in rows:
        peer = next((r for r in rows if r["side"] == "transformers" and (r["context"], r["batch"]) == (row["context"], row["batch"])), None)
        if peer and row is not peer:
            faster = [f"{what} {float(row[k]) / float(peer[k]):.2f} times" for what, k in (("prefill", "prefill_tokens_per_second"),
                      ("decoding", "decode_tokens_per_second")) if row[k] and peer[k]]
            console.print(f"{row['side']} at {row['context']} tokens, batch {row['batch']}: {', '.join(faster)} transformers", highlight=False)


def _write(rows: list[dict[str, Any]], out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    singles = [r for r in rows if r["batch"] == 1]
    for what in ("prefill", "decode"):
        key, series = f"{what}_tokens_per_second", []
        for name in dict.fromkeys(r["side"] for r in singles):
            points = [(r["context"], float(r[key])) for r in singles if r["side"] == name and r[key] != ""]
            if points:
                series.append((name, *(list(axis) for axis in zip(*sorted(points), strict=True))))
        if series:
            line_plot(out.with_name(f"{out.stem}-{what}.png"), series, title=f"{what}, {rows[0]['model']}, {rows[0]['device']}",
                      x_label="context, tokens", y_label="tokens per second", log_x=True, log_y=True)
