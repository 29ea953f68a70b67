"""What was used and what it costs, read from the ledger."""
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class UsageRow:
    """Closed requests of one key on one UTC day. day: ISO date.  cost: nano-dollars."""

    day: str
    key: str  # the key's prefix
    name: str
    account: str
    model: str
    requests: int
    hit: int
    miss: int
    output: int
    reasoning: int
    cost: int
