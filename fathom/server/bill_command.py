"""`fathom bill`: what was used and what it costs. `fathom price`: the same traffic at other prices. Both only read, but for --settle."""
from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from sqlalchemy import Connection

from fathom.errors import UserError
from fathom.prices import Price, dollars, load_prices
from fathom.server import billing, keys
from fathom.server.balance import exact
from fathom.server.books import Accounts, find_account
from fathom.server.database import FOLDER, reading
from fathom.server.keys_command import AsJson, Database, Folder, show
from fathom.server.metering import Usage

REFERENCE = "gpt-4-turbo"  # what V4's announcement compares its prices with
Since = Annotated[str | None, typer.Option(help="First day (UTC), as 2026-04-24.")]
Until = Annotated[str | None, typer.Option(help="Last day.")]
Month = Annotated[str | None, typer.Option(help="A whole month, as 2026-04.")]
OneKey = Annotated[str | None, typer.Option(help="Only this key, by prefix or name.")]
OneAccount = Annotated[str | None, typer.Option(help="Only this account.")]


def bill_command(from_environment: Callable[[], str | None]) -> Callable[..., None]:
    """The function to mount as "bill". from_environment: the database's URL where no --database is given, or None."""

    def bill(
        since: Since = None, until: Until = None, month: Month = None, key: OneKey = None, account: OneAccount = None,
        by: Annotated[list[str] | None, typer.Option(help="Sum by day, month, key, account or model (may be repeated), or list by request.")] = None,
        as_csv: Annotated[str | None, typer.Option("--csv", help="Write CSV to this file; - for standard output.")] = None,
        check: Annotated[bool, typer.Option("--check", help="Prove the books: every balance against its rows.")] = False,
        settle: Annotated[float | None, typer.Option(help="Close what a vanished server left open for so many hours.")] = None,
        folder: Folder = FOLDER, database: Database = None, as_json: AsJson = False,
    ) -> None:
        """What the keys used and what it costs. A request stands on the day (UTC) on which it ended.

        Examples:

          fathom bill --month 2026-04 --by account

          fathom bill --since 2026-04-24 --by day --by key --csv april.csv

          fathom bill --key alice --by request
        """
        by = by or ["day", "key", "model"]
        for group in by:
            if group not in (*billing.GROUPS, "request") or (group == "request" and len(by) > 1):
                raise UserError("--by", group, f"some of {', '.join(billing.GROUPS)}, or request alone")
        with Accounts.open(folder, database or from_environment(), serving=False) as books:
            if settle is not None:
                print(f"closed {len(books.settle(timedelta(hours=_hours(settle))))} requests", file=sys.stderr)
            if check:
                _check(books)
            with reading(books.engine) as connection:
                span = _span(connection, since, until, month, key, account)
                if by == ["request"]:
                    _requests(connection, span, as_csv, as_json)
                else:
                    _sums(billing.usage(connection, span), by, as_csv, as_json)

    return bill


def price_command(from_environment: Callable[[], str | None]) -> Callable[..., None]:
    """The function to mount as "price"; from_environment as above."""

    def price(
        since: Since = None, until: Until = None, month: Month = None, key: OneKey = None, account: OneAccount = None,
        tokens: Annotated[str | None, typer.Option(help="CACHED,INPUT,OUTPUT tokens of one request, instead of the ledger's.")] = None,
        prices: Annotated[list[Path] | None, typer.Option(help="Another table, a TOML file; may be repeated.")] = None,
        model: Annotated[list[str] | None, typer.Option(help="Only this model's prices; may be repeated.")] = None,
        day: Annotated[str | None, typer.Option(help="Prices of this day [today].")] = None,
        beside: Annotated[str, typer.Option(help="The model that the others are compared with.")] = REFERENCE,
        folder: Folder = FOLDER, database: Database = None, as_json: AsJson = False,
    ) -> None:
        """What the traffic in the ledger, or one request, would cost at each price: the shipped table's and your own.

        Examples:

          fathom price --month 2026-04

          fathom price --tokens 90000,10000,2000 --prices mine.toml

          fathom price --account alice --model deepseek-v4-pro --model deepseek-v4-flash
        """
        when = _day("--day", day) or datetime.now(UTC).date()
        rows = _price_rows(prices or [], when, [*model, beside] if model else None)
        billed: int | None = None
        if tokens is not None:
            if any((since, until, month, key, account)):
                raise UserError("--tokens", tokens, "stands for the ledger's traffic", "leave out what selects from the ledger")
            sums, costs = billing.reprice([_tokens(tokens)], [row for _, row in rows])
        else:
            with Accounts.open(folder, database or from_environment(), serving=False) as books, reading(books.engine) as connection:
                span = _span(connection, since, until, month, key, account)
                billed = billing.total(billing.usage(connection, span)).cost
                sums, costs = billing.reprice((row.usage for _, row in billing.requests(connection, span)), [row for _, row in rows])
        _show_prices(sums, rows, costs, billed, beside, as_json)

    return price


def _show_prices(sums: billing.UsageRow, rows: Sequence[tuple[str, Price]], costs: Sequence[int], billed: int | None, beside: str,
                 as_json: bool) -> None:
    reference = next((cost for (_, row), cost in zip(rows, costs) if beside.casefold() in _names(row)), 0)
    lines: list[dict[str, Any]] = [
        {"price": row.key(), "table": table, "cached": exact(row.cached), "input": exact(row.input), "output": exact(row.output), "cost": exact(cost),
         "of": round(cost / reference, 6) if reference else None} for (table, row), cost in zip(rows, costs)]
    if as_json:
        traffic = {name: getattr(sums, name) for name in ("requests", "hit", "miss", "output", "reasoning")}
        print(json.dumps({"traffic": traffic, "billed": None if billed is None else exact(billed), "beside": beside, "prices": lines}, indent=1))
        return
    print(f"{sums.requests:,} requests: {sums.hit:,} cached, {sums.miss:,} other input and {sums.output:,} output tokens; prices in US$ per million")
    columns = ("price", "table", "cached", "input", "output", "US$", f"of {beside}")
    table = [[line["price"], line["table"], line["cached"], line["input"], line["output"], dollars(cost, 6),
              "" if line["of"] is None else f"{100 * line['of']:.1f} %"] for line, cost in zip(lines, costs)]
    show(columns, table, right=columns[2:], totals=None if billed is None else ["as billed", "", "", "", "", dollars(billed, 6), ""])


def _price_rows(files: Sequence[Path], when: date, models: list[str] | None) -> list[tuple[str, Price]]:
    """(table's name, row) in force on the day: the shipped table's, then what each file changes or adds."""
    found: list[tuple[str, Price]] = []
    for name, table in (("shipped", load_prices()), *((str(file), load_prices([file])) for file in files)):
        held = {row.model for row in table.rows if row.since <= when}
        rows = [table.at(model, when) for model in table.models() if model in held]
        found += [(name, row) for row in rows if row not in [known for _, known in found]]
    for model in models or ():
        if not any(model.casefold() in _names(row) for _, row in found):
            raise UserError("model", model, f"has no price on {when}, known: {', '.join(dict.fromkeys(row.model for _, row in found))}")
    return [(name, row) for name, row in found if models is None or any(model.casefold() in _names(row) for model in models)]


def _names(row: Price) -> set[str]:
    return {row.model.casefold(), *(alias.casefold() for alias in row.aliases)}


def _sums(rows: list[billing.UsageRow], by: list[str], as_csv: str | None, as_json: bool) -> None:
    summed, total = billing.summed(rows, by), billing.total(rows)
    if as_csv is not None:
        with _out(as_csv) as out:
            billing.write_usage(summed, out)
    elif as_json:
        money = ("granted", "topped_up", "invoiced", "cost")
        data = [{**vars(row), **{name: exact(getattr(row, name)) for name in money}} for row in (*summed, total)]
        print(json.dumps({"rows": data[:-1], "total": data[-1]}, indent=1))
    else:
        naming = {"day": ("day",), "month": ("day",), "key": ("key", "name"), "account": ("account",), "model": ("model",)}
        names = [name for group in billing.GROUPS if group in by for name in naming[group]]
        counts = ("requests", "hit", "miss", "output", "reasoning")
        cells = lambda row: [*(getattr(row, name) for name in names), *(f"{getattr(row, name):,}" for name in counts), dollars(row.invoiced, 6),
                             dollars(row.cost, 6)]
        columns = (*names, "requests", "cached", "input", "output", "reasoning", "invoiced US$", "US$")
        show(columns, [cells(row) for row in summed], right=columns[len(names):], totals=["total", *cells(total)[1:]])


def _requests(connection: Connection, span: billing.Span, as_csv: str | None, as_json: bool) -> None:
    rows = billing.requests(connection, span)
    if as_csv is not None:
        with _out(as_csv) as out:
            billing.write_requests(rows, out)
    elif as_json:
        for key, row in rows:  # a line each: there may be very many
            print(json.dumps({"request": row.request_id, "key": key, "model": row.model, "started": row.started.isoformat(),
                              "finished": row.finished.isoformat(), "status": row.status, **vars(row.usage), "price": row.price.key(),
                              "cost": exact(row.cost)}))
    else:
        columns = ("ended (UTC)", "request", "key", "model", "cached", "input", "output", "reasoning", "status", "price", "US$")
        show(columns, [[f"{row.finished:%Y-%m-%d %H:%M:%S}", row.request_id, key, row.model, *(f"{count:,}" for count in vars(row.usage).values()),
                        row.status, row.price.key(), dollars(row.cost)] for key, row in rows], right=(*columns[4:8], "US$"))


def _check(books: Accounts) -> None:
    found = books.audit()
    for line in found:
        print(line, file=sys.stderr)
    if found:
        raise UserError("--check", f"{len(found)} discrepancies", "the books don't agree", "restore the database from its last good copy")
    print("the books agree", file=sys.stderr)


def _span(connection: Connection, since: str | None, until: str | None, month: str | None, key: str | None, account: str | None) -> billing.Span:
    first, last = _day("--since", since), _day("--until", until)
    if month is not None:
        if first or last:
            raise UserError("--month", month, "stands for --since and --until", "give one or the other")
        first = _day("--month", f"{month}-01", month)
        last = (first + timedelta(days=32)).replace(day=1) - timedelta(days=1)
    return billing.Span(first, last, None if account is None else find_account(connection, account)[0],
                        None if key is None else keys.find(connection, key).id)


def _day(field: str, text: str | None, shown: str | None = None) -> date | None:
    if text is None:
        return None
    try:
        if len(text) != 10:
            raise ValueError
        return date.fromisoformat(text)
    except ValueError:
        raise UserError(field, shown or text, "such as 2026-04" if shown else "a day such as 2026-04-24") from None


def _tokens(text: str) -> Usage:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() and len(part) <= 12 for part in parts):
        raise UserError("--tokens", text, "three whole numbers: cached, other input and output tokens", "for example --tokens 90000,10000,2000")
    return Usage(*map(int, parts))


def _hours(hours: float) -> float:
    if not 0 <= hours < 10**6:
        raise UserError("--settle", hours, "hours from 0")
    return hours


def _out(name: str) -> Any:
    if name == "-":
        return nullcontext(sys.stdout)
    try:
        return _opened(name)
    except OSError as error:
        raise UserError("--csv", name, f"can't be written: {error.strerror}") from None


def _opened(name: str) -> TextIO:
    return open(name, "w", encoding="utf-8", newline="")
