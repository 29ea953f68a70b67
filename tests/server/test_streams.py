"""Sixty-four streams at once: none fails, none starves; clients that leave leave nothing behind; ten minutes of everything cost no memory."""
from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fathom.server.service import SILENT_SECONDS
from tests.server.crowd import Heard, ask, ask_all
from tests.server.live import Live

STREAMS, TOKENS = 64, 48
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}}}


ENDLESS = {"model": "small", "messages": [{"role": "user", "content": "Write."}], "max_tokens": TOKENS, "seed": 1, "thinking": {"type": "disabled"},
           "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "string", "minLength": 10_000}}}}
"""A request whose answer always has all of its tokens: the model may end only after ten thousand characters."""
CHAT = "/v1/chat/completions"


def check_left_empty(live: Live) -> None:
    """Nothing runs or waits, every block is free or cached."""
    found = live.until_idle()
    assert found["free_blocks"] + found["cached_blocks"] == found["blocks"], found
    text = live.request("GET", "/metrics")[2].decode()
    assert "fathom_answers_in_flight 0.0" in text.splitlines()


def test_64_equal_streams(live: Live) -> None:
    [alone] = asyncio.run(ask_all(live, [ENDLESS], CHAT))
    together = asyncio.run(ask_all(live, [ENDLESS] * STREAMS, CHAT))
    assert all((heard.status, heard.ended, heard.error, heard.tokens) == (200, True, None, TOKENS) for heard in together)
    assert {heard.text for heard in together} == {alone.text}, "company changes nothing"
    ends = [heard.times[-1] for heard in together]
    assert max(ends) <= 3 * statistics.median(ends)
    first = [heard.times[1] for heard in together]  # the event before says only that it has begun
    assert max(first) < min(ends), "nobody waits for others to end"
    check_left_empty(live)
    rate = lambda heards: sum(heard.tokens for heard in heards) / max(heard.times[-1] for heard in heards)
    print(f"alone {rate([alone]):.0f} tok/s, {STREAMS} together {rate(together):.0f} tok/s; "
          f"slowest / median {max(ends) / statistics.median(ends):.2f}")


def test_more_streams_than_the_engine_runs_at_once(live: Live) -> None:
    heard = asyncio.run(ask_all(live, [{**ENDLESS, "max_tokens": 12}] * 150, CHAT))
    assert Counter(one.tokens for one in heard) == {12: 150} and all(one.ended for one in heard)


def test_clients_that_leave_leave_nothing(live: Live) -> None:
    async def crowd() -> list[Heard]:
        rng = random.Random(1)
        longest = {**ENDLESS, "max_tokens": 1500}
        leaving = [ask(live, {**longest, "seed": i}, CHAT, rng.randrange(0, 6)) for i in range(48)]
        staying = [ask(live, ENDLESS, CHAT) for _ in range(16)]
        return list(await asyncio.gather(*leaving, *staying))

    heard = asyncio.run(crowd())
    assert [one.tokens for one in heard[48:]] == [TOKENS] * 16, "those who stay don't notice"
    check_left_empty(live)
    rows = live.get("/user/usage?days=2")[1]["data"]
    assert sum(row["requests"] for row in rows) >= 64


def test_a_client_that_does_not_wait_for_its_body(live: Live) -> None:
    """Not streamed: the connection is closed while the answer is computed."""
    before = live.until_idle()["output_tokens"]
    for seed in range(8):
        with pytest.raises(OSError):
            live.request("POST", CHAT, {**ENDLESS, "max_tokens": 1900, "seed": seed}, seconds=0.05)
    check_left_empty(live)
    assert live.engine()["output_tokens"] - before < 4 * 1900


# ---- everything at once


def anything(rng: random.Random) -> tuple[str, dict[str, Any], int | None]:
    """(path, body, leave_after) of some request, bad ones among them."""
    user = [{"role": "user", "content": " ".join(f"w{rng.randrange(50)}" for _ in range(rng.randrange(1, 300)))}]
    chat = {"model": "small", "messages": user, "max_tokens": rng.randrange(1, 120), "seed": rng.randrange(99)}
    plain = {"model": "small", "prompt": user[0]["content"], "max_tokens": rng.randrange(1, 90), "user_id": f"u{rng.randrange(4)}"}
    off = {"thinking": {"type": "disabled"}}
    path, body = rng.choice([
        (CHAT, chat), (CHAT, {**chat, **off, "logprobs": True, "top_logprobs": 5}),
        (CHAT, {**chat, **off, "tools": [TOOL], "tool_choice": "required"}),
        (CHAT, {**chat, "response_format": {"type": "json_object"}, "stop": ["w1", "e"]}),
        ("/v1/messages", {**chat, "tools": [{"name": "g", "input_schema": {"type": "object"}}]}),
        ("/v1/completions", plain), ("/v1/completions", {**plain, "echo": True, "logprobs": 2}), ("/v1/completions", {**plain, "suffix": "end"}),
        (CHAT, {**chat, "temperature": 9}), ("/v1/completions", {**plain, "prompt": "w " * 3000}),
    ])
    return path, body, rng.randrange(0, 9) if rng.random() < 0.2 else None


async def load(live: Live, seconds: float, seed: int) -> Counter[int]:
    """Twenty-four clients that ask for anything; gives how often which status came."""
    end, statuses = time.monotonic() + seconds, Counter[int]()

    async def client(rng: random.Random) -> None:
        while time.monotonic() < end:
            path, body, leave_after = anything(rng)
            heard = await ask(live, body, path, leave_after)
            statuses[heard.status] += 1

    await asyncio.gather(*(client(random.Random(f"{seed} {i}")) for i in range(24)))
    return statuses


def resident(live: Live) -> float:
    """MB of memory that the service's process has, once it has fallen silent and given back what was freed."""
    live.until_idle()
    time.sleep(2 * SILENT_SECONDS)
    lines = Path(f"/proc/{live.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("VmRSS"))


@pytest.mark.check
@pytest.mark.timeout(900)
def test_ten_minutes_of_everything(live: Live) -> None:
    """Two minutes until every cache is as full as it gets, then eight in which memory must not grow."""
    statuses, sizes = Counter[int](), []
    for minute in range(10):
        statuses += asyncio.run(load(live, 60, minute))
        sizes.append(resident(live))
    print("MB after each minute:", *(f"{size:.1f}" for size in sizes), dict(statuses))
    assert statuses[200] > 100 and statuses[422] and statuses[400] and not {status for status in statuses if status >= 500}
    check_left_empty(live)
    assert abs(sizes[-1] / sizes[1] - 1) <= 0.02
