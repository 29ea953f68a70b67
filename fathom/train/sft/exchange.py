"""One question with its right answer, and on which side of the split it belongs.

Exchanges are made by code from a seed, so there is no bank of them that could leak, and as many as a run wants. An answer comes with
what the model should think before it and, where it needs a tool, with the call, its result and what to think after that.

The split goes by the question, not by the seed: a question is held out when the hash of its words is in the lowest share. So a held-out
question can't also be trained on, whatever the seeds, the kinds, the case or the punctuation. A few greetings that everybody uses are
`common`: always trained on, never measured.
"""
from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Tool = Mapping[str, Any]  # an entry of `tools` in OpenAI form


@dataclass(frozen=True)
class Call:
    """A tool call: the function's name and its arguments."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Exchange:
    """A question and all that the assistant says to it.

    Attributes:
        question: the user's text.  answer: the assistant's final content.
        reasoning: what it thinks before it answers, or calls.
        call: the call that it makes first, None when it needs none.  result: what the tool then says.  after: what it thinks then.
        common: always trained on.
    """

    kind: str
    question: str
    answer: str
    reasoning: str
    call: Call | None = None
    result: str = ""
    after: str = ""
    common: bool = False


@dataclass(frozen=True)
class Kind:
    """A kind of question.

    make(rng) -> Exchange: a function of the generator's state alone.
    right(exchange, content) -> bool: whether an answer's content is right; never raises on what a model may write.
    tools: given when `make` makes calls.  toolless: only asked where no tool is at hand.
    weight: how often it is asked beside the others.
    """

    name: str
    make: Callable[[random.Random], Exchange]
    right: Callable[[Exchange, str], bool]
    tools: Callable[[random.Random], tuple[Tool, ...]] | None = None
    toolless: bool = False
    weight: float = 1.0


def words_of(text: str) -> str:
    """What decides whether two texts are the same: their letters, digits and signs of calculation, without case, blanks and punctuation."""
    return " ".join(re.findall(r"\w+|[-+*/=<>]", text.lower()))


def same_words(exchange: Exchange, content: str) -> bool:
    """Whether the content says what the exchange's answer says, but for case, blanks and punctuation."""
    return words_of(content) == words_of(exchange.answer)


def held_out(exchange: Exchange, share: float) -> bool:
    """Whether the exchange's question is kept for evaluation: its hash, as a number in [0, 1), is below `share`."""
    digest = hashlib.sha256(words_of(exchange.question).encode()).digest()
    return not exchange.common and int.from_bytes(digest[:8], "big") / 2**64 < share


def draw(kind: Kind, rng: random.Random, share: float, *, out: bool) -> Exchange:
    """An exchange of the held-out side (`out`) or of the training side: drawn until it is one."""
    while True:
        exchange = kind.make(rng)
        if held_out(exchange, share) == out:
            return exchange


def casual(rng: random.Random, text: str) -> str:
    """Mostly `text` as it is; now and then as people type: without the last sign, or all in small letters."""
    style = rng.random()
    if style < 0.1:
        return text.rstrip(".?! ")
    return text.lower() if style < 0.15 else text
