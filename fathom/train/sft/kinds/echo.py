"""Say after me: words, names, numbers and made-up words, repeated as they stand.

The purest form of what most other kinds need in passing, copying out of the question, and its densest lesson: every token of the answer
but the first can be known only by looking back. Made-up words keep a model from learning the few real ones by heart instead.
"""
from __future__ import annotations

import random

from ..exchange import Exchange, Kind, same_words
from .words import CITIES, NAMES, WORDS

WORDINGS = ("Repeat after me: {}", "Say: {}", "Repeat this: {}", "Copy this: {}", "Write: {}")
CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"


def made_up(rng: random.Random) -> str:
    """A word of two or three syllables that nobody has heard of."""
    return "".join(rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in range(rng.randint(2, 3)))


def make(rng: random.Random) -> Exchange:
    """Three to ten things to say."""
    things = [rng.choice((rng.choice(WORDS), rng.choice(NAMES), rng.choice(CITIES), str(rng.randrange(100)), made_up(rng)))
              for _ in range(rng.randint(3, 10))]
    said = " ".join(things)
    return Exchange("echo", rng.choice(WORDINGS).format(said), f"Sure: {said}", "I say it again.")


KIND = Kind("echo", make, same_words)
