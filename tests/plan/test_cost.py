"""Costs worked by hand, and what break-even means: at that load income equals cost."""
import dataclasses
from datetime import date

import pytest

from fathom.config import preset
from fathom.plan.chips import load_chips
from fathom.plan.cost import break_even, costs
from fathom.plan.profile import profile
from fathom.plan.serving import Layout, Load, predict
from fathom.prices import Price, load_prices

CHIP, LAYOUT, LOAD = load_chips()["h200"], Layout(tp=2, ep=8, dp=4), Load(65536, 64, 1024, 0.25)
PREDICTION = predict(profile(preset("v4-pro")), CHIP, LAYOUT, LOAD)
PRO_PRICE = load_prices().at("v4-pro", date(2026, 5, 1))


def test_costs_by_hand():
    rates = dataclasses.replace(PREDICTION, decode_rate=2000.0, prefill_rate=50000.0, load_rate=1e6)
    found = costs(rates, CHIP, LAYOUT, LOAD)
    second = 8 * 3.5 / 3600
    assert found.hour == 28.0
    assert found.output == pytest.approx(second / 2000 * 1e6) and found.input == pytest.approx(second / 50000 * 1e6)
    seconds = 64512 * 0.25 / 1e6 + 64512 * 0.75 / 50000 + 1024 / 2000
    assert found.request == pytest.approx(second * seconds)
    assert found.requests_per_hour == pytest.approx(3600 / seconds)


def test_at_the_break_even_load_income_is_cost():
    cost = costs(PREDICTION, CHIP, LAYOUT, LOAD)
    found = break_even(cost, PRO_PRICE, LOAD)
    assert found.income == pytest.approx((64512 * (0.25 * 0.145 + 0.75 * 1.74) + 1024 * 3.48) / 1e6)
    assert 0 < found.load < 1
    assert found.load * cost.requests_per_hour * found.income == pytest.approx(cost.hour)
    assert found.requests_per_day * found.income == pytest.approx(24 * cost.hour)
    assert found.margin == pytest.approx(1 - cost.request / found.income)


def test_a_free_model_never_breaks_even():
    found = break_even(costs(PREDICTION, CHIP, LAYOUT, LOAD), Price("free", date(2026, 1, 1), 0, 0, 0), LOAD)
    assert found.load == float("inf") and found.margin == float("-inf")


def test_cached_input_costs_less_than_input_and_hits_make_requests_cheaper():
    cost = costs(PREDICTION, CHIP, LAYOUT, LOAD)
    assert cost.cached < cost.input < cost.output
    more = dataclasses.replace(LOAD, hit=0.9)
    assert costs(PREDICTION, CHIP, LAYOUT, more).request < cost.request
