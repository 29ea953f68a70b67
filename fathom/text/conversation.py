"""From messages as clients send them to the turns that the V4 prompt is made of.

The format has no tool role. Results travel inside a user turn, next to the user's own text, so a run of tool results and
user messages becomes ONE turn. This file does that merging, puts results in the order of the calls they answer, flattens
lists of content parts, decides what a thinking prompt forgets, and refuses what it cannot place. encoding.py then only writes.

Source: SPEC section 8.
"""
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fathom.errors import UserError

from .special import TASKS

Message = Mapping[str, Any]
ROLES = ("system", "user", "developer", "assistant", "tool", "latest_reminder")
ASKING = ("user", "developer")
"""Roles that the assistant answers."""


@dataclass(frozen=True)
class Call:
    """One tool call: its name, and its parameters in order; a string value is passed raw, any other as JSON."""

    name: str
    parameters: Mapping[str, Any]
    id: str | None = None


@dataclass(frozen=True)
class Turn:
    """One piece of the prompt. `own` is False for turns of the context, which shape the prompt but aren't written again."""

    role: str
    text: str
    own: bool = True
    reasoning: str = ""
    calls: tuple[Call, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    response_format: Any = None
    task: str | None = None
    without_eos: bool = False


@dataclass(frozen=True)
class Block:
    """Part of a user turn while it is being merged: the user's text, or a result with the id of its call."""

    text: str
    result_of: str | None = None


class Merger:
    """Collects messages into turns. Blocks of the user turn in hand wait in `_blocks` until another role closes it."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self._blocks: list[Block] = []
        self._task: str | None = None
        self._order: dict[str, int] = {}  # call id → place among the calls of the last assistant message that made any

    def add(self, messages: Sequence[Message], where: str, own: bool) -> None:
        """Appends the turns of `messages`; a user turn never joins the end of an earlier `add`."""
        if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence):
            raise UserError(where, type(messages).__name__, "a list of messages")
        for i, message in enumerate(messages):
            self._add_one(message, f"{where}[{i}]", own)
        self._close_user(own)

    def _add_one(self, message: Message, where: str, own: bool) -> None:
        if not isinstance(message, Mapping):
            raise UserError(where, type(message).__name__, "an object with `role` and `content`")
        role = message.get("role")
        if role not in ROLES:
            raise UserError(f"{where}.role", role, f"one of {', '.join(ROLES)}")
        text, task = flatten(message.get("content"), f"{where}.content"), message.get("task")
        if task is not None and (not isinstance(task, str) or task not in TASKS):
            raise UserError(f"{where}.task", task, f"one of {', '.join(TASKS)}")
        if role not in ("system", "developer") and (message.get("tools") or message.get("response_format")):
            raise UserError(f"{where}.{'tools' if message.get('tools') else 'response_format'}", None,
                            f"cannot stand on a message of role {role}", "put it on the system message")
        if role == "tool":
            self._blocks.append(Block(f"<tool_result>{text}</tool_result>", str(message.get("tool_call_id") or "")))
        elif role == "user":
            if self._task is not None:  # what follows a message with a task is a turn of its own
                self._close_user(own)
            if not self._blocks:  # only the first message of a turn keeps its task
                self._task = task
            self._blocks.append(Block(text))
        else:
            self._close_user(own)
            self.turns.append(self._other(role, text, task, message, where, own))

    def _other(self, role: str, text: str, task: str | None, message: Message, where: str, own: bool) -> Turn:
        """A turn of any role but user and tool."""
        if role == "assistant":
            calls = tuple(read_call(call, at) for call, at in entries(message, "tool_calls", where))
            if calls:
                self._order = {call.id: i for i, call in enumerate(calls) if call.id}
            return Turn(role, text, own, reasoning=flatten(message.get("reasoning_content"), f"{where}.reasoning_content"), task=task,
                        calls=calls, without_eos=bool(message.get("wo_eos")))
        tools = tuple(read_tool(tool, at) for tool, at in entries(message, "tools", where))
        return Turn(role, text, own, tools=tools, response_format=message.get("response_format") or None, task=task)

    def _close_user(self, own: bool) -> None:
        """Makes the waiting blocks a turn; results are put in the order of their calls, in the places that results have."""
        if not self._blocks:
            return
        results = [block for block in self._blocks if block.result_of is not None]
        if self._order:
            results.sort(key=lambda block: self._order.get(block.result_of or "", 0))  # stable; an unknown id counts as the first call's
        ordered = iter(results)
        text = "\n\n".join(block.text if block.result_of is None else next(ordered).text for block in self._blocks)
        self.turns.append(Turn("user", text, own, task=self._task))
        self._blocks, self._task = [], None


def flatten(content: Any, where: str) -> str:
    """Text of a message's content: a string, None, or parts, joined by blank lines; a part that isn't text is named in brackets."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence) or not all(isinstance(part, Mapping) for part in content):
        raise UserError(where, type(content).__name__, "a string or a list of parts such as {type: text, text: …}")
    kinds = ((part.get("type"), part) for part in content)
    return "\n\n".join(str(part.get("text") or "") if kind == "text" else f"[Unsupported {kind}]" for kind, part in kinds)


def entries(message: Message, key: str, where: str) -> list[tuple[Any, str]]:
    """The entries of an optional list in a message, each with its name for error messages."""
    value = message.get(key) or []
    if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
        raise UserError(f"{where}.{key}", type(value).__name__, "a list")
    return [(entry, f"{where}.{key}[{i}]") for i, entry in enumerate(value)]


def read_tool(tool: Any, where: str) -> Mapping[str, Any]:
    """The function of one entry of `tools` in OpenAI form."""
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping):
        raise UserError(where, None, "must be {type: function, function: {name, description, parameters}}")
    return function


def read_call(call: Any, where: str) -> Call:
    """A call in OpenAI form. Arguments that aren't a JSON object in text become one string parameter called `arguments`."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise UserError(where, None, "must be {id, type: function, function: {name, arguments}}")
    arguments, identity = function.get("arguments"), call.get("id") or function.get("id")
    if identity is not None and not isinstance(identity, str):
        raise UserError(f"{where}.id", identity, "a string")
    if isinstance(arguments, Mapping):
        return Call(function["name"], arguments, identity)
    if not isinstance(arguments, str):
        raise UserError(f"{where}.function.arguments", type(arguments).__name__, "a string that holds a JSON object")
    try:
        parsed = json.loads(arguments)
    except (ValueError, RecursionError):
        parsed = None
    return Call(function["name"], parsed if isinstance(parsed, dict) else {"arguments": arguments}, identity)


def last_asked(turns: Sequence[Turn]) -> int:
    """Index of the last turn that the assistant answers, -1 without one."""
    return max((i for i, turn in enumerate(turns) if turn.role in ASKING), default=-1)


def forget(turns: Sequence[Turn]) -> list[Turn]:
    """What is left for a thinking prompt when old reasoning is dropped: no developer turn and no reasoning before the last asked turn."""
    last = last_asked(turns)
    kept = [(i, turn) for i, turn in enumerate(turns) if turn.role != "developer" or i >= last]
    return [replace(turn, reasoning="") if i < last else turn for i, turn in kept]
