"""Charts for a page, drawn as HTML and SVG, so that they follow the page's colours, sizes and dark mode without a library.

Bars and heat maps are HTML: text stays text-sized on a phone. Lines are one SVG, whose view box is small enough that its
labels are still legible when 360 pixels wide. A missing value is shown as missing, never as zero.
"""
from __future__ import annotations

import math
from collections.abc import Sequence

from fathom.report.page import escape

SERIES_COLOURS = 6  # --s1 … --s6 in the page's style
WIDTH, HEIGHT = 420, 240
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 12, 34


def tile(value: object, label: str, tone: str = "") -> str:
    """One big number with its name; tone is "", "good", "warn" or "bad"."""
    return f'<div class="tile"><span>{escape(label)}</span><b class="{escape(tone)}">{escape(value)}</b></div>'


def tiles(*items: str) -> str:
    """A row of tiles that wraps."""
    return f'<div class="tiles">{"".join(items)}</div>'


def bars(rows: Sequence[tuple[str, float | None, str]], top: float = 100.0, tones: Sequence[str] = ()) -> str:
    """Horizontal bars from 0 to `top`.

    Args:
        rows: (label, value or None, text shown at the right).
        top: the value of a full bar, > 0; larger values are drawn full.
        tones: for each row "", "good", "warn" or "bad"; may be empty.
    """
    assert top > 0
    out = []
    for i, (label, value, text) in enumerate(rows):
        share = 0.0 if value is None else 100 * min(max(value / top, 0.0), 1.0)
        fill = "" if value is None else f'<div class="fill {tones[i] if tones else ""}" style="width:{share:.2f}%"></div>'
        spoken = escape(f"{label}: {text}")
        out.append(f'<span>{escape(label)}</span><div class="track" role="img" aria-label="{spoken}">{fill}</div>'
                   f'<span class="val">{escape(text)}</span>')
    return f'<div class="bars">{"".join(out)}</div>'


def heat_map(rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float | None]], row_title: str = "",
             column_title: str = "") -> str:
    """A table of shares 0..1 from red through amber to green, each cell with its percentage; None is an empty cell.

    values[r][c] belongs to rows[r] and columns[c].
    """
    assert len(values) == len(rows) and all(len(v) == len(columns) for v in values)
    head = f"<th>{escape(row_title)} \\ {escape(column_title)}</th>" + "".join(f"<th>{escape(c)}</th>" for c in columns)
    body = []
    for label, line in zip(rows, values, strict=True):
        cells = "".join("<td class='soft'>–</td>" if v is None else _heat_cell(v) for v in line)
        body.append(f"<tr><th>{escape(label)}</th>{cells}</tr>")
    return f'<div class="scroll"><table class="heat"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def _heat_cell(value: float) -> str:
    hue = round(8 + 132 * min(max(value, 0.0), 1.0))  # 8 red … 140 green; dark text on a light cell in both colour schemes
    return f'<td style="background:hsl({hue} 62% 74%);color:#14181d">{100 * value:.0f}</td>'


def lines(series: Sequence[tuple[str, Sequence[tuple[float, float]]]], x_label: str, y_label: str, *, log_x: bool = False,
          y_range: tuple[float, float] | None = None) -> str:
    """A line chart as SVG with a legend.

    Args:
        series: (name, [(x, y), …]) in rising x; all finite; x > 0 if log_x.
        x_label, y_label: axis names with units.  y_range: fixed range, else from the data.
    """
    points = [p for _, line in series for p in line]
    assert points and all(math.isfinite(v) for p in points for v in p)
    fx = math.log10 if log_x else float
    x0, x1 = _widen(min(fx(x) for x, _ in points), max(fx(x) for x, _ in points))
    y0, y1 = y_range or _widen(min(y for _, y in points), max(y for _, y in points))
    px = lambda x: LEFT + (fx(x) - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)
    py = lambda y: HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)
    parts = []
    for i in range(5):
        y = y0 + (y1 - y0) * i / 4
        parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{py(y):.1f}" y2="{py(y):.1f}"/>'
                     f'<text x="{LEFT - 5}" y="{py(y) + 4:.1f}" text-anchor="end">{short(y)}</text>')
    for i, x in enumerate(_x_ticks(points, x0, x1, log_x)):
        parts.append(f'<text x="{px(x):.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="{"start" if i == 0 else "middle"}">{short(x)}</text>')
    for i, (name, line) in enumerate(series):
        colour = f"var(--s{i % SERIES_COLOURS + 1})"
        path = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{px(x):.1f}" cy="{py(y):.1f}" r="2.6" fill="{colour}">'
                  f"<title>{escape(name)}: {short(x)}, {short(y)}</title></circle>" for x, y in (line if len(line) <= 40 else ())]
    parts.append(f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>')
    middle = (HEIGHT - BOTTOM) / 2
    parts.append(f'<text x="11" y="{middle}" text-anchor="middle" transform="rotate(-90 11 {middle})">{escape(y_label)}</text>')
    legend = "".join(f'<span><i style="background:var(--s{i % SERIES_COLOURS + 1})"></i>{escape(name)}</span>'
                     for i, (name, _) in enumerate(series))
    spoken = escape(f"{y_label} over {x_label}")
    return (f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{spoken}">{"".join(parts)}</svg>'
            f'<div class="legend">{legend}</div>')


def _widen(low: float, high: float) -> tuple[float, float]:
    """A range that isn't empty."""
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _x_ticks(points: Sequence[tuple[float, float]], x0: float, x1: float, log_x: bool) -> list[float]:
    """At most six places on the x axis: the data's own, or every second or third of them, when that will do, else even ones."""
    own = sorted({x for x, _ in points})
    if len(own) <= 18:
        return own[::-(-len(own) // 6)]
    even = [x0 + (x1 - x0) * i / 4 for i in range(5)]
    return [10**x for x in even] if log_x else even


def short(value: float) -> str:
    """A number in at most five characters or so: 0.25, 12.5, 4K, 1M (powers of 1024 where they divide evenly, else of 1000)."""
    if value == 0:
        return "0"
    if value >= 1024 and value == int(value) and int(value) % 1024 == 0:
        return f"{int(value) // 1048576}M" if int(value) % 1048576 == 0 else f"{int(value) // 1024}K"
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"
