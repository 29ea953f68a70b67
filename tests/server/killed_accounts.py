"""A metering server that is killed over and over while 32 requests run. A program of its own, with 25 requests a kill:
python -m tests.server.killed_accounts FOLDER KILLS SEED [URL].

The parent is the client: it forks a server, reads from a pipe which tokens were handed out, and kills the server with SIGKILL after a
random number of them or a random time. The server does what the real one does: a token is first written to the request's log, then
recorded, then handed out; requests end normally, are left by their client, fail, or run out of money; of some, an interrupted one is
asked for again under its id and goes on from its log. The parent tops accounts up between the deaths.

Prints JSON: {deaths, seen: {id: tokens}, logged: {id: tokens}}. The parent has no thread and no database open when it forks.
"""
from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import select
import signal
import sys
import time
from pathlib import Path

from fathom.server.accounts import Accounts, AsyncAccounts, Key, OutOfBalance, Taken, Usage

AT_ONCE, FLUSH, MODEL, PROMPT = 32, 8, "deepseek-v4-pro", 40
NAMES = ("rich", "team", "poor")
POOR = 50 * (PROMPT * 1740 + 20 * 3480)  # not enough for all of its requests


def wanted(name: str) -> tuple[str, int]:
    """How a request will end, and after how many tokens: a function of its id."""
    rng = random.Random(name)
    return rng.choice(["stop", "stop", "length", "cancelled", "failed"]), rng.randrange(1, 60)


def resumable(name: str) -> bool:
    """Whether its client asks again after a crash."""
    return int(name[1:]) % 2 == 0


async def serve(folder: Path, url: str | None, pipe: int, requests: int) -> None:
    """Runs every request that isn't closed yet to its end."""
    accounts = Accounts.open(folder / "service", url, interval=0.002)
    service = AsyncAccounts(accounts)
    await service.recover(keep=[name for name in map("r{}".format, range(requests)) if resumable(name) and length(folder, name)])
    keys = [key for key in accounts.keys() if key.name in NAMES]
    room = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with room:
            await request(service, keys[number % 3], folder, f"r{number}", pipe)

    await asyncio.gather(*map(one, range(requests)))
    await service.close()


async def request(service: AsyncAccounts, key: Key, folder: Path, name: str, pipe: int) -> None:
    """One request, new or gone on with."""
    status, tokens = wanted(name)
    with contextlib.suppress(Taken, OutOfBalance):
        try:
            meter = await service.begin(name, key, MODEL, PROMPT)
        except Taken as taken:
            if taken.billed:
                return
            meter = await service.resume(name, key)
        log = os.open(folder / "log" / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            async with meter:
                again = (made := length(folder, name)) > 0
                while True:
                    # gone on with: what the log holds comes first, recorded and handed out, before there is more
                    batch = 0 if again else min(random.randrange(1, FLUSH + 1), tokens - made)
                    again = False
                    for _ in range(batch):
                        os.write(log, b".")
                    made += batch
                    await asyncio.sleep(random.random() * 0.003)
                    usage = Usage(8, PROMPT - 8, made, made // 2)
                    if made < tokens:
                        await meter.record(usage)
                    elif status in ("stop", "length"):
                        await meter.finish(status, usage)
                    else:
                        await meter.record(usage)
                    os.write(pipe, f"{name} {made}\n".encode())
                    if made >= tokens:
                        break
                if status == "cancelled":
                    raise asyncio.CancelledError
                if status == "failed":
                    raise RuntimeError
        except (asyncio.CancelledError, RuntimeError):
            pass
        finally:
            os.close(log)


def length(folder: Path, name: str) -> int:
    """Tokens in a request's log."""
    with contextlib.suppress(FileNotFoundError):
        return (folder / "log" / name).stat().st_size
    return 0


def watch(child: int, pipe: int, lines: int, seconds: float, seen: dict[str, int]) -> None:
    """Reads what is handed out until the server ends; kills it after so many lines or seconds."""
    deadline, rest, count, killed = time.monotonic() + seconds, b"", 0, False
    while True:
        ready, _, _ = select.select([pipe], [], [], 0.005)
        data = os.read(pipe, 1 << 16) if ready else None
        if data == b"":
            return
        *whole, rest = (rest + (data or b"")).split(b"\n")
        for line in whole:
            name, made = line.split()
            seen[name.decode()] = max(seen.get(name.decode(), 0), int(made))
            count += 1
        if not killed and (count >= lines or time.monotonic() > deadline):
            os.kill(child, signal.SIGKILL)
            killed = True


def main(folder: Path, kills: int, seed: int, url: str | None) -> None:
    rng, seen, deaths = random.Random(seed), {}, 0
    (folder / "log").mkdir()
    with Accounts.open(folder / "service", url, serving=False) as accounts:
        for name in NAMES:
            accounts.create_key(name, postpaid=name == "team")
        accounts.credit("rich", "grant", granted=10**6)
        accounts.credit("rich", "top-up", topped_up=10**10)
        accounts.credit("poor", "top-up", topped_up=POOR)
    while True:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            random.seed(seed * 1000 + deaths)
            asyncio.run(serve(folder, url, writer, 25 * kills))
            os._exit(0)
        os.close(writer)
        endless = deaths >= kills
        watch(child, reader, 10**9 if endless else rng.randrange(1, 120), 10**9 if endless else rng.uniform(0.02, 1.5), seen)
        os.close(reader)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, "the server failed by itself"
            break
        deaths += 1
        with Accounts.open(folder / "service", url, serving=False) as accounts:
            accounts.credit("rich", "top-up", topped_up=deaths)
            assert accounts.audit() == [], "between two deaths"
    print(json.dumps({"deaths": deaths, "seen": seen, "logged": {f"r{i}": length(folder, f"r{i}") for i in range(25 * kills)}}))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] if len(sys.argv) > 4 else None)
