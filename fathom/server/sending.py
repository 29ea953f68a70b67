"""How an answer goes out: one JSON body, or a stream of server-sent events, with signs of life while the client waits.

Not streamed, the status waits for the answer; only after `keep_alive_seconds` the headers go out as 200 and blank lines follow, which
every JSON parser skips, until the body is there. What goes wrong after that is the error's body under status 200, as with the official
service. Streamed, the headers go out at once, `: keep-alive` comments follow, and what goes wrong is an error event.

While it sends, a response listens for the client to leave, and gives up on one that doesn't read. In both cases the answer's context
manager is left at once, which cancels the request.
"""
from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from fathom.server.errors import BUG, ApiError

log = logging.getLogger("fathom.server")
Chunks = AsyncGenerator[bytes | None, None]
"""Pieces of a body as they form; None where a sign of life is due."""
EVENTS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def encoded(data: Any) -> bytes:
    """JSON on one line, in UTF-8 whatever a client sent: a lone surrogate becomes a question mark."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8", "replace")


class ClientGone(Exception):
    """The client closed the connection."""


class Json(JSONResponse):
    """A JSON answer."""

    def render(self, content: Any) -> bytes:
        """The body."""
        return encoded(content)


class Streamed(Response):
    """A response made of chunks that take their time.

    Args:
        chunks: made when the response is sent, closed when it ends or the client has gone.
        sign_of_life: sent where the chunks say None.  failure: the last bytes after an error.
        send_seconds: how long the client may leave the connection full.
    """

    def __init__(self, chunks: Chunks, *, headers: Mapping[str, str], sign_of_life: bytes, failure: Callable[[ApiError], bytes],
                 send_seconds: float) -> None:
        self.status_code, self.background, self.body = 200, None, b""
        self.init_headers(headers)
        del self.headers["content-length"]
        self._chunks, self._sign_of_life, self._failure, self._send_seconds = chunks, sign_of_life, failure, send_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it, until the end or until the client leaves."""
        with contextlib.suppress(ClientGone):
            await unless_left(self._stream(send), receive)

    async def _stream(self, send: Send) -> None:
        async def write(data: bytes, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": more})

        async with contextlib.aclosing(self._chunks) as chunks:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            try:
                async for chunk in chunks:
                    async with asyncio.timeout(self._send_seconds):
                        await write(self._sign_of_life if chunk is None else chunk)
            except ApiError as error:
                await write(self._failure(error))
            except (TimeoutError, OSError):  # it doesn't read, or has gone
                return
            except Exception:
                log.exception("an answer broke off")
                await write(self._failure(ApiError(500, BUG)))
        await write(b"", more=False)


async def unless_left(work: Awaitable[Any], receive: Receive) -> Any:
    """The result of `work`, which is cancelled as soon as the client leaves.

    Raises:
        ClientGone: it has left.
    """
    async def left() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    task, watch = asyncio.ensure_future(work), asyncio.ensure_future(left())
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        for other in (task, watch):
            other.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def send_answer(chunks: Chunks, receive: Receive, *, stream: bool, failure: Callable[[ApiError], bytes], send_seconds: float,
                      sign_of_life: bytes = b": keep-alive\n\n") -> Response:
    """The response made of chunks: an event stream, or one body (the last chunk that isn't None).

    The first chunk is awaited here, so that what is refused at once gets its own status; of one body, until a sign of life is due.

    Args:
        sign_of_life: of a stream; a body's is a blank line.

    Raises:
        ApiError: refused.  ClientGone.
    """
    first = await unless_left(anext(chunks), receive)
    if first is not None and not stream:
        await chunks.aclose()
        return Response(first, media_type="application/json")

    async def from_first() -> Chunks:
        async with contextlib.aclosing(chunks):
            yield first
            async for chunk in chunks:
                yield chunk

    headers = EVENTS if stream else {"Content-Type": "application/json"}
    return Streamed(from_first(), headers=headers, sign_of_life=sign_of_life if stream else b"\n", failure=failure,
                    send_seconds=send_seconds)
