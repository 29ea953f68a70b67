"""Conversations of your own: a .jsonl file, a conversation a line.

    {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…", "reasoning_content": "…"}], "thinking": true}

Messages are in OpenAI form; `tools` may stand beside `messages`, as in a request, or on a system message. Without `thinking`, a
conversation is encoded in thinking mode when any of its assistant messages has reasoning. What the encoding can't place is refused with
file and line, before anything is trained: half of a data set silently left out would be worse.
"""
from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...text import encode_parts

ROLES = ("system", "user", "assistant", "tool")
FORM = '{"messages": [{"role": …, "content": …}, …], "thinking": true|false, "tools": […]}'


@dataclass(frozen=True)
class Own:
    """One conversation. place: file and line, for messages about it.  messages: in OpenAI form.  mode: "thinking" or "chat"."""

    place: str
    messages: tuple[dict[str, Any], ...]
    mode: str

    def held_out(self, share: float) -> bool:
        """Whether it is kept for evaluation: by the hash of its messages."""
        digest = hashlib.sha256(json.dumps(self.messages, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8], "big") / 2**64 < share


def read_own(paths: Sequence[str]) -> Iterator[Own]:
    """The conversations of the files, in order.

    Raises:
        UserError: a path that isn't a .jsonl file, or a line that is no conversation, with its place.
    """
    for path in map(Path, paths):
        if not path.is_file() or path.suffix != ".jsonl":
            raise UserError("conversations.paths", path, "a .jsonl file with a conversation a line", f"each line: {FORM}")
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError("conversations.paths", path, f"a readable file in UTF-8, but: {error}") from error
        yield from (_conversation(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip())


def _conversation(line: str, place: str) -> Own:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(place, None, f"a line of JSON, but {error}", f"each line: {FORM}") from error
    messages = row.get("messages") if isinstance(row, dict) else None
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages) or not messages:
        raise UserError(place, None, "has no list of messages", f"each line: {FORM}")
    unknown = sorted(set(row) - {"messages", "thinking", "tools"})
    if unknown:
        raise UserError(f"{place} {unknown[0]}", None, "unknown", f"each line: {FORM}")
    for number, message in enumerate(messages):
        if message.get("role") not in ROLES or message.get("task"):
            raise UserError(f"{place} messages[{number}].role", message.get("role"), f"one of {', '.join(ROLES)}, without a task")
    if messages[-1]["role"] != "assistant":
        raise UserError(place, messages[-1]["role"], "the last message must be the assistant's", "leave out questions without an answer")
    thinking = row.get("thinking", any(message.get("reasoning_content") for message in messages if message["role"] == "assistant"))
    if not isinstance(thinking, bool):
        raise UserError(f"{place} thinking", thinking, "true or false")
    found = Own(place, tuple(with_tools(messages, row.get("tools"))), "thinking" if thinking else "chat")
    try:
        encode_parts(found.messages, found.mode)
    except UserError as error:
        raise UserError(f"{place} {error.field}", error.value, error.allowed, error.remedy) from error
    return found


def with_tools(messages: list[dict[str, Any]], tools: Any) -> list[dict[str, Any]]:
    """The messages with `tools` on the system message, where the encoding wants them; one is put first if there is none."""
    if not tools:
        return messages
    if messages[0]["role"] != "system":
        return [{"role": "system", "content": "", "tools": tools}, *messages]
    return [{**messages[0], "tools": tools}, *messages[1:]]
