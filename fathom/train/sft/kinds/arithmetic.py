"""Sums, differences and products of small numbers, in one step or two.

The answer begins with the problem, so that the result stands right behind what it is the result of. In two steps the reasoning writes
both of them down. A problem that is held out in one wording may be trained on in another; the wordings are few, the table of small
numbers is what there is to learn.
"""
from __future__ import annotations

import random
import re

from ..exchange import Exchange, Kind, casual

WORDINGS = ("What is {}?", "How much is {}?", "Calculate {}.", "Compute {}.", "{} = ?", "Please work out {}.", "Tell me {}.", "What does {} make?")
SPOKEN = {"+": "plus", "-": "minus", "*": "times"}


def one_step(rng: random.Random) -> tuple[int, str, int, int]:
    """(a, sign, b, result) with operands below 10 (products: below 6) and a result of at least 0."""
    sign = rng.choice("++--*")
    a, b = rng.randrange(10), rng.randrange(10)
    if sign == "-":
        a, b = max(a, b), min(a, b)
    if sign == "*":
        a, b = rng.randrange(6), rng.randrange(6)
    return a, sign, b, {"+": a + b, "-": a - b, "*": a * b}[sign]


def make(rng: random.Random) -> Exchange:
    """A problem of one step, or of two whose first result is below 10 again."""
    a, sign, b, result = one_step(rng)
    problem, reasoning = f"{a} {sign} {b}", f"{a} {sign} {b} = {result}"
    if sign != "*" and result < 10 and rng.random() < 0.5:
        second, c = rng.choice("+-"), rng.randrange(10)
        if second == "-":
            c = min(c, result)
        final = result + c if second == "+" else result - c
        problem, reasoning = f"{problem} {second} {c}", f"{reasoning}, {result} {second} {c} = {final}"
        result = final
    asked = problem
    if rng.random() < 0.2:
        asked = " ".join(SPOKEN.get(part, part) for part in problem.split())
    return Exchange("arithmetic", casual(rng, rng.choice(WORDINGS).format(asked)), f"{problem} = {result}", reasoning)


def right(exchange: Exchange, content: str) -> bool:
    """Whether the last number in the content is the result."""
    numbers = re.findall(r"-?\d+", content)
    return bool(numbers) and numbers[-1] == exchange.answer.split()[-1]


KIND = Kind("arithmetic", make, right, weight=3.0)
