"""Communication: say exactly what was asked, in the form that was asked for. Form is checked by rule, content against the source.

Four kinds: `table` (prose to a Markdown table, sorted), `record` (prose to JSON with the right types and null for what isn't said),
`brief` (bullets of bounded length, each with its facts, a fixed last line, no forbidden word) and `changelog` (a log sorted under
headings). A correct form with wrong content fails, and so does correct content in another form: a program reads the answer next.
"""
from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from typing import Any

from fathom.eval import answers as read
from fathom.eval.items import Item, Kind, Verdict, as_answers, item_id, item_rng
from fathom.eval.prose import distinct, person, phrases, place

LEVELS = (1, 2, 3)
CARGO = phrases("barley|bricks|cement|cider|clay|coal|copper|cotton|flax|glass|granite|hay|hides|honey|hops|lime|oats|paper|rye|salt|"
                "slate|timber|tin|wool")
CHANGES = phrases("""
the export keeps its column order|the search ignores accents|dates follow the ISO form|large files are read in pieces|
the login page loads twice as fast|empty rows are skipped|the printer queue survives a restart|names may hold apostrophes|
the map opens at the last place|time zones with half hours work|a lost connection is taken up again|the undo list is kept|
the report shows its page count|totals no longer lose a cent|the index is rebuilt in the background|old links still lead somewhere|
the camera turns off when hidden|keys can be remapped|long titles are wrapped|the backup names its date
""")
SECTIONS = ("Added", "Changed", "Fixed", "Removed")
FORBIDDEN = phrases("very|really|actually|basically|in order to|utilize|leverage|going forward|as well as|due to the fact")


def table(seed: int, level: int) -> Item:
    """Ships and their loads, told in prose, as a Markdown table sorted by one column."""
    rng = item_rng("table", level, seed)
    count = 3 + level
    ships = distinct(rng, lambda r: f"MS {place(r)}", count, set())
    tons = rng.sample(range(40, 990), count)
    rows = [[ship, rng.choice(CARGO), str(load), _day(rng)] for ship, load in zip(ships, tons)]
    forms = ("{0} brought {2} tons of {1} on {3}.", "On {3} came {0}, laden with {1}, {2} tons of it.",
             "The {1} aboard {0} weighed {2} tons; she docked on {3}.")
    told = [forms[i % 3].format(*row) for i, row in enumerate(rows)]
    falling = bool(seed % 2)
    header = ["Ship", "Cargo", "Tons", "Date"]
    if level == 3:
        header, rows = ["Date", "Tons", "Ship", "Cargo"], [[d, t, s, c] for s, c, t, d in rows]
    at = header.index("Tons")
    rows.sort(key=lambda row: int(row[at]), reverse=falling)
    text = (" ".join(told) + f"\n\nWrite this as a Markdown table with exactly these columns in this order: {', '.join(header)}. One row "
                             f"per ship, sorted by tons, {'largest' if falling else 'smallest'} first; tons as plain digits, dates as "
                             "they stand. Reply with the table and nothing else.")
    answer = "\n".join(["| " + " | ".join(row) + " |" for row in (header, ["---"] * 4, *rows)])
    return _item("table", seed, level, text, {"rows": [header, *rows]}, answer)


def record(seed: int, level: int) -> Item:
    """A booking told in prose as JSON; some fields aren't said and must be null."""
    rng = item_rng("record", level, seed)
    nights, guests = rng.randrange(2, 15), rng.randrange(1, 7)
    want: dict[str, Any] = {"guest": person(rng), "inn": f"{place(rng)} Inn", "arrival": _day(rng), "nights": nights, "guests": guests,
                            "breakfast": rng.random() < 0.5, "price_per_night": rng.randrange(30, 200), "phone": None, "dog": None}
    parts = [f"{want['guest']} has booked {nights} nights at the {want['inn']}, arriving on {want['arrival']}",
             f"for {guests} {'person' if guests == 1 else 'people'} in all",
             f"{'with' if want['breakfast'] else 'without'} breakfast, at {want['price_per_night']} crowns a night"]
    text = ", ".join(parts) + "."
    if level >= 2:
        want["dog"] = rng.choice(DOGS)
        text += f" The dog is called {want['dog']}."
    if level == 3:
        want["extras"] = [{"what": what, "crowns": rng.randrange(2, 40)} for what in rng.sample(CARGO, 3)]
        text += " To be put into the room: " + ", ".join(f"{e['what']} for {e['crowns']} crowns" for e in want["extras"]) + "."
    keys = {"guest": "string", "inn": "string", "arrival": "string", "nights": "number", "guests": "number", "breakfast": "true or false",
            "price_per_night": "number", "phone": "string", "dog": "the dog's name",
            "extras": 'list of {"what": string, "crowns": number}, in the order of the text'}
    listed = "\n".join(f"- {key}: {keys[key]}" for key in want)
    text += (f"\n\nReply with one JSON object and nothing else. Keys:\n{listed}\nUse null where the text doesn't say. Names and dates "
             "exactly as they stand, without articles.")
    return _item("record", seed, level, text, {"object": want}, json.dumps(want, ensure_ascii=False))


DOGS = phrases("Argus|Bella|Biscuit|Bramble|Cosmo|Dash|Fidget|Ginger|Hector|Juno|Merlin|Nimbus|Pepper|Quill|Rolo|Scout|Tango|Waffle")


def brief(seed: int, level: int) -> Item:
    """A fixed number of bullets, each about one event and short, in order of time, with a fixed last line and no forbidden word."""
    rng = item_rng("brief", level, seed)
    count, words = 2 + level, 16 - 2 * level
    towns = distinct(rng, place, count, set())
    events = [(town, str(rng.randrange(12, 900)), rng.choice(CARGO)) for town in towns]
    banned = rng.sample(FORBIDDEN, 2 + level)
    told = [f"{when} the store at {town} actually took in {amount} {good} crates, due to the fact that the road was open, and the clerk "
            "really wrote it down very neatly." for when, (town, amount, good) in zip(TIMES, events)]
    order = rng.sample(range(count), count)
    close = f"Next step: count the {rng.choice(CARGO)} at {rng.choice(towns)}."
    text = ("\n".join(told[i] for i in order) + f"\n\nWrite a briefing of exactly {count} lines that begin with \"- \", one per store, "
            f"in the order of the hours. Each has at most {words} words and names the town, the "
            f"number of crates and what is in them. Then one last line:\n{close}\nNothing before, "
            f"between or after. None of these may occur anywhere: {', '.join(banned)}.")
    answer = "\n".join(f"- {town}: {amount} {good} crates" for town, amount, good in events) + f"\n{close}"
    payload = {"events": [list(e) for e in events], "words": words, "banned": banned, "close": close}
    return _item("brief", seed, level, text, payload, answer)


TIMES = ("At six in the morning", "At eight in the morning", "At ten in the morning", "At noon", "At two in the afternoon",
         "At five in the afternoon")


def changelog(seed: int, level: int) -> Item:
    """Log lines sorted under headings in a fixed order, newest first; headings without a line are left out."""
    rng = item_rng("changelog", level, seed)
    count = 4 + 2 * level
    changes = rng.sample(CHANGES, count)
    days = rng.sample(range(1, 29), count)
    used = SECTIONS if level == 3 else rng.sample(SECTIONS, 3)
    log = [(f"2031-{seed % 12 + 1:02d}-{day:02d}", rng.choice(used), change) for day, change in zip(days, changes)]
    version = f"{rng.randrange(1, 9)}.{rng.randrange(30)}.{rng.randrange(30)}"
    lines = "\n".join(f"{day} {section.upper()} {change}" for day, section, change in log)
    text = (f"{lines}\n\nWrite the changelog of version {version} in Markdown: first the line \"# {version}\"; then for each section "
            f"that has entries, in the order {', '.join(SECTIONS)}, the line \"## \" and its name, and under it one line per entry, "
            "newest first: \"- \", the date, a colon, a space and the change, worded as in the log. Leave out empty sections. Reply "
            "with the changelog and nothing else.")
    out = [f"# {version}"]
    for section in SECTIONS:
        mine = sorted(((day, change) for day, kind, change in log if kind == section), reverse=True)
        out += [f"## {section}", *(f"- {day}: {change}" for day, change in mine)] if mine else []
    return _item("changelog", seed, level, text, {"lines": out}, "\n".join(out))


def _day(rng: random.Random) -> str:
    return f"19{rng.randrange(20, 90)}-{rng.randrange(1, 13):02d}-{rng.randrange(1, 29):02d}"


def _item(kind: str, seed: int, level: int, text: str, payload: dict[str, Any], answer: str) -> Item:
    messages = ({"role": "user", "content": text},)
    return Item(item_id(kind, level, seed), "communication", kind, level, seed, messages, payload | {"answer": answer}, 1024)


def judge(item: Item, answers: str | Sequence[str], *, sandbox: object = None) -> Verdict:
    """Full score when form and content are as asked, else zero; one code fence around the whole answer is forgiven."""
    (text,) = as_answers(item, answers)
    fault = RULES[item.kind](item.payload, read.unfenced(text))
    return Verdict(float(not fault), not fault, fault or "as asked")


def _table_fault(want: dict[str, Any], text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not all("|" in line for line in lines) or len(lines) < 2:
        return "not a table and nothing else"
    rows = [[cell.strip().strip("*`") for cell in line.strip("|").split("|")] for line in lines]
    if not all(re.fullmatch(r":?-+:?", cell) for cell in rows.pop(1)):
        return "the second line doesn't divide header and body"
    if rows[0] != want["rows"][0]:
        return f"the header is {rows[0]}"
    return next((f"row {i}: {got}, not {right}" for i, (got, right) in enumerate(_pairs(rows, want["rows"])) if got != right), "")


def _record_fault(want: dict[str, Any], text: str) -> str:
    try:
        got = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return "not one JSON object and nothing else"
    if not isinstance(got, dict):
        return "not a JSON object"
    for key, value in _pairs(sorted(got), sorted(want["object"])):
        if key != value:
            return f"keys: {key!r} where {value!r} is wanted"
    return next((f"{key} is {got[key]!r}, not {value!r}" for key, value in want["object"].items() if not _same(got[key], value)), "")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key stands there twice")
    return dict(pairs)


def _same(a: Any, b: Any) -> bool:
    """Equal in value and JSON type: 1 is 1.0 but not true."""
    if isinstance(b, list | dict):
        return type(a) is type(b) and json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
    return isinstance(a, bool) == isinstance(b, bool) and a == b


def _brief_fault(want: dict[str, Any], text: str) -> str:
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    if len(lines) != len(want["events"]) + 1 or lines[-1] != want["close"]:
        return "not the bullets and the last line as given"
    for banned in want["banned"]:
        if re.search(rf"\b{re.escape(banned)}\b", text, re.IGNORECASE):
            return f"says {banned!r}"
    for line, facts in zip(lines, want["events"]):
        if not line.startswith("- "):
            return "a line doesn't begin with \"- \""
        if len(line[2:].split()) > want["words"]:
            return f"a line has more than {want['words']} words"
        for fact in facts:
            if not re.search(rf"\b{re.escape(fact)}\b", line, re.IGNORECASE):
                return f"{fact!r} isn't in its line"
        if [n for n in re.findall(r"\d+", line) if n != facts[1]]:
            return "a line has a number that isn't its own"
    return ""


def _changelog_fault(want: dict[str, Any], text: str) -> str:
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    pairs = enumerate(_pairs(lines, want["lines"]), 1)
    return next((f"line {i} is {got!r}, not {right!r}" for i, (got, right) in pairs if got != right), "")


def _pairs(got: Sequence[Any], want: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Both side by side, the shorter filled up with None."""
    return [(got[i] if i < len(got) else None, want[i] if i < len(want) else None) for i in range(max(len(got), len(want)))]


RULES = {"table": _table_fault, "record": _record_fault, "brief": _brief_fault, "changelog": _changelog_fault}


def reference(item: Item) -> tuple[str, ...]:
    """The text that the item asks for."""
    return (item.payload["answer"],)


KINDS = tuple(Kind(make.__name__, "communication", LEVELS, make, judge, reference) for make in (table, record, brief, changelog))
