"""One HTML page in one file: everything inside, nothing fetched, nothing that a text could run.

A page is written once and mailed, archived, opened from a disk in ten years; so styles and scripts stand inside it, and a
content-security policy forbids every request, also to the file's own folder. Text from models is hostile until escaped:
`escape` is for text and attributes, `json_data` for data that a script reads (in a script element the dangerous thing is not
the quote but `</script` and `<!--`, so every `<`, `>` and `&` leaves as a JSON escape).

Colours are variables, so that light, dark and print need no second style sheet. Nothing here is wider than a phone: tables
scroll inside their own box.
"""
from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; form-action 'none'; base-uri 'none'"


def page(title: str, body: str, scripts: Sequence[str] = (), styles: Sequence[str] = (), lang: str = "en") -> str:
    """A complete HTML document that works from a file, offline.

    Args:
        title: plain text; escaped here.
        body: HTML, whose texts the caller has escaped; goes inside one <main>.
        scripts: JavaScript sources, run in order after the body; they must not hold `</script`.
        styles: further CSS, after the shared one; must not hold `</style`.
        lang: language tag of the page.
    """
    assert not any("</script" in s.lower() or "<!--" in s for s in scripts), "a script would end its own element"
    assert not any("</style" in s.lower() for s in styles), "a style sheet would end its own element"
    sheets = "".join(f"<style>{s}</style>\n" for s in (shared_style(), *styles))
    code = "".join(f"<script>\n{s}\n</script>\n" for s in scripts)
    return (f'<!doctype html>\n<html lang="{escape(lang)}">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<meta name="referrer" content="no-referrer">\n<link rel="icon" href="data:,">\n'
            f"<title>{escape(title)}</title>\n{sheets}</head>\n<body>\n<main>\n{body}\n</main>\n{code}</body>\n</html>\n")


def shared_style() -> str:
    """The CSS that every page has (style.css beside this file): light, dark and print, phone and desktop."""
    return resources.files("fathom.report").joinpath("style.css").read_text(encoding="utf-8")


def escape(text: object) -> str:
    """Text for HTML content or a double-quoted attribute. Control characters that HTML forbids become U+FFFD."""
    cleaned = "".join(c if c >= " " or c in "\n\r\t" else "\ufffd" for c in str(text))
    return html.escape(cleaned.encode("utf-8", "replace").decode("utf-8"), quote=True)  # a lone surrogate can't be written to a file


def json_data(element_id: str, data: Any) -> str:
    """A script element with `data` as JSON, for `JSON.parse(document.getElementById(id).textContent)`.

    Every <, > and & is escaped, so no string inside can end the element; NaN and infinity are our own bug (ValueError).
    """
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return f'<script type="application/json" id="{escape(element_id)}">{text}</script>'


def card(title: str, inner: str, note: str = "") -> str:
    """A titled box; `inner` is HTML, title and note are text."""
    head = f"<h2>{escape(title)}</h2>" if title else ""
    foot = f'<p class="soft small">{escape(note)}</p>' if note else ""
    return f'<section class="card">{head}{inner}{foot}</section>'


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], numeric: Iterable[int] = (), caption: str = "") -> str:
    """A table of texts in a box that scrolls sideways; `numeric` are the columns set to the right."""
    right = set(numeric)
    css = lambda i: ' class="num"' if i in right else ""
    head = "".join(f"<th{css(i)}>{escape(c)}</th>" for i, c in enumerate(columns))
    body = "".join("<tr>" + "".join(f"<td{css(i)}>{escape(c)}</td>" for i, c in enumerate(row)) + "</tr>" for row in rows)
    top = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<div class="scroll"><table>{top}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
