"""Accounts as the command line and the tests use them: synchronous, thread-safe, each method one transaction.

Keys belong to accounts and the money to the account, so a key that leaked is revoked and another made without moving money. What the
server does with running requests goes through `submit`, whose operations are committed together (writer.py); accounts.py is the
asynchronous face of it.

Opened for serving, a folder is claimed: its lock keeps a second server out, and the number of its starts, kept in the database, makes an
older server that lost the folder unnoticed (a paused machine, a file system without locks) unable to write any more.
"""
from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Connection, Engine, select

from fathom.errors import UserError
from fathom.prices import PriceTable, load_prices
from fathom.server import audit, billing, credits, keys, transaction
from fathom.server.balance import Balance
from fathom.server.database import make_folder, open_database, reading, to_stored
from fathom.server.keys import Key, Limits, NewKey
from fathom.server.metering import Closed, Finish, LedgerRow, Operation, Usage
from fathom.server.tables import accounts, servers
from fathom.server.writer import INTERVAL, Writer


class Accounts:
    """The accounts of one service folder; open() makes them. prices: what requests are charged by.  now: the clock."""

    def __init__(self, engine: Engine, prices: PriceTable, now: Callable[[], datetime], claim: Claim | None, interval: float) -> None:
        self.engine, self.prices, self.now = engine, prices, now
        self._claim = claim
        self._writer = Writer(self._commit, interval) if claim else None

    @classmethod
    def open(cls, folder: Path, url: str | None = None, prices: PriceTable | None = None, *, serving: bool = True,
             now: Callable[[], datetime] = lambda: datetime.now(UTC), interval: float = INTERVAL) -> Accounts:
        """Opens the accounts of a service folder, making or upgrading the database first.

        Args:
            folder: the one folder that holds everything the service keeps; made if absent.
            url: any SQLAlchemy URL; FOLDER/accounts.sqlite if None.
            prices: the price table; the shipped one if None.
            serving: claim the folder as its only server. The command line doesn't, and works beside a running server.
            interval: seconds between two commits of running requests, at least.
        Raises UserError: no such database, a newer version's database, a folder that another server holds.
        """
        lock = lock_folder(folder) if serving else None
        try:
            engine = open_database(folder, url)
            claim = Claim(lock, *_start(engine, folder)) if lock else None
        except BaseException:
            if lock:
                lock.close()
            raise
        return cls(engine, load_prices() if prices is None else prices, now, claim, interval)

    def close(self) -> None:
        """Writes what waits, closes the database and lets go of the folder."""
        if self._writer:
            self._writer.close()
        self.engine.dispose()
        if self._claim:
            self._claim.lock.close()

    def __enter__(self) -> Accounts:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # Keys

    def create_key(self, name: str, account: str | None = None, limits: Limits | None = None, postpaid: bool | None = None) -> NewKey:
        """Makes a key, and its account if there is none of that name.

        Args:
            account: the account's name; the key's own name if None, and then the account may not exist yet.
            postpaid: what the new account is (prepaid if None); of one that exists, what it must be.
        Raises UserError on names that can't be, or are taken.
        """
        with self.engine.begin() as connection:
            row = connection.execute(select(accounts).where(accounts.c.name == (account or name))).first()
            if row is not None and account is None:
                raise UserError("name", name, "is an account already", f"--account {name!r} makes another key for it")
            if row is not None and postpaid not in (None, row.postpaid):
                raise UserError("account", account, f"is {'postpaid' if row.postpaid else 'prepaid'}", "leave --postpaid out")
            if row is None:
                keys.require_name("account" if account else "name", account or name)
                connection.execute(accounts.insert().values(name=account or name, postpaid=bool(postpaid), created=to_stored(self.now())))
                row = connection.execute(select(accounts).where(accounts.c.name == (account or name))).one()
            return keys.create(connection, name, row.id, limits or Limits(), self.now())

    def keys(self) -> list[Key]:
        """Every key, revoked ones too."""
        with reading(self.engine) as connection:
            return keys.every(connection)

    def find_key(self, name: str) -> Key:
        """The key of a prefix or name. Raises UserError for none and for several."""
        with reading(self.engine) as connection:
            return keys.find(connection, name)

    def authenticate(self, secret: str) -> Key | None:
        """The key that this secret is, None for anything else: malformed, unknown, revoked."""
        with reading(self.engine) as connection:
            return keys.authenticate(connection, secret)

    def revoke(self, name: str) -> Key:
        """Ends a key. Its running requests end as they would; new ones are refused from now on."""
        with self.engine.begin() as connection:
            return keys.revoke(connection, keys.find(connection, name), self.now())

    def limit(self, name: str, change: Callable[[Limits], Limits]) -> Key:
        """Changes a key's limits to what `change` makes of the present ones."""
        with self.engine.begin() as connection:
            key = keys.find(connection, name)
            return keys.limit(connection, key, change(key.limits))

    # Money

    def credit(self, name: str, kind: str, *, granted: int = 0, topped_up: int = 0, note: str = "", reference: str | None = None) -> Balance:
        """Moves money (nano-dollars) on the account of that name, or of that key. kind: grant, top-up or correction."""
        with self.engine.begin() as connection:
            account_id, _ = find_account(connection, name)
            return credits.book(connection, credits.Credit(account_id, kind, granted, topped_up, self.now(), note, reference))

    def refund(self, request_id: str, amount: int | None = None, note: str = "") -> credits.Credit:
        """Gives back what a request took, or `amount` nano-dollars of it."""
        with self.engine.begin() as connection:
            return credits.refund(connection, request_id, amount, note, self.now())

    def balance(self, account_id: int) -> Balance:
        """What an account has."""
        return self.balances()[account_id][1]

    def balances(self) -> dict[int, tuple[str, Balance]]:
        """{account id: (name, balance)} of all accounts."""
        with reading(self.engine) as connection:
            return {row.id: (row.name, Balance(row.granted, row.topped_up, row.held, row.postpaid))
                    for row in connection.execute(select(accounts).order_by(accounts.c.id))}

    def usage(self, *, account_id: int | None = None, since: date | None = None, until: date | None = None) -> list[billing.UsageRow]:
        """Closed requests summed by UTC day, key and model, oldest first; since and until are the first and the last day."""
        with reading(self.engine) as connection:
            return billing.usage(connection, billing.Span(since, until, account_id=account_id))

    def request(self, account_id: int, request_id: str) -> LedgerRow | None:
        """One closed request of an account, by the id that it was begun under."""
        with reading(self.engine) as connection:
            return billing.request(connection, account_id, request_id)

    def audit(self) -> list[str]:
        """Every way in which balances, meters, ledger and credits don't agree; empty if the books are right."""
        with reading(self.engine) as connection:
            return audit.discrepancies(connection)

    # Requests

    def submit(self, operation: Operation) -> Future[Any]:
        """Carries out an operation of a running request soon; the future resolves when it is on disk. Only where opened for serving."""
        assert self._writer is not None, "not opened for serving"
        return self._writer.submit(operation)

    def recover(self, keep: Collection[str] = (), spare: timedelta = timedelta(0)) -> list[LedgerRow]:
        """Closes, as "crashed", what earlier starts of this server left open. May be called again at any time.

        keep: ids that stay open.  spare: so long after its begin a request of which nothing was recorded stays open too; a kill may have
        come before it had a log, and whoever asks again then gets an answer.
        """
        assert self._claim is not None, "not opened for serving"
        with reading(self.engine) as connection:
            left = [meter for meter in transaction.open_meters(connection, self._claim.server) if meter.generation != self._claim.generation]
        now, kept = self.now(), set(keep)
        doomed = [meter for meter in left if meter.request_id not in kept and (meter.usage != Usage() or meter.started <= now - spare)]
        waiting = [self.submit(Finish(meter.request_id, meter.account_id, "crashed", now)) for meter in doomed]
        return [future.result().row for future in waiting]

    def settle(self, age: timedelta) -> list[LedgerRow]:
        """Closes, as "crashed", every request that was begun longer ago, whosever it is: for servers that won't come back.

        One that is running after all is stopped when it next records.
        """
        with self.engine.begin() as connection:
            now, settled = self.now(), []
            for meter in transaction.open_meters(connection):
                if meter.started <= now - age:
                    end = Finish(meter.request_id, meter.account_id, "crashed", now)
                    (done,) = transaction.carry_out(connection, [end], meter.server, meter.generation)
                    settled += [done.row] if isinstance(done, Closed) else []
            return settled

    def _commit(self, operations: Sequence[Operation]) -> list[transaction.Outcome]:
        assert self._claim is not None
        with self.engine.begin() as connection:
            return transaction.run(connection, operations, self._claim.server, self._claim.generation)


class Claim:
    """A folder's only server: its lock, the name it has in the database, and which of its starts this is."""

    def __init__(self, lock: IO[str], server: str, generation: int) -> None:
        self.lock, self.server, self.generation = lock, server, generation


def find_account(connection: Connection, name: str) -> tuple[int, str]:
    """(id, name) of the account of that name, or of a key's. Raises UserError."""
    row = connection.execute(select(accounts).where(accounts.c.name == name)).first()
    if row is not None:
        return row.id, row.name
    key = keys.find(connection, name)
    return key.account_id, key.account


def lock_folder(folder: Path) -> IO[str]:
    """The lock of a service folder, held until the file is closed or the process ends. Raises UserError where another process has it."""
    make_folder(folder)
    try:
        handle = open(folder / "server.lock", "w", encoding="utf-8")
    except OSError as error:
        raise UserError("--folder", folder, f"can't be used: {error.strerror}") from None
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        pass  # no such locks on this system; the number of the start still keeps an older server from writing
    except OSError:
        handle.close()
        raise UserError("--folder", folder, "is in use by another server", "stop it, or give another folder") from None
    return handle


def _start(engine: Engine, folder: Path) -> tuple[str, int]:
    """Counts one more start of the folder's server: (its name, the count). From here on an earlier start can't write."""
    file = folder / "server-id"
    if not file.exists():
        (draft := file.with_suffix(".new")).write_text(uuid.uuid4().hex, encoding="utf-8")
        draft.replace(file)
    server = file.read_text(encoding="utf-8").strip()
    if len(server) != 32 or not server.isalnum():
        raise UserError("server-id", file, "was changed", "put back the 32 characters that stood there, or remove the file")
    with engine.begin() as connection:
        row = connection.execute(select(servers.c.generation).where(servers.c.id == server).with_for_update()).first()
        if row is None:
            connection.execute(servers.insert().values(id=server, generation=1))
            return server, 1
        connection.execute(servers.update().where(servers.c.id == server).values(generation=row.generation + 1))
        return server, row.generation + 1
