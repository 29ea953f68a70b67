"""`fathom keys`: keys and the money of their accounts, from the command line, beside a running server or without one.

The command line hands in the database's URL from the environment. What a command prints about a key never holds its secret, but for
`create`, which shows it once.
"""
from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fathom.errors import UserError
from fathom.prices import dollars, parse_dollars
from fathom.server import credits
from fathom.server.balance import Balance, exact
from fathom.server.books import Accounts, find_account
from fathom.server.database import FOLDER, reading
from fathom.server.keys import Key, Limits

HELP = """Make, list, limit and revoke API keys; give their accounts money.

Examples:

  fathom keys create alice --grant 5 --concurrency 8

  fathom keys create alice-laptop --account alice

  fathom keys top-up alice 20 --reference invoice-17

  fathom keys list
"""
Folder = Annotated[Path, typer.Option("--folder", help="The service's folder.")]
Database = Annotated[str | None, typer.Option("--database", help="Any SQLAlchemy URL, if not the folder's SQLite file [FATHOM_DATABASE].")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Note = Annotated[str, typer.Option(help="Why, for the record.")]
Reference = Annotated[str | None, typer.Option(help="A name for this payment; the same name twice is booked once.")]
Whose = Annotated[str, typer.Argument(help="An account's name, or a key's prefix or name.")]
Limit = Annotated[str | None, typer.Option(help="A whole number, or none.")]


def keys_app(from_environment: Callable[[], str | None]) -> typer.Typer:
    """The group to mount as "keys". from_environment: the database's URL where no --database is given, or None."""
    app = typer.Typer(help=HELP, no_args_is_help=True, rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)
    opened = lambda folder, database: Accounts.open(folder, database or from_environment(), serving=False)

    @app.command("create")
    def create(
        name: Annotated[str, typer.Argument(help="What the key is called.")],
        account: Annotated[str | None, typer.Option(help="The account that pays; a new one of the key's name if not given.")] = None,
        postpaid: Annotated[bool | None, typer.Option("--postpaid/--prepaid", help="A new account goes on at zero, or stops [prepaid].")] = None,
        grant: Annotated[str | None, typer.Option(help="US$ to give the account.")] = None,
        top_up: Annotated[str | None, typer.Option(help="US$ that were paid for the account.")] = None,
        concurrency: Limit = None, requests_per_minute: Limit = None, tokens_per_minute: Limit = None,
        folder: Folder = FOLDER, database: Database = None, as_json: AsJson = False,
    ) -> None:
        """Make a key and show it, once.

        Example: fathom keys create alice --grant 5 --concurrency 8 --requests-per-minute 60
        """
        limits = changed(Limits(), concurrency, requests_per_minute, tokens_per_minute)
        given, paid = amount("--grant", grant or "0"), amount("--top-up", top_up or "0")
        with opened(folder, database) as books:
            made = books.create_key(name, account, limits, postpaid)
            for kind, granted, topped_up in (("grant", given, 0), ("top-up", 0, paid)):
                if granted or topped_up:
                    books.credit(made.key.account, kind, granted=granted, topped_up=topped_up, note=f"with key {made.key.prefix}")
            if as_json:
                print(json.dumps({"secret": made.secret, **key_data(made.key, books.balance(made.key.account_id))}, indent=1))
            else:
                print(f"{made.secret}\n")
                print(f"Key {made.key.prefix} of account {made.key.account}. This is the only time that it is shown.")

    @app.command("list")
    def list_keys(folder: Folder = FOLDER, database: Database = None, as_json: AsJson = False) -> None:
        """Every key with its limits and its account's balance.

        Example: fathom keys list --json
        """
        with opened(folder, database) as books:
            balances = books.balances()
            rows = [key_data(key, balances[key.account_id][1]) for key in books.keys()]
        if as_json:
            print(json.dumps(rows, indent=1))
            return
        columns = ("key", "name", "account", "at once", "req/min", "tok/min", "granted US$", "topped up US$", "made", "state")
        shown = lambda value: "" if value is None else str(value)
        show(columns, [[row["key"], row["name"], row["account"], *(shown(row[limit]) for limit in vars(Limits())), row["granted"], row["topped_up"],
                        row["created"][:10], f"revoked {row['revoked'][:10]}" if row["revoked"] else "postpaid" if row["postpaid"] else "prepaid"]
                       for row in rows], right=columns[3:8])

    @app.command("revoke")
    def revoke(key: Annotated[str, typer.Argument(help="Prefix or name.")], folder: Folder = FOLDER, database: Database = None) -> None:
        """End a key for ever. Its account keeps its money.

        Example: fathom keys revoke sk-Ab3dE9xK
        """
        with opened(folder, database) as books:
            gone = books.revoke(key)
            others = [other.prefix for other in books.keys() if other.account_id == gone.account_id and other.revoked is None]
        print(f"{gone.prefix} ({gone.name}) is revoked; account {gone.account} has {', '.join(others) or 'no other key'}")

    @app.command("limits")
    def limits(
        key: Annotated[str, typer.Argument(help="Prefix or name.")],
        concurrency: Limit = None, requests_per_minute: Limit = None, tokens_per_minute: Limit = None,
        folder: Folder = FOLDER, database: Database = None,
    ) -> None:
        """Show a key's limits, after changing those given. They hold from the next request on.

        Example: fathom keys limits alice --concurrency 4 --tokens-per-minute none
        """
        with opened(folder, database) as books:
            now = books.limit(key, lambda present: changed(present, concurrency, requests_per_minute, tokens_per_minute))
        said = (f"{name.replace('_', ' ')} {value or 'unlimited'}" for name, value in vars(now.limits).items())
        print(f"{now.prefix} ({now.name}): {', '.join(said)}")

    _money_commands(app, opened)
    return app


def _money_commands(app: typer.Typer, opened: Callable[[Path, str | None], Accounts]) -> None:
    @app.command("grant")
    def grant(name: Whose, dollars: Annotated[str, typer.Argument(help="US$.")], reference: Reference = None, note: Note = "",
              folder: Folder = FOLDER, database: Database = None) -> None:
        """Give an account money. It is spent before what was paid in.

        Example: fathom keys grant alice 5 --note welcome
        """
        with opened(folder, database) as books:
            print(told(name, books.credit(name, "grant", granted=amount("amount", dollars), note=note, reference=reference)))

    @app.command("top-up")
    def top_up(name: Whose, dollars: Annotated[str, typer.Argument(help="US$.")], reference: Reference = None, note: Note = "",
               folder: Folder = FOLDER, database: Database = None) -> None:
        """Book money that was paid in.

        Example: fathom keys top-up alice 20 --reference invoice-17
        """
        with opened(folder, database) as books:
            print(told(name, books.credit(name, "top-up", topped_up=amount("amount", dollars), note=note, reference=reference)))

    @app.command("correct")
    def correct(name: Whose, granted: Annotated[str, typer.Option(help="US$, perhaps negative.")] = "0",
                topped_up: Annotated[str, typer.Option(help="US$, perhaps negative.")] = "0", reference: Reference = None, note: Note = "",
                folder: Folder = FOLDER, database: Database = None) -> None:
        """Mend a balance, up or down, by a new row; never below zero.

        Example: fathom keys correct alice --topped-up=-20 --note "invoice-17 bounced"
        """
        with opened(folder, database) as books:
            print(told(name, books.credit(name, "correction", granted=amount("--granted", granted, True),
                                          topped_up=amount("--topped-up", topped_up, True), note=note, reference=reference)))

    @app.command("refund")
    def refund(request: Annotated[str, typer.Argument(help="The request's id.")],
               dollars: Annotated[str | None, typer.Argument(help="US$; all of it if not given.")] = None, note: Note = "",
               folder: Folder = FOLDER, database: Database = None) -> None:
        """Give back what a request took, or a part of it, to the balances that it came from.

        Example: fathom keys refund chatcmpl-5f2a --note "wrong model"
        """
        with opened(folder, database) as books:
            back = books.refund(request, None if dollars is None else amount("amount", dollars), note)
        print(f"{request}: given back US$ {exact(back.granted)} granted, US$ {exact(back.topped_up)} topped up")

    @app.command("history")
    def history(name: Whose, folder: Folder = FOLDER, database: Database = None, as_json: AsJson = False) -> None:
        """All money that came into an account, and its corrections.

        Example: fathom keys history alice
        """
        with opened(folder, database) as books, reading(books.engine) as connection:
            account_id, account = find_account(connection, name)
            rows = credits.every(connection, account_id)
            balance = books.balance(account_id)
        if as_json:
            print(json.dumps([{**vars(row), "granted": exact(row.granted), "topped_up": exact(row.topped_up), "at": row.at.isoformat()}
                              for row in rows], indent=1))
            return
        show(("at (UTC)", "kind", "granted US$", "topped up US$", "request", "reference", "note"),
             [[f"{row.at:%Y-%m-%d %H:%M}", row.kind, exact(row.granted), exact(row.topped_up), row.request_id or "", row.reference or "", row.note]
              for row in rows], right=("granted US$", "topped up US$"))
        print(told(account, balance))


def changed(limits: Limits, concurrency: str | None, requests_per_minute: str | None, tokens_per_minute: str | None) -> Limits:
    """The limits with those that were given on the command line. Raises UserError."""
    given = {"concurrency": concurrency, "requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute}
    for name, text in given.items():
        if text is not None and text != "none" and not (text.isascii() and text.isdigit()):
            raise UserError(f"--{name.replace('_', '-')}", text, "a whole number from 1, or none")
    return replace(limits, **{name: None if text == "none" else int(text) for name, text in given.items() if text is not None})


def amount(field: str, text: str, signed: bool = False) -> int:
    """Nano-dollars of US$ on the command line. Raises UserError."""
    if signed and text.startswith("-"):
        return -parse_dollars(text[1:], field)
    return parse_dollars(text, field)


def key_data(key: Key, balance: Balance) -> dict[str, Any]:
    """A key as JSON shows it; amounts in US$, exactly."""
    return {"key": key.prefix, "name": key.name, "account": key.account, **vars(key.limits), "postpaid": balance.postpaid,
            "granted": exact(balance.granted), "topped_up": exact(balance.topped_up), "held": exact(balance.held),
            "created": key.created.isoformat(), "revoked": key.revoked.isoformat() if key.revoked else None}


def told(name: str, balance: Balance) -> str:
    """A balance in a sentence."""
    return f"{name}: US$ {dollars(balance.granted, 6)} granted, US$ {dollars(balance.topped_up, 6)} topped up"


def show(columns: tuple[str, ...], rows: list[list[str]], right: tuple[str, ...] = (), totals: list[str] | None = None) -> None:
    """Prints a table; as wide as it needs where nobody looks at it on a screen."""
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, row))
    if totals:
        table.add_section()
        table.add_row(*map(escape, totals), style="bold")
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(80, Console(width=10_000).measure(table).maximum))
    console.print(table, highlight=False)
