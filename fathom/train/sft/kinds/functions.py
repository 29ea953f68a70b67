"""Small Python functions: a name, parameters and what to return.

An answer is right when its code block parses to the reference's syntax tree, so layout and comments don't count. A function that
computes the same in another way does count as wrong: nothing that a model wrote is run here, and the descriptions leave little choice.
"""
from __future__ import annotations

import ast
import random
import re
from collections.abc import Mapping
from types import MappingProxyType

from ..exchange import Exchange, Kind, same_words

FUNCTIONS = ("f", "get", "run", "compute", "apply", "find", "solve", "result", "calc", "make")
NUMBERS = ("x", "n", "a", "value", "number", "count")
LISTS = ("items", "values", "names", "data", "lines", "args")
WITH_NUMBER: Mapping[str, str] = MappingProxyType({"{} plus {}": "{} + {}", "{} minus {}": "{} - {}", "{} times {}": "{} * {}",
                                                   "{} divided by {}": "{} / {}"})
OF_TWO: Mapping[str, str] = MappingProxyType({"the sum of {} and {}": "{} + {}", "the product of {} and {}": "{} * {}",
                                              "the larger of {} and {}": "max({}, {})", "the smaller of {} and {}": "min({}, {})",
                                              "{} minus {}": "{} - {}"})
OF_LIST: Mapping[str, str] = MappingProxyType({"the largest of {}": "max({})", "the smallest of {}": "min({})", "the length of {}": "len({})",
                                               "the sum of {}": "sum({})", "the first of {}": "{}[0]", "the last of {}": "{}[-1]",
                                               "{} in order": "sorted({})"})
WORDINGS = ("Write a Python function {} that returns {}.", "Define a function {} that returns {}.", "In Python, write {} to return {}.")


def make(rng: random.Random) -> Exchange:
    """A function of a number and a constant, of two parameters, or of a list."""
    shape = rng.randrange(3)
    if shape == 0:
        parameters = [rng.choice(NUMBERS)]
        wanted, code = rng.choice(list(WITH_NUMBER.items()))
        places: list[object] = [*parameters, rng.randint(1, 20)]
    elif shape == 1:
        parameters = rng.sample(NUMBERS, 2)
        wanted, code = rng.choice(list(OF_TWO.items()))
        places = [*parameters]
    else:
        parameters = [rng.choice(LISTS)]
        wanted, code = rng.choice(list(OF_LIST.items()))
        places = [*parameters]
    head, body = f"{rng.choice(FUNCTIONS)}({', '.join(parameters)})", code.format(*places)
    question = rng.choice(WORDINGS).format(head, wanted.format(*places))
    return Exchange("functions", question, f"```python\ndef {head}:\n    return {body}\n```", f"return {body}")


def tree(text: str) -> str | None:
    """The syntax tree of the code block in `text` (of all of it, without one); None when that isn't Python."""
    block = re.search(r"```(?:python)?\n(.*?)```", text, re.DOTALL)
    try:
        return ast.dump(ast.parse(block[1] if block else text))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def right(exchange: Exchange, content: str) -> bool:
    """Whether the code is the reference's."""
    return same_words(exchange, content) or tree(content) == tree(exchange.answer)


KIND = Kind("functions", make, right, weight=1.5)
