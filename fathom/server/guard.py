"""uvicorn's HTTP protocol with bounds that it doesn't have: how long a request's head may take, and how many connections there may be.

A client that opens a connection and dribbles its headers would hold it for ever, and a thousand of them would hold all file handles.
The body's bounds are in door.py, where an answer can say what was wrong; before the head is complete there is nobody to answer.
"""
from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_BYTES = 64 * 1024
FULL = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\nretry-after: 5\r\n\r\n"


def guarded(most_connections: int, head_seconds: float) -> type[H11Protocol]:
    """The protocol class for uvicorn's `http` option."""

    class Guarded(H11Protocol):
        """One connection."""

        _head_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            """Refuses what is too many."""
            super().connection_made(transport)
            if len(self.connections) > most_connections:
                transport.write(FULL)
                transport.close()
                return
            self._await_head()

        def data_received(self, data: bytes) -> None:
            """The timer runs from the first byte of a head to its last."""
            if self._between_requests() and self._head_timer is None:
                self._await_head()
            super().data_received(data)
            if not self._between_requests() and self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def connection_lost(self, exc: Exception | None) -> None:
            """The timer ends with the connection."""
            if self._head_timer is not None:
                self._head_timer.cancel()
            super().connection_lost(exc)

        def _await_head(self) -> None:
            self._head_timer = self.loop.call_later(head_seconds, self._give_up)

        def _give_up(self) -> None:
            if not self.transport.is_closing():
                self.transport.close()

        def _between_requests(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

    return Guarded
