"""Answers of POST /v1/messages: one message, or the events of a stream.

    message_start, ping
    content_block_start, content_block_delta …, content_block_stop     for each block: thinking, text, tool_use
    message_delta (stop_reason, usage), message_stop

The reasoning, the text and each call are blocks in the order in which they come. input_tokens are those that the cache didn't have; at
message_start nobody knows yet which those are, so it counts all, and message_delta corrects it. Source: SPEC section 9.
"""
from __future__ import annotations

import json
from typing import Any

from fathom.server.accounts import Usage
from fathom.server.answering import Answer
from fathom.server.chat_reply import Admitted, Form
from fathom.server.sending import Chunks, encoded
from fathom.text import ContentDelta, Event, ReasoningDelta, ToolCallDelta, ToolCallStart

STOP_REASONS = {"stop": "end_turn", "tool_calls": "tool_use"}
"""finish_reason → stop_reason; any other means that the answer was cut."""
PING = b'event: ping\ndata: {"type":"ping"}\n\n'


def event_bytes(data: dict[str, Any]) -> bytes:
    """One server-sent event, named by its type."""
    return f"event: {data['type']}\ndata: ".encode() + encoded(data) + b"\n\n"


class Blocks:
    """Content blocks as they form. events: those of the stream since they were last taken."""

    def __init__(self, form: Form) -> None:
        self._form = form
        self._arguments = ""
        self.content: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self._open = False

    def add(self, event: Event) -> None:
        """One event of the answer."""
        match event:
            case ReasoningDelta(text=text):
                self._into({"type": "thinking", "thinking": "", "signature": ""})
                self.content[-1]["thinking"] += text
                self._delta({"type": "thinking_delta", "thinking": text})
            case ContentDelta(text=text):
                self._into({"type": "text", "text": ""})
                self.content[-1]["text"] += text
                self._delta({"type": "text_delta", "text": text})
            case ToolCallStart(index=index, name=name):
                self.close()
                self._into({"type": "tool_use", "id": self._form.call_id(index).replace("call", "toolu"), "name": name, "input": {}})
            case ToolCallDelta(arguments=text):
                self._arguments += text
                self._delta({"type": "input_json_delta", "partial_json": text})

    def close(self) -> None:
        """Ends the open block."""
        if not self._open:
            return
        block, self._open = self.content[-1], False
        if block["type"] == "thinking":
            block["signature"] = self._form.head("")["id"]
            self._delta({"type": "signature_delta", "signature": block["signature"]})
        elif block["type"] == "tool_use":
            block["input"], self._arguments = read_input(self._arguments), ""
        self.events.append({"type": "content_block_stop", "index": len(self.content) - 1})

    def take(self) -> bytes:
        """The events since the last call."""
        events, self.events = self.events, []
        return b"".join(map(event_bytes, events))

    def _into(self, block: dict[str, Any]) -> None:
        """Opens a block, unless the open one is of its kind."""
        if self._open and self.content[-1]["type"] == block["type"]:
            return
        self.close()
        self._open = True
        self.content.append(block)
        self.events.append({"type": "content_block_start", "index": len(self.content) - 1, "content_block": dict(block)})

    def _delta(self, delta: dict[str, Any]) -> None:
        self.events.append({"type": "content_block_delta", "index": len(self.content) - 1, "delta": delta})


def read_input(arguments: str) -> dict[str, Any]:
    """A call's input. An answer that was cut leaves half a JSON text, which is handed on as such, so that nobody takes it for whole."""
    try:
        return json.loads(arguments)
    except ValueError:
        return {"INVALID_JSON": arguments}


async def whole_message(admitted: Admitted, form: Form) -> Chunks:
    """One body."""
    blocks, finish = Blocks(form), None
    async with admitted as answer:
        async for batch in answer.batches():
            if batch is None:
                yield None
                continue
            for event in batch.seen.events:
                blocks.add(event)
            finish = batch.finish
    blocks.close()
    yield encoded({**head(form), "content": blocks.content, **ending(finish, answer), "usage": usage_of(answer.usage)})


async def streamed_message(admitted: Admitted, form: Form) -> Chunks:
    """Events."""
    async with admitted as answer:
        opening = {**head(form), "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage_of(answer.usage)}
        yield event_bytes({"type": "message_start", "message": opening}) + PING
        blocks = Blocks(form)
        async for batch in answer.batches():
            if batch is None:
                yield None
                continue
            for event in batch.seen.events:
                blocks.add(event)
            if batch.finish:
                blocks.close()
                blocks.events += [{"type": "message_delta", "delta": ending(batch.finish, answer), "usage": usage_of(answer.usage)},
                                  {"type": "message_stop"}]
            if out := blocks.take():
                yield out


def head(form: Form) -> dict[str, Any]:
    """The fields that a message begins with."""
    return {"id": form.head("")["id"], "type": "message", "role": "assistant", "model": form.model}


def ending(finish: str | None, answer: Answer) -> dict[str, Any]:
    """stop_reason and stop_sequence."""
    stopped = answer.reader.stopped
    return {"stop_reason": "stop_sequence" if stopped is not None else STOP_REASONS.get(finish or "", "max_tokens"), "stop_sequence": stopped}


def usage_of(usage: Usage) -> dict[str, int]:
    """Anthropic's count: input_tokens are those not read from the cache."""
    return {"input_tokens": usage.miss, "output_tokens": usage.output, "cache_read_input_tokens": usage.hit, "cache_creation_input_tokens": 0}
