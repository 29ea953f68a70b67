"""The plan as one HTML file with sliders: model, chips and prices inside, the arithmetic in JavaScript, no server.

The page doesn't show results that were computed here; it computes its own (arithmetic.js) from the same profile and chips. Python's
answer for the opening position is put in beside them, and the page says so if its own differs.
"""
from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from datetime import date
from importlib import resources
from typing import Any

from ..config import ModelConfig
from ..prices import NANO, PriceTable
from ..report import escape, json_data, page
from .chips import Chip
from .count import active_parameters, total_parameters
from .profile import profile
from .search import DEVICE_COUNTS, MAX_CP, MAX_PP, Wishes, best_by_devices, plan_serving
from .serving import CHUNK, Load
from .size import WEIGHT_PRECISIONS
from .units import count_text

LIMITS = {"chunk": CHUNK, "cp": MAX_CP, "pp": MAX_PP}


def plan_page(config: ModelConfig, name: str, load: Load, chips: Mapping[str, Chip], chip: str, *, precision: str = "official",
              devices: int | None = None, wishes: Wishes | None = None, prices: PriceTable | None = None, day: date | None = None) -> str:
    """A complete, self-contained HTML document.

    Args:
        load, chip, precision, devices, wishes: where the sliders stand when it opens.  chips: all that can be chosen.
        prices: price lists to compare with, by the rows that hold on `day`.

    Raises:
        UserError: as `plan_serving`.
    """
    data = page_data(config, name, load, chips, chip, precision=precision, devices=devices, wishes=wishes, prices=prices, day=day)
    facts = f"{count_text(total_parameters(config, mtp=False))} parameters, {count_text(active_parameters(config))} active a token"
    body = (f"<h1>What it takes to serve {escape(name)}</h1>\n"
            f'<p class="soft">{escape(facts)}. Move the sliders: everything is computed in this page, from the model’s shape and the '
            f"chips’ figures below; nothing is sent anywhere.</p>\n{_part('page.html')}\n{json_data('plan', data)}")
    return page(f"Serving {name}", body, scripts=[_part("arithmetic.js"), _part("page.js")], styles=[_part("page.css")])


def page_data(config: ModelConfig, name: str, load: Load, chips: Mapping[str, Chip], chip: str, *, precision: str = "official",
              devices: int | None = None, wishes: Wishes | None = None, prices: PriceTable | None = None,
              day: date | None = None) -> dict[str, Any]:
    """What the page knows: profiles of every precision, chips, prices (US$ a million tokens), opening position, Python's answer there."""
    wishes = wishes or Wishes()
    plan = plan_serving(config, load, [chips[chip]], precision=precision, devices=devices, wishes=wishes)
    best = best_by_devices(plan.options)
    return {
        "model": name,
        "profiles": {p: profile(config, p).data() for p in WEIGHT_PRECISIONS},
        "chips": [c.data() for c in chips.values()],
        "prices": _prices(prices, day),
        "limits": LIMITS,
        "counts": sorted({*DEVICE_COUNTS, *((devices,) if devices else ())}),
        "start": {**asdict(load), "chip": chip, "precision": precision, "devices": devices, "speed": wishes.speed,
                  "wait": wishes.wait if math.isfinite(wishes.wait) else None},
        "expected": {"devices": best[0].layout.devices, "request": best[0].costs.request} if best else None,
    }


def _prices(table: PriceTable | None, day: date | None) -> list[dict[str, Any]]:
    if table is None or day is None:
        return []
    rows = [table.at(model, day) for model in table.models() if any(r.model == model and r.since <= day for r in table.rows)]
    return [{"model": r.model, "since": r.since.isoformat(), "cached": r.cached / NANO, "input": r.input / NANO, "output": r.output / NANO,
             "aliases": list(r.aliases)} for r in rows]


def _part(file: str) -> str:
    return resources.files("fathom.plan").joinpath(file).read_text(encoding="utf-8")
