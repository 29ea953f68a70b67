"""Money is an integer: nano-dollars, 10⁻⁹ US$.

Prices are quoted per million tokens with a few decimals, so one token costs thousandths of a cent and a float ledger would drift.
A price is kept as nano-dollars per MILLION tokens: 0.0028 US$ per million is 2 800 000, exactly. A price with up to three
decimals is a whole number of nano-dollars per token, and then every cost below is exact; with more decimals a request is
rounded once, on its total, half up. Never on its parts: a bill is the sum of its lines, and a line is what `cost` returned.
"""
from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal, InvalidOperation

from fathom.errors import UserError

NANO = 10**9  # nano-dollars in a dollar
MILLION = 10**6


def cost(*, hit: int, miss: int, output: int, cached_price: int, input_price: int, output_price: int) -> int:
    """Nano-dollars for one request.

    Args:
        hit, miss, output: tokens served from the cache, other input tokens, tokens generated; each >= 0.
        cached_price, input_price, output_price: nano-dollars per million tokens; each >= 0.

    Raises ValueError on a negative count or price: a ledger must never pay for being used.
    """
    if min(hit, miss, output, cached_price, input_price, output_price) < 0:
        raise ValueError("token counts and prices are never negative")
    total = hit * cached_price + miss * input_price + output * output_price
    return (total + MILLION // 2) // MILLION


def dollars(nano: int, places: int = 9) -> str:
    """US$ as text with `places` decimals (0..9), half up away from zero: dollars(1_740_000_000, 2) == "1.74"."""
    assert 0 <= places <= 9
    step = 10 ** (9 - places)
    units = (abs(nano) + step // 2) // step
    whole, rest = divmod(units, 10**places)
    sign = "-" if nano < 0 and units else ""
    return f"{sign}{whole}" + (f".{rest:0{places}d}" if places else "")


def parse_dollars(value: str | int | float | Decimal, field: str = "price") -> int:
    """Nano-dollars from US$ written as text or a TOML number (a float means what its shortest spelling says).

    Raises UserError (field) on what isn't a finite amount >= 0 with at most nine decimals.
    """
    allowed = "an amount in US$ >= 0 with at most nine decimals, such as 1.74"
    if isinstance(value, bool):
        raise UserError(field, value, allowed)
    try:
        nano = Decimal(str(value).strip()) * NANO
    except InvalidOperation:
        raise UserError(field, value, allowed) from None
    if not nano.is_finite() or nano < 0 or nano != nano.to_integral_value(ROUND_HALF_UP):
        raise UserError(field, value, allowed)
    return int(nano)
