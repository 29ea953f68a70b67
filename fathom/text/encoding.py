"""Messages to a V4 prompt, byte for byte as the published weights were trained on.

A prompt is a list of parts (text, is_control). Control parts are exactly one control token each and come only from this
file and the fixed texts in prompts.toml; what a client sent (content, reasoning, tool schemas, arguments, names) is always
plain. So a tokenizer that encodes plain parts without looking for control tokens (`Tokenizer.encode_parts`) cannot be talked
into a forged turn, and for conversations that spell no control token the ids are those of the published way, which
tokenizes the whole string.

Source: SPEC section 8; `encode_messages` takes the arguments of the published module's function of that name.
"""
from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

from fathom.errors import UserError

from . import special
from .conversation import ASKING, Call, Merger, Message, Turn, forget, last_asked
from .tokenizer import split_controls

Part = tuple[str, bool]
THINKING_MODES = ("chat", "thinking")
EFFORTS = (None, "low", "high", "max")
"""Low and high are encoded alike."""


def encode_messages(
    messages: Sequence[Message],
    thinking_mode: str,
    context: Sequence[Message] | None = None,
    drop_thinking: bool = True,
    add_default_bos_token: bool = True,
    reasoning_effort: str | None = None,
) -> str:
    """The prompt as one string. For ids use `encode_parts`: in a string, a user's text and a control token can look alike.

    Args:
        messages: OpenAI form. Roles: system, user, developer, assistant, tool, latest_reminder. `tools` and `response_format`
            stand on a system or developer message; `task` on any; `reasoning_content`, `tool_calls` and `wo_eos` on an assistant message.
        thinking_mode: "thinking" or "chat".
        context: messages whose prompt has been written before; they decide with `messages` what is dropped, sorted and closed.
            (The published module miscounts when a developer message of the context is dropped, and loses a message; this one doesn't.)
        drop_thinking: in thinking mode, forget reasoning before the last user turn; without effect if any message has tools.
        add_default_bos_token: BOS in front, if there is no context.
        reasoning_effort: None, "low", "high", or "max", which puts a paragraph in front in thinking mode.

    Returns:
        The text; empty messages give BOS alone. A conversation that ends in system leaves the assistant no turn.

    Raises:
        UserError: an argument or message that cannot be placed, named by its index.
    """
    parts = encode_parts(messages, thinking_mode, context, drop_thinking, add_default_bos_token, reasoning_effort)
    return "".join(text for text, _ in parts)


def encode_parts(
    messages: Sequence[Message],
    thinking_mode: str,
    context: Sequence[Message] | None = None,
    drop_thinking: bool = True,
    add_default_bos_token: bool = True,
    reasoning_effort: str | None = None,
) -> list[Part]:
    """The same prompt as parts (text, is_control); joined, they are `encode_messages`. Arguments and errors as there."""
    if thinking_mode not in THINKING_MODES:
        raise UserError("thinking_mode", thinking_mode, f"one of {', '.join(THINKING_MODES)}")
    if reasoning_effort not in EFFORTS:
        raise UserError("reasoning_effort", reasoning_effort, "one of low, high, max, or nothing")
    merger = Merger()
    merger.add(context or [], "context", own=False)
    merger.add(messages, "messages", own=True)
    turns, thinking = merger.turns, thinking_mode == "thinking"
    drop = drop_thinking and not any(turn.tools for turn in turns)
    if thinking and drop:
        turns = forget(turns)
    page = Page()
    if add_default_bos_token and not context:
        page.control(special.BOS)
    if thinking and reasoning_effort == "max" and turns and turns[0].own:
        page.plain(prompts()["reasoning_effort_max"])
    for i, turn in enumerate(turns):
        if turn.own:
            write_turn(page, turns, i, thinking, drop)
    return page.parts


class Page:
    """Parts being written; plain text that touches is one part, so that it is tokenized as one."""

    def __init__(self) -> None:
        self.parts: list[Part] = []

    def plain(self, text: str) -> None:
        """Appends text that can never become a control token."""
        if not text:
            return
        if self.parts and not self.parts[-1][1]:
            text = self.parts.pop()[0] + text
        self.parts.append((text, False))

    def control(self, token: str) -> None:
        """Appends one control token."""
        self.parts.append((token, True))

    def trusted(self, text: str) -> None:
        """Appends text of our own, in which spellings of control tokens are control tokens."""
        for part, is_control in split_controls(text, control_pattern()):
            (self.control if is_control else self.plain)(part)


def write_turn(page: Page, turns: Sequence[Turn], i: int, thinking: bool, drop: bool) -> None:
    """Writes turn `i` and, where an assistant turn or nothing follows, what opens that turn."""
    turn, last = turns[i], last_asked(turns)
    after_task = i > 0 and turns[i - 1].task is not None
    if turn.role == "assistant":
        if thinking and not after_task and (not drop or i > last):
            page.plain(turn.reasoning)
            page.control(special.THINK_CLOSE)
        page.plain(turn.text)
        write_calls(page, turn.calls)
        if not turn.without_eos:
            page.control(special.EOS)
    else:
        opening = {"latest_reminder": special.LATEST_REMINDER, "user": special.USER, "developer": special.USER}.get(turn.role)
        if opening:
            page.control(opening)
        page.plain(turn.text)
        write_schemas(page, turn.tools, turn.response_format)

    if i + 1 < len(turns) and turns[i + 1].role not in ("assistant", "latest_reminder"):
        return
    if turn.task is not None and turn.task != "action":
        page.control(special.TASKS[turn.task])
    elif turn.task is not None or turn.role in ASKING:
        # A task that opens an assistant turn thinks in thinking mode wherever it stands; an ordinary turn only if nothing newer was asked.
        thinks = thinking and (turn.task is not None or not drop or i >= last)
        page.control(special.ASSISTANT)
        page.control(special.THINK_OPEN if thinks else special.THINK_CLOSE)
        if turn.task is not None:
            page.control(special.TASKS[turn.task])


def write_schemas(page: Page, tools: Iterable[Mapping[str, Any]], response_format: Any) -> None:
    """The tool prompt with one schema a line, then the instruction to reply by a schema, each after a blank line."""
    schemas = "\n".join(to_json(tool) for tool in tools)
    for name, data in (("tools", schemas), ("response_format", to_json(response_format) if response_format else "")):
        if data:
            before, after = re.split(r"\{\{\w+\}\}", prompts()[name])
            page.plain("\n\n")
            page.trusted(before)
            page.plain(data)
            page.trusted(after)


def write_calls(page: Page, calls: Sequence[Call]) -> None:
    """The DSML block of an assistant turn, after a blank line; nothing without calls."""
    if not calls:
        return
    page.trusted(f"\n\n<{special.DSML}tool_calls>\n")
    for call in calls:
        page.trusted(f"<{special.DSML}invoke name=\"")
        page.plain(f"{call.name}\">\n")
        for n, (name, value) in enumerate(call.parameters.items()):
            raw = isinstance(value, str)
            page.trusted(f"{chr(10) if n else ''}<{special.DSML}parameter name=\"")
            page.plain(f"{name}\" string=\"{'true' if raw else 'false'}\">{value if raw else to_json(value)}")
            page.trusted(f"</{special.DSML}parameter>")
        page.trusted(f"\n</{special.DSML}invoke>\n")  # without parameters this leaves the empty line of the published format
    page.trusted(f"</{special.DSML}tool_calls>")


def to_json(value: Any) -> str:
    """JSON as the published module writes it: spaces after separators, characters as they are."""
    return json.dumps(value, ensure_ascii=False)


@cache
def prompts() -> Mapping[str, str]:
    """The fixed texts of prompts.toml."""
    return tomllib.loads(resources.files(__package__).joinpath("prompts.toml").read_text(encoding="utf-8"))


@cache
def control_pattern() -> re.Pattern[str]:
    """Matches the spelling of any control token."""
    return re.compile("|".join(map(re.escape, special.SPECIAL_TOKENS)))
