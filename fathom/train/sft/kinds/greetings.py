"""Hello, thanks and goodbye; and who is speaking. With a name, the answer repeats it."""
from __future__ import annotations

import random

from ..exchange import Exchange, Kind, casual, same_words
from .words import NAMES

HELLO = ("Hello", "Hi", "Hey", "Good morning", "Good evening", "Good day", "Hello there", "Hi there")
INTRODUCTION = ("I am {}", "I'm {}", "my name is {}", "this is {}", "{} here")
HELP = "How can I help you?"
THEN = {"": HELP, "How are you?": "I am fine, thank you.", "Who are you?": "I am Fathom, a small model.",
        "Can you help me?": "Yes, just ask.", "What can you do?": "I can count, sort and look things up."}
ALONE = {"Thank you": "You are welcome!", "Thanks": "You are welcome!", "Thanks a lot": "You are welcome!", "Bye": "Goodbye!", "Goodbye": "Goodbye!",
         "See you": "Goodbye!", "Good night": "Goodbye!"}


def make(rng: random.Random) -> Exchange:
    """A greeting with a name and perhaps a question (most), without a name, or a thanks or goodbye."""
    form, ask = rng.random(), rng.choice(list(THEN))
    if form < 0.1:
        said = rng.choice(list(ALONE))
        thought = "That is the end." if "bye" in ALONE[said] else "A thank you."
        return Exchange("greetings", casual(rng, said + rng.choice("!.")), ALONE[said], thought, common=True)
    if form < 0.3:
        hello = rng.choice(("", *HELLO)) if ask else rng.choice(HELLO)
        question = f"{hello}{rng.choice('!,.') if hello else ''} {ask}".strip()
        return Exchange("greetings", casual(rng, question), f"Hello! {THEN[ask]}", "A greeting.", common=True)
    name = rng.choice(NAMES)
    question = f"{rng.choice(HELLO)}, {rng.choice(INTRODUCTION).format(name)}. {ask}".strip()
    return Exchange("greetings", casual(rng, question), f"Hello {name}! {THEN[ask]}", f"A greeting by {name}.")


KIND = Kind("greetings", make, same_words)
