"""Words as strings of letters: repeat, swap, spell, count, first and last letter.

What can be copied is copied as it stands in the question, behind a blank; spelling has to be learned word by word, since the model
sees words in pieces of several letters.
"""
from __future__ import annotations

import random

from ..exchange import Exchange, Kind, casual, same_words
from .words import WORDS

TIMES = {"two": 2, "three": 3, "four": 4}


def repeat(rng: random.Random) -> tuple[str, str, str]:
    """(question, reasoning, answer): a word several times."""
    word, times = rng.choice(WORDS), rng.choice(list(TIMES))
    asked = rng.choice(("Repeat the word {} {} times.", "Write the word {} {} times.", "Say {} {} times.")).format(word, times)
    return asked, f"{word}, {times} times", "Sure: " + " ".join([word] * TIMES[times])


def swap(rng: random.Random) -> tuple[str, str, str]:
    """Two words in the other order."""
    a, b = rng.sample(WORDS, 2)
    asked = rng.choice(("Swap the words {} and {}.", "Write {} and {} in the other order.")).format(a, b)
    return asked, f"first {b}, then {a}", f"Sure: {b} {a}"


def spell(rng: random.Random) -> tuple[str, str, str]:
    """A word letter by letter."""
    word = rng.choice(WORDS)
    asked = rng.choice(("Spell the word {}.", "How do you spell {}?", "Spell {} for me.", "Please spell the word {}.")).format(word)
    return asked, f"the letters of {word}", f"Sure: {' '.join(word)}"


def count(rng: random.Random) -> tuple[str, str, str]:
    """How many letters."""
    word = rng.choice(WORDS)
    asked = rng.choice(("How many letters does the word {} have?", "Count the letters of {}.", "How long is the word {}?",
                        "How many letters are in {}?")).format(word)
    return asked, f"{' '.join(word)} : {len(word)}", f"The word {word} has {len(word)} letters."


def end(rng: random.Random) -> tuple[str, str, str]:
    """The first or last letter."""
    word, place = rng.choice(WORDS), rng.choice(("first", "last"))
    asked = rng.choice(("What is the {} letter of {}?", "Tell me the {} letter of the word {}.", "Which letter is the {} one in {}?"))
    return asked.format(place, word), " ".join(word), f"The {place} letter of {word} is {word[0 if place == 'first' else -1]}."


def make(rng: random.Random) -> Exchange:
    """One of the above."""
    question, reasoning, answer = rng.choice((repeat, swap, spell, count, end))(rng)
    return Exchange("strings", casual(rng, question), answer, reasoning)


KIND = Kind("strings", make, same_words, weight=2.0)
