"""What an operator sees and sets: metrics, health, and a service with tight limits, where requests wait, are cut, and are turned away."""
from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from fathom.server.accounts import Accounts
from tests.server.crowd import ask
from tests.server.live import Live, save_model, serve

CHAT = "/v1/chat/completions"
OFF = {"thinking": {"type": "disabled"}}
USER = [{"role": "user", "content": "Write."}]
ENDLESS = {"model": "small", "messages": USER, "max_tokens": 30_000, **OFF,
           "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "string", "minLength": 400_000}}}}


@pytest.fixture(scope="module")
def tight(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """One answer at a time, three requests at once, eight seconds for an answer, which without that limit would take far longer.

    It has answered once, so that no first token waits for what a process does once, and four seconds are many for one.
    """
    model = save_model(tmp_path_factory.mktemp("long") / "small", context=32_768)
    with serve(model, tmp_path_factory.mktemp("tight"), "--sequences", 1, "--most-requests", 3, "--wait-seconds", 4,
               "--answer-seconds", 8, "--keep-alive-seconds", 0.1, "--most-output", 28_000, "--strict-reasoning",
               "--official-quirks", "--cache", 0, "--no-local-key") as live:
        assert not live.key and f"fathom keys create NAME --folder {live.folder}" in live.log()
        with Accounts.open(live.folder, serving=False) as books:
            live.key = books.create_key("someone", postpaid=True).secret
        assert live.post(CHAT, {**ENDLESS, "max_tokens": 5})[0] == 200
        yield live


def figures(live: Live) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample at /metrics."""
    from prometheus_client.parser import text_string_to_metric_families

    status, headers, text = live.request("GET", "/metrics")
    assert status == 200 and headers["content-type"].startswith("text/plain; version=0.0.4")
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text.decode()) for sample in family.samples}


def until(live: Live, **wanted: int) -> None:
    """Until the engine runs, or lets wait, so many."""
    end = time.monotonic() + 30
    while any(live.engine()[name] < number for name, number in wanted.items()):
        assert time.monotonic() < end, wanted
        time.sleep(0.01)


def test_metrics(live: Live) -> None:
    before = figures(live)
    usage = live.post(CHAT, {"model": "small", "messages": USER, "max_tokens": 9})[1]["usage"]
    live.get("/nothing/of/this/name")
    after = figures(live)
    grown = {key: value - before.get(key, 0) for key, value in after.items()}
    assert grown["fathom_requests_total", (("route", CHAT), ("status", "200"))] == 1
    assert grown["fathom_requests_total", (("route", "none"), ("status", "404"))] == 1, "a path that a client chooses is no label"
    assert grown["fathom_tokens_total", (("kind", "output"),)] == usage["completion_tokens"]
    assert grown["fathom_tokens_total", (("kind", "hit"),)] + grown["fathom_tokens_total", (("kind", "miss"),)] == usage["prompt_tokens"]
    assert grown["fathom_first_token_seconds_count", ()] == 1 and grown["fathom_engine_output_tokens_total", ()] == usage["completion_tokens"]
    names = {name for name, _ in after}
    assert names >= {"fathom_answers_in_flight", "fathom_request_seconds_count", "fathom_engine_running", "fathom_engine_waiting",
                     "fathom_engine_free_blocks", "fathom_engine_cached_blocks", "fathom_engine_blocks", "fathom_engine_tokens_per_second",
                     "fathom_engine_preemptions_total", "fathom_engine_drafted_total", "fathom_engine_accepted_total"}
    assert not any(live.key[:11] in str(key) for key in after)


def test_health(live: Live) -> None:
    assert live.get("/healthz", key="") == (200, {"status": "ok"}) and live.get("/readyz", key="") == (200, {"status": "ready"})


def test_one_waits_for_another_and_hears_that_it_is_waited_for(tight: Live) -> None:
    lines: dict[str, list[bytes]] = {}

    def listen(name: str, body: dict[str, Any]) -> None:
        connection = http.client.HTTPConnection(tight.url.removeprefix("http://"), timeout=60)
        connection.request("POST", CHAT, json.dumps(body), {"Authorization": f"Bearer {tight.key}", "Content-Type": "application/json",
                                                            "X-Request-Id": name})
        answer = connection.getresponse()
        lines[name] = [str(answer.status).encode(), *answer]
        connection.close()

    def begin(name: str, body: dict[str, Any]) -> threading.Thread:
        thread = threading.Thread(target=listen, args=(name, body))
        thread.start()
        return thread

    first = begin("first", {**ENDLESS, "stream": True})
    until(tight, running=1)
    others = [begin("streamed", {**ENDLESS, "stream": True}), begin("whole", ENDLESS)]
    until(tight, waiting=2)
    status, headers, body = tight.request("POST", CHAT, ENDLESS)
    assert status == 503 and int(headers["retry-after"]) > 0 and json.loads(body)["error"]["code"] == "overloaded", "three at once are the most"
    for thread in (first, *others):
        thread.join()
    cut = [json.loads(line[6:]) for line in lines["first"] if line.startswith(b"data: {")]
    assert "error" not in cut[-1], cut[-1]
    assert cut[-1]["choices"][0]["finish_reason"] == "insufficient_system_resource" and cut[-1]["usage"]["completion_tokens"] > 5
    assert lines["first"][-2:] == [b"data: [DONE]\n", b"\n"]
    assert lines["streamed"][0] == b"200" and lines["streamed"].count(b": keep-alive\n") >= 5
    error = json.loads(lines["streamed"][-2][6:])["error"]
    assert error["code"] == "no_room_in_time" and error["type"] == "overloaded_error"
    assert lines["whole"][0] == b"200" and lines["whole"][1:-1].count(b"\n") >= 5, "blank lines before the body"
    assert json.loads(b"".join(lines["whole"][1:]))["error"]["code"] == "no_room_in_time"
    assert tight.until_idle(seconds=5)["free_blocks"] > 0, "what is cut isn't computed to its end"
    with Accounts.open(tight.folder, serving=False) as books:
        ids = [f"{tight.key[:11]}-{name}" for name in lines]
        found = [books.request(books.find_key("someone").account_id, name) for name in ids]
        assert [name for name, row in zip(lines, found) if row] == ["first"] and books.audit() == []
    status, _, _ = tight.request("POST", CHAT, {**ENDLESS, "max_tokens": 5}, headers={"X-Request-Id": "whole"})
    assert status == 200, "who was told to come again may come under the same id"


def test_anthropics_clients_hear_pings(tight: Live) -> None:
    async def both() -> None:
        blocking = asyncio.create_task(ask(tight, ENDLESS, CHAT))
        while not (await asyncio.to_thread(tight.engine))["running"]:
            await asyncio.sleep(0.01)
        body = json.dumps({"model": "small", "messages": USER, "max_tokens": 9, "stream": True}).encode()
        reader, writer = await asyncio.open_connection(*tight.url.removeprefix("http://").split(":"))
        writer.write(f"POST /v1/messages HTTP/1.1\r\nHost: x\r\nx-api-key: {tight.key}\r\nContent-Type: application/json\r\n"
                     f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        said = await reader.read()
        writer.close()
        await blocking
        assert said.count(b"event: ping\n") >= 4 and b'"type":"overloaded_error"' in said and b"event: error\n" in said

    asyncio.run(both())


def test_most_output_bounds_what_is_asked(tight: Live) -> None:
    begun = {"model": "small", "messages": USER, "max_tokens": 393216, "seed": 1}
    assert tight.post(CHAT, begun)[0] == 200, "a larger max_tokens is taken as the largest"
    assert tight.post(CHAT, {**begun, "max_tokens": 393217})[0] == 422
    assert tight.get("/models")[1]["data"][0]["max_output_tokens"] == 28_000


def test_strict_about_reasoning_and_official_about_temperature(tight: Live) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turn = {"role": "assistant", "content": "", "tool_calls": [call]}
    body = {"model": "small", "max_tokens": 5, "tools": [{"type": "function", "function": {"name": "f"}}],
            "messages": [*USER, turn, {"role": "tool", "tool_call_id": "c", "content": "1"}]}
    status, answer = tight.post(CHAT, body)
    assert status == 400 and answer["error"]["param"] == "messages[1].reasoning_content"
    for field in ("reasoning_content", "reasoning"):
        turn[field] = ""
        assert tight.post(CHAT, body)[0] == 200
        del turn[field]
    cold = {"model": "small", "messages": USER, "max_tokens": 30, "temperature": 0}

    said = lambda **fields: {str(tight.post(CHAT, {**cold, **fields, "seed": seed})[1]["choices"][0]["message"]) for seed in range(4)}
    assert len(said()) > 1, "without effect in thinking mode"
    assert len(said(**OFF)) == 1, "honoured without"
