"""Finding the code in an answer. Models wrap it in fences, add remarks before and after, leave the last fence open.

The text is only looked at, never parsed by Python: hostile source can bring a compiler down, and ours must not be the one.
"""
from __future__ import annotations

import re

FENCE = re.compile(r"^[ \t]*(```+|~~~+)[ \t]*([A-Za-z0-9_+-]*)[^\n]*\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
MAX_CHARS = 200_000


def blocks(answer: str) -> list[tuple[str, str]]:
    """(language in lower case, text) of every fenced block, in order; an unclosed last one counts."""
    return [(m[2].lower(), undent(m[3])) for m in FENCE.finditer(clipped(answer))]


def clipped(answer: str) -> str:
    """The part that is looked at, with plain line ends."""
    return answer[:MAX_CHARS].replace("\r\n", "\n")


def undent(text: str) -> str:
    """The text without the indentation that all its lines share (a fence inside a list item)."""
    lines = text.split("\n")
    widths = [len(line) - len(line.lstrip(" ")) for line in lines if line.strip()]
    return "\n".join(line[min(widths, default=0):] for line in lines)


def python_code(answer: str, entry: str) -> str:
    """The source that defines `entry`: the last block that does, or the whole answer if it does and has no blocks; "" if nothing does."""
    defines = re.compile(rf"^(async[ \t]+def|def|class)[ \t]+{re.escape(entry)}\b|^{re.escape(entry)}[ \t]*=", re.MULTILINE)
    found = [text for language, text in blocks(answer) if language in ("", "python", "py", "python3") and defines.search(text)]
    if found:
        return found[-1]
    plain = clipped(answer)
    return plain if not blocks(answer) and defines.search(plain) else ""


def sql_query(answer: str) -> str:
    """The query of an answer: its last SQL block, or its last block, or all of it if it begins like a query; "" otherwise."""
    found = blocks(answer)
    marked = [text for language, text in found if language in ("sql", "sqlite", "sqlite3")] or [text for _, text in found]
    text = marked[-1] if marked else clipped(answer) if re.match(r"\s*(select|with)\b", answer, re.IGNORECASE) else ""
    return text.strip()
