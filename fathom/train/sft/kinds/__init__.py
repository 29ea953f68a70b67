"""The kinds of questions, a file each. To add one: write its `KIND`, put it into the list below, and give the test's solver a rule for it.

What they have in common: short turns, reasoning of a line, small ranges of values, so that a model of a few million parameters can
learn them in minutes; answers that begin with a fixed word where the rest is copied; and enough different questions (thousands) that
the held-out ones measure a skill and not a memory of the sentence.
"""
from __future__ import annotations

from ..exchange import Kind
from . import arithmetic, echo, functions, greetings, lists, lookup, strings, toolless, weather

KINDS: dict[str, Kind] = {module.KIND.name: module.KIND
                          for module in (greetings, echo, arithmetic, strings, lists, lookup, functions, weather, toolless)}
