"""The control tokens of V4: their spellings, and where they sit in a vocabulary that we train.

The bars are full-width (U+FF5C) and the words are joined by U+2581, so that ordinary text hardly ever contains one; but a
user can type them, which is why text is never searched for control tokens unless the caller says that it is trusted
(tokenizer.py, encoding.py). `｜DSML｜` is a token by itself: a tag such as `<｜DSML｜invoke name="f">` is `<`, the token, and plain text.

Source: SPEC section 8 (the published tokenizer: BOS is id 0, EOS = PAD is id 1, and it adds neither by itself).
"""
from __future__ import annotations

BOS = "<｜begin▁of▁sentence｜>"
EOS = "<｜end▁of▁sentence｜>"
USER = "<｜User｜>"
ASSISTANT = "<｜Assistant｜>"
LATEST_REMINDER = "<｜latest_reminder｜>"
THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"
DSML = "｜DSML｜"

TASKS = {name: f"<｜{name}｜>" for name in ("action", "query", "authority", "domain", "title", "read_url", "extracted_url")}
"""A message's `task` → its token."""

FIM_BEGIN = "<｜fim▁begin｜>"
FIM_HOLE = "<｜fim▁hole｜>"
FIM_END = "<｜fim▁end｜>"

SPECIAL_TOKENS: tuple[str, ...] = (
    BOS, EOS, USER, ASSISTANT, LATEST_REMINDER, THINK_OPEN, THINK_CLOSE, DSML, *TASKS.values(), FIM_BEGIN, FIM_HOLE, FIM_END,
)
"""All of them, in the order of their ids in a tokenizer that this project trains: BOS 0, EOS (also PAD) 1, and so on."""
