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
        # left without finish: the row is closed as "cancelled" or "failed" with what was recorded; withdraw() frees the id instead

    await service.close()                              # at the end, after the last request

The one rule: tokens are generated (and journalled) first, recorded second, handed out third. So, wherever the process is killed,
seen ≤ billed ≤ logged, each at most one flush apart. `record` and `finish` return when the counts are on disk. Whoever calls record for
every drained batch flushes by itself: while one flush is under way, the engine's next tokens gather. Streamed or not, the loop is the same.

OutOfBalance from record or finish means that these last tokens aren't paid: don't hand them out, stop the request. After record,
finish("balance"); finish has closed the row itself.

Request ids are unique among all keys, forever. An id that a client may choose must therefore be scoped by its key
(f"{key.prefix}-{id}") before it comes here and goes into the journal.

`recover` may be called again whenever the journal has dropped something: a kept row that isn't in `keep` any more is closed then.

Why threads and not an async driver: SQLite has one writer anyway, the command line and the tests use the same code without a loop, and
one thread that commits everybody's counts together (writer.py) is faster than a transaction per request on either database.
"""
from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection
from concurrent.futures import Future
from datetime import date, timedelta
from types import TracebackType
from typing import Any

from fathom.prices import Price
from fathom.server.balance import Balance
from fathom.server.billing import UsageRow
from fathom.server.books import Accounts
from fathom.server.keys import Key, Limits, NewKey
from fathom.server.metering import STATUSES, Begin, Closed, Finish, LedgerRow, MeterRow, Operation, Record, Resume, Usage, Withdraw
from fathom.server.refusals import BooksClosed, OutOfBalance, Refusal, Revoked, Taken, TooMany

__all__ = ["STATUSES", "Accounts", "AsyncAccounts", "Balance", "BooksClosed", "Key", "LedgerRow", "Limits", "Meter", "NewKey", "OutOfBalance",
           "Refusal", "Revoked", "Taken", "TooMany", "Usage", "UsageRow"]


class AsyncAccounts:
    """What the server awaits, from one event loop. Every method may be cancelled: what was written stays, a begin nobody awaits is closed."""

    def __init__(self, accounts: Accounts) -> None:
        self.accounts = accounts
        self._live: set[str] = set()  # requests that have a Meter here

    async def authenticate(self, secret: str) -> Key | None:
        """The key that this secret is, None for anything else: malformed, unknown, revoked."""
        return await asyncio.to_thread(self.accounts.authenticate, secret)

    async def begin(self, request_id: str, key: Key, model: str, prompt_tokens: int, cached_tokens: int = 0) -> Meter:
        """Opens a request's row.

        Checks the key's limits, and that the balance covers the prompt and one token of output, which is held back until the prompt is
        recorded: what 32 requests at once would spend is not there 32 times.

        Args:
            request_id: 1 to 200 printable characters (400 otherwise).
            model: the name it is billed under; its price row of today, or the table's row for unlisted models.
            prompt_tokens: of the whole prompt.  cached_tokens: of these, what the caller knows to be cached and held at that price.
        Raises OutOfBalance (402), TooMany (429, retry_after), Taken (409, the id is running or billed), Revoked (401), BooksClosed (503).
        """
        if not 0 <= cached_tokens <= prompt_tokens:
            raise ValueError(f"{cached_tokens} of {prompt_tokens} tokens are cached")
        for field, text in (("request id", request_id), ("model", model)):
            if not 1 <= len(text) <= 200 or not text.isprintable():
                raise Refusal(field, text, "1 to 200 printable characters")
        now = self.accounts.now()
        price = self.accounts.prices.charged(model, now)
        return await self._open(Begin(request_id, key, model, price, prompt_tokens, cached_tokens, now))

    async def resume(self, request_id: str, key: Key) -> Meter:
        """Goes on with a row that `recover` kept. meter.usage says what is billed so far; later records hold totals as ever.

        The tokens that the journal has and the row hasn't are the first to be recorded and handed out, before further ones are generated.

        Raises Taken (409): the row is closed (billed is True), or the request is running; Refusal: this key has no such request.
        """
        if request_id in self._live:
            raise Taken("request", request_id, "is the id of a request under way", "wait for its answer")
        return await self._open(Resume(request_id, key))

    async def recover(self, keep: Collection[str] = (), spare: timedelta = timedelta(0)) -> list[LedgerRow]:
        """Closes, as "crashed", the open rows of earlier starts of this server: see Accounts.recover. At start, and again later."""
        return await asyncio.to_thread(self.accounts.recover, {*keep, *self._live}, spare)

    async def balance(self, key: Key) -> Balance:
        """What the key's account has; Balance.api() is the body of GET /user/balance."""
        return await asyncio.to_thread(self.accounts.balance, key.account_id)

    async def usage(self, key: Key | None = None, since: date | None = None, until: date | None = None) -> list[UsageRow]:
        """Closed requests summed by UTC day (of their end), key and model, oldest first; of this key's whole account, or of all accounts."""
        account_id = None if key is None else key.account_id
        return await asyncio.to_thread(lambda: self.accounts.usage(account_id=account_id, since=since, until=until))

    async def request(self, key: Key, request_id: str) -> LedgerRow | None:
        """One closed request of the key's account, None while it is open and where there is none."""
        return await asyncio.to_thread(self.accounts.request, key.account_id, request_id)

    async def close(self) -> None:
        """Accounts.close, off the event loop."""
        await asyncio.to_thread(self.accounts.close)

    async def _open(self, operation: Begin | Resume) -> Meter:
        name, fresh = operation.request_id, operation.request_id not in self._live
        self._live.add(name)
        future = self.accounts.submit(operation)
        try:
            return Meter(self, await asyncio.wrap_future(future))
        except BaseException:
            if fresh:
                self._live.discard(name)
            if future.running() or (future.done() and not future.cancelled() and future.exception() is None):
                future.add_done_callback(self._forsake)  # cancelled while it was being written
            raise

    def _forsake(self, future: Future[Any]) -> None:
        if not future.cancelled() and future.exception() is None:
            Meter(self, future.result()).finish_soon("cancelled")


class Meter:
    """One running request. Use it from one task. usage: what is recorded."""

    def __init__(self, service: AsyncAccounts, row: MeterRow) -> None:
        self._service, self._row = service, row
        self._closing: Future[Any] | None = None

    @property
    def request_id(self) -> str:
        """The request's id."""
        return self._row.request_id

    @property
    def price(self) -> Price:
        """The row that it is charged by."""
        return self._row.price

    @property
    def usage(self) -> Usage:
        """What is recorded."""
        return self._row.usage

    @property
    def cost(self) -> int:
        """Nano-dollars recorded so far."""
        return self._row.cost

    async def record(self, usage: Usage) -> None:
        """Writes the totals so far and takes their price off the balance. Back when that is on disk.

        The first record brings hit and miss, which stay; output and reasoning only grow (ValueError otherwise).
        Raises OutOfBalance: nothing of this call is charged, don't hand its tokens out. BooksClosed: the same, and stop everything.
        """
        future = self._service.accounts.submit(Record(self.request_id, self._row.account_id, usage))
        self._row = await asyncio.wrap_future(future)

    async def finish(self, status: str, usage: Usage | None = None) -> LedgerRow:
        """Records, and closes the request into its one immutable ledger row; a second finish returns the same row.

        status: an API finish_reason (stop, length, tool_calls, content_filter, insufficient_system_resource, aborted), or cancelled
        (the client left), failed (our error), balance (402 on the way).
        Raises OutOfBalance if `usage` can't be paid; the row is closed all the same, as "balance", with what was recorded before.
        """
        closed = await asyncio.shield(asyncio.wrap_future(self._close(status, usage)))
        if closed.unpaid is not None:
            raise closed.unpaid
        return closed.row

    def finish_soon(self, status: str) -> None:
        """finish without waiting, from anywhere: for `finally` blocks and cancelled tasks. Does nothing on a closed row.

        Nor does it after the accounts were closed: then the row is closed at the next start.
        """
        with contextlib.suppress(BooksClosed):
            self._close(status, None)

    async def withdraw(self) -> None:
        """Takes the request back, of which nothing was handed out here: it may be asked again under its id. Does nothing on a closed row."""
        if self._closing is None:
            with contextlib.suppress(BooksClosed):
                await asyncio.shield(asyncio.wrap_future(self._last(Withdraw(self.request_id, self._row.account_id))))

    async def closed(self) -> bool:
        """Whether the row is closed, once a finish that is under way has come to its end."""
        if self._closing is None:
            return False
        outcomes = await asyncio.gather(asyncio.shield(asyncio.wrap_future(self._closing)), return_exceptions=True)
        return isinstance(outcomes[0], Closed)

    def _close(self, status: str, usage: Usage | None) -> Future[Any]:
        failed = self._closing is not None and self._closing.done() and self._closing.exception() is not None
        if self._closing is None or failed:
            return self._last(Finish(self.request_id, self._row.account_id, status, self._service.accounts.now(), usage))
        return self._closing

    def _last(self, operation: Operation) -> Future[Any]:
        self._closing = self._service.accounts.submit(operation)
        self._closing.add_done_callback(lambda _: self._service._live.discard(self.request_id))
        return self._closing

    async def __aenter__(self) -> Meter:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        cancelled = kind is not None and issubclass(kind, asyncio.CancelledError | GeneratorExit)
        self.finish_soon("cancelled" if cancelled else "balance" if isinstance(error, OutOfBalance) else "failed")
