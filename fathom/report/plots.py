"""Plots as PNG or SVG files, with matplotlib from the extra `plot`; imported on the first plot, never before.

Drawn on the Agg canvas without pyplot: no window, no global figure list, safe in a thread. One plain style for the whole
project; a caller gives data and labels and nothing else.
"""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fathom.errors import UserError

FORMATS = (".png", ".svg", ".pdf")


def line_plot(path: str | Path, series: Sequence[tuple[str, Sequence[float], Sequence[float]]], *, title: str, x_label: str, y_label: str,
              log_x: bool = False, log_y: bool = False) -> Path:
    """Lines to a file whose suffix (.png, .svg, .pdf) is the format.

    Args:
        series: (name, xs, ys), equally long; points that are not finite leave a gap.

    Returns the path. Raises UserError where matplotlib isn't installed, on another suffix, and where the file can't be written.
    """
    figure, axes = _figure(title)
    for name, xs, ys in series:
        assert len(xs) == len(ys), f"{name}: {len(xs)} xs for {len(ys)} ys"
        axes.plot(xs, ys, label=name, linewidth=1.6, marker="o" if len(xs) <= 24 else None, markersize=3.5)
    axes.set_xscale("log" if log_x else "linear")
    axes.set_yscale("log" if log_y else "linear")
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.grid(True, alpha=0.3)
    if len(series) > 1:
        axes.legend(frameon=False)
    return _save(figure, path)


def heat_plot(path: str | Path, rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float | None]], *, title: str,
              row_label: str, column_label: str) -> Path:
    """A heat map of shares 0..1, red to green, each cell with its percentage; None is blank. Returns the path."""
    figure, axes = _figure(title, width=2.4 + 0.72 * len(columns), height=1.6 + 0.5 * len(rows))
    nan = float("nan")
    axes.imshow([[nan if v is None else v for v in line] for line in values], cmap="RdYlGn", vmin=0, vmax=1, aspect="auto", alpha=0.6)
    axes.hlines([r - 0.5 for r in range(1, len(rows))], -0.5, len(columns) - 0.5, colors="white", linewidth=2)
    axes.vlines([c - 0.5 for c in range(1, len(columns))], -0.5, len(rows) - 0.5, colors="white", linewidth=2)
    axes.tick_params(length=0)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set(xlabel=column_label, ylabel=row_label)
    for r, line in enumerate(values):
        for c, value in enumerate(line):
            axes.text(c, r, "–" if value is None else f"{100 * value:.0f}", ha="center", va="center", fontsize=8)
    return _save(figure, path)


def _figure(title: str, width: float = 7.0, height: float = 4.2) -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("matplotlib", None, "is not installed", "install it with: pip install 'fathom[plot]'") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Any, path: str | Path) -> Path:
    path = Path(path)
    if path.suffix not in FORMATS:
        raise UserError("plot", path, f"a file whose name ends in {', '.join(FORMATS)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=140)
    except OSError as error:
        raise UserError("plot", path, f"cannot be written: {error.strerror}", "give another place") from None
    return path
