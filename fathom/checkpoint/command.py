"""`fathom convert`: the command line around `convert`, with progress."""
from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from ..errors import UserError
from .compare import count, first
from .convert import convert
from .write import PRECISIONS


def convert_command(
    source: Annotated[Path, typer.Argument(help="Checkpoint folder to read: published or transformers' tensor names, any precision.")],
    target: Annotated[Path, typer.Argument(help="Folder to write; it appears when it is complete.")],
    precision: Annotated[str, typer.Option(help=f"What to write: {', '.join(PRECISIONS)}.")] = "bf16",
    shard_gb: Annotated[float, typer.Option(help="Largest file, in GB.")] = 5.0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a checkpoint that is at TARGET already.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no summary.")] = False,
) -> None:
    """Convert a checkpoint between bf16 (fp32, fp16) and the official FP8 and FP4-expert layouts.

    The result always has the published tensor names. Memory stays small whatever the model's size.

    Example: fathom convert DeepSeek-V4-Flash flash-bf16 --precision bf16
    """
    if not shard_gb > 0:
        raise UserError("--shard-gb", shard_gb, "a number above 0")
    console = Console(stderr=True, quiet=quiet)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=quiet, transient=True) as bar:
        task = bar.add_task(f"to {precision}", total=None)
        written, notices = convert(source, target, precision, overwrite=overwrite, max_shard_bytes=max(int(shard_gb * 1e9), 1),
                                   progress=lambda done, total: bar.update(task, completed=done, total=total))
    for notice in notices:
        console.print(notice, markup=False)
    for names, what in ((written.plain, "kept in bf16, since the blocks don't divide their sides"),
                        (written.rounded, "rounded on the way from one quantised format to the other")):
        if names:
            console.print(f"{count(len(names), 'matrix', 'matrices')} {what}: {first(names)}", markup=False)
    console.print(f"{target}: {written.bytes / 1e9:.2f} GB in {count(written.shards, 'file')}", markup=False)
