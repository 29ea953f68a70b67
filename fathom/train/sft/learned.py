"""Token ids of a conversation, and which of them the model learns to say: the assistant's, from its reasoning to the end of its turn.

    BOS  <｜User｜> Hi  <｜Assistant｜> <think>   A greeting. </think> Hello! EOS   <｜User｜> …
    ╰───────────── only read ──────────────╯   ╰──────── learned ────────────╯   ╰ only read

`encode_parts` writes the prompt in parts, control tokens by themselves, so a turn's borders are seen in the parts and can't be forged
by a user's text. What opens a turn (`<｜Assistant｜>` with `<think>` or `</think>`) is written by whoever asks, so it isn't learned; what
closes reasoning and turn is.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...text import Tokenizer, encode_parts, special

Part = tuple[str, bool]


def learned_parts(parts: Sequence[Part]) -> list[bool]:
    """For each part (text, is_control), whether the assistant says it."""
    found, speaking, opening = [], False, False
    for text, is_control in parts:
        if is_control and opening:  # <think> or </think>
            found.append(False)
            speaking, opening = True, False
            continue
        if is_control and text in (special.USER, special.ASSISTANT):
            speaking, opening = False, text == special.ASSISTANT
        found.append(speaking)
        if is_control and text == special.EOS:
            speaking = False
    return found


def encode_conversation(messages: Sequence[Mapping[str, Any]], mode: str, tokenizer: Tokenizer) -> tuple[list[int], str]:
    """(ids, text) of a conversation in OpenAI form: what is only read as complement (~id); the text that the assistant says, without
    control tokens.

    Raises:
        UserError: a message that can't be placed (`encode_parts`), or a tokenizer without V4's control tokens.
    """
    ids: list[int] = []
    said: list[str] = []
    parts = encode_parts(messages, mode)
    for (text, is_control), learned in zip(parts, learned_parts(parts)):
        new = [tokenizer.control_id(text)] if is_control else tokenizer.encode(text)
        ids += new if learned else [~i for i in new]
        if learned and not is_control:
            said.append(text)
    return ids, "".join(said)
