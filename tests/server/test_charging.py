"""The money, whatever happens in whatever order: nothing is lost, nothing appears, nothing is negative, rounding doesn't add up.

One machine of random steps (grants, top-ups, corrections, refunds, requests that begin, record, end, are killed and gone on with) drives
the real accounts on SQLite beside a model of a few lines; after every step the sums must agree to the nano-dollar.
"""
from __future__ import annotations

import tempfile
from datetime import UTC, date, datetime
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fathom.errors import UserError
from fathom.prices import NANO, Price, PriceTable
from fathom.server.accounts import Accounts, OutOfBalance, Usage
from fathom.server.charging import AccountState, Books
from fathom.server.keys import Key, Limits
from fathom.server.metering import Begin, Finish, Record, Resume

DAY, NOW = date(2026, 1, 1), datetime(2026, 5, 1, tzinfo=UTC)
# not round: per token they are fractions of a nano-dollar, so every request is rounded
ODD = Price("odd", DAY, 145_333_333, 1_740_000_001, 3_479_999_999)
TABLE = PriceTable((ODD, Price("tiny", DAY, 1, 3, 7), Price("free", DAY, 0, 0, 0)))
KEY = Key(1, "sk-00000000", "k", 1, "a", Limits(), NOW)
TOKENS, MONEY = st.integers(0, 50_000), st.integers(1, NANO // 10)
MANY = st.integers(0, 90_000)
PRICES = st.integers(0, 20 * NANO)


@given(st.tuples(PRICES, PRICES, PRICES), TOKENS, TOKENS, st.lists(st.integers(0, 900), max_size=12), st.integers(0, NANO), st.integers(0, NANO))
def test_however_often_is_recorded_the_price_is_rounded_once(prices, hit, miss, steps, granted, topped_up):
    """Recording in any pieces charges what one record at the end would: the exact price, half up."""
    price = Price("m", DAY, *prices)
    account = AccountState(granted, topped_up, 0, postpaid=True)
    books = Books("s", 1, {1: account}, {}, {})
    books.apply(Begin("r", KEY, "m", price, hit + miss, hit, NOW))
    output = 0
    for step in steps:
        output += step
        books.apply(Record("r", 1, Usage(hit, miss, output, output // 3)))
    row = books.apply(Finish("r", 1, "stop", NOW, Usage(hit, miss, output, output // 3))).row
    exact = Fraction(hit * prices[0] + miss * prices[1] + output * prices[2], 10**6)
    assert row.cost == (2 * exact + 1) // 2 == int(exact + Fraction(1, 2))
    assert (row.granted, row.topped_up) == (min(granted, row.cost), min(topped_up, row.cost - row.granted))  # granted is spent first
    assert (account.granted, account.topped_up) == (granted - row.granted, topped_up - row.topped_up)


@given(st.integers(0, NANO), st.integers(0, NANO), st.lists(st.tuples(st.integers(0, 7), MANY, MANY), max_size=60))
def test_a_prepaid_account_never_goes_below_zero(granted, topped_up, steps):
    """Eight requests in any interleaving on one account; what is refused changes nothing."""
    account = AccountState(granted, topped_up, 0, postpaid=False)
    books = Books("s", 1, {1: account}, {}, {})
    done = {n: Usage() for n in range(8)}
    for n, prompt, output in steps:
        before = (account.granted, account.topped_up, account.held, dict(books.meters))
        try:
            if f"r{n}" not in books.meters and f"r{n}" not in books.closed:
                books.apply(Begin(f"r{n}", KEY, "odd", ODD, prompt, 0, NOW))
            elif f"r{n}" in books.meters and output % 5 == 0:
                books.apply(Finish(f"r{n}", 1, "stop", NOW))
            elif f"r{n}" in books.meters:
                done[n] = Usage(done[n].hit, done[n].miss or prompt, done[n].output + output % 1000)
                books.apply(Record(f"r{n}", 1, done[n]))
        except OutOfBalance:
            assert before == (account.granted, account.topped_up, account.held, books.meters)
        assert min(account.granted, account.topped_up, account.held, account.free) >= 0
        assert account.held == sum(meter.held for meter in books.meters.values())
        spent = sum(row.cost for row in (*books.meters.values(), *books.closed.values()))
        assert account.granted + account.topped_up + spent == granted + topped_up


class Money(RuleBasedStateMachine):
    """Two accounts, prepaid and postpaid, and what the model says should be left."""

    def __init__(self) -> None:
        super().__init__()
        self.home = tempfile.TemporaryDirectory()
        self.counter = 0
        self.open: dict[str, tuple[Key, Usage]] = {}
        self.left: dict[str, tuple[Key, Usage]] = {}  # by a killed server
        self.closed: list[str] = []
        self.came = 0

    @initialize(granted=MONEY, topped_up=MONEY)
    def start(self, granted: int, topped_up: int) -> None:
        self.accounts = self.serve()
        self.keys = [self.accounts.create_key("pre").key, self.accounts.create_key("post", postpaid=True).key]
        self.accounts.credit("pre", "grant", granted=granted)
        self.accounts.credit("post", "top-up", topped_up=topped_up)
        self.came += granted + topped_up

    def serve(self) -> Accounts:
        return Accounts.open(Path(self.home.name), prices=TABLE, now=lambda: NOW, interval=0.0)

    @rule(which=st.integers(0, 1), granted=st.integers(0, NANO // 100), topped_up=st.integers(0, NANO // 100))
    def credit(self, which: int, granted: int, topped_up: int) -> None:
        if granted + topped_up:
            self.accounts.credit(self.keys[which].account, "grant", granted=granted, topped_up=topped_up)
            self.came += granted + topped_up

    @rule(which=st.integers(0, 1), granted=st.integers(-NANO // 50, NANO // 50), topped_up=st.integers(-NANO // 50, NANO // 50))
    def correct(self, which: int, granted: int, topped_up: int) -> None:
        try:
            self.accounts.credit(self.keys[which].account, "correction", granted=granted, topped_up=topped_up)
        except UserError:
            return
        self.came += granted + topped_up

    @rule(which=st.integers(0, 1), model=st.sampled_from(["odd", "tiny", "free"]), prompt=st.integers(0, 20_000), cached=st.floats(0, 1))
    def begin(self, which: int, model: str, prompt: int, cached: float) -> None:
        self.counter += 1
        name, key = f"r{self.counter}", self.keys[which]
        operation = Begin(name, key, model, TABLE.at(model, NOW), prompt, int(prompt * cached), NOW)
        try:
            self.accounts.submit(operation).result()
        except OutOfBalance:
            assert which == 0 and model != "free"
            return
        self.open[name] = (key, Usage(0, 0, 0))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), hit=st.integers(0, 9000), miss=st.integers(0, 9000), output=st.integers(0, 3000),
          end=st.sampled_from(["", "", "stop", "failed"]))
    def go_on(self, data: st.DataObject, hit: int, miss: int, output: int, end: str) -> None:
        name = data.draw(st.sampled_from(sorted(self.open)))
        key, used = self.open[name]
        usage = Usage(used.hit or hit, used.miss or miss, used.output + output, used.reasoning + output // 2)
        if end:
            done = self.accounts.submit(Finish(name, key.account_id, end, NOW, usage)).result()
            assert done.row.usage == (used if done.unpaid else usage) and done.row.status == ("balance" if done.unpaid else end)
            del self.open[name]
            self.closed.append(name)
            return
        try:
            self.accounts.submit(Record(name, key.account_id, usage)).result()
        except OutOfBalance:
            assert key is self.keys[0]
            return
        self.open[name] = (key, usage)

    @precondition(lambda self: self.closed)
    @rule(data=st.data(), amount=st.one_of(st.none(), st.integers(1, NANO // 100)))
    def refund(self, data: st.DataObject, amount: int | None) -> None:
        try:
            back = self.accounts.refund(data.draw(st.sampled_from(self.closed)), amount)
        except UserError:
            return
        assert amount in (None, back.granted + back.topped_up)
        self.came += back.granted + back.topped_up

    @rule(data=st.data())
    def kill_and_start_again(self, data: st.DataObject) -> None:
        """The server dies; some of what it left is kept for its log's sake, the rest is closed with what was recorded."""
        keep = data.draw(st.sets(st.sampled_from(sorted(self.open)))) if self.open else set()
        self.accounts.close()
        self.accounts = self.serve()
        rows = {row.request_id: row for row in self.accounts.recover(keep)}
        assert set(rows) == set(self.open) - keep and all(rows[name].usage == self.open[name][1] for name in rows)
        self.closed += sorted(rows)
        self.open = {name: self.open[name] for name in keep}
        for name in sorted(keep):
            key, used = self.open[name]
            assert self.accounts.submit(Resume(name, key)).result().usage == used

    @invariant()
    def every_nano_dollar_is_somewhere(self) -> None:
        if not hasattr(self, "accounts"):
            return
        assert self.accounts.audit() == []
        balances = self.accounts.balances().values()
        assert all(min(balance.granted, balance.topped_up, balance.held) >= 0 for _, balance in balances)
        taken = sum(row.granted + row.topped_up for row in self.accounts.usage())
        with self.accounts.engine.connect() as connection:
            running = connection.exec_driver_sql("SELECT coalesce(sum(granted + topped_up), 0) FROM meters").scalar_one()
        assert sum(balance.total for _, balance in balances) + taken + running == self.came

    def teardown(self) -> None:
        if hasattr(self, "accounts"):
            self.accounts.close()
        self.home.cleanup()


class TestMoney(Money.TestCase):
    settings = settings(max_examples=5, stateful_step_count=30)


@pytest.mark.check
class TestMoneyLong(Money.TestCase):
    settings = settings(max_examples=40, stateful_step_count=40)


@given(st.lists(st.tuples(TOKENS, TOKENS, TOKENS), max_size=30), PRICES)
def test_the_same_traffic_at_other_prices_is_the_sum_of_its_requests(traffic, price):
    from fathom.server.billing import reprice
    row = Price("m", DAY, price, price, price)
    sums, (cost, odd) = reprice([Usage(*counts) for counts in traffic], [row, ODD])
    assert sums.requests == len(traffic) and sums.hit + sums.miss + sums.output == sum(map(sum, traffic))
    assert cost == sum(row.cost(hit=h, miss=m, output=o) for h, m, o in traffic)
    assert odd == sum(ODD.cost(hit=h, miss=m, output=o) for h, m, o in traffic)
