"""Money: exact where it can be, rounded once where it can't, never negative."""
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom.errors import UserError
from fathom.prices import NANO, cost, dollars, parse_dollars

TOKENS = st.integers(0, 2_000_000)
PRICES = st.integers(0, 100 * NANO)


@given(TOKENS, TOKENS, TOKENS, PRICES, PRICES, PRICES)
def test_cost_is_the_exact_sum_rounded_once(hit, miss, output, cached_price, input_price, output_price):
    exact = Fraction(hit * cached_price + miss * input_price + output * output_price, 10**6)
    got = cost(hit=hit, miss=miss, output=output, cached_price=cached_price, input_price=input_price, output_price=output_price)
    assert isinstance(got, int) and abs(got - exact) <= Fraction(1, 2)


@given(st.lists(st.tuples(TOKENS, TOKENS, TOKENS), max_size=20))
def test_three_decimals_are_exact_however_the_traffic_is_cut(requests):
    """A bill of many requests equals the bill of their sum: no price of the shipped kind ever rounds."""
    prices = {"cached_price": parse_dollars("0.145"), "input_price": parse_dollars("1.74"), "output_price": parse_dollars("3.48")}
    parts = sum(cost(hit=h, miss=m, output=o, **prices) for h, m, o in requests)
    h, m, o = (sum(r[i] for r in requests) for i in range(3))
    assert parts == cost(hit=h, miss=m, output=o, **prices)


def test_a_worked_bill():
    """1000 cached at 0.145, 2000 at 1.74, 500 out at 3.48 per million: 0.000145 + 0.00348 + 0.00174 US$."""
    nano = cost(hit=1000, miss=2000, output=500, cached_price=145_000_000, input_price=1_740_000_000, output_price=3_480_000_000)
    assert nano == 5_365_000 and dollars(nano) == "0.005365000"


def test_half_a_nano_dollar_goes_up():
    assert cost(hit=0, miss=1, output=0, cached_price=0, input_price=500_000, output_price=0) == 1
    assert cost(hit=0, miss=1, output=0, cached_price=0, input_price=499_999, output_price=0) == 0


@pytest.mark.parametrize("bad", ["hit", "miss", "output", "cached_price", "input_price", "output_price"])
def test_negative_anything_is_refused(bad):
    good = {"hit": 1, "miss": 1, "output": 1, "cached_price": 1, "input_price": 1, "output_price": 1}
    with pytest.raises(ValueError):
        cost(**(good | {bad: -1}))


@given(st.integers(-(10**15), 10**15))
def test_nine_decimals_lose_nothing(nano):
    assert Decimal(dollars(nano)) * NANO == nano
    if nano >= 0:
        assert parse_dollars(dollars(nano)) == nano


@given(st.integers(-(10**15), 10**15), st.integers(0, 9))
def test_fewer_decimals_are_nearest(nano, places):
    assert abs(Decimal(dollars(nano, places)) - Decimal(nano) / NANO) * 2 <= Decimal(10) ** -places
    assert dollars(nano, places) != "-0"


@pytest.mark.parametrize("value, nano", [
    ("1.74", 1_740_000_000), (0.145, 145_000_000), (10, 10 * NANO), (Decimal("0.000000001"), 1), (" 2 ", 2 * NANO),
])
def test_parse(value, nano):
    assert parse_dollars(value) == nano


@pytest.mark.parametrize("value", ["", "free", "-1", -0.5, "nan", "inf", "0.0000000001", True, None, "1,74"])
def test_parse_refuses_by_name(value):
    with pytest.raises(UserError, match="input"):
        parse_dollars(value, "input")
