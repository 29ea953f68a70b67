"""A question about a small database, answered by one SQLite query; judged on the database described and on a second one nobody saw.

One shape of data wears several costumes (a shop, a library, a clinic, a workshop): people in towns, dated events of a person with a
status, the lines of an event, and the goods the lines are about. Every question fixes the order of its rows completely, money is whole
cents and ratios are whole numbers, so that rows can be compared exactly. A query that ignores a condition, a tie or a missing row must
show: databases are drawn until each of the reference query's marked mistakes changes the result on one of the two.
"""
from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from string import Template as Text
from typing import Any

from fathom.eval.execution.code import sql_query
from fathom.eval.execution.functions import LEVELS, LIMITS, MAX_TOKENS, parsed, shortened
from fathom.eval.execution.questions import QUESTIONS
from fathom.eval.execution.tables import CITIES, PEOPLE
from fathom.eval.execution.task import MARK, same
from fathom.eval.items import Item, Kind, Verdict, as_answers, item_id, item_rng
from fathom.sandbox import Sandbox

Database = dict[str, list[list[Any]]]  # table -> rows
MAX_ROWS = 500
TRIES = 40


@dataclass(frozen=True)
class Costume:
    """Names for the one shape. p, e, l, g: the tables of people, events, lines and goods; `each_` the word for one of them."""

    p: str
    e: str
    l: str
    g: str
    each_p: str
    each_e: str
    statuses: tuple[str, ...]
    categories: tuple[str, ...]
    goods: tuple[str, ...]


COSTUMES = (
    Costume("customers", "orders", "order_lines", "products", "customer", "order", ("paid", "open", "cancelled"),
            ("tools", "paint", "timber"),
            ("hammer", "saw", "chisel", "varnish", "primer", "oak board", "pine board", "sander")),
    Costume("members", "loans", "loan_lines", "titles", "member", "loan", ("returned", "out", "lost"), ("maps", "novels", "plays"),
            ("Atlas", "Harbour Chart", "The Long Weir", "Red Sedge", "Salt", "The Two Kilns", "A Winter Play", "Masks")),
    Costume("patients", "visits", "visit_items", "services", "patient", "visit", ("done", "booked", "missed"), ("tests", "care", "advice"),
            ("blood test", "x-ray", "dressing", "massage", "diet plan", "vaccine", "hearing test", "check-up")),
    Costume("clients", "jobs", "job_parts", "parts", "client", "job", ("finished", "running", "refused"), ("engine", "brakes", "body"),
            ("filter", "spark plug", "disc", "pad", "mirror", "bumper", "belt", "hose")),
)


def schema(c: Costume) -> str:
    """The four tables as SQL."""
    return f"""CREATE TABLE {c.p} (id INTEGER PRIMARY KEY, name TEXT UNIQUE, city TEXT);
CREATE TABLE {c.e} (id INTEGER PRIMARY KEY, person INTEGER REFERENCES {c.p}, day TEXT, status TEXT);
CREATE TABLE {c.g} (id INTEGER PRIMARY KEY, name TEXT UNIQUE, category TEXT);
CREATE TABLE {c.l} (event INTEGER REFERENCES {c.e}, good INTEGER REFERENCES {c.g}, quantity INTEGER, cents INTEGER);
"""


def database(rng: random.Random, c: Costume) -> Database:
    """Random rows. Some people have no events, some events no lines, some goods no lines; totals tie now and then."""
    people = [[i, name, rng.choice(CITIES[:4])] for i, name in enumerate(rng.sample(PEOPLE, 9), 1)]
    goods = [[i, name, rng.choice(c.categories)] for i, name in enumerate(c.goods, 1)]
    events, lines = [], []
    for i in range(1, rng.randint(22, 28)):
        day = f"2025-{rng.randint(1, 4):02}-{rng.choice([1, 1, 5, 9, 14, 14, 20, 27]):02}"
        events.append([i, rng.choice(people[:7])[0], day, rng.choice(c.statuses)])
        for good in rng.sample(goods[:7], rng.choice([0, 1, 1, 2, 2, 3])):
            lines.append([i, good[0], rng.randint(1, 4), rng.choice([100, 200, 250, 400, 1000])])
    return {c.p: people, c.e: events, c.g: goods, c.l: lines}


def answers_of(c: Costume, data: Database, queries: Sequence[str]) -> list[list[list[Any]]]:
    """The rows that OUR queries (never a model's) give, in this process."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(schema(c))
        for table, rows in data.items():
            connection.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)
        return [[list(row) for row in connection.execute(query)] for query in queries]


def variants(source: str) -> list[str]:
    """The right query, then one per mark with that mark wrong."""
    texts = []
    for wrong in range(-1, len(MARK.findall(source))):
        count = iter(range(1000))
        texts.append(MARK.sub(lambda m, wrong=wrong, count=count: m[2] if next(count) == wrong else m[1], source).strip())
    return texts


def generate(seed: int, level: int) -> Item:
    """One question about one costume."""
    rng = item_rng("sql", level, seed)
    c = rng.choice(COSTUMES)
    question = rng.choice([q for q in QUESTIONS if q.level == level])
    status, other = rng.sample(c.statuses, 2)
    words = {"p": c.p, "e": c.e, "l": c.l, "g": c.g, "each_p": c.each_p, "each_e": c.each_e, "status": status, "other": other,
             "city": rng.choice(CITIES[:4]), "k": str(rng.randint(2, 4)), "n": str(rng.randint(1, 2)),
             "month": f"2025-{rng.randint(1, 4):02}"}
    text = " ".join(Text(question.text).substitute(words).split())
    right, *wrong = variants(Text(question.query).substitute(words))
    best: tuple[int, tuple[Database, Database]] | None = None
    for _ in range(TRIES):
        pair = database(rng, c), database(rng, c)
        found = [answers_of(c, data, [right, *wrong]) for data in pair]
        expected = [rows[0] for rows in found]
        if not all(expected) or expected[0] == expected[1] or max(map(len, expected)) > MAX_ROWS:
            continue
        shows = sum(any(rows[i] != rows[0] for rows in found) for i in range(1, len(wrong) + 1))
        if best is None or shows > best[0]:
            best = shows, pair
        if shows == len(wrong):
            break
    assert best is not None and best[0] >= 1, f"{question.name}: no pair of databases tells right from wrong (seed {seed}, level {level})"
    pair = best[1]
    sample = "\n".join(f"{table}: {'; '.join(str(tuple(row)) for row in rows[:3])}; …" for table, rows in pair[0].items())
    prompt = f"""Given this SQLite database:

{schema(c)}
{c.e}.person is a {c.each_p}'s id; {c.l} holds what belongs to {'an' if c.each_e[0] in 'aeiou' else 'a'} {c.each_e}: {c.l}.event is its id,
{c.l}.good an id of {c.g}, quantity how many, cents the price of one in cents. Days are YYYY-MM-DD. Amounts are quantity times cents.
A few rows:

{sample}

{text}

Write one SQLite query (SELECT or WITH … SELECT) that gives this for any data of this form: the columns and their order as named, the rows
in the order named. Answer with one ```sql block that holds the query."""
    payload = {"schema": schema(c), "databases": list(pair), "expected": [answers_of(c, data, [right])[0] for data in pair], "reference": right,
               "question": question.name, "wrong": wrong}
    return Item(item_id("sql", level, seed), "execution", "sql", level, seed, ({"role": "user", "content": prompt},), payload, MAX_TOKENS)


def judge(item: Item, answers: str | Sequence[str], *, sandbox: Sandbox | None = None) -> Verdict:
    """Whether the query gives the expected rows, in order, on both databases."""
    assert sandbox is not None, "this kind needs a sandbox"
    query = sql_query(as_answers(item, answers)[0])
    if not query:
        return Verdict(0.0, False, "no query")
    order = {"schema": item.payload["schema"], "databases": item.payload["databases"], "query": query, "max_rows": MAX_ROWS + 1}
    harness = Path(__file__).with_name("sql_harness.py").read_text(encoding="utf-8")
    result = sandbox.run(harness, stdin=json.dumps(order), limits=LIMITS)
    lines = result.stdout.splitlines()
    for i, want in enumerate(item.payload["expected"]):
        got = parsed(lines[i]) if i < len(lines) else {}
        if "rows" not in got or not same(want, got["rows"]):
            why = f"gave {lines[i]}" if i < len(lines) else result.reason()
            return Verdict(0.0, False, f"on the {('described', 'hidden')[i]} database: {shortened(why)}, not {shortened(json.dumps(want))}")
    return Verdict(1.0, True, "right on both databases")


def reference(item: Item) -> tuple[str, ...]:
    """The right query in a block."""
    return (f"```sql\n{item.payload['reference']}\n```",)


KINDS = (Kind("sql", "execution", LEVELS, generate, judge, reference, needs_sandbox=True),)
