"""Stop strings over a stream of text: nothing of a stop string, and nothing after it, is ever handed out.

A stop string can begin in one piece of the stream and end many pieces later, so the end of what has come is held back
as long as it can still become one. The stop that begins first wins, of two that begin together the shorter; so the result is
that of searching the whole text at once, however it was cut.
"""
from __future__ import annotations

import re
from collections.abc import Iterable

from fathom.errors import UserError


class StopStrings:
    """Watches one stream for any of some strings.

    Args:
        stops: the strings, or a single one; none at all is fine.

    Raises:
        UserError: an empty stop string, which would stop everything.
    """

    def __init__(self, stops: str | Iterable[str] = ()) -> None:
        self._stops = [stops] if isinstance(stops, str) else list(stops)
        for stop in self._stops:
            if not isinstance(stop, str) or not stop:
                raise UserError("stop", repr(stop), "strings of at least one character")
        self._pattern = re.compile("|".join(re.escape(stop) for stop in sorted(self._stops, key=len)) or r"(?!)")
        self._held = ""
        self.matched: str | None = None
        """The stop string that ended the stream, once there is one."""

    def feed(self, text: str) -> str:
        """What of the stream so far is safe to show and hasn't been returned yet; "" forever after a match."""
        return self._advance(text, final=False)

    def finish(self) -> str:
        """The rest at the end of the stream: what was held back turned out to be ordinary text, or a shorter stop string."""
        return self._advance("", final=True)

    def _advance(self, text: str, final: bool) -> str:
        if self.matched is not None:
            return ""
        held = self._held + text
        match = self._pattern.search(held)
        pending = len(held) if final else self._first_pending(held)
        if match and match.start() <= pending:  # nothing that begins earlier can still come about
            self._held, self.matched = "", match.group()
            return held[: match.start()]
        self._held = held[pending:]
        return held[:pending]

    def _first_pending(self, held: str) -> int:
        """Where the earliest stop string that may still be completed begins, or the end."""
        first = len(held)
        for stop in self._stops:
            at = held.find(stop[0], max(0, len(held) - len(stop) + 1))
            while 0 <= at < first:
                if stop.startswith(held[at:]):
                    first = at
                at = held.find(stop[0], at + 1)
        return first
