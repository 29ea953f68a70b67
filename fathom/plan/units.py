"""Numbers as people read them: 284.33 B parameters, 5.28 GB, 3.2 ms. Decimal prefixes throughout; a GiB never appears."""
from __future__ import annotations

import re
from decimal import Decimal

from ..errors import UserError

_COUNT = (("", 1.0), ("K", 1e3), ("M", 1e6), ("B", 1e9))
_SI = (("", 1.0), ("k", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12), ("P", 1e15), ("E", 1e18), ("Z", 1e21), ("Y", 1e24))


def count_text(value: float) -> str:
    """A number of parameters: 284.33 B. The published sizes are in billions."""
    return _scaled(value, _COUNT, 2, "")


def tokens_text(value: float) -> str:
    """A number of tokens: 65,536, 94.4 M, 33 T."""
    if value < 1e6:
        return f"{value:,.0f}"
    scale, prefix = next((s, p) for s, p in ((1e12, "T"), (1e9, "B"), (1e6, "M")) if value >= s)
    return f"{value / scale:,.4g} {prefix}"


def bytes_text(value: float) -> str:
    """A number of bytes: 3.20 TB, 584 B."""
    return _scaled(value, _SI, 2, "B")


def parse_bytes(text: str, field: str) -> int:
    """Bytes from text as people write it: 4GB, 1.5 TB, 800M, 123.

    Raises:
        UserError: naming the field, when it isn't that.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kKMGT]?)[bB]?\s*", text)
    if match is None:
        raise UserError(field, text, "a number of bytes such as 4GB or 800MB")
    return int(float(match[1]) * {"": 1, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[match[2]])


def flops_text(value: float) -> str:
    """A number of FLOPs: 97.7 GFLOP."""
    return _scaled(value, _SI, 1, "FLOP")


def rate_text(value: float, unit: str) -> str:
    """Something per second: 3.35 TB/s, 989.0 TFLOP/s."""
    return _scaled(value, _SI, 2, unit) + "/s"


def money_text(value: float) -> str:
    """US$: $1,234, $2.87, $0.0013, $18.2 M."""
    if value >= 1e6:
        return f"${value / 1e6:,.1f} M"
    if value >= 0.0995 or not value:
        return f"${value:,.0f}" if value >= 1000 else f"${value:.2f}"
    return f"${Decimal(f'{value:.2g}'):f}"


def time_text(seconds: float) -> str:
    """A duration: 12.3 ms, 4.1 s, 3.5 min, 2.0 h, 41 days."""
    for limit, scale, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms"), (120.0, 1.0, "s"), (7200.0, 1 / 60, "min"), (172800.0, 1 / 3600, "h")):
        if seconds < limit:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds / 86400:,.0f} days" if seconds >= 864000 else f"{seconds / 86400:.1f} days"


def _scaled(value: float, units: tuple[tuple[str, float], ...], decimals: int, suffix: str) -> str:
    prefix, scale = next((u for u in reversed(units) if abs(value) >= u[1]), units[0])
    unit = f"{prefix}{suffix}"
    shown = f"{value / scale:,.{0 if scale == 1 and value == int(value) else decimals}f}"
    return f"{shown} {unit}" if unit else shown
