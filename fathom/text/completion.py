"""What a model wrote, as events: reasoning, content, tool calls, while it is being written.

The published parser takes a whole, well-formed completion and refuses all others. A server can do neither. This one is a
state machine with four promises, for any text and any cutting of it into chunks:
- the events (adjacent deltas joined) are those of the whole text fed at once;
- no control token and no DSML tag ever shows in reasoning or content;
- all other text comes out: what cannot be read as a call is content, what was removed is in a `Notice`;
- a call with a name is never lost: a missing wrapper, missing closing tags, ASCII bars or a block inside the reasoning are read as meant.
Completions that the published parser takes come out as there, except that a tag or EOS inside a parameter's value is markup here,
because forgetting a closing tag is commoner than writing about tags.

Reasoning ends only at `</think>`. A block in the middle of it makes calls, and what follows is reasoning again.

Source: SPEC section 8. What markup looks like, broken or not, is in markup.py.
"""
from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fathom.errors import UserError

from . import special
from .encoding import THINKING_MODES, to_json
from .events import ContentDelta, Event, Notice, ReasoningDelta, ToolCallDelta, ToolCallEnd, ToolCallStart, merge_events
from .markup import MARK, SPELLINGS, SURELY_MARKUP, Broken, Tag, read_tag, unfinished_length

TAIL = 32  # characters; longer than any markup's beginning
BITE = 4096  # characters of a long text looked at in one go, so that the time stays linear in its length


@dataclass
class OpenCall:
    """The call being read: the names it has so far, and text between its parameters, which should be blank."""

    index: int
    names: set[str] = field(default_factory=set)
    stray: list[str] = field(default_factory=list)


@dataclass
class OpenValue:
    """The parameter being read. Strings are passed on as they come; any other value is collected, to be checked at its end."""

    string: bool | None
    collected: list[str] = field(default_factory=list)
    line_break: bool = False  # held back: it belongs to the value only if the value goes on or is closed by its own tag


class CompletionParser:
    """Reads one completion. Feed it text as it comes, then finish.

    Args:
        thinking_mode: "thinking" (the prompt ended in `<think>`) or "chat" (it ended in `</think>`).

    Raises:
        UserError: another mode.
    """

    def __init__(self, thinking_mode: str) -> None:
        if thinking_mode not in THINKING_MODES:
            raise UserError("thinking_mode", thinking_mode, f"one of {', '.join(THINKING_MODES)}")
        self._reasoning = thinking_mode == "thinking"
        self._text = ""  # not yet read
        self._events: list[Event] = []
        self._calls = 0
        self._call: OpenCall | None = None
        self._value: OpenValue | None = None
        self._block: tuple[str, int] | None = None  # the opening tag of the block we are in, and the number of calls before it
        self._held = ""  # said, but perhaps layout: up to two line breaks that may precede a block, or blanks between tags
        self._between_tags = False
        self._tail = ""  # the end of what was said, to see markup that a removal puts together
        self._ended = False

    @property
    def in_reasoning(self) -> bool:
        """Whether what comes next is reasoning."""
        return self._reasoning

    def feed(self, text: str) -> list[Event]:
        """Events that `text` completes. Text after the end of the turn is kept for `finish`."""
        events: list[Event] = []
        for at in range(0, len(text), BITE):
            self._text += text[at : at + BITE]
            events += self._read(final=False)
        return merge_events(events)

    def finish(self, cut: bool = False) -> list[Event]:
        """The remaining events; the parser is done.

        Args:
            cut: the model was stopped in the middle, by a length limit say. Arguments of an open call then stay as they are, not
                valid JSON, so that nobody runs half a command; otherwise they are closed.
        """
        events = self._read(final=True)
        if self._value and not cut:
            self._close_value()
        elif self._value:
            self._put("\n" * self._value.line_break)
            self._write("".join(self._value.collected))
            self._value = None
        if self._call:
            self._close_call(complete=False, cut=cut)
        self._leave_block()
        self._release()
        if self._ended and self._text:
            self._notice("text after the end of the turn", self._text)
        self._text = ""
        return merge_events([*events, *self._take()])

    def _read(self, final: bool) -> list[Event]:
        while not self._ended and (self._read_value(final) if self._value else self._read_text(final)):
            pass
        return self._take()

    def _take(self) -> list[Event]:
        events, self._events = merge_events(self._events), []
        return events

    # ---- reading: each step uses up some of self._text and says whether to go on

    def _read_text(self, final: bool) -> bool:
        """A step outside of parameters."""
        before = len(self._tail)
        mark = MARK.search(self._tail + self._text)
        if mark is None:
            return self._pass_on(self._say, unfinished_length(self._tail + self._text), final)
        start, end = mark.start() - before, mark.end() - before
        if start > 0:
            self._say(self._use(start))
        elif start < 0:  # begins in what was said before a removal: take the rest away
            self._notice("broken markup", self._use(end))
        elif mark["tag"]:
            tag = read_tag(self._text, final)
            if tag is None:
                return False
            raw = self._use(tag.length)
            self._notice("broken tag", raw) if isinstance(tag, Broken) else self._handle(tag, raw)
        else:
            self._handle_control(self._use(end))
        return True

    def _read_value(self, final: bool) -> bool:
        """A step inside a parameter, where only tags that can end it and EOS are markup."""
        mark = next((mark for mark in MARK.finditer(self._text) if mark["tag"] or SPELLINGS[mark.group()] == special.EOS), None)
        if mark is None:
            return self._pass_on(self._write_value, unfinished_length(self._text), final)
        if mark.start() > 0:
            self._write_value(self._use(mark.start()))
            return True
        tag = read_tag(self._text, final) if mark["tag"] else None
        if mark["tag"] and tag is None:
            return False
        if isinstance(tag, Broken) and tag.length == len(self._text):
            self._notice("broken tag", self._use(tag.length))  # the text ends in the middle of a tag
        elif isinstance(tag, Broken) or tag and not tag.structural:
            self._write_value(self._use(mark.end()))
        elif tag and tag.closing and tag.kind == "parameter":
            self._use(tag.length)
            self._close_value(properly=True)
        else:
            self._close_value()
        return True

    def _pass_on(self, use: Callable[[str], None], unfinished: int, final: bool) -> bool:
        """Passes on all text but an unfinished piece of markup at its end; if no more comes, that is text too, unless it cannot be."""
        unfinished = min(unfinished, len(self._text))
        text = self._use(len(self._text) - unfinished)
        if text:
            use(text)
        if final and self._text:
            rest = self._use(unfinished)
            if SURELY_MARKUP.match(rest):
                self._notice("broken markup", rest)
            else:
                use(rest)
        return False

    def _use(self, length: int) -> str:
        used, self._text = self._text[:length], self._text[length:]
        return used

    # ---- markup

    def _handle_control(self, spelling: str) -> None:
        token = SPELLINGS[spelling]
        if token == special.EOS:
            if self._call:
                self._notice("call not closed")
                self._close_call(complete=True)
            self._release()
            self._ended = True
        elif token == special.THINK_CLOSE and self._reasoning:
            self._release()
            self._reasoning, self._tail = False, ""
        else:
            self._notice("control token out of place", spelling)

    def _handle(self, tag: Tag, raw: str) -> None:
        if tag.unread:
            self._notice("attribute not understood", tag.unread)
        if tag.kind == "parameter":
            self._handle_parameter(tag, raw)
            return
        if self._call:
            if tag.kind != "invoke" or not tag.closing:
                self._notice("call not closed")
            self._close_call(complete=True)
            if tag.kind == "invoke" and tag.closing:
                return
        opening = not tag.closing
        if tag.kind == "block" and opening:
            self._leave_block()
            self._block = (raw, self._calls)
        elif tag.kind == "block" and self._block:
            self._leave_block(raw)
            self._release()
            self._between_tags = True
        elif opening and tag.name:
            if self._reasoning:
                self._notice("call inside the reasoning")
            self._call = OpenCall(self._calls)
            self._calls += 1
            self._events.append(ToolCallStart(self._call.index, tag.name))
        else:
            self._notice("call without a name" if opening else "closing tag without an opening one", raw)
        if opening:
            self._held, self._between_tags = "", True
        if self._call and tag.empty:
            self._close_call(complete=True)

    def _leave_block(self, closing: str = "") -> None:
        """Forgets the block; one without any call is worth a notice."""
        if self._block and self._block[1] == self._calls:
            self._notice("block without a call", self._block[0] + closing)
        self._block = None

    def _handle_parameter(self, tag: Tag, raw: str) -> None:
        if tag.closing:
            self._notice("closing tag without an opening one", raw)
        elif self._call is None or tag.name is None:
            self._notice("parameter without a call or a name", raw)
        else:
            names = self._call.names
            if tag.name in names:
                self._notice("parameter given twice", tag.name)
            self._write(("{" if not names else ", ") + to_json(tag.name) + ": " + ('"' if tag.string else ""))
            names.add(tag.name)
            self._value = OpenValue(tag.string)
            if tag.empty:
                self._close_value(properly=True)

    # ---- writing

    def _say(self, text: str) -> None:
        """Text outside of parameters; inside a call it waits for the call's end."""
        self._tail = (self._tail + text)[-TAIL:]
        if self._call:
            self._call.stray.append(text)
        else:
            self._speak(text)

    def _speak(self, text: str) -> None:
        """Reasoning or content, without what may turn out to be layout."""
        text = self._held + text
        if self._between_tags and not text.strip():
            self._held = text
            return
        self._between_tags = False
        if self._block and self._block[1] == self._calls:
            self._leave_block()  # text instead of a first call
        cut = max(len(text.rstrip("\n")), len(text) - 2)
        self._emit(text[:cut])
        self._held = text[cut:]

    def _release(self) -> None:
        """Speaks what was held back, unless it is the layout after a tag."""
        if not self._between_tags:
            self._emit(self._held)
        self._held, self._between_tags = "", False

    def _emit(self, text: str) -> None:
        if text:
            self._events.append(ReasoningDelta(text) if self._reasoning else ContentDelta(text))

    def _write(self, arguments: str) -> None:
        assert self._call is not None
        if arguments:
            self._events.append(ToolCallDelta(self._call.index, arguments))

    def _write_value(self, text: str) -> None:
        """Text of the parameter, its last line break held back."""
        assert self._value is not None
        self._put("\n" * self._value.line_break + text.removesuffix("\n"))
        self._value.line_break = text.endswith("\n")

    def _put(self, text: str) -> None:
        assert self._value is not None
        if self._value.string:
            self._write(to_json(text)[1:-1])
        else:
            self._value.collected.append(text)

    def _close_value(self, properly: bool = False) -> None:
        """Ends the parameter. Without a closing tag of its own, the line break before what follows is layout."""
        value = self._value
        assert value is not None
        if not properly:
            self._notice("parameter not closed")
        elif value.line_break:
            self._put("\n")
        if value.string:
            self._write('"')
        else:
            text = "".join(value.collected)
            if is_json(text):
                self._write(text)
            else:
                if value.string is False:
                    self._notice("value is not JSON, passed as a string")
                self._write(to_json(text))
        self._value = None

    def _close_call(self, complete: bool, cut: bool = False) -> None:
        """Ends the call. A body that is a JSON object instead of parameters is its arguments; any other text in it is spoken."""
        call = self._call
        assert call is not None
        body = "".join(call.stray)
        if not call.names and body.lstrip().startswith("{") and is_json(body):
            self._write(body.strip())
        else:
            if body.strip():
                self._speak(body)
            if not cut:
                self._write("}" if call.names else "{}")
        self._events.append(ToolCallEnd(call.index, complete))
        self._call, self._between_tags = None, True

    def _notice(self, problem: str, text: str = "") -> None:
        self._events.append(Notice(problem, text))


def is_json(text: str) -> bool:
    """Whether `text` is one JSON value by the standard, which knows no NaN and no infinity."""
    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        return False
    return True


def parse_completion(text: str, thinking_mode: str) -> dict[str, Any]:
    """The assistant message that a whole completion says, in OpenAI form.

    Args:
        text: what the model wrote after the prompt, with or without EOS.
        thinking_mode: "thinking" or "chat", as the prompt was encoded.

    Returns:
        role, content, reasoning_content (strings, perhaps empty) and tool_calls: [{type: "function", function: {name, arguments}}],
        `arguments` always the text of a JSON object. Calls have no id: whoever sends the message gives them one.

    Raises:
        UserError: another mode. No text is refused.
    """
    parser = CompletionParser(thinking_mode)
    content, reasoning = "", ""
    calls: list[dict[str, Any]] = []
    for event in [*parser.feed(text), *parser.finish()]:
        match event:
            case ReasoningDelta(text=delta):
                reasoning += delta
            case ContentDelta(text=delta):
                content += delta
            case ToolCallStart(name=name):
                calls.append({"type": "function", "function": {"name": name, "arguments": ""}})
            case ToolCallDelta(index=index, arguments=delta):
                calls[index]["function"]["arguments"] += delta
    return {"role": "assistant", "content": content, "reasoning_content": reasoning, "tool_calls": calls}
