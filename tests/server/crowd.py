"""Many HTTP clients of one service in one event loop: raw connections, server-sent events as they come."""
from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

from tests.server.live import Live


@dataclass
class Heard:
    """What one client heard. tokens: of the answer, by its usage.  times: when each event came, seconds from the request.

    status: 0 until the head came.  ended: the last event was `[DONE]`, or the body was whole.
    """

    status: int = 0
    tokens: int = 0
    text: str = ""
    times: list[float] = field(default_factory=list)
    ended: bool = False
    error: dict[str, Any] | None = None


async def ask(live: Live, body: dict[str, Any], path: str, leave_after: int | None = None) -> Heard:
    """One streamed request. leave_after: events after which the client closes the connection; 0: right after asking."""
    heard, began, data = Heard(), time.monotonic(), json.dumps({**body, "stream": True}).encode()
    reader, writer = await asyncio.open_connection(*live.url.removeprefix("http://").split(":"), limit=2**22)
    try:
        writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {live.key}\r\nContent-Type: application/json\r\n"
                     f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data)
        await writer.drain()
        if leave_after == 0:
            return heard
        heard.status = int((await reader.readline()).split()[1])
        async for line in reader:
            if line.startswith(b"data: {"):
                heard.times.append(time.monotonic() - began)
                take(heard, json.loads(line[6:]))
                if leave_after is not None and len(heard.times) >= leave_after:
                    return heard
            heard.ended |= line.startswith(b"data: [DONE]")
        return heard
    finally:
        writer.close()


def take(heard: Heard, event: dict[str, Any]) -> None:
    """One event."""
    heard.error = event.get("error", heard.error)
    heard.tokens = (event.get("usage") or {}).get("completion_tokens", heard.tokens)
    for choice in event.get("choices", ()):
        heard.text += choice.get("text") or choice.get("delta", {}).get("content") or ""


async def ask_all(live: Live, bodies: list[dict[str, Any]], path: str) -> list[Heard]:
    """All at once."""
    return list(await asyncio.gather(*(ask(live, body, path) for body in bodies)))
