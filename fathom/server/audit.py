"""Proves the books: what must hold between balances, meters, ledger and credits at any moment, worked out from the rows alone."""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from sqlalchemy import Connection, Table, func, select

from fathom.prices import dollars
from fathom.server.metering import LedgerRow, MeterRow
from fathom.server.tables import accounts, credits, ledger, meters
from fathom.server.transaction import ledger_row_of, meter_of


def discrepancies(connection: Connection) -> list[str]:
    """Every law that a row breaks, in words; the connection must show one moment (database.reading).

    The laws, for each account and for granted and topped-up money apart: balance = credits − ledger − meters, and never below zero; held =
    what its meters hold. For each request: what was taken is the price of its usage; it is under way or billed, not both.
    """
    found = []
    sums = {name: _sums(connection, table, names) for name, table, names in (
        ("credits", credits, ("granted", "topped_up")), ("ledger", ledger, ("granted", "topped_up")),
        ("meters", meters, ("granted", "topped_up", "held")))}
    for row in connection.execute(select(accounts).order_by(accounts.c.id)):
        came, billed, running = (sums[name][row.id] for name in ("credits", "ledger", "meters"))
        for part in ("granted", "topped_up"):
            left = came[part] - billed[part] - running[part]
            if getattr(row, part) != left or left < 0:
                found.append(f"account {row.name}: {part} is {dollars(getattr(row, part))}, its rows leave {dollars(left)}")
        if row.held != running["held"]:
            found.append(f"account {row.name}: {dollars(row.held)} is held, its requests hold {dollars(running['held'])}")
    both = select(meters.c.request_id).where(meters.c.request_id.in_(select(ledger.c.request_id)))
    found += [f"request {name} is under way and billed" for (name,) in connection.execute(both)]
    for request in _requests(connection):
        price = request.price.cost(hit=request.usage.hit, miss=request.usage.miss, output=request.usage.output)
        if price != request.cost:
            found.append(f"request {request.request_id}: {dollars(request.cost)} was taken, its price is {dollars(price)}")
    return found


def _sums(connection: Connection, table: Table, names: tuple[str, ...]) -> dict[int, Counter[str]]:
    query = select(table.c.account_id, *(func.sum(table.c[name]) for name in names)).group_by(table.c.account_id)
    found = {account_id: Counter({name: int(value) for name, value in zip(names, values)}) for account_id, *values in connection.execute(query)}
    return {account_id: found.get(account_id, Counter()) for (account_id,) in connection.execute(select(accounts.c.id))}


def _requests(connection: Connection) -> Iterator[LedgerRow | MeterRow]:
    for table, value_of in ((ledger, ledger_row_of), (meters, meter_of)):
        yield from map(value_of, connection.execution_options(yield_per=1000).execute(select(table)))
