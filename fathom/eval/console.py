"""The run in a terminal: progress while it runs, the numbers when it is done. Rich on a terminal, plain lines where there is none."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from fathom.eval.pools import Probe
from fathom.eval.runner import Event
from fathom.eval.webreport import comparison_rows, number, remarks

VALUELESS = "not rated: no price is known for this model (--prices, --price-model)"
TOLD = 5  # troubles shown while a run goes on
STYLES = {"pass": "green", "warn": "yellow", "fail": "red", "not rated": ""}


class Watch:
    """A bar per dimension with its mean so far; use as a context manager and pass `tell` to the runner."""

    def __init__(self, probes: Sequence[Probe], console: Console) -> None:
        self.console, self.troubles = console, 0
        self.totals: dict[str, int] = {}
        for probe in probes:
            self.totals[probe.dimension] = self.totals.get(probe.dimension, 0) + probe.repeats
        self.sums = dict.fromkeys(self.totals, 0.0)
        self.counts = dict.fromkeys(self.totals, 0)
        self.progress = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[mean]}"),
                                 TimeElapsedColumn(), TimeRemainingColumn(), console=console, disable=not console.is_terminal)
        self.tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Watch:
        self.progress.__enter__()
        self.tasks = {name: self.progress.add_task(name.replace("_", " "), total=total, mean="") for name, total in self.totals.items()}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.progress.__exit__(kind, error, trace)

    def tell(self, event: Event) -> None:
        """One asking is done."""
        name = event.probe.dimension
        self.counts[name] += 1
        self.sums[name] += event.verdict.score if event.verdict else 0.0
        self.progress.update(self.tasks[name], advance=1, mean=f"{100 * self.sums[name] / self.counts[name]:5.1f}")
        if event.trouble:
            self.troubles += 1
            if self.troubles <= TOLD:
                more = " (further ones are in the report)" if self.troubles == TOLD else ""
                self.progress.console.print(f"{event.probe.id}: {event.trouble}{more}", style="yellow", markup=False, highlight=False)
        if not self.console.is_terminal and sum(self.counts.values()) % 25 == 0:
            self.console.print(f"{sum(self.counts.values())} of {sum(self.totals.values())} askings done", highlight=False)


def print_summary(summary: Mapping[str, Any], console: Console, others: Sequence[Mapping[str, Any]] = ()) -> None:
    """The scores, the dimensions and, with others, the comparison."""
    run, s, cost = summary["run"], summary["scores"], summary["cost"]
    title = f"YZ Index of {run['model']} ({run['mode']} run {run['id']}, seed {run['seed']})"
    console.print(title, style="bold", markup=False, highlight=False)
    table = Table()
    for column in ("", "score", "items", "in full", "unanswered"):
        table.add_column(column, justify="left" if not column else "right")
    for d in summary["dimensions"]:
        table.add_row(d["name"].replace("_", " "), number(d["score"]), str(d["items"]), str(d["passed"]), str(d["unanswered"] or ""))
    table.add_section()
    table.add_row("core", number(s["core"]))
    table.add_row("overall", number(s["overall"]), style=f"bold {STYLES[s['label']]}".strip())
    console.print(table)
    label = s["label"] if s["label"] == "not rated" else f"{s['label']} ({s['recommendation']})"
    facts = [("integrity", label), *((name, number(s[name])) for name in ("stability", "availability"))]
    facts.append(("value", number(s["value"]) if s["value"] is not None else VALUELESS))
    if s["points_per_dollar"] is not None:
        facts.append(("points per US$", f"{s['points_per_dollar']:.1f}"))
    if s["constraint_keeping"] is not None:
        facts.append(("constraint keeping", f"{s['constraint_keeping']:.3f} of 1"))
    if s["controls"] is not None:
        facts.append(("controls answered", f"{100 * s['controls']:.0f} %"))
    if summary["rank"]["mean"] is not None:
        runs = summary["rank"]["runs"]
        facts.append(("rank", f"{summary['rank']['mean']:.2f} (mean of {runs} run{'s' if runs != 1 else ''})"))
    if cost:
        facts.append(("cost of this run", f"US$ {cost['dollars']} by {cost['price']}"))
    facts += [("note", text) for text in remarks(summary)]
    for name, text in facts:
        console.print(f"  {name}: {text}", highlight=False, markup=False)
    if not s["complete"]:
        console.print("Incomplete: some items have no answer and count as wrong; the same command asks them again.", style="red")
    if others:
        print_comparison([summary, *others], console)


def print_comparison(summaries: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Runs side by side, differences from the first."""
    columns, rows = comparison_rows(summaries)
    table = Table(title="Comparison", title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)
