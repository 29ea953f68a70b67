"""Models that answer by rule: each knows the item behind a question, because the tests hand it the items' references.

The kinds below are tiny stand-ins with the real dimensions, so that a score can be worked out by hand: 20 items per core dimension
are 20 coin-sized questions, and no sandbox is needed.
"""
from __future__ import annotations

from fathom.eval.items import Item, Kind, Verdict, as_answers, item_id


def tiny_kind(name: str, dimension: str) -> Kind:
    """Asks `kind level seed?`; right is the seed, twice."""

    def generate(seed: int, level: int) -> Item:
        text = f"{name} {level} {seed}?"
        messages = ({"role": "user", "content": text},)
        return Item(item_id(name, level, seed), dimension, name, level, seed, messages, {"answer": str(2 * seed)}, 16)

    def judge(item, answers, *, sandbox=None):
        right = as_answers(item, answers)[0] == item.payload["answer"]
        return Verdict(float(right), right, "right" if right else "wrong")

    return Kind(name, dimension, (1, 2), generate, judge, lambda item: (item.payload["answer"],))


class Scripted:
    """A chat function that looks the question up in {item: answers}; `answer(item, turn, nth)` decides what is said.

    nth counts how often this very turn of this item was asked before.
    """

    def __init__(self, items, answer):
        self.by_text = {item.messages[-1]["content"]: item for item in items}
        self.answer, self.calls = answer, {}

    def __call__(self, messages, *, max_tokens, temperature=0.0):
        item = self.by_text[messages[0]["content"] if messages[0]["role"] == "user" else messages[1]["content"]]
        turn = sum(m["role"] == "assistant" for m in messages)
        nth = self.calls.get((item.id, turn), 0)
        self.calls[item.id, turn] = nth + 1
        return self.answer(item, turn, nth)
