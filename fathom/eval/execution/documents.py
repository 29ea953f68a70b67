"""Data-handling tasks on documents: JSON trees, settings, logs, queries, durations, templates. See task.py for how a task is written."""
from __future__ import annotations

import json
import random
from typing import Any

from fathom.eval.execution.strings import WORDS
from fathom.eval.execution.task import Task, Template, task

Tree = Any  # plain JSON


def tree(rng: random.Random, depth: int, listed: bool = False) -> Tree:
    """A small random JSON value. listed: it goes into an array, so no booleans: 1 and true in arrays would be equal to Python only."""
    roll = rng.random()
    if depth and roll < 0.45:
        return {k: tree(rng, depth - 1, listed) for k in rng.sample(["a", "b", "c", "id", "x"], rng.randint(1, 3))}
    if depth and roll < 0.65:
        return [tree(rng, depth - 1, True) for _ in range(rng.randint(1, 3))]
    return rng.choice([rng.randint(0, 9), rng.randint(0, 9), rng.choice(WORDS), None, *([] if listed else [True, False])])


def flatten(rng: random.Random) -> Task:
    """A JSON tree as paths and leaves."""
    joiner = rng.choice([".", "/", ":"])
    index, code, worse = rng.choice([("[i], without a joiner before it (a[0])", 'path + f"[{i}]"', 'path + f"[{i + 1}]"'),
                                     ("the index like a key", 'path + ("$joiner" if path else "") + str(i)',
                                      'path + ("$joiner" if path else "") + str(i + 1)')])
    empty = rng.choice([True, False])
    text = f"""`document` is a JSON text whose top is an object or an array. Return a dict that maps the path of every leaf to its
    value. A leaf is anything but an object or array;
    a path joins object keys with '{joiner}'; array positions (from 0) are written as {index}. Empty objects and arrays
    {'are leaves too (with themselves as value)' if empty else 'leave nothing'}."""
    source = """
import json

def $name(document):
    found = {}

    def visit(value, path):
        if isinstance(value, dict)$more:
            for key, inner in value.items():
                visit(inner, path + («"$joiner" if path else ""¦"$joiner"») + key)
        elif isinstance(value, list)$more:
            for i, inner in enumerate(value):
                visit(inner, «$code¦$worse»)
        «else:¦elif value is not None:»
            found[path] = value

    visit(json.loads(document), "")
    return found
""".replace("$code", code).replace("$worse", worse)

    def document() -> str:
        top = {k: tree(rng, 3) for k in rng.sample(["a", "b", "user", "items"], rng.randint(2, 3))}
        return json.dumps(top if rng.random() < 0.8 else [top, tree(rng, 2)])
    cases = [document() for _ in range(12)]
    cases += ['{"a": {}}', '{"a": []}', '{"a": [[1, 2], [3]]}', '[1, {"b": null}]', '{"a": {"b": {"c": null}}, "d": false}',
              '[[[]], {"a": {}}, 3]']
    return task(rng.choice(["flatten", "leaf_paths", "spread"]), "document", text, source, [[c] for c in cases], joiner=joiner,
                more=" and value" if empty else "")


def compare_documents(rng: random.Random) -> Task:
    """What changed between two JSON objects."""
    arrays = rng.choice(["whole", "length"])
    rule = "Arrays are compared as a whole." if arrays == "whole" else "Arrays count as equal if they have the same length."
    text = f"""`old` and `new` are JSON texts of objects. Compare them key by key, going into objects that stand on both sides. {rule}
    Return {{"added": …, "removed": …, "changed": …}}, each
    a list of paths (keys joined with '.'), in alphabetical order: added, keys only in new; removed, keys only in old; changed, keys
    in both with different values. 1 and true are different, and so are
    1 and "1"; 1 and 1.0 are equal. An added or removed object is listed once, not its keys."""
    source = """
import json

def $name(old, new):
    report = {"added": [], "removed": [], "changed": []}

    def equal(a, b):
        if isinstance(a, bool) «!=¦==» isinstance(b, bool):
            return False
$arrays        return a == b

    def visit(a, b, path):
        for key in a.keys() | b.keys():
            here = path + key
            if key not in a:
                report["added"].append(here)
            elif key not in b:
                report["removed"].append(here)
            elif isinstance(a[key], dict) «and¦or» isinstance(b[key], dict):
                visit(a[key], b[key], here + ".")
            elif not equal(a[key], b[key]):
                report["changed"].append(here)

    visit(json.loads(old), json.loads(new), «""¦"."»)
    return {key: sorted(paths) for key, paths in report.items()}
"""
    more = "" if arrays == "whole" else "        if isinstance(a, list) and isinstance(b, list):\n            return len(a) == len(b)\n"

    def pair() -> list[str]:
        a = {k: tree(rng, 2) for k in rng.sample(["a", "b", "c", "d"], 3)}
        b = json.loads(json.dumps(a))
        for key in rng.sample(["a", "b", "c", "d"], 2):
            if rng.random() < 0.3:
                b.pop(key, None)
            elif isinstance(b.get(key), dict):
                b[key][rng.choice("abx")] = rng.randint(0, 9)
            else:
                b[key] = tree(rng, 1)
        return [json.dumps(a), json.dumps(b)]
    cases = [pair() for _ in range(16)]
    cases += [["{}", "{}"], ['{"a": 1}', "{}"], ["{}", '{"a": {"b": 1}}'], ['{"a": 1}', '{"a": true}'], ['{"a": 1}', '{"a": 1.0}'],
              ['{"a": 1}', '{"a": "1"}'],
              ['{"a": [1, 2]}', '{"a": [1, 3]}'], ['{"a": [1, 2]}', '{"a": [1]}'], ['{"a": {"b": 1}}', '{"a": 1}'],
              ['{"a": {"b": {"c": 1}}}', '{"a": {"b": {"c": 2}, "d": null}}'],
              ['{"a": null}', '{"a": false}']]
    return task(rng.choice(["compare", "changes", "document_diff"]), "old, new", text, source.replace("$arrays", more), cases)


def settings(rng: random.Random) -> Task:
    """Sections, keys, comments and types of a settings file."""
    mark = rng.choice(["#", ";"])
    later = rng.choice([True, False])
    text = f"""`text` holds settings. A line [name] starts a section; lines before the first one belong to the section "main". A line
    key = value sets a key: spaces around both are dropped, the
    first '=' separates, the value may be empty. Everything from a '{mark}' to the end of a line is a comment. Other lines are
    ignored. A value that consists of digits only becomes an integer, the words true
    and false (lower case) become booleans, everything else stays text. If a key comes twice in a section the
    {'last' if later else 'first'} one counts; a section may be opened several times.
    Return a dict section → dict key → value; sections without keys are left out."""
    source = """
def $name(text):
    found = {}
    section = «"main"¦"Main"»
    for line in text.splitlines():
        line = line.partition("$mark")[0].strip()
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1].strip()
        elif "=" in line:
            key, value = (part.strip() for part in line.«split¦rsplit»("=", 1))
            if value.isdigit():
                value = int(value)
            elif value in ("true", "false"):
                value = value == "true"
            «$keep¦$other»
    return found
"""
    keep, other = "found.setdefault(section, {})[key] = value", "found.setdefault(section, {}).setdefault(key, value)"
    if not later:
        keep, other = other, keep

    def line() -> str:
        key, value = rng.choice(["a", "b", "size", "path"]), rng.choice([str(rng.randint(0, 99)), "true", "false", "True",
                rng.choice(WORDS), "", "x=y", "-3", "1.5", "two words"])
        return rng.choice([f"{key}={value}", f"{key} = {value}", f"  {key} ={value}  {mark} note", f"{key} = {value}",
                           f"{mark} {key} = 1", f"[{rng.choice(['net', 'disk'])}]", "", "loose text"])
    cases = ["\n".join(line() for _ in range(rng.randint(6, 11))) + "\n" for _ in range(16)]
    cases += ["", "[net]\n", "a = 1\na = 2\n", "[net]\na=1\n[disk]\nb=2\n[net]\nc=true\na=9\n", "a = b = c\n",
              f"a = 1 {mark} x {mark} y\n", "a = 007\n"]
    return task(rng.choice(["read_settings", "parse_config", "load_options"]), "text", text, source, [[c] for c in cases], mark=mark,
                keep=keep, other=other)


def log_report(rng: random.Random) -> Task:
    """A log, counted or ranked."""
    what = rng.choice(["hours", "slowest", "rate"])
    level = rng.choice(["ERROR", "WARN"])
    wanted = {
        "hours": f"a dict hour (two digits, as text) → number of {level} lines in it, only for hours that have some",
        "slowest": "a list of the up to 3 slowest requests, [ms, path], slowest first and for equal times by path in alphabetical order",
        "rate": f"a dict path → percentage of its lines that are {level}, rounded down to a whole number, for paths with at least 2 lines",
    }[what]
    text = f"""Each line of `text` is like: 2025-03-01 08:15:02 INFO /home 120ms (date, time, level, path, milliseconds). Lines that
    do not have exactly these five parts, or whose last part is not a whole number followed by ms, are
    ignored. Return {wanted}."""
    body = {
        "hours": ["        if level == \"$level\":\n            hour = clock[:«2¦1»]\n"
                  "            found[hour] = found.get(hour, «0¦1») + 1\n", "found"],
        "slowest": ["        found[len(found)] = (int(ms[:-2]), path)\n",
                    "[[ms, path] for ms, path in sorted(found.values(), key=lambda p: («-p[0], p[1]¦-p[0], len(p[1])»))[:«3¦2»]]"],
        "rate": ["        lines, bad = found.get(path, (0, 0))\n        found[path] = (lines + 1, bad + (level == \"$level\"))\n",
                 "{p: bad * 100 // «lines¦(lines + 1)» for p, (lines, bad) in found.items() if lines «>=¦>» 2}"],
    }[what]
    source = """
def $name(text):
    found = {}
    for line in text.splitlines():
        parts = line.split()
        if len(parts) != 5 or not parts[4].endswith("ms") or not parts[4][:-2].isdigit():
            continue
        day, clock, level, path, ms = parts
$body    return $final
""".replace("$body", body[0]).replace("$final", body[1])

    def line() -> str:
        clock = f"{rng.randint(7, 11):02}:{rng.randint(0, 59):02}:{rng.randint(0, 59):02}"
        good = (f"2025-03-{rng.randint(1, 3):02} {clock} {rng.choice(['INFO', 'WARN', 'ERROR', 'ERROR'])} "
                f"/{rng.choice(['home', 'cart', 'api', 'a', 'login'])} {rng.choice([rng.randint(1, 999), 120, 250])}ms")
        return good if rng.random() < 0.85 else rng.choice([good + " extra", good[:-2], good.replace("ms", ".5ms"), "", "-- mark --",
                                                            good.split(" ", 1)[1]])
    cases = ["\n".join(line() for _ in range(rng.randint(9, 16))) + "\n" for _ in range(14)]
    one = f"2025-03-01 08:15:02 {level} /home 120ms"
    cases += ["", "\n", one + "\n", one + "\n" + one + "\n", one + "s\n", one.replace("120", "x") + "\n",
              one + "\n" + one.replace("/home", "/b") + "\n" + one.replace("120", "9") + "\n"]
    return task(rng.choice(["log_report", "read_log", "digest"]), "text", text, source, [[c] for c in cases], level=level)


def query_string(rng: random.Random) -> Task:
    """Percent-decoding of a URL query."""
    separator = rng.choice(["&", ";"])
    repeat, code, worse = rng.choice([("a list of all its values, in order", "found.setdefault(key, []).append(value)",
                                       "found[key] = [value]"),
                                      ("its last value", "found[key] = value", "found.setdefault(key, value)")])
    text = f"""`query` is the part of a URL after '?': pairs key=value separated by '{separator}', where '+' stands for a space and
    %XX (two hexadecimal digits) for a byte of UTF-8. Decode keys and values. Pairs without '=' get
    the value "" (empty); empty pairs (as in a=1{separator}{separator}b=2) and pairs with an empty key are ignored; the first '='
    separates. A '%' that is not followed by two hexadecimal digits stays as it is. Bytes that are not
    UTF-8 become U+FFFD (one per bad sequence, as Python's errors="replace" does it). Return a dict that maps every key to {repeat}."""
    source = """
def $name(query):
    def decode(text):
        out = b""
        i = 0
        while i < len(text):
            digits = text[i + 1:i + 3]
            if text[i] == "%" and len(digits) == 2 and all(c in "0123456789abcdef«ABCDEF¦»" for c in digits):
                out += bytes([int(digits, 16)])
                i += 3
            else:
                out += («" " if text[i] == "+" else ¦»text[i]).encode()
                i += 1
        return out.decode("utf-8", errors="replace")

    found = {}
    for pair in query.split("$separator"):
        key, _, value = pair.«partition¦rpartition»("=")
        key, value = decode(key), decode(value)
        if key:
            «$code¦$worse»
    return found
"""

    def part() -> str:
        pieces = ["a", "b", "name", "+", "%20", "%C3%A9", "%e2%82%ac", "%41", "%", "%4", "%zz", "1", "x=y", "%2B", "%3d"]
        return "".join(rng.choice(pieces) for _ in range(rng.randint(1, 3)))
    cases = [separator.join(f"{rng.choice(['a', 'b', 'q', 'a%20b'])}={part()}" if rng.random() < 0.85 else rng.choice(["", "flag", "=x",
            part()])
                            for _ in range(rng.randint(3, 6))) for _ in range(16)]
    cases += ["", "a", "a=", "=a", separator * 3, f"a=1{separator}a=2", "a=%ff", "a=%C3", "%61=%62", "a=b=c", "a+b=c+d"]
    return task(rng.choice(["parse_query", "decode_query", "read_params"]), "query", text, source, [[c] for c in cases],
                separator=separator, code=code, worse=worse)


def durations(rng: random.Random) -> Task:
    """Adding up durations written with units."""
    result = rng.choice(["seconds", "clock"])
    week = rng.choice([5, 7])
    wanted = {"seconds": "the sum in seconds",
              "clock": "the sum as text H:MM:SS (hours as many digits as needed), with a leading - if negative"}[result]
    text = f"""`entries` is a list of durations like "1h30m", "45s", "2d", "1w2d" or "90m": numbers directly followed by a unit: w
    ({week} days), d (24 hours), h, m, s. Units may come in any order
    and repeat (they add up). A leading '-' makes the whole entry negative. An entry that does not have this form (also an empty one,
    or one with spaces) is ignored. Return
    {wanted}."""
    source = r"""
import re

def $name(entries):
    unit = {"w": «$week¦(12 - $week)» * 86400, "d": 86400, "h": 3600, "m": 60, "s": 1}
    total = 0
    for entry in entries:
        if not re.«fullmatch¦match»(r"-?(\d+[wdhms])+", entry):
            continue
        seconds = sum(int(n) * unit[u] for n, u in re.findall(r"(\d+)([wdhms])", entry))
        total «+=¦-=» -seconds if entry«.startswith("-")¦.endswith("s")» else seconds
$final
"""
    final = "    return total" if result == "seconds" else """    size = abs(total)
    return ("-" if total < 0 else "") + f"{size // 3600}:{size // 60 % 60:«02¦»}:{size % 60:02}\""""

    def entry() -> str:
        good = "".join(f"{rng.choice([rng.randint(0, 9), rng.randint(10, 99)])}{rng.choice('wdhmsms')}" for _ in range(rng.randint(1, 3)))
        return rng.choice([good, good, good, good, "-" + good, rng.choice(["", "5", "h", "1h 2m", "3x", "1h2", "+4m", "2d!", good + " "])])
    cases = [[entry() for _ in range(rng.randint(3, 7))] for _ in range(14)]
    cases += [[], [""], ["1w"], ["90m", "-1h"], ["-1s"], ["10s", "-20s"], ["1h1h"], ["59s", "1s"], ["-1d", "-1h"], ["100h5s"]]
    return task(rng.choice(["total_time", "add_durations", "sum_spans"]), "entries", text, source.replace("$final", final),
                [[c] for c in cases], week=week)


def fill_template(rng: random.Random) -> Task:
    """Placeholders with paths and filters."""
    left, right = rng.choice([("{{", "}}"), ("<%", "%>"), ("[[", "]]")])
    missing = rng.choice(["keep", "empty"])
    text = f"""Fill in `template`: each {left}name{right} is replaced by the value of name in the dict `values`. A name may be a path
    with dots (user.first) that goes into inner dicts, and may be followed by filters, each after
    a '|', applied from left to right: upper, lower, trim (removes spaces at both ends), rev (reversed), len (its length as text).
    Spaces around names and filters do not matter. Values are text or integers (written in decimal). If the name is not
    there, or leads to a dict, or a filter is unknown,
    {'the whole placeholder stays as it was, with its spaces' if missing == 'keep' else 'the placeholder is replaced by nothing'}.
    Replaced text is not searched again. Return the text."""
    source = """
import re

def $name(template, values):
    filters = {"upper": str.upper, "lower": str.lower, "trim": str.strip, "rev": lambda s: s[::-1], "len": lambda s: str(len(s)«¦ - 1»)}

    def fill(match):
        path, *names = (part.strip() for part in match[1].split("|"))
        value = values
        for key in path.split("."):
            if not isinstance(value, dict) or key not in value:
                return «$lost¦$other»
            value = value[key]
        if isinstance(value, dict) or any(n not in filters for n in names):
            return $lost
        value = str(value)
        for n in «names¦reversed(names)»:
            value = filters[n](value)
        return value

    return re.sub($pattern, fill, template)
"""
    pattern = {"{{": 'r"\\{\\{(.*?)\\}\\}"', "<%": 'r"<%(.*?)%>"', "[[": 'r"\\[\\[(.*?)\\]\\]"'}[left]
    values = {"name": " Ada ", "n": 42, "user": {"first": "Bo", "tag": "x y", "home": {"city": "Holm"}}, "empty": ""}

    def hole() -> str:
        name = rng.choice(["name", "n", "user.first", "user.home.city", "user.tag", "empty", "user", "nobody", "user.last", "n.x"])
        names = rng.choice([[], [], ["upper"], ["trim", "rev"], ["len"], ["len", "rev"], ["trim", "len"], ["shout"], ["rev", "upper"],
                            ["lower", "len"]])
        space = rng.choice(["", " "])
        return left + space + f"{space}|{space}".join([name, *names]) + space + right
    cases = [[" ".join(rng.choice([hole(), hole(), rng.choice(WORDS)]) for _ in range(rng.randint(3, 6))), values] for _ in range(16)]
    cases += [["", values], ["plain", values], [left + "x" + right, {"x": left + "n" + right, "n": 5}],
              [left + "name|trim|len" + right + left + "name|len|trim|len" + right, values],
              [left + "n", values], [left + "gone" + right, {}], [left + right, {"": "e"}]]
    return task(rng.choice(["fill_in", "render", "expand"]), "template, values", text, source, cases, pattern=pattern,
                lost="match[0]" if missing == "keep" else '""',
                other='""' if missing == "keep" else "match[0]")


def sessions(rng: random.Random) -> Task:
    """Events grouped by pauses."""
    gap = rng.choice([15, 20, 30])
    result = rng.choice(["list", "longest"])
    wanted = ("a list of [user, first minute, last minute, number of events], one per session, ordered by first minute and then by user"
              if result == "list" else
              "a dict user → the length of the user's longest session in minutes (last minute less first minute)")
    text = f"""`events` is a list of [minute, user], in any order. A session of a user is a greatest possible group of the user's
    events in which consecutive events lie at most {gap} minutes apart. Return {wanted}."""
    source = """
def $name(events):
    open_sessions = {}
    done = []
    for minute, user in sorted(events):
        session = open_sessions.get(user)
        if session and minute - session[«2¦1»] «<=¦<» $gap:
            session[2] = minute
            session[3] += $one
        else:
            open_sessions[user] = [user, minute, minute, $first]
            done.append(open_sessions[user])
    $final
"""
    final = "return sorted(done, key=lambda s: «(s[1], s[0])¦(s[0], s[1])»)" if result == "list" else (
        "longest = {}\n    for user, first, last, _ in done:\n"
        "        longest[user] = max(longest.get(user, 0), last - first«¦ + 1»)\n    return longest")
    one, first = ("«1¦2»", "«1¦0»") if result == "list" else ("1", "1")  # nobody sees the count otherwise

    def events(n: int) -> list[list[object]]:
        return [[rng.choice([rng.randint(0, 150), gap * rng.randint(0, 6)]), rng.choice(["ada", "bo", "cy"])] for _ in range(n)]
    cases: list[list[list[object]]] = [events(rng.randint(8, 14)) for _ in range(14)]
    cases += [[], [[5, "bo"]], [[gap, "bo"], [0, "bo"]], [[gap + 1, "bo"], [0, "bo"]], [[i * gap, "cy"] for i in range(5)],
              [[0, "b"], [0, "a"], [0, "a"]]]
    return task(rng.choice(["sessions", "visits", "activity"]), "events", text, source.replace("$final", final), [[c] for c in cases],
                gap=gap, one=one,
                first=first)


TEMPLATES = (
    Template("flatten", 2, flatten), Template("compare_documents", 3, compare_documents), Template("settings", 1, settings),
    Template("log_report", 1, log_report),
    Template("query_string", 3, query_string), Template("durations", 1, durations), Template("fill_template", 3, fill_template),
    Template("sessions", 2, sessions),
)
