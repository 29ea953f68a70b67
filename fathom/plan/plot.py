"""What a million output tokens costs as the load grows, one line a chip, to a picture file."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

from ..config import ModelConfig
from ..prices import NANO, PriceTable
from ..report.plots import line_plot
from .chips import Chip
from .search import Wishes, plan_serving
from .serving import Load

USERS = (1, 4, 16, 64, 256, 1024, 4096)


def cost_plot(path: str | Path, config: ModelConfig, name: str, load: Load, chips: Sequence[Chip], *, precision: str,
              devices: int | None, prices: PriceTable, day: date, wishes: Wishes | None = None) -> Path:
    """Draw US$ a million output tokens over users at once, on the cheapest layout of each chip, and the model's price if it has one.

    Returns the path. Raises UserError where matplotlib isn't installed.
    """
    series = []
    for chip in chips:
        points = []
        for users in USERS:
            options = plan_serving(config, replace(load, users=users), [chip], precision=precision, devices=devices, wishes=wishes).options
            points.append(options[0].costs.output if options else float("nan"))
        series.append((chip.id, USERS, points))
    known = {n.casefold() for n in prices.names()}
    if name.casefold() in known:
        price = prices.at(name, day).output / NANO
        series.append((f"price of {name}", USERS, [price] * len(USERS)))
    return line_plot(path, series, title=f"{name} at {precision}, {load.context:,} tokens", x_label="users at once",
                     y_label="US$ a million output tokens", log_x=True, log_y=True)
