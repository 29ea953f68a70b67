"""Opens the database of the accounts: SQLite in the service's folder, or any SQLAlchemy URL.

SQLite runs with a write-ahead log, so readers never wait, and with synchronous=FULL: a commit that returned survives a power cut, not
only a killed process. Writers take the lock when they begin (BEGIN IMMEDIATE): a transaction that first reads and then writes could
otherwise find that another one came between, and SQLite would fail it at once instead of letting it wait.

Tested are SQLite and PostgreSQL. Other databases that SQLAlchemy knows work as far as its SQL is portable; there the append-only tables
have no trigger, only the guard below, which knows the statements of this process.
"""
from __future__ import annotations

import re
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from fathom.errors import UserError
from fathom.server.migrations import upgrade
from fathom.server.tables import IMMUTABLE

FOLDER = Path("runs/service")  # what the service keeps, where nobody says otherwise
FILE = "accounts.sqlite"
PATIENCE = 30.0  # seconds to wait for another writer's transaction
_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
_CHANGE = re.compile(rf"\s*(UPDATE|DELETE\s+FROM)\s+\"?({'|'.join(IMMUTABLE)})\b", re.IGNORECASE)


def open_database(folder: Path, url: str | None = None) -> Engine:
    """An engine on a database with the tables of this version.

    Args:
        folder: the service's folder, made if absent; holds the SQLite file where no URL is given.
        url: as SQLAlchemy takes it; "postgresql://" means psycopg.
    Raises UserError for a URL that can't be used and a database that can't be opened, without showing a password.
    """
    try:
        make_folder(folder)
        where = make_url(url) if url else URL.create("sqlite", database=str(folder / FILE))
        if where.drivername == "postgresql":
            where = where.set(drivername="postgresql+psycopg")
        engine = _sqlite(where) if where.get_backend_name() == "sqlite" else create_engine(where, pool_pre_ping=True, hide_parameters=True)
    except UserError:  # which is a ValueError, too
        raise
    except (ArgumentError, NoSuchModuleError, ValueError):
        raise UserError("--database", None, "not a database URL", "such as postgresql://user@host/name, or sqlite:////path/to/file") from None
    except ModuleNotFoundError as error:
        raise UserError("--database", where.drivername, f"needs the module {error.name}",
                        "pip install 'fathom[postgres]' for PostgreSQL, the driver's package for others") from None
    event.listen(engine, "before_cursor_execute", _append_only)
    try:
        with engine.begin() as connection:
            upgrade(connection)
    except (SQLAlchemyError, sqlite3.Error) as error:
        engine.dispose()
        said = error.orig if isinstance(error, DBAPIError) else error
        raise UserError("--database", where.render_as_string(hide_password=True), f"can't be opened: {said}") from None
    except UserError:
        engine.dispose()
        raise
    return engine


def make_folder(folder: Path) -> None:
    """Makes the service's folder if need be, for its owner alone. Raises UserError where it can't be."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise UserError("--folder", folder, f"can't be made: {error.strerror}") from None


def reading(engine: Engine) -> Connection:
    """A connection for queries alone, all of which see one moment; use it as a context manager. It waits for nobody, nobody waits for it."""
    options: dict[str, Any] = {"isolation_level": "REPEATABLE READ"} if engine.dialect.name == "postgresql" else {}
    return engine.connect().execution_options(fathom_reading=True, **options)


def _sqlite(where: URL) -> Engine:
    if where.database in (None, "", ":memory:"):
        raise UserError("--database", where.render_as_string(), "keeps nothing", "name a file, as in sqlite:////path/to/file")
    engine = create_engine(where, hide_parameters=True, connect_args={"timeout": PATIENCE, "check_same_thread": False})
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def _prepare(connection: sqlite3.Connection, record: Any) -> None:
    connection.isolation_level = None  # the driver leaves BEGIN to us
    for setting in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {setting}").close()


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get("fathom_reading") else "BEGIN IMMEDIATE")


def _append_only(connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
    if _CHANGE.match(statement):
        raise RuntimeError("credits and ledger are append-only: corrections are new rows")


def to_stored(moment: datetime) -> int:
    """A moment with its zone as whole microseconds since 1970, exactly."""
    return (moment - _EPOCH) // _MICROSECOND


def from_stored(microseconds: int) -> datetime:
    """The moment, in UTC."""
    return _EPOCH + microseconds * _MICROSECOND
