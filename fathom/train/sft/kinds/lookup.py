"""A few sentences about people, and a question whose answer stands in one of them."""
from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ..exchange import Exchange, Kind, casual, same_words
from .words import CITIES, NAMES, THINGS


@dataclass(frozen=True)
class Relation:
    """sentence: with {who} and {what}.  of_who, of_what: the questions that it answers.  values: what {what} may be."""

    sentence: str
    of_who: str
    of_what: str
    values: tuple[str, ...]


RELATIONS: Mapping[str, Relation] = MappingProxyType({
    "home": Relation("{who} lives in {what}.", "Where does {who} live?", "Who lives in {what}?", CITIES),
    "taste": Relation("{who} likes {what}.", "What does {who} like?", "Who likes {what}?", THINGS),
    "age": Relation("{who} is {what} years old.", "How old is {who}?", "Who is {what} years old?", tuple(map(str, range(2, 31)))),
})


def make(rng: random.Random) -> Exchange:
    """Two or three facts of one relation, in any order; one of them is asked for, by the person or by the thing."""
    relation = RELATIONS[rng.choice(list(RELATIONS))]
    count = rng.randint(2, 3)
    facts = list(zip(rng.sample(NAMES, count), rng.sample(relation.values, count)))
    who, what = rng.choice(facts)
    text = " ".join(relation.sentence.format(who=w, what=v) for w, v in facts)
    question = rng.choice((relation.of_who, relation.of_what)).format(who=who, what=what)
    answer = relation.sentence.format(who=who, what=what)
    return Exchange("lookup", f"{text}\n{casual(rng, question)}", answer, f"The text says: {answer}")


KIND = Kind("lookup", make, same_words, weight=2.0)
