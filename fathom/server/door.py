"""The outermost layer, around every request: its id, its key, bounds on its body, security headers, counts, the last word on errors.

Pure ASGI, because anything that wraps responses hides a client's leaving from those who must see it. The key is looked at before the
first byte of the body, so nobody without one can make the service hold anything. A request's id is the client's own
X-Request-Id or one made here; it comes back in the answer, stands in the log, and is what an interrupted request is resumed by.

The log has method, path, status and id. It never has headers, queries or bodies, so it never has a key.
"""
from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fathom.server.errors import BUG, ApiError
from fathom.server.keys import Key
from fathom.server.metrics import Metrics
from fathom.server.sending import ClientGone, encoded
from fathom.server.settings import Settings

log = logging.getLogger("fathom.server")
REQUEST_ID = re.compile(r"(?!(.*[._:-])?sk-)(?!.*sk-[A-Za-z0-9]{51})[A-Za-z0-9._:-]{1,128}")
"""No key, nor the beginning of one (task-1 is fine)."""
SECRET = re.compile(r"sk-[A-Za-z0-9]{8,}")
"""Looks like a key: it doesn't go into the log, wherever a client put it."""
PAGE_POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; "
               "base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
HEADERS = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"), (b"x-frame-options", b"DENY"),
           (b"cross-origin-resource-policy", b"same-origin"), (b"content-security-policy", PAGE_POLICY.encode())]
"""No CORS header is among them: pages of other origins can't read anything here."""


PUBLIC = re.compile(r"/(usage|healthz|readyz|web/.*)?")
"""Paths that need no key: the pages, which show nothing without one, and whether the service lives."""


class Door:
    """ASGI around `app`.

    Args:
        authenticate: a secret → its key, or None.  settings: body_bytes and body_seconds bound a request's body.
    """

    def __init__(self, app: ASGIApp, authenticate: Callable[[str], Awaitable[Key | None]], settings: Settings, metrics: Metrics) -> None:
        self._app, self._authenticate, self._settings, self._metrics = app, authenticate, settings, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the lifespan."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, visit = time.monotonic(), Visit(scope)
        body = Body(receive, self._settings)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                visit.status = message["status"]
                named = {name for name, _ in message["headers"]}
                extra = [*HEADERS, (b"x-request-id", visit.id.encode()), (b"cache-control", b"no-store")]
                message["headers"] = [*message["headers"], *((name, value) for name, value in extra if name not in named)]
                if not body.complete:  # the rest of it isn't read, so the connection can't be used again
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        try:
            visit.check_id()
            if not PUBLIC.fullmatch(scope["path"]):
                scope["state"]["key"] = await self._key(scope)
            await body.read(scope)
            await self._app(scope, body.receive, answer)
        except ClientGone:
            pass
        except ApiError as error:
            if visit.status is None:
                await visit.refuse(error, answer)
        except Exception:
            log.exception("request %s: %s %s", visit.id, scope["method"], visit.path)
            if visit.status is None:
                await visit.refuse(ApiError(500, BUG), answer)
        finally:
            seconds = time.monotonic() - began
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.requests.labels(route=route, status=str(visit.status or 499)).inc()
            self._metrics.seconds.labels(route=route).observe(seconds)
            log.info("%s %s %s %.3fs %s", scope["method"], visit.path, visit.status or 499, seconds, visit.id)

    async def _key(self, scope: Scope) -> Key:
        """The key of a request. Raises ApiError (401) without a good one."""
        headers = dict(scope["headers"])
        scheme, _, bearer = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        secret = bearer.strip() if scheme.lower() == "bearer" else headers.get(b"x-api-key", b"").decode("latin-1").strip()
        key = await self._authenticate(secret) if secret else None
        if key is None:
            how = "Authorization: Bearer KEY, or x-api-key: KEY"
            raise ApiError(401, f"The API key is wrong or revoked; send {how}." if secret else f"An API key is needed; send {how}.",
                           code="invalid_api_key")
        return key


class Visit:
    """What is known of one request from its head. id: the client's, if it can be one."""

    def __init__(self, scope: Scope) -> None:
        headers = dict(scope["headers"])
        self._given = headers.get(b"x-request-id", b"").decode("latin-1")
        self.id = self._given if REQUEST_ID.fullmatch(self._given) else secrets.token_hex(16)
        self.path = SECRET.sub("sk-…", scope["path"].encode("unicode_escape").decode())[:200]
        self.anthropic = speaks_anthropic(scope["path"])
        self.status: int | None = None
        scope.setdefault("state", {})["request_id"] = self.id

    def check_id(self) -> None:
        """Raises ApiError for an id that can't be logged and kept."""
        if self._given and self._given != self.id:
            raise ApiError(400, "X-Request-Id: 1 to 128 letters, digits and . _ : -, and no key", param="X-Request-Id")

    async def refuse(self, error: ApiError, send: Send) -> None:
        """Sends an error as the whole answer."""
        body = encoded(error.body(self.anthropic, self.id))
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()),
                   *((name.lower().encode(), value.encode()) for name, value in error.headers().items())]
        await send({"type": "http.response.start", "status": error.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class Body:
    """A request's body: read whole before the application sees the request; not larger, and not longer under way, than allowed."""

    def __init__(self, receive: Receive, settings: Settings) -> None:
        self._receive, self._settings = receive, settings
        self._data: bytes | None = None
        self.complete = False
        """Whether nothing of it is left on the connection."""

    async def read(self, scope: Scope) -> None:
        """Reads it.

        Raises:
            ApiError: 413 too large, 408 too slow.  ClientGone: the client left in the middle.
        """
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._settings.body_bytes:
            raise self._too_large()
        parts, size, more = [], 0, True
        try:
            async with asyncio.timeout(self._settings.body_seconds):
                while more:
                    message = await self._receive()
                    if message["type"] != "http.request":
                        raise ClientGone
                    parts.append(message.get("body", b""))
                    size, more = size + len(parts[-1]), message.get("more_body", False)
                    if size > self._settings.body_bytes:
                        raise self._too_large()
        except TimeoutError:
            raise ApiError(408, f"The body didn't arrive within {self._settings.body_seconds:g} s.", code="body_too_slow") from None
        self._data, self.complete = b"".join(parts), True

    async def receive(self) -> Message:
        """For the application: the body in one message, after it only that the client has left."""
        if self._data is not None:
            data, self._data = self._data, None
            return {"type": "http.request", "body": data, "more_body": False}
        return await self._receive()

    def _too_large(self) -> ApiError:
        return ApiError(413, f"The body is larger than {self._settings.body_bytes} bytes.", code="body_too_large")


def speaks_anthropic(path: str) -> bool:
    """Whether a path's clients expect Anthropic's form of errors."""
    return path.startswith(("/anthropic", "/v1/messages"))
