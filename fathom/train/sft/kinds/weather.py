"""The weather in a city, today or in some days: what only a tool can know.

The tool is the `get_weather` of so many manuals. Its place is a string and its days a number, so both forms of a DSML parameter occur.
The result is a JSON object; the answer says in words what it says.
"""
from __future__ import annotations

import json
import random
from collections.abc import Mapping
from types import MappingProxyType

from ..exchange import Call, Exchange, Kind, Tool, casual, same_words
from .words import CITIES

NAME = "get_weather"
SKIES = ("sunny", "cloudy", "rainy", "windy", "foggy", "clear")
ASKED = ("What is the weather in {}{}?", "How is the weather in {}{}?", "What is the weather like in {}{}?", "Tell me the weather in {}{}.",
         "I want to know the weather in {}{}.", "Please check the weather in {}{}.")
WHEN: Mapping[str, int | None] = MappingProxyType({"": None, " today": None, " tomorrow": 1, **{f" in {n} days": n for n in range(2, 10)}})
DESCRIPTIONS = ("Get the weather in a city.", "Get weather of a location.", "The weather in a place, now or in some days.", "Weather report.")
OF_LOCATION, OF_DAYS = ("The city", "Name of the city", "A city"), ("Days from now", "In how many days; now if not given", "Number of days ahead")


def question(rng: random.Random) -> tuple[str, str, int | None]:
    """(what is asked, city, days or None)."""
    city = rng.choice(CITIES)
    when = rng.choice(list(WHEN)) if rng.random() < 0.6 else ""
    return casual(rng, rng.choice(ASKED).format(city, when)), city, WHEN[when]


def make(rng: random.Random) -> Exchange:
    """A question, the call that it needs, what the tool might say, and the answer."""
    asked, city, days = question(rng)
    sky, degrees = rng.choice(SKIES), rng.randrange(31)
    thought = f"I need the weather in {city}{'' if days is None else f', days {days}'}."
    return Exchange("weather", asked, f"It {'is' if days is None else 'will be'} {sky} in {city}, {degrees} degrees.", thought,
                    Call(NAME, {"location": city} if days is None else {"location": city, "days": days}),
                    json.dumps({"sky": sky, "degrees": degrees}), f"It says {sky} and {degrees}.")


def tools(rng: random.Random) -> tuple[Tool, ...]:
    """The tool, described in one of some ways."""
    parameters = {"type": "object", "properties": {"location": {"type": "string", "description": rng.choice(OF_LOCATION)},
                                                   "days": {"type": "integer", "description": rng.choice(OF_DAYS)}}, "required": ["location"]}
    return ({"type": "function", "function": {"name": NAME, "description": rng.choice(DESCRIPTIONS), "parameters": parameters}},)


KIND = Kind("weather", make, same_words, tools=tools)
