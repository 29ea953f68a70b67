"""Grounding: does the model answer from the document, and can it say where it read it?

Four kinds, all over an archive (archive.py) of 2K to 1M tokens: one fact among look-alikes (`lookup`), a chain of two or three
facts (`chain`), records that contradict each other (`conflict`), and a list or a sum over several passages (`gather`). The level is the
length and the seed says the depth, so that a run, whose seeds follow each other, spreads evenly over both.

The rule: the ANSWER line must hold the value, and the CITE line every passage that the answer rests on and none that has nothing
to do with it. An id that isn't in the document is an invented citation and makes the answer wrong, wherever it stands. So
neither a right guess nor citing everything earns anything: without the document the chance of a point is below 1 in 100 000.
"""
from __future__ import annotations

import re
from collections.abc import Sequence

from fathom.eval import answers as read
from fathom.eval.archive import DEPTHS, PREAMBLE, STATION_RELATIONS, Fact, Writer, harbour, station
from fathom.eval.items import Item, Kind, Verdict, as_answers, item_id, item_rng
from fathom.eval.prose import person

LENGTHS = tuple(2048 * 2**i for i in range(10))  # nominal tokens of levels 1..10: 2K … 1M
LEVELS = tuple(range(1, len(LENGTHS) + 1))
FORMAT = ("\n\nAnswer from these passages only. End with exactly two lines:\nANSWER: {shape}\n"
          "CITE: the ids, in square brackets, of every passage that your answer rests on, and of no other")
QUESTIONS = {
    "altitude": "How many metres above the sea does {s} lie?",
    "crew": "How many people are the crew of {s}?",
    "founded": "In which year was {s} founded?",
    "grant": "How many crowns a year is {s} granted?",
    "director": "Who directs {s}?",
    "port": "Through which harbour is {s} supplied?",
}
NUMERIC = ("altitude", "crew", "founded", "grant")
DEPTH_SHIFT = {"lookup": 0, "chain": 1, "conflict": 3, "gather": 4}  # so that the kinds of a run don't all take the same cells


def lookup(seed: int, level: int) -> Item:
    """One fact; stations with nearly the same name state the same attribute, and its own passages state others."""
    w = Writer(item_rng("lookup", level, seed))
    subject, relation = w.new(station), w.rng.choice(STATION_RELATIONS)
    fact = Fact(subject, relation, w.value(relation))
    needed = w.place(fact)
    others = [Fact(w.alike(subject), relation, w.value(relation, (fact.value,))) for _ in range(3)]
    decoys = w.scatter(*others)
    own = [r for r in STATION_RELATIONS if r != relation]
    w.scatter(*(Fact(subject, r, w.value(r)) for r in w.rng.sample(own, 2)))
    return _item("lookup", seed, level, w, QUESTIONS[relation].format(s=subject), fact.value, "number" if relation in NUMERIC else "name",
                 [p.id for p in needed], [], [(f.value, p.id) for f, p in zip(others, decoys)])


def chain(seed: int, level: int) -> Item:
    """Two or three facts, each naming the subject of the next; a look-alike station begins a chain of its own."""
    w = Writer(item_rng("chain", level, seed))
    three = w.rng.random() < 0.5
    first = w.new(station)
    links = _links(w, first, three)
    twin = w.alike(first)
    false = _links(w, twin, three)
    needed, decoys = w.place(*links), w.scatter(*false)
    text = f"Who is the harbour master of the harbour through which {first} is supplied?"
    if three:
        text = f"{first} is supplied through a harbour. Where was the harbour master of that harbour born?"
    return _item("chain", seed, level, w, text, links[-1].value, "name", [p.id for p in needed], [], [(false[-1].value, decoys[-1].id)])


def _links(w: Writer, first: str, three: bool) -> list[Fact]:
    port, master = w.new(harbour), w.new(person)
    links = [Fact(first, "port", port), Fact(port, "master", master)]
    return [*links, Fact(master, "born", w.value("born"))] if three else links


def conflict(seed: int, level: int) -> Item:
    """Three records of one fact with different dates and values; the latest holds. Citing the older ones too is no mistake."""
    w = Writer(item_rng("conflict", level, seed))
    subject, relation = w.new(station), w.rng.choice(("crew", "grant", "director", "port"))
    values: tuple[str, ...] = ()
    for _ in range(3):
        values += (w.value(relation, values),)
    years = sorted(w.rng.sample(range(1905, 1989), 3))
    dates = [f"{year}-{w.rng.randrange(1, 13):02d}-{w.rng.randrange(1, 29):02d}" for year in years]
    records = [w.passage(Fact(subject, relation, value), date) for value, date in zip(values, dates)]
    w.placed.append(records[-1])
    w.loose += records[:-1]
    w.scatter(*(Fact(w.alike(subject), relation, w.value(relation, values)) for _ in range(2)))
    return _item("conflict", seed, level, w, QUESTIONS[relation].format(s=subject), values[-1], "number" if relation in NUMERIC else "name",
                 [records[-1].id], [r.id for r in records[:-1]], [(v, r.id) for v, r in zip(values[:-1], records[:-1])])


def gather(seed: int, level: int) -> Item:
    """All stations of one harbour: their names, or the sum of their crews; a harbour with a look-alike name supplies others."""
    w = Writer(item_rng("gather", level, seed))
    port = w.new(harbour)
    twin = w.alike(port)
    w.closed |= {("port", port), ("port", twin)}
    stations = [w.new(station) for _ in range(w.rng.choice((3, 4)))]
    false = [w.new(station) for _ in range(2)]
    links = w.place(*(Fact(s, "port", port) for s in stations))
    decoys = w.scatter(*(Fact(s, "port", twin) for s in false))
    crews = [Fact(s, "crew", w.value("crew")) for s in (*stations, *false)]
    counts = w.scatter(*crews)
    if w.rng.random() < 0.5:
        text, value, shape = f"Which stations are supplied through {port}?", "; ".join(stations), "names"
        return _item("gather", seed, level, w, text, value, shape, [p.id for p in links], [], [("; ".join(false), p.id) for p in decoys])
    text = f"How many people are the crews of all stations that are supplied through {port}, together?"
    total = lambda facts: str(sum(int(f.value) for f in facts))
    needed = [p.id for p in (*links, *counts[:len(stations)])]
    mine, theirs = total(crews[:len(stations)]), total(crews[len(stations):])
    return _item("gather", seed, level, w, text, mine, "number", needed, [], [(theirs, decoys[0].id)])


SHAPES = {"number": "the number, in digits", "name": "the name, nothing else", "names": "the names, separated by semicolons"}


def _item(kind: str, seed: int, level: int, w: Writer, question: str, value: str, shape: str, required: Sequence[str],
          allowed: Sequence[str], decoys: Sequence[tuple[str, str]]) -> Item:
    depth = DEPTHS[(seed + DEPTH_SHIFT[kind]) % len(DEPTHS)]
    document = w.finish(LENGTHS[level - 1], depth)
    text = f"{PREAMBLE}{document}\n\nQuestion: {question}{FORMAT.format(shape=SHAPES[shape])}"
    payload = {"answer": value, "shape": shape, "required": list(required), "allowed": [*required, *allowed],
               "decoys": [list(d) for d in decoys], "question": question, "tokens": LENGTHS[level - 1], "depth": depth}
    return Item(item_id(kind, level, seed), "grounding", kind, level, seed, ({"role": "user", "content": text},), payload, 768)


def judge(item: Item, answers: str | Sequence[str], *, sandbox: object = None) -> Verdict:
    """Full score for the right value with the right citations, else zero; the detail says which of the two failed and how."""
    (text,) = as_answers(item, answers)
    want = item.payload
    given, cite = read.marked(text, "ANSWER"), read.marked(text, "CITE")
    if given is None:
        return Verdict(0.0, False, "no ANSWER line")
    if not matches(given, want["answer"], want["shape"]):
        older = any(matches(given, value, want["shape"]) for value, _ in want["decoys"])
        return Verdict(0.0, False, f"answered {given[:80]!r}, not {want['answer']!r}" + (" (a distractor)" if older else ""))
    cited = citations(cite)
    document = item.messages[-1]["content"]
    invented = sorted(c for c in cited | set(re.findall(r"\[([A-Z]{2}\d{4})", text)) if f"[{c} | " not in document)
    if invented:
        return Verdict(0.0, False, f"invented citation {invented[0][:40]!r}")
    if missing := sorted(set(want["required"]) - cited):
        return Verdict(0.0, False, f"right, but {missing[0]} isn't cited")
    if idle := sorted(cited - set(want["allowed"])):
        return Verdict(0.0, False, f"right, but {idle[0]} has nothing to do with it")
    return Verdict(1.0, True, "right, and cited")


def matches(given: str, value: str, shape: str) -> bool:
    """Whether the given text means the value: one number, one name, or the same set of names (a missing "Station" is forgiven)."""
    if shape == "number":
        return read.number(given) == float(value)
    bare = lambda name: read.plain(name).removesuffix(" station").removesuffix(" harbour")
    if shape == "name":
        return bare(given) == bare(value)
    got = [bare(n) for n in read.names(given)]
    return len(got) == len(set(got)) and set(got) == {bare(n) for n in value.split("; ")}


def citations(line: str | None) -> set[str]:
    """The ids of a CITE line: what stands in brackets, or else its words; dates that were copied along are left out."""
    text = line or ""
    chunks = re.findall(r"\[([^\]]*)(?:\]|$)", text) if "[" in text or "]" in text else [text]
    parts = (part.strip(read.DRESS + ".()[]").upper() for chunk in chunks for part in re.split(r"[,;|\s]+", chunk))
    return {p for p in parts if p and p != "AND" and not re.fullmatch(r"\d{4}-\d{2}-\d{2}", p)}


def reference(item: Item) -> tuple[str, ...]:
    """The answer with its citations, as the format asks."""
    return (f"ANSWER: {item.payload['answer']}\nCITE: " + ", ".join(f"[{i}]" for i in item.payload["required"]),)


KINDS = tuple(Kind(make.__name__, "grounding", LEVELS, make, judge, reference) for make in (lookup, chain, conflict, gather))
