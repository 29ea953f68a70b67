"""Requests from begin to their ledger row, on a real database: what is charged, refused, held, kept, and can't be changed."""
from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from fathom.errors import UserError
from fathom.prices import load_prices
from fathom.server.accounts import Accounts, BooksClosed, Key, Limits, OutOfBalance, Revoked, Taken, TooMany, Usage
from fathom.server.metering import Begin, Finish, Record, Resume
from tests.server.databases import accounts, cluster, url  # noqa: F401  (fixtures)

# ruff: noqa: F811  (fixtures are arguments of the same name)

PRO = "deepseek-v4-pro"


class Clock:
    """A time that the test sets."""

    def __init__(self) -> None:
        self.moment = datetime(2026, 5, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.moment

    def go(self, **by: float) -> None:
        self.moment += timedelta(**by)


@pytest.fixture
def clock(accounts: Accounts) -> Clock:
    accounts.now = clock = Clock()
    return clock


@pytest.fixture
def key(accounts: Accounts, clock: Clock) -> Key:
    new = accounts.create_key("alice")
    accounts.credit("alice", "top-up", topped_up=10**9)
    return new.key


def begin(accounts: Accounts, key: Key, name: str, prompt: int = 10, cached: int = 0, model: str = PRO):
    price = accounts.prices.charged(model, accounts.now())
    return accounts.submit(Begin(name, key, model, price, prompt, cached, accounts.now())).result()


def record(accounts: Accounts, meter, *counts: int):
    return accounts.submit(Record(meter.request_id, meter.account_id, Usage(*counts))).result()


def finish(accounts: Accounts, meter, status: str, *counts: int):
    return accounts.submit(Finish(meter.request_id, meter.account_id, status, accounts.now(), Usage(*counts) if counts else None)).result()


def test_a_worked_request(accounts: Accounts, key: Key, clock: Clock) -> None:
    """1000 cached at 0.145, 2000 at 1.74, 500 out at 3.48: 5 365 000 nano-dollars; 2 000 000 of them were granted."""
    accounts.credit("alice", "grant", granted=2_000_000)
    meter = begin(accounts, key, "r", 3000)
    assert accounts.balance(key.account_id).held == 3000 * 1740 + 3480
    record(accounts, meter, 1000, 2000, 1)
    assert accounts.balance(key.account_id).held == 0
    clock.go(seconds=90)
    row = finish(accounts, meter, "stop", 1000, 2000, 500, 120).row
    assert (row.usage, row.granted, row.topped_up, row.invoiced, row.cost) == (Usage(1000, 2000, 500, 120), 2_000_000, 3_365_000, 0, 5_365_000)
    assert row.price.key() == "deepseek-v4-pro@2026-04-24" and (row.price.cached, row.price.input, row.price.output) == (
        145_000_000, 1_740_000_000, 3_480_000_000)
    assert (row.finished - row.started, row.status, row.key_id) == (timedelta(seconds=90), "stop", key.id)
    left = accounts.balance(key.account_id)
    assert (left.granted, left.topped_up, left.held) == (0, 10**9 - 3_365_000, 0)
    assert left.api() == {"is_available": True, "balance_infos": [
        {"currency": "USD", "total_balance": "0.996635", "granted_balance": "0.00", "topped_up_balance": "0.996635"}]}
    (used,) = accounts.usage(account_id=key.account_id)
    assert (used.day, used.key, used.requests, used.hit, used.miss, used.output, used.reasoning, used.cost) == (
        "2026-05-01", key.prefix, 1, 1000, 2000, 500, 120, 5_365_000)


def test_the_price_is_that_of_the_moment_of_asking(accounts: Accounts, key: Key, clock: Clock, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f'[[price]]\nmodel = "{PRO}"\nfrom = 2026-05-02\ninput = 1\noutput = 2\n')
    accounts.prices = load_prices([file])
    clock.moment = datetime(2026, 5, 1, 23, 59, 59, tzinfo=UTC)
    old = begin(accounts, key, "old")
    clock.go(seconds=2)
    new = begin(accounts, key, "new")
    rows = [finish(accounts, meter, "stop", 0, 10, 10).row for meter in (old, new)]
    assert [row.price.key() for row in rows] == [f"{PRO}@2026-04-24", f"{PRO}@2026-05-02"]
    assert [row.cost for row in rows] == [10 * 1740 + 10 * 3480, 10 * 1000 + 10 * 2000]
    assert [row.day for row in rows] == ["2026-05-02"] * 2  # both stand on the day on which they ended


@pytest.mark.parametrize("table", ["ledger", "credits"])
@pytest.mark.parametrize("change", ["UPDATE {} SET granted = 1", "DELETE FROM {}", "UPDATE {} SET note = 'x'", "DELETE FROM {} WHERE id = 1"])
def test_rows_cannot_be_changed_behind_our_back(accounts: Accounts, key: Key, table: str, change: str) -> None:
    """Through the database itself: a raw connection, past every guard in this process."""
    finish(accounts, begin(accounts, key, "r"), "stop", 0, 10, 1)
    raw = accounts.engine.raw_connection()
    try:
        with pytest.raises(Exception, match="append-only" if "note" not in change or table == "credits" else "note"):
            raw.cursor().execute(change.format(table))
    finally:
        raw.rollback()
        raw.close()
    with pytest.raises(RuntimeError, match="append-only"), accounts.engine.begin() as connection:  # and by the guard
        connection.execute(text(change.format(table)))


def test_balances_are_not_negative_even_for_the_database(accounts: Accounts, key: Key) -> None:
    for column in ("granted", "topped_up", "held"):
        with pytest.raises(DBAPIError), accounts.engine.begin() as connection:
            connection.execute(text(f"UPDATE accounts SET {column} = -1"))


def test_no_money_no_request(accounts: Accounts, clock: Clock) -> None:
    poor = accounts.create_key("poor").key
    with pytest.raises(OutOfBalance, match="balance = US\\$ 0.000000") as refused:
        begin(accounts, poor, "r")
    assert refused.value.status == 402 and accounts.balance(poor.account_id).api()["is_available"] is False
    accounts.credit("poor", "grant", granted=10 * 1740 + 3480 - 1)
    with pytest.raises(OutOfBalance):
        begin(accounts, poor, "r")  # one nano-dollar short of the prompt and a token
    accounts.credit("poor", "grant", granted=1)
    row = finish(accounts, begin(accounts, poor, "r"), "length", 0, 10, 1).row
    assert row.cost == 10 * 1740 + 3480 and accounts.balance(poor.account_id).total == 0
    with pytest.raises(OutOfBalance):
        begin(accounts, poor, "r2", prompt=1)


def test_a_flush_that_cannot_be_paid_is_not_charged_at_all(accounts: Accounts, clock: Clock) -> None:
    poor = accounts.create_key("poor").key
    accounts.credit("poor", "grant", granted=10 * 1740 + 5 * 3480)
    meter = begin(accounts, poor, "r")
    record(accounts, meter, 0, 10, 3)
    with pytest.raises(OutOfBalance):
        record(accounts, meter, 0, 10, 6)
    assert accounts.balance(poor.account_id).total == 2 * 3480
    done = finish(accounts, meter, "stop", 0, 10, 6)
    assert done.unpaid is not None and (done.row.status, done.row.usage.output, done.row.cost) == ("balance", 3, 10 * 1740 + 3 * 3480)
    assert accounts.balance(poor.account_id).total == 2 * 3480
    assert finish(accounts, meter, "stop").row == done.row  # a second end finds the row, and nothing else


def test_what_prompts_hold_is_not_there_twice(accounts: Accounts, clock: Clock) -> None:
    poor = accounts.create_key("poor").key
    hold = 1000 * 1740 + 3480
    accounts.credit("poor", "grant", granted=3 * hold)
    running = [begin(accounts, poor, f"r{i}", 1000) for i in range(3)]
    with pytest.raises(OutOfBalance):
        begin(accounts, poor, "r3", 1000)
    with pytest.raises(UserError, match="is held for requests under way"):
        accounts.credit("poor", "correction", granted=-1)
    record(accounts, running[0], 900, 100, 1)  # most was cached: the rest of what was held is free again
    begin(accounts, poor, "r4", 300)
    for meter in running:
        finish(accounts, meter, "cancelled")
    begin(accounts, poor, "r5", 1000, cached=1000)


def test_postpaid_goes_on_at_zero(accounts: Accounts, clock: Clock) -> None:
    key = accounts.create_key("team", postpaid=True).key
    accounts.credit("team", "grant", granted=1000)
    row = finish(accounts, begin(accounts, key, "r"), "stop", 0, 10, 10).row
    assert (row.granted, row.topped_up, row.invoiced) == (1000, 0, 10 * 1740 + 10 * 3480 - 1000)
    balance = accounts.balance(key.account_id)
    assert balance.total == 0 and balance.api()["is_available"] is True


def test_ids_are_used_once(accounts: Accounts, key: Key, clock: Clock) -> None:
    meter = begin(accounts, key, "r")
    other = accounts.create_key("bob", postpaid=True).key
    clock.go(seconds=1)
    for who in (key, other):
        with pytest.raises(Taken) as taken:
            begin(accounts, who, "r")
        assert not taken.value.billed and taken.value.status == 409
    row = finish(accounts, meter, "stop", 0, 10, 1).row
    for who in (key, other):
        with pytest.raises(Taken) as taken:
            begin(accounts, who, "r")
        assert taken.value.billed
    with pytest.raises(Taken):
        record(accounts, meter, 0, 10, 2)
    assert finish(accounts, meter, "failed", 0, 10, 9).row == row


def test_counts_only_grow(accounts: Accounts, key: Key) -> None:
    meter = begin(accounts, key, "r")
    record(accounts, meter, 2, 8, 5, 3)
    for smaller in ((1, 9, 5, 3), (2, 7, 5, 3), (2, 8, 4, 3), (2, 8, 5, 2)):
        with pytest.raises(ValueError):
            record(accounts, meter, *smaller)
    for wrong in ((0, 0, 1, 2), (-1, 0, 0, 0)):
        with pytest.raises(ValueError, match="not a usage"):
            Usage(*wrong)
    assert record(accounts, meter, 2, 8, 5, 3).cost == record(accounts, meter, 2, 8, 5, 3).cost  # the same again costs nothing
    with pytest.raises(ValueError, match="not a status"):
        finish(accounts, meter, "fine")
    with pytest.raises(ValueError, match="never begun"):
        accounts.submit(Record("nobody", meter.account_id, Usage())).result()
    finish(accounts, meter, "stop")


def test_limits(accounts: Accounts, clock: Clock) -> None:
    key = accounts.create_key("alice", postpaid=True, limits=Limits(2, 4, 100)).key
    first = begin(accounts, key, "a", 10)
    second = begin(accounts, key, "b", 10)
    with pytest.raises(TooMany, match="requests at once") as refused:
        begin(accounts, key, "c", 10)
    assert refused.value.status == 429 and refused.value.retry_after == 1
    finish(accounts, first, "stop", 0, 10, 50)
    finish(accounts, second, "stop", 0, 10, 5)  # 75 tokens in this minute
    with pytest.raises(TooMany, match="tokens per minute = 101"):
        begin(accounts, key, "c", 26)
    finish(accounts, begin(accounts, key, "c", 1), "stop", 0, 1, 1)
    clock.go(seconds=10)
    finish(accounts, begin(accounts, key, "d", 1), "stop", 0, 1, 1)
    with pytest.raises(TooMany, match="requests per minute = 4") as refused:
        begin(accounts, key, "e", 1)
    assert refused.value.retry_after == 51
    clock.go(seconds=refused.value.retry_after)
    finish(accounts, begin(accounts, key, "e", 1), "stop", 0, 1, 1)
    with pytest.raises(TooMany, match="shorter prompt"):
        begin(accounts, key, "f", 101)


def test_limits_hold_among_requests_of_one_batch(accounts: Accounts, clock: Clock) -> None:
    key = accounts.create_key("alice", postpaid=True, limits=Limits(concurrency=3)).key
    price = accounts.prices.charged(PRO, clock())
    futures = [accounts.submit(Begin(f"r{i}", key, PRO, price, 1, 0, clock())) for i in range(40)]
    assert sum(future.exception() is None for future in futures) == 3
    assert all(isinstance(future.exception(), TooMany) for future in futures if future.exception())


def test_a_key_revoked_meanwhile(accounts: Accounts, key: Key) -> None:
    accounts.revoke("alice")
    with pytest.raises(Revoked) as refused:
        begin(accounts, key, "r")
    assert refused.value.status == 401


def test_corrections_are_new_rows(accounts: Accounts, key: Key) -> None:
    accounts.credit("alice", "grant", granted=20_000)
    row = finish(accounts, begin(accounts, key, "r"), "stop", 0, 10, 10).row
    assert (row.granted, row.topped_up) == (20_000, 32_200)
    accounts.refund("r", 40_000, "half of it was nonsense")
    balance = accounts.balance(key.account_id)
    assert (balance.granted, balance.topped_up) == (7_800, 10**9)  # paid money comes back first
    with pytest.raises(UserError, match="0.000012200 can be given back"):
        accounts.refund("r", 12_201)
    accounts.refund("r")
    with pytest.raises(UserError, match="can be given back"):
        accounts.refund("r")
    with pytest.raises(UserError, match="no such request"):
        accounts.refund("nobody")
    assert accounts.balance(key.account_id).granted == 20_000
    accounts.credit("alice", "correction", topped_up=-(10**9))
    for much in ({"topped_up": -1}, {"granted": -20_001}, {"granted": 0}, {"granted": 10**18 + 1}):
        with pytest.raises(UserError, match="amount"):
            accounts.credit("alice", "correction", **much)


def test_a_payment_is_booked_once(accounts: Accounts, key: Key) -> None:
    for _ in range(3):
        accounts.credit("alice", "top-up", topped_up=7, reference="invoice-1")
    assert accounts.balance(key.account_id).topped_up == 10**9 + 7
    for other in ({"topped_up": 8}, {"granted": 7}):
        with pytest.raises(UserError, match="reference = invoice-1"):
            accounts.credit("alice", "top-up", **other, reference="invoice-1")


def test_what_a_killed_server_left(accounts: Accounts, key: Key, tmp_path: Path, url: str | None) -> None:
    """A second start on the folder: the first can't write any more, its requests are closed once, or kept and gone on with."""
    half, untouched, kept = (begin(accounts, key, name) for name in ("half", "untouched", "kept"))
    record(accounts, half, 0, 10, 3)
    record(accounts, kept, 0, 10, 4)
    accounts._claim.lock.close()  # as the system does when a process dies
    with Accounts.open(tmp_path / "service", url, now=accounts.now) as later:
        with pytest.raises(BooksClosed, match="another one has started"):
            record(accounts, half, 0, 10, 5)
        rows = {row.request_id: row for row in later.recover(keep=["kept"], spare=timedelta(days=1))}
        assert set(rows) == {"half"}, "one of which nothing is recorded can still be asked again"
        rows |= {row.request_id: row for row in later.recover(keep=["kept"])}
        assert {name: (row.status, row.usage.output, row.cost) for name, row in rows.items()} == {
            "half": ("crashed", 3, 10 * 1740 + 3 * 3480), "untouched": ("crashed", 0, 0)}
        assert later.recover(keep=["kept"]) == [] and later.audit() == []
        with pytest.raises(Taken):
            later.submit(Resume("half", key)).result()
        stranger = later.create_key("bob", postpaid=True).key
        for name, who in (("kept", stranger), ("nobody", key), ("half", stranger)):
            with pytest.raises(UserError, match="isn't one that this key left unfinished"):
                later.submit(Resume(name, who)).result()
        assert later.submit(Resume("kept", key)).result().usage == Usage(0, 10, 4)
        assert later.recover() == []  # it runs again, here
        row = finish(later, kept, "stop", 0, 10, 9).row
        assert (row.status, row.cost) == ("stop", 10 * 1740 + 9 * 3480)


def test_one_server_a_folder(accounts: Accounts, tmp_path: Path, url: str | None) -> None:
    with pytest.raises(UserError, match="is in use by another server"):
        Accounts.open(tmp_path / "service", url)
    with Accounts.open(tmp_path / "service", url, serving=False) as beside:
        beside.create_key("alice")
    assert [key.name for key in accounts.keys()] == ["alice"]


def test_two_servers_on_one_database_leave_each_other_alone(accounts: Accounts, key: Key, tmp_path: Path, url: str | None) -> None:
    here = url or f"sqlite:///{tmp_path}/service/accounts.sqlite"
    meter = begin(accounts, key, "r")
    with Accounts.open(tmp_path / "second", here, now=accounts.now) as second:
        assert second.recover() == []
        row = finish(second, begin(second, key, "q"), "stop", 0, 10, 1).row
        assert row.cost == 10 * 1740 + 3480
    record(accounts, meter, 0, 10, 2)
    finish(accounts, meter, "stop")


def test_a_server_that_never_comes_back_is_settled(accounts: Accounts, key: Key, clock: Clock, tmp_path: Path, url: str | None) -> None:
    begin(accounts, key, "old")
    clock.go(hours=2)
    young = begin(accounts, key, "young")
    with Accounts.open(tmp_path / "service", url, serving=False, now=clock) as beside:
        assert [row.request_id for row in beside.settle(timedelta(hours=1))] == ["old"]
    finish(accounts, young, "stop")


def test_32_threads(accounts: Accounts, clock: Clock) -> None:
    """Requests of eight accounts, top-ups and refunds at once: the books agree, and every nano-dollar is somewhere."""
    keys = [accounts.create_key(f"a{i}").key for i in range(8)]
    paid = []

    def client(n: int) -> None:
        key = keys[n % 8]
        for i in range(6):
            accounts.credit(key.account, "top-up", topped_up=30_000 + n, reference=f"{n}.{i}")
            paid.append(30_000 + n)
            try:
                meter = begin(accounts, key, f"{n}.{i}", 4)
                for output in range(1, 12, 3):
                    record(accounts, meter, 0, 4, output)
                finish(accounts, meter, "stop", 0, 4, 12)
            except OutOfBalance:
                accounts.submit(Finish(f"{n}.{i}", key.account_id, "balance", clock())).exception()
            if n % 5 == 0:
                accounts.credit(key.account, "grant", granted=1000)
                paid.append(1000)

    with ThreadPoolExecutor(32) as pool:
        for done in [pool.submit(client, n) for n in range(32)]:
            done.result()
    assert accounts.audit() == []
    billed = sum(row.cost for row in accounts.usage())
    left = sum(balance.total for _, balance in accounts.balances().values())
    assert billed + left == sum(paid) and billed > 0
    assert sum(balance.held for _, balance in accounts.balances().values()) == 0


def test_a_closed_book_says_so(accounts: Accounts, key: Key) -> None:
    waiting = [accounts.submit(Begin(f"r{i}", key, PRO, accounts.prices.at(PRO, accounts.now()), 1, 0, accounts.now())) for i in range(50)]
    accounts._writer.close()
    assert all(future.result() for future in waiting)  # what was submitted before the end is written
    with pytest.raises(BooksClosed) as refused:
        begin(accounts, key, "late")
    assert refused.value.status == 503
    assert not [thread for thread in threading.enumerate() if thread is accounts._writer._thread]
