"""What tokens cost on a deployment, and at which load its income covers it.

Devices are paid by the hour, busy or not. A million tokens of a kind costs what the whole deployment costs for as long as it needs
for them at full load: output tokens at the decode rate, input tokens at the prefill rate, cached input tokens at the rate at which
host links bring their state back (no matrix is multiplied for them, which is why they are sold so cheaply). One deployment does all
three, so a request's cost is the sum, and requests that pay more than they cost must fill at least cost ÷ income of the hours.
"""
from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from ..prices import NANO, Price
from .chips import Chip
from .serving import Layout, Load, Prediction

MILLION = 1e6


@dataclass(frozen=True)
class Costs:
    """US$: of an hour, of a million tokens by kind, and of one request of the load. `requests_per_hour` at full load."""

    hour: float
    cached: float
    input: float
    output: float
    request: float
    requests_per_hour: float


@dataclass(frozen=True)
class BreakEven:
    """A deployment against a price row, at the load's mix of tokens.

    Attributes:
        model: whose price.  since: first day of the row, ISO.  income: US$ a request brings.
        load: share of the hours that must be busy; above 1 the price never covers the cost.
        requests_per_day: as many must be served a day.  margin: share of the income that is left at full load.
    """

    model: str
    since: str
    income: float
    load: float
    requests_per_day: float
    margin: float

    def data(self) -> dict[str, Any]:
        """JSON-ready form; None for what is infinite, which JSON has no word for."""
        return {key: None if isinstance(value, float) and math.isinf(value) else value for key, value in asdict(self).items()}


def costs(prediction: Prediction, chip: Chip, layout: Layout, load: Load) -> Costs:
    """Costs of a predicted deployment at full load."""
    hour = layout.devices * chip.price
    second = hour / 3600
    cached, fresh, output = (second / rate * MILLION for rate in (prediction.load_rate, prediction.prefill_rate, prediction.decode_rate))
    hit, miss, answer = token_mix(load)
    request = (hit * cached + miss * fresh + answer * output) / MILLION
    seconds = hit / prediction.load_rate + miss / prediction.prefill_rate + answer / prediction.decode_rate
    return Costs(hour, cached, fresh, output, request, 3600 / seconds)


def token_mix(load: Load) -> tuple[float, float, int]:
    """Cached prompt tokens, other prompt tokens and answer tokens of one request."""
    return load.prompt * load.hit, load.prompt * (1 - load.hit), load.answer


def break_even(cost: Costs, price: Price, load: Load) -> BreakEven:
    """At which load a price row covers a deployment. A free row never does: load and requests are then infinite."""
    hit, miss, answer = token_mix(load)
    income = (hit * price.cached + miss * price.input + answer * price.output) / NANO / MILLION
    share = cost.hour / (income * cost.requests_per_hour) if income else float("inf")
    return BreakEven(price.model, price.since.isoformat(), income, share, 24 * cost.hour / income if income else float("inf"),
                     1 - share if income else float("-inf"))
