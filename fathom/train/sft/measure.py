"""How the finished model answers questions that it wasn't trained on: does it end its turn, call properly, say what is right?

The questions are held-out exchanges, each asked by itself, in thinking and in chat mode by turns. A kind that needs the tool is asked
twice: for the call, and, with the right call and its result already in the conversation, for the answer. The other kinds are also
asked with the tool at hand, where it must be left alone.

    ended    EOS came within max_tokens
    clean    byte for byte what the encoding writes for the message that the parser reads: reasoning closed, no stray or broken markup
    valid    (calls) ended and clean, and exactly one call: a tool that is there, arguments that its schema allows
    right    ended and clean, and the content, or the call with its arguments, is the right one

Answers are the likeliest ones (greedy), so a measurement repeats. All of them are written to answers.jsonl in the run folder.
"""
from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...config.recipe import ConversationsRecipe, Recipe
from ...text import Tokenizer, encode_messages, encode_parts, parse_completion
from ..durable import write_file
from ..phase import Answer, Tell
from ..run import RunFolder
from .conversation import Conversation, Message, messages_of
from .exchange import Exchange, Kind, Tool, draw
from .prepare import chosen_kinds

CALL, ANSWER, BESIDE = "{}: call", "{}: answer", "beside a tool"  # groups that aren't simply a kind


@dataclass(frozen=True)
class Question:
    """One thing to answer. group: what it is counted under.  messages: what is sent.  calls: a call is the right answer."""

    group: str
    kind: Kind
    exchange: Exchange
    messages: tuple[Message, ...]
    thinking: bool
    tools: tuple[Tool, ...] = ()
    calls: bool = False


@dataclass(frozen=True)
class Judged:
    """What became of one question; the words are those at the top of this file. text: the completion."""

    question: Question
    text: str
    ended: bool
    clean: bool
    valid: bool
    right: bool

    def line(self) -> dict[str, Any]:
        """For answers.jsonl."""
        asked = self.question
        expected = str(asked.exchange.call) if asked.calls else asked.exchange.answer
        return {"group": asked.group, "thinking": asked.thinking, "question": asked.exchange.question, "expected": expected, "completion": self.text,
                "ended": self.ended, "clean": self.clean, "valid": self.valid, "right": self.right}


def measure(run: RunFolder, recipe: Recipe, answer: Answer, progress: Tell) -> dict[str, Any]:
    """Ask the run's newest checkpoint; returns shares over all questions and by group, ready for results.json."""
    tokenizer = Tokenizer.load(run.path)
    asked = questions(recipe.conversations, recipe.seed)
    prompts = [tokenizer.encode_parts(encode_parts(q.messages, "thinking" if q.thinking else "chat")) for q in asked]
    judged = []
    for question, ids in zip(asked, answer(run.path, prompts, recipe.conversations.max_tokens), strict=True):
        judged.append(judge(question, tokenizer.decode(ids), ended=bool(ids) and ids[-1] == tokenizer.eos_id))
        progress("held-out questions", len(judged), len(asked))
    write_file(run.path / "answers.jsonl", "".join(json.dumps(one.line(), ensure_ascii=False) + "\n" for one in judged))
    return figures(judged)


def questions(recipe: ConversationsRecipe, seed: int) -> list[Question]:
    """The recipe's number of different held-out questions of each kind, and as many in each of the groups with a tool."""
    kinds = chosen_kinds(recipe)
    found: list[Question] = []
    for kind in kinds:
        for number, (exchange, rng) in enumerate(_different(kind, recipe, f"{seed}/measured/{kind.name}", recipe.measured)):
            found += _ask(kind, exchange, number % 2 == 0, kind.tools(rng) if kind.tools else ())
    others = [kind for kind in kinds if not kind.tools and not kind.toolless]
    for caller in (kind for kind in kinds if kind.tools and others):
        per_kind = -(-recipe.measured // len(others))
        pool = [(kind, *pair) for kind in others for pair in _different(kind, recipe, f"{seed}/beside/{caller.name}/{kind.name}", per_kind)]
        random.Random(seed).shuffle(pool)
        for number, (kind, exchange, rng) in enumerate(pool[:recipe.measured]):
            found += _ask(kind, exchange, number % 2 == 0, caller.tools(rng), BESIDE)
    return found


def _different(kind: Kind, recipe: ConversationsRecipe, seed: str, count: int) -> list[tuple[Exchange, random.Random]]:
    """`count` held-out exchanges with different questions (fewer where the kind has no more), and the generator after each."""
    found: dict[str, tuple[Exchange, random.Random]] = {}
    for number in range(50 * count):
        rng = random.Random(f"{seed}/{number}")
        exchange = draw(kind, rng, recipe.held_out, out=True)
        found.setdefault(exchange.question, (exchange, rng))
        if len(found) == count:
            break
    return list(found.values())


def _ask(kind: Kind, exchange: Exchange, thinking: bool, tools: tuple[Tool, ...], group: str = "") -> list[Question]:
    """The questions about one exchange: one, or one for its call and one for what follows."""
    opening = Conversation((), thinking, "", tools).opening()
    said = messages_of(exchange)
    if exchange.call is None:
        return [Question(group or kind.name, kind, exchange, (*opening, *said[:1]), thinking, tools)]
    return [Question(CALL.format(kind.name), kind, exchange, (*opening, *said[:1]), thinking, tools, calls=True),
            Question(ANSWER.format(kind.name), kind, exchange, (*opening, *said[:3]), thinking, tools)]


def judge(question: Question, text: str, *, ended: bool) -> Judged:
    """What a completion is worth."""
    mode = "thinking" if question.thinking else "chat"
    said = parse_completion(text, mode)
    calls = said["tool_calls"]
    again = encode_messages([*question.messages, {**said, "wo_eos": not ended}], mode)  # the parser forgives much that this doesn't
    clean = again == encode_messages(question.messages, mode) + text
    if question.calls:
        valid = ended and clean and len(calls) == 1 and allowed(calls[0]["function"], question.tools)
        right = valid and same_call(calls[0]["function"], question.exchange)
    else:
        valid = False
        right = ended and clean and not calls and question.kind.right(question.exchange, said["content"])
    return Judged(question, text, ended, clean, valid, right)


def allowed(function: dict[str, str], tools: Sequence[Tool]) -> bool:
    """Whether a call is one that the tools allow: its name, its required arguments there, none unknown, each of its type."""
    types: dict[str, type] = {"string": str, "integer": int}
    schema = next((tool["function"]["parameters"] for tool in tools if tool["function"]["name"] == function["name"]), None)
    if schema is None:
        return False
    arguments, properties = json.loads(function["arguments"]), schema["properties"]
    return set(schema["required"]) <= set(arguments) <= set(properties) and all(
        type(value) is types[properties[name]["type"]] for name, value in arguments.items())


def same_call(function: dict[str, str], exchange: Exchange) -> bool:
    """Whether a call is the exchange's, its texts compared without case: a question in small letters doesn't say how a city is written."""
    def plain(arguments: Any) -> dict[str, Any]:
        return {name: value.lower() if isinstance(value, str) else value for name, value in arguments.items()}

    return function["name"] == exchange.call.name and plain(json.loads(function["arguments"])) == plain(exchange.call.arguments)


def figures(judged: Sequence[Judged]) -> dict[str, Any]:
    """Shares of all questions, of those that need a call, and by group; a share over nothing is None."""
    def share(of: Sequence[Judged], what: str) -> float | None:
        return sum(getattr(one, what) for one in of) / len(of) if of else None

    groups = {}
    for name in dict.fromkeys(one.question.group for one in judged):
        of = [one for one in judged if one.question.group == name]
        groups[name] = {"questions": len(of), "ended": share(of, "ended"), "right": share(of, "right"),
                        "right_thinking": share([one for one in of if one.question.thinking], "right"),
                        "right_chat": share([one for one in of if not one.question.thinking], "right")}
    calls = [one for one in judged if one.question.calls]
    return {"questions": len(judged), "ended": share(judged, "ended"), "clean": share(judged, "clean"), "valid_calls": share(calls, "valid"),
            "right": share(judged, "right"), "groups": groups}
