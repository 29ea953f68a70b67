"""What a request has used, and the ledger row it becomes."""
from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Usage:
    """Tokens of one request so far. hit, miss: of the prompt, found in the prefix cache or computed.  reasoning: of the output."""

    hit: int = 0
    miss: int = 0
    output: int = 0
    reasoning: int = 0


@dataclass(frozen=True)
class LedgerRow:
    """A closed request. Prices in nano-dollars per million tokens, money in nano-dollars; cost = granted + topped_up + invoiced."""

    request_id: str
    key_id: int
    account_id: int
    model: str
    usage: Usage
    price_model: str
    price_since: str
    cached_price: int
    input_price: int
    output_price: int
    granted: int
    topped_up: int
    invoiced: int
    started: datetime
    finished: datetime
    status: str

    @property
    def cost(self) -> int:
        """What it cost, nano-dollars."""
        return self.granted + self.topped_up + self.invoiced
