"""What a question is: an `Item` made from a seed, and the `Verdict` a rule gives on its answers.

No item is stored anywhere. A kind of question is a generator: `generate(seed, level)` gives the same item forever, so no
bank can leak into training data, a run repeats exactly, and a disputed verdict can be made again from two integers.
Everything the judge needs, the reference answer included, lies in `payload`, which is plain JSON: a stored run can be judged
again without the generator. No model ever judges a model.

An item may have several user turns (`followups`): the runner sends `messages`, appends the model's answer and the next
follow-up, and so on; the judge then gets one answer per turn.

A kind is a value of `Kind`, and a module lists its own as `KINDS`. To add one: write the three functions, put it into that list,
and say in tests/eval/mistakes.py which ten answers it must not reward; the laws of tests/eval/test_kinds.py do the rest.
"""
from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

DIMENSIONS = ("execution", "grounding", "integrity", "judgment", "communication", "constraints", "long_context")


@dataclass(frozen=True)
class Item:
    """One question, complete: what is sent, and what the rule needs to judge the answers.

    id: unique over kinds, levels and seeds.  dimension: one of DIMENSIONS.  kind: the generator's name.
    level: difficulty, as the kind counts it.  seed: with kind and level, all that `generate` needs.
    messages: what is sent first, in the chat form {"role", "content"}; the last one is the user's.
    payload: plain JSON for the judge, the reference answer included.  max_tokens: room for each answer.
    followups: further user turns, sent one after another once the turn before is answered.
    """

    id: str
    dimension: str
    kind: str
    level: int
    seed: int
    messages: tuple[dict[str, str], ...]
    payload: dict[str, Any]
    max_tokens: int
    followups: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        assert self.dimension in DIMENSIONS, self.dimension
        assert self.messages and self.messages[-1]["role"] == "user", "an item ends in a question"

    @property
    def turns(self) -> int:
        """How many answers the judge gets."""
        return 1 + len(self.followups)

    def fingerprint(self) -> str:
        """SHA-256 (hex) of everything that reaches the model; two distinct items differ here, whatever their ids."""
        text = json.dumps([self.messages, self.followups, self.max_tokens], ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; `from_dict` gives an equal item back."""
        return {"id": self.id, "dimension": self.dimension, "kind": self.kind, "level": self.level, "seed": self.seed,
                "messages": [dict(m) for m in self.messages], "payload": self.payload, "max_tokens": self.max_tokens,
                "followups": list(self.followups)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Item:
        """The item that `to_dict` wrote. Raises TypeError on a missing or unknown key (our own store wrote it)."""
        return cls(**{**data, "messages": tuple(data["messages"]), "followups": tuple(data["followups"])})


@dataclass(frozen=True)
class Verdict:
    """A rule's finding. score: 0..1, what the dimension averages.  passed: met in full.  detail: one line, why."""

    score: float
    passed: bool
    detail: str

    def __post_init__(self) -> None:
        assert 0.0 <= self.score <= 1.0, self.score


@dataclass(frozen=True)
class Kind:
    """A kind of question.

    generate(seed, level) -> Item: pure; equal arguments give equal items on every machine and Python version.
    judge(item, answers, *, sandbox=None) -> Verdict: one answer per turn; never raises on what a model may write. `sandbox` runs
        untrusted code (fathom.sandbox); only kinds with `needs_sandbox` look at it.
    reference(item) -> one answer per turn that scores 1.0.
    levels: the difficulties that exist, easiest first.
    """

    name: str
    dimension: str
    levels: tuple[int, ...]
    generate: Callable[[int, int], Item]
    judge: Callable[..., Verdict]
    reference: Callable[[Item], tuple[str, ...]]
    needs_sandbox: bool = False


def item_rng(kind: str, level: int, seed: int) -> random.Random:
    """The one source of randomness of an item: seeded from text by SHA-512 (Random's str seeding), so equal on every machine."""
    return random.Random(f"{kind}/{level}/{seed}")


def item_id(kind: str, level: int, seed: int) -> str:
    """For example `needle-L3-17`."""
    return f"{kind}-L{level}-{seed}"


def as_answers(item: Item, answers: str | Sequence[str]) -> tuple[str, ...]:
    """One answer per turn, whatever came: a lone string becomes the first, missing ones are empty, reasoning in think tags is cut off."""
    given = (answers,) if isinstance(answers, str) else tuple(answers)
    cut = tuple(visible(text) for text in given[:item.turns])
    return cut + ("",) * (item.turns - len(cut))


def visible(text: str) -> str:
    """The answer without a leading reasoning part (some endpoints send `<think>…</think>` inside the content)."""
    head, mark, tail = text.partition("</think>")
    if mark:
        return tail.strip()
    return "" if head.lstrip().startswith("<think>") else text.strip()  # never closed: there is no answer
