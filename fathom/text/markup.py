"""Finding markup in what a model writes: control tokens and DSML tags, whole, broken, or not there yet.

    <｜DSML｜tool_calls>
    <｜DSML｜invoke name="f">
    <｜DSML｜parameter name="a" string="true">text</｜DSML｜parameter>
    </｜DSML｜invoke>
    </｜DSML｜tool_calls>

Models write this almost always right. What they have been seen to write instead, and what is therefore read here: ASCII or
double bars (`<|DSML|`, `<｜｜DSML｜｜ `), spaces in the opening, the names `function_calls` (V3.2's) and `calls`, attributes in
another order or quotes, tags cut off before their `>`. Every decision depends only on the text from the tag on, never on where
a chunk ended: if more text could change it, the answer is None, "wait".

Source: SPEC section 8; the deviations are from public bug reports of other servers (vLLM, SGLang, llama.cpp).
"""
from __future__ import annotations

import re
from dataclasses import dataclass

from . import special

BAR = "[｜|‖]"
SIGN = rf"< ?/? ?{BAR}{{1,2}} ?DSML ?{BAR}"
OPENING = rf"{SIGN}{BAR}? ?/?"
"""The sign of any tag, which doesn't grow with more text, and the whole opening up to the tag's name, which may."""

SPELLINGS = {token: token for token in special.SPECIAL_TOKENS}
SPELLINGS |= {token.replace("｜", "|"): token for token in special.SPECIAL_TOKENS if "▁" in token}
"""Control tokens as they may be spelled → the token. With ASCII bars only those that nobody writes by chance."""

MARK = re.compile(f"(?P<tag>{SIGN})|" + "|".join(map(re.escape, SPELLINGS)))
TAG_START = re.compile(OPENING)
LONGEST_HEADER = 1024
"""Characters from `<` within which a tag must end. It bounds how much text a half-written tag can hold back."""

BLOCKS = ("tool_calls", "function_calls", "calls")
KINDS = (*BLOCKS, "invoke", "parameter")
NAME_ATTRIBUTE = re.compile(r"""\bname\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>/]+))""")
STRING_ATTRIBUTE = re.compile(r"""\bstring\s*=\s*["']?(true|false)\b["']?""", re.IGNORECASE)
EXACT_PARAMETER = re.compile(r'\s*name="(.*?)" string="(true|false)">', re.DOTALL)  # keys may hold any character, quotes and `>` included
ATTRIBUTES = re.compile(r"""(?:[\w-]+\s*=\s*(?:"[^"]*"|'[^']*')\s*)*(?:[\w-]*\s*(?:=\s*(?:"[^"]*|'[^']*)?)?)?/?""")
"""Attributes without blanks around, the last one perhaps cut off."""


def prefix_pattern(steps: list[str]) -> str:
    """Matches any beginning of the steps in a row."""
    pattern = ""
    for step in reversed(steps):
        pattern = f"(?:{step}{pattern})?"
    return pattern


UNFINISHED_OPENING = re.compile(prefix_pattern(["<", " ?", "/?", " ?", BAR + "{1,2}", " ?", "D", "S", "M", "L", " ?", BAR + "{0,2}"]))
PREFIXES = frozenset(spelling[:n] for spelling in SPELLINGS for n in range(1, len(spelling)))
LONGEST_PREFIX = max(map(len, SPELLINGS))
SURELY_MARKUP = re.compile(r"< ?/? ?[｜‖]|｜D")
"""At the start of an unfinished piece that the text ends in: nobody writes that. A lone `<` or `｜` may well be text."""


@dataclass(frozen=True)
class Tag:
    """A DSML tag: kind is "block", "invoke" or "parameter"; `string` is None where the attribute is missing; `length` in characters."""

    kind: str
    closing: bool
    length: int
    name: str | None = None
    string: bool | None = None
    empty: bool = False  # written as <… />
    unread: str = ""  # what else stood in the tag

    @property
    def structural(self) -> bool:
        """Whether it ends a parameter whose own closing tag was forgotten: a closing tag, or the full opening of a call or parameter."""
        return self.closing or (self.kind == "invoke" and bool(self.name)) or (self.name is not None and self.string is not None)


@dataclass(frozen=True)
class Broken:
    """Looks like a tag and is none: the first `length` characters are markup that means nothing, the rest is text."""

    length: int


def read_tag(text: str, final: bool) -> Tag | Broken | None:
    """The tag at the start of `text`, which begins with an opening; None if more text is needed. `final` says that no more comes."""
    opening = TAG_START.match(text)
    assert opening is not None, "read_tag needs text that begins with an opening"
    broken, waiting = Broken(opening.end()), not final and len(text) < LONGEST_HEADER
    cut_off = Broken(len(text)) if final and len(text) < LONGEST_HEADER else broken  # the text ends inside the tag: all of it is markup
    after = text[opening.end() : LONGEST_HEADER].lstrip(" ")
    word = next((kind for kind in KINDS if re.match(rf"{kind}(?=[\s/><])", after)), None)
    if word is None:
        unfinished = any(kind.startswith(after) for kind in KINDS)
        return broken if not unfinished else None if waiting else cut_off
    kind, closing = "block" if word in BLOCKS else word, "/" in opening.group()
    header = after[len(word) :]
    start = min(len(text), LONGEST_HEADER) - len(header)
    following = TAG_START.search(header)
    window = header[: following.start()] if following else header
    if kind == "parameter" and not closing:
        exact = EXACT_PARAMETER.match(window)
        if exact:
            return Tag(kind, False, start + exact.end(), exact[1], exact[2] == "true")
        if waiting and not following:
            return None  # the exact form may still come
    end = window.find(">")
    if end < 0 and not following:
        return None if waiting else cut_off if ATTRIBUTES.fullmatch(header.strip()) else broken
    attributes = window[:end] if end >= 0 else window  # with `>` forgotten the next tag ends this one
    name, string = NAME_ATTRIBUTE.search(attributes), STRING_ATTRIBUTE.search(attributes)
    unread = " ".join(STRING_ATTRIBUTE.sub("", NAME_ATTRIBUTE.sub("", attributes, count=1), count=1).rstrip("/ \n").split())
    if unread and (end < 0 or not name and not ATTRIBUTES.fullmatch(attributes.strip())):
        return broken  # prose about tags
    return Tag(kind, closing, start + len(attributes) + (end >= 0), "".join(filter(None, name.groups())) if name else None,
               string[1].lower() == "true" if string else None, attributes.rstrip().endswith("/"), unread)


def unfinished_length(text: str) -> int:
    """How many characters at the end of `text` may be the beginning of markup."""
    for at in range(max(0, len(text) - LONGEST_PREFIX), len(text)):
        if text[at] in "<｜" and (text[at:] in PREFIXES or UNFINISHED_OPENING.fullmatch(text, at)):
            return len(text) - at
    return 0
