"""What requests use and what becomes of it, as plain values: usage, the open row (meter), the ledger's row, and the five operations.

The rules by which an operation changes the accounts are in charging.py, the SQL in transaction.py.
"""
from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from fathom.prices import Price
from fathom.server.keys import Key
from fathom.server.refusals import OutOfBalance

NORMAL = ("stop", "length", "tool_calls", "content_filter")  # the request ended by itself
STATUSES = (*NORMAL, "insufficient_system_resource", "aborted", "cancelled", "failed", "crashed", "balance")


@dataclass(frozen=True)
class Usage:
    """Tokens of one request so far. hit, miss: of the prompt, found in the prefix cache or computed.  reasoning: of the output."""

    hit: int = 0
    miss: int = 0
    output: int = 0
    reasoning: int = 0

    def __post_init__(self) -> None:
        if min(self.hit, self.miss, self.output, self.reasoning) < 0 or self.reasoning > self.output:
            raise ValueError(f"not a usage: {self}")

    @property
    def tokens(self) -> int:
        """All of them."""
        return self.hit + self.miss + self.output

    def covers(self, earlier: Usage) -> bool:
        """Whether these can be totals of the same request later on: no count is smaller."""
        return (self.hit >= earlier.hit and self.miss >= earlier.miss and self.output >= earlier.output and self.reasoning >= earlier.reasoning)


@dataclass(frozen=True)
class Spent:
    """Who asked for what, what it used, at which price row, and who paid how much of it (nano-dollars)."""

    request_id: str
    key_id: int
    account_id: int
    model: str
    usage: Usage
    price: Price
    granted: int
    topped_up: int
    invoiced: int
    started: datetime

    @property
    def cost(self) -> int:
        """What was charged, nano-dollars; always the price of `usage`."""
        return self.granted + self.topped_up + self.invoiced


@dataclass(frozen=True)
class MeterRow(Spent):
    """A request under way. held: nano-dollars set aside for it.  server, generation: whose it is."""

    held: int
    server: str
    generation: int


@dataclass(frozen=True)
class LedgerRow(Spent):
    """A request that ended. status: one of STATUSES."""

    finished: datetime
    status: str

    @property
    def day(self) -> str:
        """The UTC day of its end, on whose bill it stands: a bill of a past day gets no more rows."""
        return self.finished.astimezone(UTC).date().isoformat()


@dataclass(frozen=True)
class Begin:
    """Opens a request."""

    request_id: str
    key: Key
    model: str
    price: Price
    prompt_tokens: int
    cached_tokens: int
    at: datetime


@dataclass(frozen=True)
class Resume:
    """Goes on with a request that a killed server left open."""

    request_id: str
    key: Key


@dataclass(frozen=True)
class Record:
    """Charges the totals so far."""

    request_id: str
    account_id: int
    usage: Usage


@dataclass(frozen=True)
class Finish:
    """Closes a request, perhaps recording last totals."""

    request_id: str
    account_id: int
    status: str
    at: datetime
    usage: Usage | None = None


@dataclass(frozen=True)
class Withdraw:
    """Takes back a request that wasn't served after all. Without usage it leaves no trace; with some it is open, as a kill leaves it."""

    request_id: str
    account_id: int


@dataclass(frozen=True)
class Closed:
    """What Finish gives. unpaid: why its last totals weren't charged, if they weren't."""

    row: LedgerRow
    unpaid: OutOfBalance | None = None


Operation = Begin | Resume | Record | Finish | Withdraw


def account_of(operation: Operation) -> int:
    """The account that an operation changes."""
    return operation.key.account_id if isinstance(operation, Begin | Resume) else operation.account_id
