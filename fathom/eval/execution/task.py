"""A programming task as a value: what the function must do, how it is done right, and where it can be done wrong.

One source serves three kinds of question. It is Python text with marks `«right¦wrong»`: with every mark right it is the reference answer
and gives the expected results; with a mark wrong it is the broken function that a debugging or review question shows. Each mark is a
mistake that people make (a strict comparison, a start value, a forgotten last group), and none makes the program hang.

Cases are argument lists in plain JSON. The first ones are shown as examples; the others stay hidden, and hold the borders. Expected
results are computed here, by our own code, when the item is made; a model's code never runs here.
"""
from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from string import Template as Text
from typing import Any

MARK = re.compile(r"«([^«»¦]*)¦([^«»¦]*)»")
NUM_SHOWN = 2


@dataclass(frozen=True)
class Task:
    """One instance. entry: the function's name.  params: its parameter list.  text: what it must do, borders included.
    source: the function with its marks.  cases: argument lists, NUM_SHOWN of them to show first."""

    entry: str
    params: str
    text: str
    source: str
    cases: list[list[Any]]

    @property
    def num_marks(self) -> int:
        """How many mistakes the source knows."""
        return len(MARK.findall(self.source))

    def code(self, wrong: frozenset[int] = frozenset()) -> str:
        """The function's text, with the given marks (0, 1, …) wrong."""
        count = iter(range(self.num_marks))
        return MARK.sub(lambda m: m[2] if next(count) in wrong else m[1], self.source).strip("\n") + "\n"


@dataclass(frozen=True)
class Template:
    """A family of tasks. make(rng) -> Task: `rng` decides the parameters and cases.  level: the difficulty it belongs to."""

    name: str
    level: int
    make: Callable[[random.Random], Task]


def task(name: str, params: str, text: str, source: str, cases: list[list[Any]], **values: Any) -> Task:
    """A Task with `$placeholders` in text and source filled from `values` and name; in `text` line breaks become spaces."""
    values = {"name": name, "params": params, **{key: str(value) for key, value in values.items()}}
    return Task(name, params, " ".join(Text(text).substitute(values).split()), Text(source).substitute(values),
                json.loads(json.dumps(cases)))


def outcomes(code: str, entry: str, cases: list[list[Any]]) -> list[dict[str, Any]]:
    """What OUR code (never a model's) does on the cases: {"value": plain JSON} or {"error": the exception's name}, one per case."""
    namespace: dict[str, Any] = {"__name__": "task"}
    exec(compile(code, entry, "exec"), namespace)
    found = []
    for case in cases:
        try:
            found.append({"value": json.loads(json.dumps(namespace[entry](*json.loads(json.dumps(case)))))})
        except Exception as e:
            found.append({"error": type(e).__name__})
    return found


def call_text(entry: str, case: list[Any]) -> str:
    """The call as Python, for an example."""
    return f"{entry}({', '.join(map(repr, case))})"


def result_text(outcome: dict[str, Any]) -> str:
    """What came back, as Python, or what was raised."""
    return repr(outcome["value"]) if "value" in outcome else f"raises {outcome['error']}"


def same(expected: Any, got: Any) -> bool:
    """Whether two plain JSON values are the same answer: True is not 1, 2 is 2.0, floats agree to 1e-9 (relative and absolute)."""
    if isinstance(expected, bool) or isinstance(got, bool):
        return expected is got
    if isinstance(expected, int) and isinstance(got, int):
        return expected == got
    if isinstance(expected, (int, float)) and isinstance(got, (int, float)):
        try:
            return abs(expected - got) <= 1e-9 * max(1.0, abs(expected))
        except OverflowError:
            return False
    if isinstance(expected, list) and isinstance(got, list):
        return len(expected) == len(got) and all(map(same, expected, got))
    if isinstance(expected, dict) and isinstance(got, dict):
        return expected.keys() == got.keys() and all(same(value, got[key]) for key, value in expected.items())
    return type(expected) is type(got) and expected == got


def ints(rng: random.Random, n: int, low: int, high: int) -> list[int]:
    """n integers, bounds included."""
    return [rng.randint(low, high) for _ in range(n)]
