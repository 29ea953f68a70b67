"""What an account has: money given to it (granted) and money it paid (topped up). Granted money is spent first. Neither is ever negative."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fathom.prices import dollars


@dataclass(frozen=True)
class Balance:
    """Nano-dollars. held: of the total, set aside for prompts under way.  postpaid: the account goes on at zero, and is invoiced."""

    granted: int
    topped_up: int
    held: int = 0
    postpaid: bool = False

    @property
    def total(self) -> int:
        """Both parts."""
        return self.granted + self.topped_up

    def api(self) -> dict[str, Any]:
        """The body of GET /user/balance (SPEC 9). Amounts are exact: at least two decimals, and as many as there are."""
        amounts = {"total_balance": self.total, "granted_balance": self.granted, "topped_up_balance": self.topped_up}
        return {"is_available": self.total > 0 or self.postpaid,
                "balance_infos": [{"currency": "USD", **{name: exact(nano) for name, nano in amounts.items()}}]}


def exact(nano: int) -> str:
    """US$ with at least two decimals and nothing lost: "10.00", "0.004635"."""
    whole, _, rest = dollars(nano).partition(".")
    return f"{whole}.{rest.rstrip('0').ljust(2, '0')}"
