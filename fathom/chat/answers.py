"""What the terminal asks and what it gets, whoever answers: a service (remote.py) or a local model (local.py)."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from fathom.text import Event


@dataclass(frozen=True)
class Asked:
    """One answer wanted.

    Attributes:
        messages, tools: in the API's form.  choice: "auto", "none", "required" or a function's name; without thinking only.
        mode: "off", "thinking" or "max".  temperature, top_p, max_tokens, seed: None for the default.  request_id: names it.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    mode: str
    request_id: str
    choice: str = "auto"
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None


@dataclass(frozen=True)
class End:
    """Why an answer ended (a finish_reason of the API), what it used ({hit, miss, output, reasoning} tokens), and its price in
    nano-dollars, None where nothing is charged. call_ids: of its calls, in order."""

    finish: str
    usage: dict[str, int]
    cost: int | None
    call_ids: tuple[str, ...] = ()


class Trouble(Exception):
    """No answer, or only a part of one; the text is for a person."""


class Answers(Protocol):
    """A model that is talked to. name: what it is called.  context: tokens."""

    name: str
    context: int

    def tokens(self, text: str) -> int:
        """How many tokens a text is. Raises Trouble."""

    def answer(self, asked: Asked) -> Iterator[Event | End]:
        """Events as they form, then one End. Closed early, it stops the answer. Raises Trouble."""

    def receipt(self, asked: Asked) -> End | None:
        """What an answer took that wasn't heard to its end, None if that isn't known."""
