"""Money that comes in, and corrections: each a row of `credits` that is never changed, and the balance that follows from it.

A mistake in the ledger is mended by a correction, a new row that may name the request: `refund` gives back what a request took, to the
balances that it came from; `correct` moves any amount, up or down, but never takes what isn't there. What a postpaid account was
invoiced comes back as topped-up money, spent before the next invoice.

An amount of money may carry a reference, such as the number of a payment. A second credit with the same reference isn't booked again, so
whoever doesn't know whether a top-up got through repeats it.
"""
from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, select

from fathom.errors import UserError
from fathom.prices import dollars
from fathom.server.balance import Balance
from fathom.server.database import from_stored, to_stored
from fathom.server.tables import accounts, credits, ledger

LARGEST = 10**18  # nano-dollars of one credit: a billion dollars, well inside 64 bits


@dataclass(frozen=True)
class Credit:
    """A movement of money, nano-dollars; below zero only in a correction. kind: grant, top-up, refund or correction."""

    account_id: int
    kind: str
    granted: int
    topped_up: int
    at: datetime
    note: str = ""
    reference: str | None = None
    request_id: str | None = None


def book(connection: Connection, credit: Credit) -> Balance:
    """Writes a credit and changes the balance; gives the new one.

    Raises UserError: nothing to move, too much, more taken than is there and isn't held, or a reference that stands for another credit.
    """
    balance = locked(connection, credit.account_id)
    if credit.reference is not None and (row := _by_reference(connection, credit.reference)) is not None:
        if (row.account_id, row.kind, row.granted, row.topped_up) == (credit.account_id, credit.kind, credit.granted, credit.topped_up):
            return balance
        raise UserError("reference", credit.reference, "stands for another credit", "give every payment its own")
    if credit.granted == credit.topped_up == 0 or max(abs(credit.granted), abs(credit.topped_up)) > LARGEST:
        raise UserError("amount", dollars(credit.granted or credit.topped_up), "not 0, and at most a billion US$")
    granted, topped_up = balance.granted + credit.granted, balance.topped_up + credit.topped_up
    if min(granted, topped_up) < 0 or (min(credit.granted, credit.topped_up) < 0 and granted + topped_up < balance.held):
        held = f", of which US$ {dollars(balance.held)} is held for requests under way" if balance.held else ""
        raise UserError("amount", dollars(min(credit.granted, credit.topped_up)),
                        f"takes more than there is: US$ {dollars(balance.granted)} granted, US$ {dollars(balance.topped_up)} topped up{held}")
    if max(granted, topped_up) > LARGEST:
        raise UserError("amount", dollars(max(credit.granted, credit.topped_up)), "makes the balance more than a billion US$")
    connection.execute(credits.insert().values(
        account_id=credit.account_id, kind=credit.kind, granted=credit.granted, topped_up=credit.topped_up, at=to_stored(credit.at),
        note=credit.note, reference=credit.reference, request_id=credit.request_id))
    connection.execute(accounts.update().where(accounts.c.id == credit.account_id).values(granted=granted, topped_up=topped_up))
    return Balance(granted, topped_up, balance.held, balance.postpaid)


def refund(connection: Connection, request_id: str, amount: int | None, note: str, at: datetime) -> Credit:
    """Gives back what a request took, or `amount` nano-dollars of it; topped-up money (and what was invoiced) first.

    Raises UserError: no such request, or more than it took less what was given back before.
    """
    row = connection.execute(select(ledger).where(ledger.c.request_id == request_id)).first()
    if row is None:
        raise UserError("request", request_id, "no such request in the ledger", "fathom bill --by request shows them")
    locked(connection, row.account_id)  # before what was given back is counted
    back = select(func.coalesce(func.sum(credits.c.granted), 0), func.coalesce(func.sum(credits.c.topped_up), 0))
    granted_back, topped_back = map(int, connection.execute(back.where(credits.c.request_id == request_id, credits.c.kind == "refund")).one())
    topped_left, granted_left = row.topped_up + row.invoiced - topped_back, row.granted - granted_back
    amount = topped_left + granted_left if amount is None else amount
    if not 0 < amount <= topped_left + granted_left:
        raise UserError("amount", dollars(amount), f"of this request US$ {dollars(topped_left + granted_left)} can be given back")
    topped_up = min(amount, topped_left)
    credit = Credit(row.account_id, "refund", amount - topped_up, topped_up, at, note, None, request_id)
    book(connection, credit)
    return credit


def locked(connection: Connection, account_id: int) -> Balance:
    """The account's balance; nobody else changes it until the transaction ends."""
    row = connection.execute(select(accounts).where(accounts.c.id == account_id).with_for_update()).one()
    return Balance(row.granted, row.topped_up, row.held, row.postpaid)


def every(connection: Connection, account_id: int) -> list[Credit]:
    """All credits of an account, oldest first."""
    rows = connection.execute(select(credits).where(credits.c.account_id == account_id).order_by(credits.c.id))
    return [Credit(row.account_id, row.kind, row.granted, row.topped_up, from_stored(row.at), row.note, row.reference, row.request_id)
            for row in rows]


def _by_reference(connection: Connection, reference: str) -> Row[Any] | None:
    return connection.execute(select(credits).where(credits.c.reference == reference)).first()
