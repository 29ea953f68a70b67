"""From tokens to what a client sees: reasoning, content and calls as they become certain, with log-probabilities and counts.

A Reader joins, for one answer, the decoder (whole characters), the completion parser (no markup shows) and stop strings. Stop strings
are looked for in the content alone, where reasoning or the layout of a call can't trip them; the engine asks the same question token by
token (`StopWatch`), so an answer ends, and is billed, with the very token that completes a stop string. (One that ends in line breaks is
seen with the token after them, since they may be the layout before a call.)

What the client sees is a function of the tokens. It doesn't depend on how they were grouped, so a resumed answer reads the same.
"""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from fathom.engine import Output
from fathom.text import (
    CompletionParser,
    ContentDelta,
    Event,
    Notice,
    ReasoningDelta,
    StopStrings,
    StreamDecoder,
    Tokenizer,
    ToolCallStart,
    merge_events,
    special,
)

LEAST_LOGPROB = -9999.0  # JSON has no infinity


@dataclass(frozen=True)
class Piece:
    """One token of the prompt or the answer with its log-probability (None for the prompt's first) and its likeliest alternatives."""

    id: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()


@dataclass
class Seen:
    """What some tokens brought: events, and the tokens of reasoning and of content that they are made of."""

    events: list[Event] = field(default_factory=list)
    reasoning: list[Piece] = field(default_factory=list)
    content: list[Piece] = field(default_factory=list)


class Reader:
    """Reads one answer.

    Args:
        parsed: "thinking", "chat", or "text" for an answer that is shown as it is.  stops: strings that end the content.
    """

    def __init__(self, tokenizer: Tokenizer, parsed: str, stops: Sequence[str] = ()) -> None:
        self._tokenizer, self._stops = tokenizer, stops
        self._decoder = StreamDecoder(tokenizer, skip_control=parsed == "text")
        self._parser = None if parsed == "text" else CompletionParser(parsed)
        self._watch = StopStrings(stops)
        self._reasoning, self._in_block = parsed == "thinking", False
        self._hidden = tokenizer.control_ids if self._parser else frozenset[int]()
        self._dsml = tokenizer.control_id(special.DSML) if self._parser else -1
        self.tokens = 0
        """Tokens read."""
        self.reasoning_tokens = 0
        """Tokens before `</think>`."""
        self.calls = 0
        """Calls begun."""
        self.notices: list[Notice] = []
        """What wasn't well-formed, for the log."""
        self.stopped: str | None = None
        """The stop string that ended the content."""

    def feed(self, outputs: Iterable[Output]) -> Seen:
        """What more tokens bring."""
        seen, text = Seen(), []
        for output in outputs:
            if output.token_id < 0:
                continue
            self.tokens += 1
            piece = self._decoder.feed(output.token_id)
            text.append(piece)
            shown = Piece(output.token_id, output.logprob, output.top)
            self._in_block |= output.token_id == self._dsml
            if self._reasoning:
                self._events(seen, "".join(text))
                text = []
                if self._reasoning:
                    self.reasoning_tokens += 1
                    seen.reasoning.append(shown)
            elif self.stopped is None and not self._in_block and output.token_id not in self._hidden:
                seen.content.append(shown)
        self._events(seen, "".join(text))
        return seen

    def finish(self, cut: bool) -> Seen:
        """The rest. cut: the answer didn't end by itself."""
        seen = Seen()
        self._events(seen, self._decoder.finish())
        if self._parser:
            self._pass_on(seen, self._parser.finish(cut=cut and self.stopped is None))
        self._release(seen)
        return seen

    def _events(self, seen: Seen, text: str) -> None:
        if not self._parser:
            self._pass_on(seen, [ContentDelta(text)] if text else [])
        elif text:
            self._pass_on(seen, self._parser.feed(text))
            self._reasoning = self._parser.in_reasoning

    def _pass_on(self, seen: Seen, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, Notice):
                self.notices.append(event)
            elif self.stopped is not None:
                continue  # nothing of the answer is beyond a stop string
            elif isinstance(event, ContentDelta):
                if text := self._watch.feed(event.text):
                    self._add(seen, ContentDelta(text))
                self.stopped = self._watch.matched
            else:
                if not isinstance(event, ReasoningDelta):
                    self._release(seen)
                    self.calls += isinstance(event, ToolCallStart)
                self._add(seen, event)

    def _release(self, seen: Seen) -> None:
        """Shows what was held back because a stop string might have begun."""
        if self._stops and self.stopped is None:
            if text := self._watch.finish():
                self._add(seen, ContentDelta(text))
            self.stopped, self._watch = self._watch.matched, StopStrings(self._stops)

    def _add(self, seen: Seen, event: Event) -> None:
        seen.events[-1:] = merge_events([*seen.events[-1:], event])


class StopWatch:
    """Stop strings as the engine asks for them, token by token."""

    def __init__(self, tokenizer: Tokenizer, parsed: str, stops: Sequence[str]) -> None:
        self._reader = Reader(tokenizer, parsed, stops)

    def accept(self, token_id: int) -> bool:
        """Whether the answer ends with this token."""
        self._reader.feed([Output(token_id, 0.0, None)])
        return self._reader.stopped is not None
