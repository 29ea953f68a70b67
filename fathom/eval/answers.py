"""Reading what a model wrote: marked lines, numbers, JSON, names. Lenient about dress, strict about content.

Models decorate: `**ANSWER:** 1,482 m.` means 1482. None of that may cost a point, and none of it may earn one: a line that
offers two numbers where one was asked says nothing, so `number` finds nothing there. Nothing here raises on any text.
"""
from __future__ import annotations

import json
import re
from typing import Any

MAX_CHARS = 200_000  # no rule needs more of an answer; keeps hostile megabytes cheap
DRESS = " \t*_`#>\"'“”‘’"
NUMBER = re.compile(r"[-−+]?\d[\d,  ]*(?:\.\d+)?")


def marked(text: str, label: str) -> str | None:
    """What stands after the last line that begins with `label:`, without Markdown dress; None where no line does."""
    pattern = re.compile(rf"^[\s*_`#>\-]*{re.escape(label)}[\s*_`]*[:：](.*)$", re.IGNORECASE | re.MULTILINE)
    found = pattern.findall(text[-MAX_CHARS:])
    return found[-1].strip().strip(DRESS).strip() if found else None


def number(text: str | None) -> float | None:
    """The one number in a short text (thousands separators, a sign and a unit are fine); None where there is none or several."""
    found = NUMBER.findall(text) if text else []
    if len(found) != 1:
        return None
    digits = re.sub(r"[,  ]", "", found[0]).replace("−", "-")
    try:
        return float(digits)
    except (ValueError, OverflowError):
        return None


def plain(text: str | None) -> str:
    """A name for comparison: case, surrounding dress, a leading article and a final full stop don't count; inner spaces are one."""
    words = " ".join((text or "").casefold().replace("’", "'").split()).strip(DRESS + ".,;")
    return words.removeprefix("the ")


def names(text: str | None) -> list[str]:
    """The names of a list written with commas, semicolons or `and`, each as `plain` gives it; no empty ones."""
    parts = re.split(r"[,;\n]|\band\b", text or "", flags=re.IGNORECASE)
    return [name for name in map(plain, parts) if name]


def json_object(text: str) -> dict[str, Any] | None:
    """The first JSON object in a text, in a code fence or bare; None where none parses. A key given twice makes it unusable."""
    decoder = json.JSONDecoder(object_pairs_hook=_no_repeats, parse_constant=_refuse)
    text = text[:MAX_CHARS]
    at, tries = text.find("{"), 0
    while at >= 0 and tries < 50:
        try:
            value, _ = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            return value
        at, tries = text.find("{", at + 1), tries + 1
    return None


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a key stands there twice")
    return dict(pairs)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def unfenced(text: str) -> str:
    """The text without one code fence around all of it."""
    match = re.fullmatch(r"\s*```[a-zA-Z]*\n(.*?)\n?```\s*", text[:MAX_CHARS], re.DOTALL)
    return match[1] if match else text.strip()
