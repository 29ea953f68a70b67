"""The asynchronous face: what the server awaits, what cancelling leaves behind, and a database that fails under it."""
from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from fathom.errors import UserError
from fathom.server.accounts import Accounts, AsyncAccounts, BooksClosed, Key, Limits, Meter, OutOfBalance, Refusal, Taken, TooMany, Usage
from fathom.server.database import reading
from fathom.server.transaction import open_meters
from tests.server.databases import accounts, cluster, url  # noqa: F401  (fixtures)

# ruff: noqa: F811  (fixtures are arguments of the same name)

PRO = "deepseek-v4-pro"
Scene = Callable[[AsyncAccounts, Key], Coroutine[Any, Any, None]]


@pytest.fixture
def play(accounts: Accounts) -> Callable[[Scene], None]:
    """Runs a scene with a service and a key that has money; afterwards nothing may be open."""
    def run(scene: Scene) -> None:
        new = accounts.create_key("alice")
        accounts.credit("alice", "top-up", topped_up=10**9)

        async def whole() -> None:
            service = AsyncAccounts(accounts)
            key = await service.authenticate(new.secret)
            assert key == new.key and await service.authenticate(new.secret[:-1]) is None
            await scene(service, key)

        asyncio.run(whole())
        accounts._writer.close()
        with reading(accounts.engine) as connection:
            assert open_meters(connection) == []
        assert accounts.audit() == []
    return run


def statuses(accounts: Accounts) -> dict[str, tuple[str, int]]:
    from fathom.server import billing
    with reading(accounts.engine) as connection:
        return {row.request_id: (row.status, row.usage.output) for _, row in billing.requests(connection, billing.Span())}


def test_a_request_from_begin_to_end(play, accounts: Accounts) -> None:
    async def scene(service: AsyncAccounts, key: Key) -> None:
        async with await service.begin("r", key, PRO, 10) as meter:
            for output in range(1, 5):
                await meter.record(Usage(0, 10, output))
                assert meter.usage.output == output and meter.cost == 10 * 1740 + output * 3480
            row = await meter.finish("stop", Usage(0, 10, 5))
            assert row == await meter.finish("failed", Usage(0, 10, 9)) and row.status == "stop"
        assert (await service.balance(key)).total == 10**9 - row.cost
        assert [(used.requests, used.cost) for used in await service.usage(key)] == [(1, row.cost)]
        unlisted = await service.begin("local", key, "my-run", 10)
        assert unlisted.price.key() == "deepseek-v4-flash@2026-04-24"
        await unlisted.finish("length")
    play(scene)


def test_left_without_an_end(play, accounts: Accounts) -> None:
    async def scene(service: AsyncAccounts, key: Key) -> None:
        for name, error in (("cancelled", asyncio.CancelledError), ("failed", RuntimeError)):
            with pytest.raises(error):
                async with await service.begin(name, key, PRO, 10) as meter:
                    await meter.record(Usage(0, 10, 3))
                    raise error
        async with await service.begin("forgotten", key, PRO, 10):
            pass
    play(scene)
    assert statuses(accounts) == {"cancelled": ("cancelled", 3), "failed": ("failed", 3), "forgotten": ("failed", 0)}


def test_money_that_ends_under_way(play, accounts: Accounts) -> None:
    async def scene(service: AsyncAccounts, key: Key) -> None:
        accounts.credit("alice", "correction", topped_up=-(10**9) + 10 * 1740 + 3 * 3480)
        with pytest.raises(OutOfBalance):
            async with await service.begin("recorded", key, PRO, 10) as meter:
                await meter.record(Usage(0, 10, 2))
                await meter.record(Usage(0, 10, 4))
        accounts.credit("alice", "top-up", topped_up=10 * 1740)
        async with await service.begin("finished", key, PRO, 10) as meter:
            with pytest.raises(OutOfBalance):
                await meter.finish("stop", Usage(0, 10, 4))
    play(scene)
    assert statuses(accounts) == {"recorded": ("balance", 2), "finished": ("balance", 0)}


def test_taken_back_the_id_is_free(play, accounts: Accounts) -> None:
    async def scene(service: AsyncAccounts, key: Key) -> None:
        before = await service.balance(key)
        for _ in range(2):
            async with await service.begin("r", key, PRO, 10) as meter:
                await asyncio.gather(meter.withdraw(), meter.withdraw())
            assert await service.balance(key) == before and not await meter.closed()
        async with await service.begin("r", key, PRO, 10) as meter:
            await meter.finish("stop", Usage(0, 10, 5))
            await meter.withdraw()
            assert await meter.closed()
    play(scene)
    assert statuses(accounts) == {"r": ("stop", 5)}


def test_a_resumed_one_that_is_taken_back_is_as_the_kill_left_it(play, accounts: Accounts) -> None:
    async def scene(service: AsyncAccounts, key: Key) -> None:
        limited = accounts.create_key("bob", postpaid=True, limits=Limits(concurrency=1)).key
        meter = await service.begin("r", limited, PRO, 10)
        await meter.record(Usage(0, 10, 3))
        await meter.withdraw()
        await (await service.begin("other", limited, PRO, 10)).finish("stop")
        async with await service.resume("r", limited) as meter:
            assert meter.usage == Usage(0, 10, 3)
            await meter.withdraw()
        assert [row.request_id for row in await service.recover()] == ["r"], "and closed when its log has gone"
    play(scene)
    assert statuses(accounts) == {"r": ("crashed", 3), "other": ("stop", 0)}


@pytest.mark.parametrize("pauses", range(12))
def test_cancelled_at_any_moment_nothing_stays_open(play, accounts: Accounts, pauses: int) -> None:
    """A task is cancelled after so many turns of the loop: before, while and after each of its writes."""
    async def scene(service: AsyncAccounts, key: Key) -> None:
        async def request(n: int) -> None:
            async with await service.begin(f"r{n}", key, PRO, 10) as meter:
                await meter.record(Usage(0, 10, 1))
                await meter.finish("stop", Usage(0, 10, 2))

        tasks = [asyncio.create_task(request(n)) for n in range(6)]
        for n, task in enumerate(tasks):
            for _ in range(pauses * (n + 1) // 2):
                await asyncio.sleep(0 if n % 2 else 0.003)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not service._live or await asyncio.sleep(0.2) or not service._live
    play(scene)
    assert all(row in {("stop", 2), ("cancelled", 0), ("cancelled", 1)} for row in statuses(accounts).values())


def test_refusals_reach_whom_they_concern_alone(play, accounts: Accounts) -> None:
    async def scene(service: AsyncAccounts, key: Key) -> None:
        limited = accounts.create_key("bob", postpaid=True, limits=Limits(concurrency=1)).key
        results = await asyncio.gather(*(service.begin(f"b{i}", limited, PRO, 10) for i in range(5)),
                                       *(service.begin(f"a{i}", key, PRO, 10) for i in range(5)), service.begin("a0", key, PRO, 10),
                                       service.begin("dear", key, PRO, 10**6), return_exceptions=True)
        meters = [result for result in results if isinstance(result, Meter)]
        assert sum(isinstance(result, TooMany) for result in results[:5]) == 4 and len(meters) == 6
        assert isinstance(results[10], Taken) and isinstance(results[11], OutOfBalance)
        for wrong in ("", "x" * 201, "a\nb", "\0"):
            with pytest.raises(Refusal, match="request id") as refused:
                await service.begin(wrong, key, PRO, 1)
            assert refused.value.status == 400
        await asyncio.gather(*(meter.finish("stop") for meter in meters))
    play(scene)


def test_resumed_by_one_alone(play, accounts: Accounts, tmp_path: Path, url: str | None) -> None:
    async def scene(service: AsyncAccounts, key: Key) -> None:
        meter = await service.begin("r", key, PRO, 10)
        await meter.record(Usage(0, 10, 3))
        with pytest.raises(Taken):
            await service.resume("r", key)
        accounts._claim.lock.close()
        second = AsyncAccounts(Accounts.open(tmp_path / "service", url))
        assert await second.recover(keep=["r"]) == []
        first, other = await asyncio.gather(second.resume("r", key), second.resume("r", key), return_exceptions=True)
        assert isinstance(other, Taken) and first.usage == Usage(0, 10, 3)
        assert await second.recover() == []
        with pytest.raises(BooksClosed):
            await meter.record(Usage(0, 10, 4))
        row = await first.finish("stop", Usage(0, 10, 6))
        assert row.cost == 10 * 1740 + 6 * 3480
        with pytest.raises(Taken) as taken:
            await second.resume("r", key)
        assert taken.value.billed
        await second.close()
    play(scene)


def test_a_database_that_fails(play, accounts: Accounts) -> None:
    """Once: nobody notices. For longer: 503, nothing charged, and the service goes on when the database does."""
    failing = {"times": 0, "commits": 0}

    @event.listens_for(accounts.engine, "commit")
    def fail(connection: Any) -> None:
        failing["commits"] += 1
        if failing["times"] > 0:
            failing["times"] -= 1
            raise OperationalError("COMMIT", None, sqlite3.OperationalError("disk I/O error"))

    async def scene(service: AsyncAccounts, key: Key) -> None:
        meter = await service.begin("r", key, PRO, 10)
        failing["times"] = 1
        await meter.record(Usage(0, 10, 1))
        failing["times"] = 2
        with pytest.raises(BooksClosed, match="disk I/O error") as refused:
            await meter.record(Usage(0, 10, 2))
        assert refused.value.status == 503 and meter.usage.output == 1 and failing["times"] == 0
        failing["times"] = 100
        with pytest.raises(BooksClosed):
            await meter.finish("stop", Usage(0, 10, 2))
        failing["times"] = 0
        assert (await meter.finish("stop", Usage(0, 10, 3))).usage.output == 3
        failing["times"] = 1
        many = await asyncio.gather(*(service.begin(f"q{i}", key, PRO, 10) for i in range(20)))
        await asyncio.gather(*(one.finish("length", Usage(0, 10, 1)) for one in many))
    play(scene)
    assert len(statuses(accounts)) == 21


def test_an_answer_lost_after_the_commit(play, accounts: Accounts) -> None:
    """The commit happens and then the connection fails: each operation is carried out again and has happened once."""
    real, lose = accounts._commit, {"next": False}

    def commit(operations: Any) -> Any:
        outcomes = real(operations)
        if lose["next"]:
            lose["next"] = False
            raise OperationalError("COMMIT", None, Exception("server closed the connection"))
        return outcomes

    accounts._writer._commit = commit

    async def scene(service: AsyncAccounts, key: Key) -> None:
        lose["next"] = True
        meter = await service.begin("r", key, PRO, 10)
        lose["next"] = True
        await meter.record(Usage(0, 10, 4))
        assert meter.cost == 10 * 1740 + 4 * 3480
        lose["next"] = True
        row = await meter.finish("stop", Usage(0, 10, 5))
        assert row.cost == 10 * 1740 + 5 * 3480 and (await service.balance(key)).total == 10**9 - row.cost
    play(scene)


def test_64_streams_share_their_commits(play, accounts: Accounts) -> None:
    commits = []
    event.listen(accounts.engine, "commit", commits.append)

    async def scene(service: AsyncAccounts, key: Key) -> None:
        async def stream(n: int) -> None:
            async with await service.begin(f"r{n}", key, PRO, 10) as meter:
                for output in range(1, 31):
                    await meter.record(Usage(0, 10, output))
                await meter.finish("stop")
        await asyncio.gather(*(stream(n) for n in range(64)))
    play(scene)
    assert len(commits) < 64 * 32 / 4 and sum(output for _, output in statuses(accounts).values()) == 64 * 30


def test_prices_are_looked_up_when_asked(play) -> None:
    async def scene(service: AsyncAccounts, key: Key) -> None:
        service.accounts.prices = type(service.accounts.prices)(())
        with pytest.raises(UserError, match="has no price row"):
            await service.begin("r", key, PRO, 10)
    play(scene)
