"""Answers of POST /chat/completions: one `chat.completion`, or `chat.completion.chunk` events.

The order in a stream: role with empty content; reasoning, content and calls as they form; a last chunk with finish_reason and usage;
`[DONE]`. With include_usage the other chunks have a usage that is null. All have the same id and created. A call's id and name come in
its first delta, its arguments in pieces after it. Source: SPEC section 9.
"""
from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

from fathom.server.accounts import Usage
from fathom.server.answering import Answer
from fathom.server.reader import LEAST_LOGPROB, Piece, Seen
from fathom.server.sending import Chunks, encoded
from fathom.text import ContentDelta, ReasoningDelta, Tokenizer, ToolCallDelta, ToolCallStart

Admitted = AbstractAsyncContextManager[Answer]


@dataclass(frozen=True)
class Form:
    """What all answers to one request have in common. created: Unix time."""

    request_id: str
    model: str
    fingerprint: str
    tokenizer: Tokenizer
    logprobs: bool = False
    include_usage: bool = False
    prefix: str = "chatcmpl"
    keep_alive_seconds: float = 10.0
    created: int = field(default_factory=lambda: int(time.time()))

    def head(self, kind: str) -> dict[str, Any]:
        """The fields before `choices`."""
        return {"id": f"{self.prefix}-{self.request_id}", "object": kind, "created": self.created, "model": self.model,
                "system_fingerprint": self.fingerprint}

    def call_id(self, index: int) -> str:
        """Names a call; the same when the answer is resumed."""
        return f"call_{index:02d}_{hashlib.blake2b(self.request_id.encode(), digest_size=9).hexdigest()}"


async def whole_chat(admitted: Admitted, form: Form) -> Chunks:
    """One body."""
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    reasoning, calls, pieces = "", [], Seen()
    async with admitted as answer:
        finish = None
        async for batch in answer.batches():
            if batch is None:
                yield None
                continue
            finish = batch.finish
            pieces.reasoning += batch.seen.reasoning
            pieces.content += batch.seen.content
            for event in batch.seen.events:
                match event:
                    case ReasoningDelta(text=text):
                        reasoning += text
                    case ContentDelta(text=text):
                        message["content"] += text
                    case ToolCallStart(index=index, name=name):
                        calls.append({"id": form.call_id(index), "type": "function", "function": {"name": name, "arguments": ""}})
                    case ToolCallDelta(index=index, arguments=text):
                        calls[index]["function"]["arguments"] += text
    if answer.ask.parsed == "thinking":
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = calls
    choice = {"index": 0, "finish_reason": finish, "message": message, "logprobs": logprobs_of(pieces, form, always=True)}
    yield encoded({**form.head("chat.completion"), "choices": [choice], "usage": usage_of(answer.usage)})


async def streamed_chat(admitted: Admitted, form: Form) -> Chunks:
    """Events."""
    def chunk(delta: dict[str, Any], finish: str | None = None, usage: Usage | None = None, seen: Seen | None = None) -> bytes:
        logprobs = logprobs_of(seen, form) if seen else None
        data = {**form.head("chat.completion.chunk"), "choices": [{"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}]}
        if usage:
            data["usage"] = usage_of(usage)
        elif form.include_usage:
            data["usage"] = None
        return b"data: " + encoded(data) + b"\n\n"

    async with admitted as answer:
        yield chunk({"role": "assistant", "content": ""})
        async for batch in answer.batches():
            if batch is None:
                yield None
                continue
            deltas = [delta for event in batch.seen.events if (delta := delta_of(event, form))]
            out = [chunk(delta, seen=batch.seen if i == 0 else None) for i, delta in enumerate(deltas)]
            if batch.finish:
                out.append(chunk({}, batch.finish, answer.usage, None if deltas else batch.seen))
            elif not deltas and form.logprobs and (batch.seen.reasoning or batch.seen.content):
                out.append(chunk({}, seen=batch.seen))
            if out:
                yield b"".join(out)
    yield b"data: [DONE]\n\n"


def delta_of(event: Any, form: Form) -> dict[str, Any] | None:
    """What an event adds to the message."""
    match event:
        case ReasoningDelta(text=text):
            return {"reasoning_content": text}
        case ContentDelta(text=text):
            return {"content": text}
        case ToolCallStart(index=index, name=name):
            return {"tool_calls": [{"index": index, "id": form.call_id(index), "type": "function", "function": {"name": name, "arguments": ""}}]}
        case ToolCallDelta(index=index, arguments=text):
            return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}
    return None


def usage_of(usage: Usage) -> dict[str, Any]:
    """The usage object: prompt_tokens = hit + miss."""
    prompt = usage.hit + usage.miss
    return {"prompt_tokens": prompt, "completion_tokens": usage.output, "total_tokens": prompt + usage.output,
            "prompt_cache_hit_tokens": usage.hit, "prompt_cache_miss_tokens": usage.miss, "prompt_tokens_details": {"cached_tokens": usage.hit},
            "completion_tokens_details": {"reasoning_tokens": usage.reasoning}}


def logprobs_of(seen: Seen, form: Form, always: bool = False) -> dict[str, Any] | None:
    """Log-probabilities of some tokens, None where none were asked for."""
    if not form.logprobs or not (always or seen.content or seen.reasoning):
        return None
    found: dict[str, Any] = {"content": listed(seen.content, form.tokenizer)}
    return {**found, "reasoning_content": listed(seen.reasoning, form.tokenizer)} if seen.reasoning else found


def listed(pieces: Sequence[Piece], tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Tokens as OpenAI shows them. bytes: of a token that is part of a character, the text alone says nothing."""
    def entry(token: int, logprob: float | None) -> dict[str, Any]:
        raw = tokenizer.decode_bytes([token])
        return {"token": raw.decode("utf-8", "replace"), "logprob": max(logprob or 0.0, LEAST_LOGPROB), "bytes": list(raw)}

    return [{**entry(piece.id, piece.logprob), "top_logprobs": [entry(*pair) for pair in piece.top]} for piece in pieces]
