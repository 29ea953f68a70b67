"""What was used and what it cost, read from the ledger: sums by day, key and model, single requests, and the same traffic at other prices.

A request stands on the day on which it ended (UTC), so a day that is over gets no more rows and its bill never changes. It was priced by
the row that held when it was asked; nothing here prices it again, except `reprice`, which is for comparing.
"""
from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from datetime import date
from typing import Any, TextIO

from sqlalchemy import Connection, Select, func, select

from fathom.errors import UserError
from fathom.prices import Price, dollars
from fathom.server.metering import LedgerRow, Usage
from fathom.server.tables import accounts, keys, ledger
from fathom.server.transaction import ledger_row_of

COUNTS = ("requests", "hit", "miss", "output", "reasoning", "granted", "topped_up", "invoiced")
GROUPS = ("day", "month", "key", "account", "model")  # what a bill may be summed by


@dataclass(frozen=True)
class Span:
    """Which closed requests: since and until are the first and the last UTC day, None for no bound; of one account or key, or all."""

    since: date | None = None
    until: date | None = None
    account_id: int | None = None
    key_id: int | None = None

    def __post_init__(self) -> None:
        if self.since and self.until and self.until < self.since:
            raise UserError("--until", self.until, f"not before --since, {self.since}")

    def of(self, query: Select[Any]) -> Select[Any]:
        """The query, narrowed to this."""
        bounds = [None if self.since is None else ledger.c.day >= self.since.isoformat(),
                  None if self.until is None else ledger.c.day <= self.until.isoformat(),
                  None if self.account_id is None else ledger.c.account_id == self.account_id,
                  None if self.key_id is None else ledger.c.key_id == self.key_id]
        return query.where(*(bound for bound in bounds if bound is not None))


@dataclass(frozen=True)
class UsageRow:
    """Closed requests together. day: ISO date, or what they were summed by.  key: prefix.  Money in nano-dollars, by who paid it."""

    day: str
    key: str
    name: str
    account: str
    model: str
    requests: int
    hit: int
    miss: int
    output: int
    reasoning: int
    granted: int
    topped_up: int
    invoiced: int

    @property
    def cost(self) -> int:
        """What they cost."""
        return self.granted + self.topped_up + self.invoiced


def usage(connection: Connection, span: Span) -> list[UsageRow]:
    """Closed requests summed by UTC day, key and model, oldest first."""
    names = (ledger.c.day, keys.c.prefix, keys.c.name, accounts.c.name.label("account"), ledger.c.model)
    sums = [func.sum(ledger.c[name]) for name in COUNTS[1:]]
    joined = ledger.join(keys, ledger.c.key_id == keys.c.id).join(accounts, ledger.c.account_id == accounts.c.id)
    query = span.of(select(*names, func.count(), *sums).select_from(joined)).group_by(*names).order_by(ledger.c.day, keys.c.prefix, ledger.c.model)
    return [UsageRow(*row[:5], *map(int, row[5:])) for row in connection.execute(query)]


def requests(connection: Connection, span: Span) -> Iterator[tuple[str, LedgerRow]]:
    """(key prefix, row) of every closed request, oldest first, one at a time however many there are."""
    query = span.of(select(ledger, keys.c.prefix).join(keys, ledger.c.key_id == keys.c.id)).order_by(ledger.c.id)
    for row in connection.execution_options(yield_per=1000).execute(query):
        yield row.prefix, ledger_row_of(row)


def request(connection: Connection, account_id: int, request_id: str) -> LedgerRow | None:
    """One closed request of an account, None while it is open and where there is none."""
    row = connection.execute(select(ledger).where(ledger.c.request_id == request_id, ledger.c.account_id == account_id)).first()
    return None if row is None else ledger_row_of(row)


def summed(rows: Iterable[UsageRow], by: Sequence[str]) -> list[UsageRow]:
    """The rows added up by some of GROUPS, in order; what isn't asked for is empty."""
    pick: dict[str, Callable[[UsageRow], tuple[str, ...]]] = {
        "day": lambda r: (r.day, "", "", "", ""), "month": lambda r: (r.day[:7], "", "", "", ""), "key": lambda r: ("", r.key, r.name, "", ""),
        "account": lambda r: ("", "", "", r.account, ""), "model": lambda r: ("", "", "", "", r.model)}
    groups: dict[tuple[str, ...], list[int]] = {}
    for row in rows:
        name = tuple("".join(parts) for parts in zip(*(pick[group](row) for group in by))) if by else ("",) * 5
        sums = groups.setdefault(name, [0] * len(COUNTS))
        for i, count in enumerate(COUNTS):
            sums[i] += getattr(row, count)
    ordered: list[list[Any]] = [[*name, *sums] for name, sums in sorted(groups.items())]
    return [UsageRow(*values) for values in ordered]


def total(rows: Iterable[UsageRow]) -> UsageRow:
    """All rows added up."""
    return next(iter(summed(rows, ())), UsageRow("", "", "", "", "", *(0 for _ in COUNTS)))


def reprice(traffic: Iterable[Usage], prices: Sequence[Price]) -> tuple[UsageRow, list[int]]:
    """(the traffic's sums, what it would cost at each price): each request is rounded once, as a bill would, then they are added."""
    sums, costs = total(()), [0] * len(prices)
    for used in traffic:
        sums = replace(sums, requests=sums.requests + 1, **{name: getattr(sums, name) + count for name, count in vars(used).items()})
        for i, price in enumerate(prices):
            costs[i] += price.cost(hit=used.hit, miss=used.miss, output=used.output)
    return sums, costs


def write_usage(rows: Iterable[UsageRow], out: TextIO) -> None:
    """The rows as CSV: counts as they are, money in US$ with nine decimals, which is exact."""
    writer = csv.writer(out, lineterminator="\n")
    names = [field.name for field in fields(UsageRow)]
    money = ("granted", "topped_up", "invoiced")
    writer.writerow([f"{name}_usd" if name in money else name for name in names] + ["cost_usd"])
    for row in rows:
        writer.writerow([dollars(getattr(row, name)) if name in money else getattr(row, name) for name in names] + [dollars(row.cost)])


def write_requests(rows: Iterable[tuple[str, LedgerRow]], out: TextIO) -> None:
    """Every request as CSV, with the price row that it was charged by; prices in US$ per million tokens."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["request", "key", "model", "started", "finished", "status", "hit", "miss", "output", "reasoning", "price", "cached_price_usd",
                     "input_price_usd", "output_price_usd", "granted_usd", "topped_up_usd", "invoiced_usd", "cost_usd"])
    for key, row in rows:
        money = (row.price.cached, row.price.input, row.price.output, row.granted, row.topped_up, row.invoiced, row.cost)
        writer.writerow([row.request_id, key, row.model, row.started.isoformat(), row.finished.isoformat(), row.status, *vars(row.usage).values(),
                         row.price.key(), *map(dollars, money)])
