"""The weather asked for where no tool is at hand: the model says so, and calls nothing."""
from __future__ import annotations

import random

from ..exchange import Exchange, Kind, same_words
from . import weather


def make(rng: random.Random) -> Exchange:
    """A question of the weather kind with the one answer to it."""
    asked, _, _ = weather.question(rng)
    return Exchange("toolless", asked, "I have no tool for the weather.", "There is no tool for the weather.")


KIND = Kind("toolless", make, same_words, toolless=True, weight=0.5)
