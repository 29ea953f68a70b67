"""One batch of operations as one database transaction: reads what it is about, lets `Books` decide, writes what changed.

A batch costs a handful of statements however many requests it serves. Accounts are locked first, in the order of their ids, and whatever
changes a meter or a balance holds its account's lock; so batches of several servers on one database neither deadlock nor see
each other's half. A server that was replaced on its folder (see `servers` in tables.py) finds that out here and writes nothing.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, select, union_all

from fathom.prices import Price
from fathom.server import keys as key_store
from fathom.server.charging import MINUTE, AccountState, Books, Traffic
from fathom.server.database import from_stored, to_stored
from fathom.server.metering import Begin, Closed, LedgerRow, MeterRow, Operation, Resume, Spent, Usage, account_of
from fathom.server.refusals import BooksClosed, Refusal
from fathom.server.tables import accounts, ledger, meters, servers

Outcome = MeterRow | Closed | Exception | None


def run(connection: Connection, operations: Sequence[Operation], server: str, generation: int) -> list[Outcome]:
    """Carries out the operations in order, within the connection's transaction.

    Returns, for each, what it gives or the Refusal or ValueError that it raised; a refused operation changes nothing and disturbs no other.
    Raises BooksClosed where another server has taken over.
    """
    check_generation(connection, server, generation)
    return carry_out(connection, operations, server, generation)


def carry_out(connection: Connection, operations: Sequence[Operation], server: str, generation: int) -> list[Outcome]:
    """`run` on behalf of a server, without asking whether it is still the one."""
    books = _read(connection, operations, server, generation)
    before = {key: replace(state) for key, state in books.accounts.items()}, dict(books.meters), dict(books.closed)
    outcomes: list[Outcome] = []
    for operation in operations:
        try:
            outcomes.append(books.apply(operation))
        except (Refusal, ValueError) as refused:
            outcomes.append(refused)
    _write(connection, books, *before)
    return outcomes


def check_generation(connection: Connection, server: str, generation: int) -> None:
    """Raises BooksClosed unless the server's newest start is this one; holds off the next start until the transaction ends."""
    row = connection.execute(select(servers.c.generation).where(servers.c.id == server).with_for_update(read=True)).first()
    if row is None or row.generation != generation:
        raise BooksClosed("server", server, "another one has started on this folder", "stop this one")


def open_meters(connection: Connection, server: str | None = None) -> list[MeterRow]:
    """Requests under way or left behind, oldest first; of one server if given."""
    query = select(meters).order_by(meters.c.id)
    return [meter_of(row) for row in connection.execute(query if server is None else query.where(meters.c.server == server))]


def _read(connection: Connection, operations: Sequence[Operation], server: str, generation: int) -> Books:
    begins = [op for op in operations if isinstance(op, Begin)]
    ids = sorted({op.request_id for op in operations})
    locked = select(accounts).where(accounts.c.id.in_(sorted({account_of(op) for op in operations}))).order_by(accounts.c.id).with_for_update()
    states = {row.id: AccountState(row.granted, row.topped_up, row.held, row.postpaid) for row in connection.execute(locked)}
    running = {row.request_id: meter_of(row) for row in connection.execute(select(meters).where(meters.c.request_id.in_(ids)))}
    # a record of a running request, by far the commonest, has no need of the ledger
    unknown = sorted({op.request_id for op in operations if isinstance(op, Begin | Resume) or op.request_id not in running})
    closed = [ledger_row_of(row) for row in connection.execute(select(ledger).where(ledger.c.request_id.in_(unknown)))] if unknown else []
    keys = key_store.by_id(connection, {op.key.id for op in begins}) if begins else {}
    traffic = {key.id: _traffic(connection, key, max(op.at for op in begins if op.key.id == key.id)) for key in keys.values()}
    return Books(server, generation, states, running, {row.request_id: row for row in closed}, keys, traffic)


def _traffic(connection: Connection, key: key_store.Key, now: datetime) -> Traffic:
    """What the limits are about; only what this key is limited in is counted."""
    traffic = Traffic()
    if key.limits.concurrency is not None:
        live = meters.join(servers, (meters.c.server == servers.c.id) & (meters.c.generation == servers.c.generation))
        traffic.running = connection.execute(select(func.count()).select_from(live).where(meters.c.key_id == key.id)).scalar_one()
    if key.limits.requests_per_minute is not None or key.limits.tokens_per_minute is not None:
        recent = [select(t.c.started, (t.c.hit + t.c.miss + t.c.output).label("tokens")).where(
            t.c.key_id == key.id, t.c.started > to_stored(now - MINUTE)) for t in (meters, ledger)]
        both = union_all(*recent).subquery()
        row = connection.execute(select(func.count(), func.coalesce(func.sum(both.c.tokens), 0), func.min(both.c.started))).one()
        traffic.requests, traffic.tokens = int(row[0]), int(row[1])
        traffic.oldest = None if row[2] is None else from_stored(int(row[2]))
    return traffic


def _write(connection: Connection, books: Books, states: dict[int, AccountState], running: dict[str, MeterRow],
           closed: dict[str, LedgerRow]) -> None:
    ended = [row for request_id, row in books.closed.items() if request_id not in closed]
    gone = [request_id for request_id in running if request_id not in books.meters]
    fresh = [row for request_id, row in books.meters.items() if request_id not in running]
    moved = [row for request_id, row in books.meters.items() if request_id in running and row != running[request_id]]
    money = [(account_id, state) for account_id, state in books.accounts.items() if state != states[account_id]]
    if gone:
        connection.execute(meters.delete().where(meters.c.request_id == bindparam("which")), [{"which": name} for name in gone])
    if ended:
        connection.execute(ledger.insert(), [{**_spent(row), "finished": to_stored(row.finished), "day": row.day, "status": row.status}
                                             for row in ended])
    if fresh:
        connection.execute(meters.insert(), [{**_spent(row), **_whose(row)} for row in fresh])
    if moved:
        update = meters.update().where(meters.c.request_id == bindparam("which"))
        columns = ("hit", "miss", "output", "reasoning", "granted", "topped_up", "invoiced", "held", "server", "generation")
        changed = [{**_spent(row), **_whose(row), "which": row.request_id} for row in moved]
        connection.execute(update.values({name: bindparam(f"b_{name}") for name in columns}),
                           [{"which": row["which"], **{f"b_{name}": row[name] for name in columns}} for row in changed])
    if money:
        update = accounts.update().where(accounts.c.id == bindparam("which"))
        connection.execute(update.values(granted=bindparam("b_granted"), topped_up=bindparam("b_topped_up"), held=bindparam("b_held")),
                           [{"which": account_id, "b_granted": state.granted, "b_topped_up": state.topped_up, "b_held": state.held}
                            for account_id, state in sorted(money)])


def _spent(row: Spent) -> dict[str, Any]:
    return {"request_id": row.request_id, "key_id": row.key_id, "account_id": row.account_id, "model": row.model, **vars(row.usage),
            "price_model": row.price.model, "price_since": row.price.since.isoformat(), "cached_price": row.price.cached,
            "input_price": row.price.input, "output_price": row.price.output, "granted": row.granted, "topped_up": row.topped_up,
            "invoiced": row.invoiced, "started": to_stored(row.started)}


def _whose(row: MeterRow) -> dict[str, Any]:
    return {"held": row.held, "server": row.server, "generation": row.generation}


def _spent_of(row: Row[Any]) -> dict[str, Any]:
    price = Price(row.price_model, date.fromisoformat(row.price_since), row.cached_price, row.input_price, row.output_price)
    return {"request_id": row.request_id, "key_id": row.key_id, "account_id": row.account_id, "model": row.model,
            "usage": Usage(row.hit, row.miss, row.output, row.reasoning), "price": price, "granted": row.granted, "topped_up": row.topped_up,
            "invoiced": row.invoiced, "started": from_stored(row.started)}


def meter_of(row: Row[Any]) -> MeterRow:
    """A row of `meters` as a value."""
    return MeterRow(**_spent_of(row), held=row.held, server=row.server, generation=row.generation)


def ledger_row_of(row: Row[Any]) -> LedgerRow:
    """A row of `ledger` as a value."""
    return LedgerRow(**_spent_of(row), finished=from_stored(row.finished), status=row.status)
