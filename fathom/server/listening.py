"""Where the service listens, and uvicorn as it runs it: told to stop it ends normally, and it says when it has started."""
from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fathom.errors import UserError
from fathom.server.service import Service


@dataclass(frozen=True)
class Place:
    """Where the service listens. cert, key: PEM files for TLS."""

    host: str
    port: int
    cert: Path | None = None
    key: Path | None = None

    def bind(self) -> socket.socket:
        """A socket that is bound, before anything that takes time."""
        if (self.cert is None) != (self.key is None):
            raise UserError("--tls-cert, --tls-key", None, "go together")
        try:
            family = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
            bound = socket.socket(family, socket.SOCK_STREAM)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((self.host, self.port))
        except (OSError, OverflowError) as error:
            raise UserError("--host, --port", f"{self.host}:{self.port}", f"can't be listened on: {error}",
                            "stop what listens there, or give another --port (0 for any)") from None
        return bound

    def url(self, bound: socket.socket) -> str:
        """The address as a browser on this machine takes it."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::", "") else f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' if self.cert else ''}://{host}:{bound.getsockname()[1]}"

    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def run(service: Service, place: Place, bound: socket.socket, started: Callable[[], None]) -> None:
    """Serves until SIGINT or SIGTERM; a second SIGINT doesn't wait for answers under way."""
    import uvicorn

    from fathom.server.app import make_app
    from fathom.server.guard import HEAD_BYTES, guarded

    class Server(uvicorn.Server):
        """uvicorn that says when it has started, and that ends normally when it was told to stop."""

        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            started()

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            with super().capture_signals():
                yield
                self._captured_signals.clear()

    settings = service.settings
    Server(uvicorn.Config(
        make_app(service), http=guarded(4 * settings.most_requests, settings.head_seconds), loop="asyncio", ws="none", lifespan="on",
        log_config=None, access_log=False, proxy_headers=False, server_header=False, date_header=True, timeout_keep_alive=30,
        h11_max_incomplete_event_size=HEAD_BYTES, timeout_graceful_shutdown=max(1, round(settings.stop_seconds)),
        ssl_certfile=place.cert, ssl_keyfile=place.key,
    )).run(sockets=[bound])
