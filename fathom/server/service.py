"""The service without HTTP: a model, its engine, the accounts and what an operator has set. app.py puts routes before it.

Everything it keeps is in one folder: accounts.sqlite (unless another database is named), journal/ (answers under way, to resume them
after a crash) and cache/ (the prefix cache's second tier).
"""
from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from datetime import date, timedelta
from pathlib import Path

from fathom import __version__
from fathom.engine import Engine
from fathom.engine.journal import FileJournal
from fathom.errors import UserError
from fathom.heap import give_back_freed_memory
from fathom.prices import Price
from fathom.prices.table import utc_day
from fathom.server.accounts import Accounts, AsyncAccounts, Key, Meter
from fathom.server.answering import BUSY, Answer, Arrivals, answering
from fathom.server.asking import Ask
from fathom.server.errors import ApiError
from fathom.server.metrics import Metrics
from fathom.server.settings import Settings
from fathom.session import Session
from fathom.text.grammars import Grammars

log = logging.getLogger("fathom.server")
HOUSEKEEPING_SECONDS = 60.0
SILENT_SECONDS = 1.0
"""Without an answer under way for so long, the service gives back the memory that its answers took."""
SPARE = timedelta(minutes=10)
"""So long a request that was killed before it had a log may be asked again under its id."""


class Service:
    """One model served.

    Args:
        session: the model opened, its engine with `journal` as its write-ahead log.
        accounts: opened for serving.  settings: what the operator has set.

    Raises:
        UserError: a model that has no price.
    """

    def __init__(self, session: Session, accounts: Accounts, settings: Settings, journal: FileJournal | None = None) -> None:
        self.engine: Engine = session.engine
        self.tokenizer, self.config, self.settings = session.tokenizer, session.config, settings
        self.grammars = Grammars(session.tokenizer, session.config.vocab_size)
        self._books, self.accounts = accounts, AsyncAccounts(accounts)
        self._journal = journal
        self.metrics = Metrics(self.engine.stats)
        self.fingerprint = f"fp_{(journal.model if journal else __version__)[:12]}"
        self.ready, self.began = False, int(accounts.now().timestamp())
        self._in_flight = 0
        self._silence: asyncio.TimerHandle | None = None
        self._housekeeper: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        self.price()

    @property
    def context(self) -> int:
        """Tokens of the longest sequence, prompt and answer together."""
        return self.engine.context

    def price(self) -> Price:
        """What the model costs today."""
        return self._books.prices.charged(self.settings.name, self._books.now())

    def today(self) -> date:
        """The UTC day by the accounts' clock."""
        return utc_day(self._books.now())

    # ---- life

    async def start(self) -> None:
        """Settles what a killed server left, and begins to work."""
        for row in await self.accounts.recover(self._resumable(), SPARE):
            log.warning("request %s was under way when the service was killed; billed as far as recorded", row.request_id)
        self.engine.start()
        self._housekeeper = asyncio.create_task(self._keep_house())
        self.ready = True

    async def stop(self) -> None:
        """Ends what is under way and closes the accounts. Journal and cache are closed by whoever opened them, after this."""
        self.ready = False
        if self._housekeeper:
            self._housekeeper.cancel()
            await asyncio.gather(self._housekeeper, return_exceptions=True)
        await asyncio.to_thread(self.engine.close)
        await asyncio.gather(*self._leaving, return_exceptions=True)
        await self.accounts.close()

    async def _keep_house(self) -> None:
        """Now and then: closes the rows of interrupted requests whose logs have run out."""
        while True:
            await asyncio.sleep(HOUSEKEEPING_SECONDS)
            try:
                await self.accounts.recover(await asyncio.to_thread(self._resumable), SPARE)
            except UserError as error:
                log.error("accounts: %s", error)

    def _resumable(self) -> set[str]:
        """Ids, as the accounts know them, of requests that have a log. Also one whose answer is complete: its end may not be recorded yet."""
        return set() if self._journal is None else {entry.id.rpartition("-")[0] for entry in self._journal.entries()}

    # ---- answers

    @contextlib.asynccontextmanager
    async def answer(self, ask: Ask, key: Key, request_id: str) -> AsyncIterator[Answer]:
        """One answer, admitted; see answering.py.

        Raises:
            ApiError: refused.
        """
        if not self.ready or self._in_flight >= self.settings.most_requests:
            raise ApiError(503, BUSY, code="overloaded", retry_after=2)
        self._in_flight += 1
        if self._silence:
            self._silence.cancel()
        self.metrics.in_flight.inc()
        try:
            async with answering(self, ask, key, request_id) as answer:
                yield answer
        finally:
            self._in_flight -= 1
            self.metrics.in_flight.dec()
            if not self._in_flight:
                self._silence = asyncio.get_running_loop().call_later(SILENT_SECONDS, give_back_freed_memory)

    def logs_of(self, scoped: str) -> set[str]:
        """The engine's ids of the logs of one request, as the accounts know it."""
        return {entry.id for entry in self._journal.entries() if entry.id.rpartition("-")[0] == scoped} if self._journal else set()

    def on_file(self, engine_id: str, billed: int) -> bool:
        """Whether a request's whole answer is still in the journal, and no longer than what was billed."""
        entry = self._journal.read(engine_id) if self._journal else None
        return entry is not None and entry.finished and sum(output.token_id >= 0 for output in entry.outputs) <= billed

    def forget_after(self, arrivals: Arrivals | None, meter: Meter, engine_id: str) -> None:
        """Drops the log of an answer that its client or we gave up, once the engine has let go of it and its row is closed: nobody can resume it."""
        async def wait_and_forget() -> None:
            while arrivals and not any(output.finish_reason for output in await arrivals.drain(HOUSEKEEPING_SECONDS)):
                pass
            if self._journal and await meter.closed():
                await asyncio.to_thread(self._journal.forget, engine_id)

        task = asyncio.create_task(wait_and_forget())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)


def service_folders(folder: Path) -> tuple[Path, Path]:
    """Where a service keeps its journal and its prefix cache."""
    return folder / "journal", folder / "cache"
