"""Short lists of different numbers: sort, reverse, largest, smallest, first, last, how many."""
from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from types import MappingProxyType

from ..exchange import Exchange, Kind, casual, same_words

Numbers = list[int]


def shown(numbers: Numbers) -> str:
    """As it stands in questions and answers."""
    return ", ".join(map(str, numbers))


# (wordings, answer): what is asked of a list and what is said to it
OPERATIONS: Mapping[str, tuple[tuple[str, ...], Callable[[Numbers], str]]] = MappingProxyType({
    "sort": (("Sort {}.", "Sort the numbers {}.", "Put {} in order."), lambda x: f"Sorted: {shown(sorted(x))}"),
    "reverse": (("Reverse {}.", "Reverse the list {}.", "Write {} backwards."), lambda x: f"Reversed: {shown(x[::-1])}"),
    "largest": (("What is the largest of {}?", "Which is the largest number: {}?"), lambda x: f"The largest is {max(x)}."),
    "smallest": (("What is the smallest of {}?", "Which is the smallest number: {}?"), lambda x: f"The smallest is {min(x)}."),
    "first": (("What is the first of {}?", "Which number comes first: {}?"), lambda x: f"The first is {x[0]}."),
    "last": (("What is the last of {}?", "Which number comes last: {}?"), lambda x: f"The last is {x[-1]}."),
    "count": (("How many numbers are these: {}?", "How long is the list {}?"), lambda x: f"There are {len(x)} numbers."),
})


def make(rng: random.Random) -> Exchange:
    """Three or four different digits and one thing to do with them."""
    numbers = rng.sample(range(10), rng.randint(3, 4))
    name = rng.choice(list(OPERATIONS))
    wordings, answer = OPERATIONS[name]
    reasoning = f"{name} of {shown(sorted(numbers) if name in ('sort', 'largest', 'smallest') else numbers)}"
    return Exchange("lists", casual(rng, rng.choice(wordings).format(shown(numbers))), answer(numbers), reasoning)


KIND = Kind("lists", make, same_words, weight=2.0)
