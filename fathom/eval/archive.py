"""The archive: long documents of dated passages about field stations, harbours and people that don't exist.

A document is a list of passages, each with an id, a date, one fact and some sentences of plain prose. What a question needs is
put at a chosen depth; around it stand distractors: the same attribute of a station with nearly the same name, other attributes
of the same station, and thousands of unrelated facts of the same form. No fact is stated twice unless a question wants it, and
then the dates say which record holds.
"""
from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from fathom.eval import prose

PREAMBLE = ("Below are passages from an archive. Each begins with its id and the date of the record, like [AB1234 | 1950-01-31]. "
            "Where two records disagree, the one with the later date holds.\n\n")
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Fact:
    """A statement about `subject`; (subject, relation) has one value in an archive, unless a question asks for a conflict."""

    subject: str
    relation: str
    value: str

    def sentence(self) -> str:
        """The fact as the archive words it."""
        return SENTENCES[self.relation].format(s=self.subject, v=self.value)


@dataclass(frozen=True)
class Passage:
    """One record: id (two letters, four digits), ISO date, text."""

    id: str
    date: str
    text: str

    def render(self) -> str:
        """As the document shows it."""
        return f"[{self.id} | {self.date}] {self.text}"


SENTENCES = {
    "altitude": "{s} lies {v} metres above the sea.",
    "crew": "{s} keeps a crew of {v}.",
    "founded": "{s} was founded in {v}.",
    "grant": "{s} is granted {v} crowns a year.",
    "director": "{s} is directed by {v}.",
    "port": "{s} is supplied through {v}.",
    "quay": "The quay of {s} is {v} metres long.",
    "master": "The harbour master of {s} is {v}.",
    "born": "{s} was born in {v}.",
    "trade": "{s} first learned the trade of a {v}.",
}
TRADES = """baker binder brewer carpenter chandler cooper dyer farrier fletcher glazier joiner mason miller printer roper saddler smith
tanner tiler turner weaver wheelwright""".split()
VALUES: dict[str, Callable[[random.Random], str]] = {
    "altitude": lambda r: str(r.randrange(40, 2900)),
    "crew": lambda r: str(r.randrange(6, 96)),
    "founded": lambda r: str(r.randrange(1840, 1900)),
    "grant": lambda r: str(r.randrange(1000, 99000)),
    "director": prose.person,
    "port": lambda r: f"{prose.place(r)} Harbour",
    "quay": lambda r: str(r.randrange(30, 900)),
    "master": prose.person,
    "born": prose.place,
    "trade": lambda r: r.choice(TRADES),
}
STATION_RELATIONS = ("altitude", "crew", "founded", "grant", "director", "port")


def station(rng: random.Random) -> str:
    """A station's name."""
    return f"{prose.place(rng)} Station"


def harbour(rng: random.Random) -> str:
    """A harbour's name."""
    return f"{prose.place(rng)} Harbour"


class Writer:
    """Collects the passages of one document; `finish` pads it to its length and puts the placed ones at their depths."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.ids: set[str] = set()
        self.stated: set[tuple[str, str]] = set()
        self.names: set[str] = set()
        self.closed: set[tuple[str, str]] = set()  # (relation, value) that no padding may state: it would be one more answer
        self.placed: list[Passage] = []
        self.loose: list[Passage] = []

    def new(self, make: Callable[[random.Random], str]) -> str:
        """A name not used before in this document."""
        return prose.distinct(self.rng, make, 1, self.names)[0]

    def alike(self, name: str) -> str:
        """A new name that shares its first word and its last with `name`."""
        first, last = name.split()[0], name.split()[-1]
        return self.new(lambda r: f"{first} {r.choice(prose.PLACE_B)} {last}")

    def value(self, relation: str, besides: tuple[str, ...] = ()) -> str:
        """A value for the relation other than those given."""
        while (value := VALUES[relation](self.rng)) in besides:
            pass
        return value

    def passage(self, fact: Fact, date: str = "") -> Passage:
        """A new passage that states the fact, once."""
        assert date or (fact.subject, fact.relation) not in self.stated, "a fact is stated once unless its records are dated"
        self.stated.add((fact.subject, fact.relation))
        sentences = [prose.filler(self.rng) for _ in range(self.rng.randrange(1, 4))]
        sentences.insert(self.rng.randrange(len(sentences) + 1), fact.sentence())
        return Passage(self._id(), date or self.date(), " ".join(sentences))

    def place(self, *facts: Fact) -> list[Passage]:
        """Passages that the question needs; they go to the chosen depth, each on its own."""
        made = [self.passage(fact) for fact in facts]
        self.placed += made
        return made

    def scatter(self, *facts: Fact) -> list[Passage]:
        """Passages that stand anywhere."""
        made = [self.passage(fact) for fact in facts]
        self.loose += made
        return made

    def date(self) -> str:
        """Any day from 1900 to 1989."""
        return f"{self.rng.randrange(1900, 1990)}-{self.rng.randrange(1, 13):02d}-{self.rng.randrange(1, 29):02d}"

    def finish(self, tokens: int, depth: float) -> str:
        """The document, `tokens` nominal tokens long, the first placed passage at `depth` of it (0 first, 1 last), the others anywhere."""
        room = prose.chars(tokens, prose.ARCHIVE_CHARS) - sum(len(p.render()) + 1 for p in (*self.placed, *self.loose))
        padding: list[Passage] = []
        while room > 0:
            padding.append(self._padding())
            room -= len(padding[-1].render()) + 1
        rest = [*self.loose, *padding, *self.placed[1:]]
        self.rng.shuffle(rest)
        rest.insert(round(depth * len(rest)), self.placed[0])
        return "\n".join(p.render() for p in rest)

    def _padding(self) -> Passage:
        rng = self.rng
        while True:
            roll = rng.random()
            if roll < 0.7:
                subject, relation = station(rng), rng.choice(STATION_RELATIONS)
            elif roll < 0.85:
                subject, relation = harbour(rng), rng.choice(("quay", "master"))
            else:
                subject, relation = prose.person(rng), rng.choice(("born", "trade"))
            value = VALUES[relation](rng)
            if (subject, relation) not in self.stated and subject not in self.names and (relation, value) not in self.closed:
                return self.passage(Fact(subject, relation, value))

    def _id(self) -> str:
        letters = "ABCDEFGHJKLMNPQRSTUVWXYZ"
        while (made := f"{self.rng.choice(letters)}{self.rng.choice(letters)}{self.rng.randrange(10000):04d}") in self.ids:
            pass
        self.ids.add(made)
        return made
