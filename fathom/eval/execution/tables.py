"""Data-handling tasks on tables: CSV with its quoting, joins, pivots, fixed columns, stock moves. See task.py for how a task is written.

The function gets a text (or parsed rows) and returns lists and dictionaries. What makes these hard is what makes real files hard: quotes
around separators, missing and malformed values, order that must be stable; each text says what to do with them.
"""
from __future__ import annotations

import csv
import io
import random

from fathom.eval.execution.strings import WORDS
from fathom.eval.execution.task import Task, Template, task

PEOPLE = "Ada Bela Cato Dina Egon Fleur Gus Hana Ivo Jo Kai Lena Mo Nia Otto Pia".split()
CITIES = "Arden Brill Corve Dunmore Elsby Farrow Garth Holm".split()


def as_csv(rows: list[list[object]], delimiter: str = ",") -> str:
    """CSV text with quotes where needed, a newline after each row."""
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return out.getvalue()


def group_totals(rng: random.Random) -> Task:
    """Totals per group of a quoted CSV."""
    delimiter = rng.choice([",", ";"])
    key, amount = rng.choice([("city", "amount"), ("product", "units"), ("team", "points"), ("account", "cents")])
    order, sort = rng.choice([
        (f"by {key} in alphabetical order", "sorted(totals.items())"),
        (f"by total, largest first, and for equal totals by {key} in alphabetical order",
         "sorted(totals.items(), key=lambda p: (-p[1], p[0]))"),
    ])
    worse = "sorted(totals.items(), key=lambda p: p[1])"
    least = rng.choice([0, 20, 50])
    text = f"""`text` is CSV with '{delimiter}' between fields and a header line; among its columns (any number, in any order) are
    "{key}" and "{amount}". Fields may be
    quoted with double quotes and then hold the separator, or a doubled quote that stands for one. Add up {amount} (an integer, maybe
    negative, maybe with
    spaces around it) per {key}. Rows whose {amount} is not an integer are skipped.
    {f'Leave out every {key} whose total is below {least}. ' if least else ''}Return a list of [{key}, total],
    ordered {order}. An empty text gives an empty list."""
    source = """
import csv
import io

def $name(text):
    totals = {}
    for row in csv.DictReader(io.StringIO(text)«, delimiter="$delimiter"¦, delimiter="$delimiter", quoting=csv.QUOTE_NONE»):
        try:
            amount = int(row["$amount"])
        except (ValueError, TypeError):
            «continue¦amount = 1»
        totals[row["$key"]] = «totals.get(row["$key"], 0) + amount¦amount»
    return [[k, v] for k, v in «$sort¦$worse» if «$test¦v > 30»]
"""

    def table(n: int) -> str:
        names = rng.sample(CITIES + [f"North{delimiter} Sea", 'The "Old" Mill', "St. Ives"], 4)
        header = [key, amount] + rng.sample(["id", "note", "date"], rng.randint(0, 2))
        rng.shuffle(header)
        rows: list[list[object]] = []
        for i in range(n):
            value: object = rng.choice([rng.randint(-20, 60), rng.randint(-20, 60), f" {rng.randint(1, 60)} ",
                                        rng.choice(["", "n/a", "3.5"])])
            cells = {key: rng.choice(names), amount: value, "id": i, "note": rng.choice(["", f"a{delimiter}b", "ok"]),
                     "date": f"2025-0{rng.randint(1, 9)}-11"}
            rows.append([cells[h] for h in header])
        return as_csv([list[object](header), *rows], delimiter)
    cases = [table(rng.randint(6, 10)) for _ in range(12)]
    cases += ["", as_csv([[key, amount]], delimiter), as_csv([[key, amount], ["Holm", "x"]], delimiter), table(1), table(2),
              as_csv([[amount, key], ["10", "Garth"], ["-10", "Garth"], ["7", "Arden"], ["7", "Brill"]], delimiter),
              as_csv([[key, amount], [f"North{delimiter} Sea", "60"], [f"North{delimiter} Sea", "60"], ["Holm", "60"], ["Holm", "oops"]],
                     delimiter)]
    return task(rng.choice(["totals", "sum_by", "summarise"]), "text", text, source, [[c] for c in cases], delimiter=delimiter, key=key,
                amount=amount,
                sort=sort, worse=worse, test="True" if not least else f"v >= {least}")


def join_tables(rng: random.Random) -> Task:
    """Two CSV tables joined by a dirty key."""
    how = rng.choice(["inner", "left", "anti"])
    rule = {"inner": "Orders of unknown customers are left out.", "left": "Orders of unknown customers get the name \"?\".",
            "anti": "Return only the orders of unknown customers, with the name \"?\"."}[how]
    newest = rng.choice([True, False])
    text = f"""`customers` and `orders` are CSV texts with a header line, no quoting. customers: id,name. orders:
    order,customer,amount. An id may appear in several lines of customers:
    the {'last' if newest else 'first'} one counts. Ids are compared without surrounding spaces and regardless of case. Return a list
    of [order, name, amount as integer] in the order of
    the orders table. {rule}"""
    source = """
def $name(customers, orders):
    names = {}
    for line in customers.splitlines()[1:]:
        key, name = line.split(",")
        key = key.strip()«.lower()¦»
        if $keep:
            names[key] = name
    found = []
    for line in orders.splitlines()[«1:¦2:»]:
        order, key, amount = line.split(",")
        name = names.get(key«.strip()¦».lower())
        if $test:
            found.append([order, $shown, int(amount)])
    return found
"""

    def tables(n: int) -> list[str]:
        ids = [f"{rng.choice('ABCD')}{rng.randint(1, 4)}" for _ in range(6)]
        left = ["id,name"] + [f"{rng.choice([i, i.lower(), ' ' + i])},{rng.choice(PEOPLE)}" for i in ids[:5]]
        right = ["order,customer,amount"] + [f"o{k},{rng.choice([i, i.lower(), i + ' '])},{rng.randint(1, 99)}" for k,
                                             i in enumerate(rng.choices(ids + ["X9"], k=n))]
        return ["\n".join(left) + "\n", "\n".join(right) + "\n"]
    cases = [tables(rng.randint(5, 8)) for _ in range(13)]
    cases += [["id,name\n", "order,customer,amount\n"], ["id,name\n", "order,customer,amount\no1,A1,5\n"],
              ["id,name\nA1,Ada\n", "order,customer,amount\n"],
              ["id,name\nA1,Ada\na1,Bela\n", "order,customer,amount\no1,A1,5\no2, a1,6\no3,b1,7\n"]]
    return task(rng.choice(["join", "attach_names", "look_up"]), "customers, orders", text, source, cases,
                keep="True" if newest else "key not in names",
                test={"inner": "name «is not None¦is None»", "left": "True", "anti": "name «is None¦is not None»"}[how],
                shown="name" if how == "inner" else 'name« or "?"¦»')


def pivot(rng: random.Random) -> Task:
    """Records turned into a table."""
    combine, word = rng.choice([("sum", "the sum"), ("max", "the greatest"), ("len", "the number"), ("min", "the smallest")])
    fill = rng.choice([0, -1])
    text = f"""`records` is a list of dicts {{"row": string, "column": string, "value": integer}}; "value" may be missing or None,
    then the record is ignored completely.
    Return a list of lists, a table: the first line is ["", then all columns in alphabetical order]; then one line per row, rows in
    order of first appearance:
    [row, then for each column {word} of the values of that row and column, or {fill} where there are none]. Without usable records
    return [[""]]."""
    source = """
def $name(records):
    cells = {}
    rows, columns = [], set()
    for record in records:
        if record.get("value") «is None¦in (None, 0)»:
            continue
        row, column = record["row"], record["column"]
        if row not in rows:
            rows.append(row)
        columns.add(column)
        cells.setdefault((row, column), []).append(record["value"])
    columns = sorted(columns)
    table = [[""] + columns]
    for row in «rows¦sorted(rows)»:
        table.append([row] + [$combine(cells[row, c]) if (row, c) in cells else «$fill¦None» for c in columns])
    return table
"""

    def records(n: int) -> list[dict[str, object]]:
        rows, columns = rng.sample(PEOPLE, 3), rng.sample(CITIES, 3)
        made: list[dict[str, object]] = []
        for _ in range(n):
            record: dict[str, object] = {"row": rng.choice(rows), "column": rng.choice(columns), "value": rng.randint(0, 9)}
            if rng.random() < 0.15:
                record["value"] = None
            elif rng.random() < 0.1:
                del record["value"]
            made.append(record)
        return made
    cases = [records(rng.randint(6, 11)) for _ in range(12)]
    zero = [{"row": r, "column": c, "value": v} for r, c, v in (("Otto", "Holm", 0), ("Ada", "Brill", 3), ("Otto", "Arden", 4),
                                                                ("Zoe", "Holm", 0))]
    cases += [[], [{"row": "a", "column": "b"}], [{"row": "a", "column": "b", "value": None}], zero, zero + zero, zero[::-1]]
    return task(rng.choice(["pivot", "cross_table", "tabulate"]), "records", text, source, [[c] for c in cases], combine=combine, fill=fill)


def fixed_columns(rng: random.Random) -> Task:
    """Lines with fixed columns, some cut short."""
    widths = [rng.randint(6, 9), rng.randint(4, 6), rng.randint(5, 7)]
    names = rng.choice([["name", "age", "score"], ["part", "bin", "stock"], ["station", "level", "flow"]])
    comment = rng.choice("#*%")
    a, b, c = widths[0], widths[0] + widths[1], sum(widths)
    text = f"""`text` holds lines with fixed columns: characters 1–{a} are {names[0]} (text), {a + 1}–{b} are {names[1]} (integer),
    {b + 1}–{c} are {names[2]} (decimal number, may be
    blank). Lines may be shorter (the missing part is blank) or longer (the rest is ignored). Lines that are blank or begin with
    {comment} are skipped, and so are
    lines whose {names[1]} is blank. Return a list of dicts
    {{"{names[0]}": text without surrounding spaces, "{names[1]}": integer, "{names[2]}": number or None}} in the order of the text."""
    source = """
def $name(text):
    found = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("$comment"):
            continue
        middle = line[«$a:$b¦$a:$b - 1»].strip()
        if not middle:
            «continue¦middle = "0"»
        last = line[$b:«$c¦»].strip()
        found.append({"$n0": line[:$a].strip(), "$n1": int(middle), "$n2": float(last) if last else «None¦0.0»})
    return found
"""

    def line() -> str:
        name, number, value = rng.choice(WORDS)[:a], str(rng.randint(-99, 9999))[:widths[1]], rng.choice(["",
                f"{rng.randint(0, 99)}.{rng.randint(0, 9)}"])
        if rng.random() < 0.15:
            number = ""
        text = name.ljust(a) + number.rjust(widths[1]) + value.rjust(widths[2])
        return rng.choice([text, text.rstrip(), text + rng.choice(["", "  7 extra"])])

    def lines(n: int) -> str:
        return "\n".join(rng.choice([line(), line(), line(), line(), line(), comment + " remark", "", "   "]) for _ in range(n)) + "\n"
    whole = "opal".ljust(a) + "7".rjust(widths[1]) + "1.5".rjust(widths[2])
    cases = [lines(rng.randint(5, 8)) for _ in range(12)]
    cases += ["", "\n\n", f"{comment} only\n", whole + "999\n", whole[:b] + "\n", whole[:a] + "\n", "x".ljust(a) + "1" * widths[1] + "\n"]
    return task(rng.choice(["read_columns", "parse_lines", "load_fixed"]), "text", text, source, [[t] for t in cases], a=a, b=b, c=c,
                n0=names[0], n1=names[1],
                n2=names[2], comment=comment)


def stock_value(rng: random.Random) -> Task:
    """Stock by purchase lots, first or last in first out."""
    method = rng.choice(["fifo", "lifo"])
    short = rng.choice(["stop", "skip"])
    text = f"""`moves` is a list of [kind, units, price]: "in" adds units bought at that price each, "out" takes units from stock (its
    price is 0 and means nothing). Units taken come from
    the {'oldest' if method == 'fifo' else 'newest'} purchases first. An "out" of more units than there are is
    {'carried out as far as stock goes' if short == 'stop' else 'ignored completely'}.
    Return [units in stock at the end, their total value at purchase prices, the total value at purchase prices of all units taken]."""
    source = """
def $name(moves):
    lots = []
    taken = 0
    for kind, units, price in moves:
        if kind == "in":
            lots.append([units, price])
            continue
        have = sum(n for n, _ in lots)
        $short
        while units:
            lot = lots[$end]
            part = min(units, lot[0])
            taken += part * «lot[1]¦lots[$other][1]»
            lot[0] -= part
            units -= part
            if not lot[0]:
                lots.pop($end)
    return [sum(n for n, _ in lots), sum(n * p for n, p in lots), taken]
"""
    body = {"stop": "units = «min(units, have)¦0 if units > have else units»",
            "skip": "if units > have:\n            «continue¦units = have»"}[short]

    def moves(n: int) -> list[list[object]]:
        return [["in", rng.randint(1, 9), rng.randint(1, 9)] if rng.random() < 0.6 else ["out", rng.randint(1, 9), 0] for _ in range(n)]
    cases: list[list[list[object]]] = [moves(rng.randint(5, 10)) for _ in range(13)]
    cases += [[], [["in", 5, 2]], [["out", 3, 0]], [["in", 5, 2], ["out", 5, 0]], [["in", 5, 2], ["in", 5, 3], ["out", 7, 0]],
              [["in", 2, 4], ["out", 3, 0], ["in", 4, 1], ["out", 1, 0]]]
    return task(rng.choice(["stock_value", "inventory", "close_books"]), "moves", text, source.replace("$short", body),
                [[c] for c in cases],
                end="0" if method == "fifo" else "-1", other="-1" if method == "fifo" else "0")


def latest_records(rng: random.Random) -> Task:
    """One entry per person after cleaning the keys."""
    keep = rng.choice(["latest", "earliest"])
    digits = rng.choice([6, 7])
    text = f"""`contacts` is a list of [email, phone, date] (date as YYYY-MM-DD). Two entries are the same person if their emails are
    equal after removing surrounding spaces, lower-casing, and dropping
    everything from a '+' up to the '@' (so that "A+x@b.org" is "a@b.org"). Of each person keep the entry with the {keep} date (of
    equal dates, the one
    that comes {'last' if keep == 'latest' else 'first'} in the list). Return, ordered by cleaned email, a list of [cleaned email,
    phone]; of the phone keep digits only, or give None if it has fewer than {digits}."""
    source = """
def $name(contacts):
    best = {}
    for email, phone, date in contacts:
        user, _, host = email.strip()«.lower()¦».partition("@")
        key = «user.partition("+")[0]¦user.replace("+", "")» + "@" + host
        if key not in best or date «$right¦$wrong» best[key][0]:
            best[key] = (date, phone)
    found = []
    for key in «sorted(best)¦best»:
        number = "".join(c for c in best[key][1] if c.isdigit())
        found.append([key, number if len(number) «>=¦>» $digits else None])
    return found
"""

    def contact() -> list[str]:
        user, host = rng.choice(["ada", "bo", "cy"]), rng.choice(["x.org", "y.net"])
        user = rng.choice([user, user.title(), user + "+" + rng.choice(WORDS), user.upper()])
        phone = rng.choice(["", " ", "-"]).join(str(rng.randint(0, 9)) for _ in range(rng.randint(digits - 1, digits + 2)))
        return [rng.choice(["", " "]) + user + "@" + host, phone, f"2025-{rng.randint(1, 3):02}-{rng.randint(1, 3):02}"]
    cases = [[contact() for _ in range(rng.randint(5, 9))] for _ in range(14)]
    one = ["ada@x.org", "1" * digits, "2025-01-01"]
    cases += [[], [one], [one, ["ADA@x.org", "2" * digits, "2025-01-01"]], [["bo+a+b@y.net", "12", "2025-01-01"], one],
              [["z@x.org", "+" + "3" * (digits - 1), "2025-01-01"]]]
    return task(rng.choice(["clean_contacts", "dedupe", "merge_people"]), "contacts", text, source, [[c] for c in cases],
                right=">=" if keep == "latest" else "<",
                wrong=">" if keep == "latest" else "<=", digits=digits)


def resample(rng: random.Random) -> Task:
    """Measurements put into time slots."""
    step = rng.choice([5, 10, 15])
    fill, code = rng.choice([("the result of the nearest earlier slot that has points (None if there is none)", "last"), ("None", "None")])
    agg, agg_code = rng.choice([("the last value in it", "part[-1]"), ("the greatest value in it", "max(part)"),
                                ("the sum of its values", "sum(part)"),
                                ("the mean of its values", "sum(part) / len(part)")])
    text = f"""`points` is a list of [time "HH:MM", integer], sorted by time. Cut the time from `start` (included) to `end`
    (excluded), both "HH:MM", into slots of {step} minutes that
    begin at `start`; the last one may be shorter. Return a list of [beginning of the slot as "HH:MM", result], where the result is
    {agg}, or for a slot
    without points {fill}. Points outside start … end are ignored."""
    source = """
def $name(points, start, end):
    def minutes(clock):
        hours, rest = clock.split(":")
        return int(hours) * 60 + int(rest)

    found = []
    last = None
    for at in range(minutes(start), minutes(end)«¦ - $step», $step):
        stop = «min(at + $step, minutes(end))¦at + $step»
        part = [v for t, v in points if at «<=¦<» minutes(t) «<¦<=» stop]
        if part:
            last = $agg
        found.append([f"{at // 60:02}:{at % 60:02}", last if part else $fill])
    return found
"""
    def points(n: int) -> list[list[object]]:
        times = sorted(ints_between(rng, n))
        return [[f"{t // 60:02}:{t % 60:02}", rng.randint(0, 20)] for t in times]
    cases: list[list[object]] = [[points(rng.randint(4, 9)), "08:00", f"09:{rng.randint(0, 59):02}"] for _ in range(12)]
    cases += [[[], "08:00", "08:30"], [[["08:00", 3]], "08:00", "08:00"], [[["08:30", 4], ["08:45", 6]], "08:30", "08:45"],
              [[["08:31", 4], ["08:44", 6]], "08:30", "08:40"],
              [[["07:59", 4], ["08:00", 1], ["09:00", 9]], "08:00", "09:00"],
              [[["08:05", 1], ["08:05", 8], ["08:10", 2], ["08:15", 5]], "08:00", "08:20"]]
    return task(rng.choice(["resample", "slots", "bucket"]), "points, start, end", text, source, cases, step=step, agg=agg_code, fill=code)


def ints_between(rng: random.Random, n: int) -> list[int]:
    """n minutes of the day between 07:50 and 10:00, often on a multiple of five."""
    return [rng.choice([rng.randint(470, 600), 5 * rng.randint(94, 120)]) for _ in range(n)]


TEMPLATES = (
    Template("group_totals", 1, group_totals), Template("join_tables", 1, join_tables), Template("pivot", 2, pivot),
    Template("fixed_columns", 1, fixed_columns),
    Template("stock_value", 3, stock_value), Template("latest_records", 2, latest_records), Template("resample", 3, resample),
)
