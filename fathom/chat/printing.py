"""How an answer gets on the screen: plainly, as it comes, and so that it can't steer the terminal.

Markdown reads well enough as it is, and drawing it anew while it grows makes terminals flicker. Control characters, and those that turn
the direction of text, are shown as �.
"""
from __future__ import annotations

import json
import re
import time

from rich.console import Console

from fathom.chat.conversation import Node
from fathom.prices import dollars
from fathom.text import ContentDelta, Event, Notice, ReasoningDelta, ToolCallDelta, ToolCallStart

UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Printing:
    """Puts one answer's events into its node and on the screen."""

    def __init__(self, node: Node, out: Console, show_reasoning: bool) -> None:
        self.node, self.out, self.show = node, out, show_reasoning
        self.began, self.last, self.part = time.monotonic(), 0.0, ""
        self.first: float | None = None

    def take(self, event: Event) -> None:
        """One more event."""
        self.last = time.monotonic()
        if self.first is None:
            self.first = self.last
            self.node["firstMs"] = 1000 * (self.last - self.began)
        match event:
            case ReasoningDelta(text=text):
                self._enter("reasoning")
                self.node["reasoning"] += text
                self.node["reasoningMs"] = 1000 * (self.last - self.first)
                if self.show:
                    self.out.out(safe(text), style="dim italic", end="")
            case ContentDelta(text=text):
                self._enter("content")
                self.node["content"] += text
                self.out.out(safe(text), end="")
            case ToolCallStart(name=name):
                self._enter("call")
                self.node["calls"].append({"id": "", "name": name, "arguments": ""})
            case ToolCallDelta(index=index, arguments=text):
                self.node["calls"][index]["arguments"] += text
            case Notice():
                pass  # what wasn't well-formed shows as it was read

    def finish(self) -> None:
        """Ends the last line, and shows the calls whole."""
        self._enter("")
        self.node["ms"] = 1000 * (time.monotonic() - self.began)
        for call in self.node["calls"]:
            self.out.out(f"calls {safe(call['name'])} {safe(pretty(call['arguments']))}", style="cyan")

    def rate(self) -> float | None:
        """Tokens a second, from the first to the last."""
        output = (self.node["usage"] or {}).get("output", 0)
        return (output - 1) / (self.last - self.first) if self.first is not None and output > 1 and self.last > self.first else None

    def _enter(self, part: str) -> None:
        """Says where one part ends and the next begins."""
        if part == self.part:
            return
        if self.part == "reasoning":
            end = "\n" if self.show and not self.node["reasoning"].endswith("\n") else ""
            self.out.out(f"{end}Thought for {self.node['reasoningMs'] / 1000:.1f} s", style="dim")
        elif self.part == "content" and not self.node["content"].endswith("\n"):
            self.out.out("")
        self.part = part


def usd(nano: int) -> str:
    """Nano-dollars as US$, exactly, without zeros at the end: "0.0000077", "1.50"."""
    whole, _, rest = dollars(nano).partition(".")
    return f"$ {whole}.{rest.rstrip('0').ljust(2, '0')}"


def safe(text: str) -> str:
    """Text that can't steer a terminal."""
    return UNSAFE.sub("\ufffd", text)


def pretty(arguments: str) -> str:
    """JSON with line breaks; what isn't whole JSON, as it is."""
    try:
        return json.dumps(json.loads(arguments), indent=2, ensure_ascii=False)
    except ValueError:
        return arguments
