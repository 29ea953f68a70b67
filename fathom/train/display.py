"""What a person sees of a run: progress bars on a terminal, a line now and then in a log.

The loop knows nothing of this; it hands over events, and here they become text.
"""
from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from .. import device as devices
from ..config import ModelConfig
from ..config.recipe import Recipe
from ..model import Transformer
from .loop import Event, Saved, Stepped
from .phase import Summary, Tell

LOG_SECONDS = 10.0  # between lines when the output is not a terminal


class Display:
    """Shows a run on `console`."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def note(self, text: str) -> None:
        """A remark; nothing for an empty one."""
        if text:
            self.console.print(text, style="yellow", highlight=False)

    @contextmanager
    def preparing(self) -> Iterator[Callable[[str, int, int], None]]:
        """A bar for finding, judging and tokenizing documents; yields what takes (what, done, of how many)."""
        with self._progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()) as bar:
            task = bar.add_task("looking for documents", total=None)
            yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)

    def prepared(self, summary: Summary, config: ModelConfig, model: Transformer, device: torch.device) -> None:
        """What will be trained, on what."""
        for line in summary.lines():
            self.console.print(line, highlight=False)
        count = sum(p.numel() for p in model.parameters())
        dtype = str(model.compute_dtype).removeprefix("torch.")
        self.console.print(f"{count / 1e6:.2f} M parameters, {config.num_hidden_layers} layers, vocabulary {config.vocab_size:,}; "
                           f"{dtype} on {devices.device_name(device)}, {torch.get_num_threads()} threads", highlight=False)

    def resumed(self, step: int) -> None:
        """The run goes on from a checkpoint."""
        self.console.print(f"resumed from step {step:,}", highlight=False)

    @contextmanager
    def training(self, recipe: Recipe, step: int) -> Iterator[Callable[[Event], None]]:
        """Progress over the steps; yields what takes the loop's events."""
        steps = recipe.schedule.steps
        times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(compact=True))
        last = time.monotonic()
        with self._progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *times) as bar:
            task = bar.add_task("training", total=steps, completed=step)

            def shown(event: Event) -> None:
                nonlocal last
                if not isinstance(event, Stepped):
                    if isinstance(event, Saved):
                        self.console.print(f"step {event.step:,}: checkpoint in {event.folder}", highlight=False, soft_wrap=True)
                    return
                line = event.line
                figures = f"loss {line['loss']:.3f}  {line['tokens_per_second']:,.0f} tokens/s"
                bar.update(task, completed=line["step"], description=figures)
                held_out = line.get("held_out_bits_per_byte")
                due = not self.console.is_terminal and time.monotonic() - last >= LOG_SECONDS
                if held_out is not None or due:
                    last = time.monotonic()
                    more = f"  held-out sample {held_out:.3f} bits per byte" if held_out is not None else ""
                    self.console.print(f"step {line['step']:,}/{steps:,}  {figures}{more}", highlight=False)

            yield shown

    @contextmanager
    def evaluating(self) -> Iterator[Tell]:
        """A bar for what follows the last step; yields what takes (what, done, of how many)."""
        with self._progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()) as bar:
            task = bar.add_task("evaluating", total=None)
            yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)

    def results(self, results: dict[str, Any]) -> None:
        """How well held-out text is predicted, beside compressors where they were run; how held-out questions were answered."""
        held_out = results["held_out"]
        table = Table(title=f"{held_out['documents']} held-out documents, {held_out['bytes']:,} bytes")
        table.add_column("predicted by")
        table.add_column("bits per byte", justify="right")
        rows = [("this model", held_out["bits_per_byte"]), *results.get("compressors", {}).items()]
        for name, bits in sorted(rows, key=lambda row: row[1]):
            table.add_row(name, f"{bits:.3f}", style="bold" if name == "this model" else "")
        self.console.print(table)
        if "answers" in results:
            self._answers(results["answers"])

    def _answers(self, answers: dict[str, Any]) -> None:
        """Shares of the held-out questions, by group."""
        def percent(share: float | None) -> str:
            return "–" if share is None else f"{100 * share:.1f}%"

        table = Table(title=f"{answers['questions']} held-out questions, answered greedily")
        for name in ("kind", "questions", "ended its turn", "right", "thinking", "not thinking"):
            table.add_column(name, justify="left" if name == "kind" else "right")
        for name, group in answers["groups"].items():
            shares = (percent(group[key]) for key in ("ended", "right", "right_thinking", "right_chat"))
            table.add_row(name, str(group["questions"]), *shares)
        table.add_row("all", str(answers["questions"]), percent(answers["ended"]), percent(answers["right"]), "", "", style="bold")
        self.console.print(table)
        calls = percent(answers["valid_calls"])
        self.console.print(f"well-formed {percent(answers['clean'])}; valid calls where one is needed {calls}", highlight=False)

    def _progress(self, *columns: Any) -> Progress:
        return Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
