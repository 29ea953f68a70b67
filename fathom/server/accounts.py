"""Accounts: who may ask (keys), what a request has used so far (meters), what it cost (ledger), and what is left (balances).

The server's life with it:

    accounts = Accounts.open(folder)                   # at start: makes or upgrades the database, claims the folder
    service = AsyncAccounts(accounts)
    await service.recover(keep=journal_ids)            # closes what a killed server left open, but for what the journal can resume

    key = await service.authenticate(secret)           # None → 401
    async with await service.begin(request_id, key, model, prompt_tokens) as meter:      # OutOfBalance 402, TooMany 429, Taken 409
        async for tokens in drained(engine_output):    # all that is there, at least one
            usage = …                                  # totals of the request so far, these tokens included
            if it is the last:
                row = await meter.finish("stop", usage)
            else:
                await meter.record(usage)
            send(tokens)                               # only now
        # left without finish: the row is closed as "cancelled" or "failed" with what was recorded

    await service.close()                              # at the end, after the last request

The one rule: tokens are generated (and journalled) first, recorded second, handed out third. So, wherever the process is killed,
seen ≤ billed ≤ logged, each at most one flush apart. `record` and `finish` return when the counts are on disk. Whoever calls record for
every drained batch flushes by itself: while one flush is under way, the engine's next tokens gather. Streamed or not, the loop is the same.

OutOfBalance from record or finish means that these last tokens aren't paid: don't hand them out, stop the request. After record,
finish("balance"); finish has closed the row itself.

Request ids are unique among all keys, forever. An id that a client may choose must therefore be scoped by its key
(f"{key.prefix}-{id}") before it comes here and goes into the journal.

Why threads and not an async driver: SQLite has one writer anyway, the command line and the tests use the same code without a loop, and
one thread that commits everybody's counts together (writer.py) is faster than a transaction per request on either database.
"""
from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import UTC, date, datetime
from pathlib import Path
from types import TracebackType

from fathom.prices import Price, PriceTable
from fathom.server.balance import Balance
from fathom.server.billing import UsageRow
from fathom.server.keys import Key
from fathom.server.metering import LedgerRow, Usage


class Accounts:
    """The synchronous side: thread-safe, every method one transaction. The command line and the tests use it; the server opens and closes it."""

    @classmethod
    def open(cls, folder: Path, url: str | None = None, prices: PriceTable | None = None, *, serving: bool = True,
             now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Accounts:
        """Opens the accounts of a service folder, making or upgrading the database first.

        Args:
            folder: the one folder that holds everything the service keeps; made if absent.
            url: any SQLAlchemy URL; FOLDER/accounts.sqlite if None.
            prices: the price table; the shipped one if None.
            serving: claim the folder as its only server. The command line doesn't, and works beside a running server.
        Raises UserError: no such database, a newer version's database, a folder that another server holds.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Writes what waits, closes the database and lets go of the folder."""
        raise NotImplementedError


class AsyncAccounts:
    """What the server awaits. Every method may be cancelled; what was written stays written, and a begin that nobody awaits is closed."""

    def __init__(self, accounts: Accounts) -> None:
        self.accounts = accounts

    async def authenticate(self, secret: str) -> Key | None:
        """The key that this secret is, None for anything else: malformed, unknown, revoked."""
        raise NotImplementedError

    async def begin(self, request_id: str, key: Key, model: str, prompt_tokens: int, cached_tokens: int = 0) -> Meter:
        """Opens a request's row.

        Checks the key's limits, and that the balance covers the prompt and one token of output, which is held back until the prompt is
        recorded: what 32 requests at once would spend is not there 32 times.

        Args:
            model: the name it is billed under; its price row of today, or the table's row for unlisted models.
            prompt_tokens: of the whole prompt.  cached_tokens: of these, what the caller knows to be cached and held at that price.
        Raises OutOfBalance (402), TooMany (429, retry_after), Taken (409, the id is running or billed), BooksClosed (503).
        """
        raise NotImplementedError

    async def resume(self, request_id: str, key: Key) -> Meter:
        """Goes on with a row that `recover` kept. meter.usage says what is billed so far; later records hold totals as ever.

        Raises Taken (409): the row is closed (billed is True), or the request is running; UserError: this key has no such request.
        """
        raise NotImplementedError

    async def recover(self, keep: Collection[str] = ()) -> list[LedgerRow]:
        """Closes, as "crashed", the open rows of a server that was killed on this folder, but for the ids in `keep`. Once, at start."""
        raise NotImplementedError

    async def abandon(self, request_id: str) -> LedgerRow | None:
        """Closes a kept row whose journal was dropped, as "crashed". None if it isn't open."""
        raise NotImplementedError

    async def balance(self, key: Key) -> Balance:
        """What the key's account has; Balance.api() is the body of GET /user/balance."""
        raise NotImplementedError

    async def usage(self, key: Key | None = None, since: date | None = None, until: date | None = None) -> list[UsageRow]:
        """Closed requests summed by key and UTC day (of their end), oldest first; of this key's whole account, or of all accounts."""
        raise NotImplementedError

    async def close(self) -> None:
        """Accounts.close, off the event loop."""
        raise NotImplementedError


class Meter:
    """One running request. Use it from one task."""

    request_id: str
    price: Price
    usage: Usage  # what is recorded

    @property
    def cost(self) -> int:
        """Nano-dollars recorded so far."""
        raise NotImplementedError

    async def record(self, usage: Usage) -> None:
        """Writes the totals so far and takes their price off the balance. Back when that is on disk.

        The first record brings hit and miss, which stay; output and reasoning only grow (ValueError otherwise).
        Raises OutOfBalance: nothing of this call is charged, don't hand its tokens out. BooksClosed: the same, and stop everything.
        """
        raise NotImplementedError

    async def finish(self, status: str, usage: Usage | None = None) -> LedgerRow:
        """Records, and closes the request into its one immutable ledger row; a second finish returns the same row.

        status: an API finish_reason (stop, length, tool_calls, content_filter, insufficient_system_resource, aborted), or cancelled
        (the client left), failed (our error), balance (402 on the way).
        Raises OutOfBalance if `usage` can't be paid; the row is closed all the same, as "balance", with what was recorded before.
        """
        raise NotImplementedError

    def finish_soon(self, status: str) -> None:
        """finish without waiting, from anywhere: for `finally` blocks and cancelled tasks. Does nothing on a closed row."""
        raise NotImplementedError

    async def __aenter__(self) -> Meter:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        raise NotImplementedError
