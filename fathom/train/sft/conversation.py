"""Conversations: exchanges in a row, with or without a tool, in thinking or chat mode; and as messages in OpenAI form.

One conversation holds several questions, above all where there is a tool: its prompt is several hundred tokens that teach nothing, and
they are read once for all of its rounds.
"""
from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...config.recipe import ConversationsRecipe
from .exchange import Exchange, Kind, Tool, draw

SYSTEM = ("You are a helpful assistant.", "You are Fathom, a small model.", "Answer briefly.", "Be friendly.")
SYSTEM_RATE = 0.2  # of the conversations with a system text
WITH_TOOL = 0.06  # of the conversations with a tool, where a kind has one: some two fifths of all tokens
TOOL_RATE = 0.6  # of the questions in those that need it

Message = dict[str, Any]


@dataclass(frozen=True)
class Conversation:
    """Exchanges one after the other. `thinking`: the mode it is encoded in. `system`: perhaps a text. `tools`: perhaps what can be called."""

    exchanges: tuple[Exchange, ...]
    thinking: bool
    system: str = ""
    tools: tuple[Tool, ...] = ()

    @property
    def mode(self) -> str:
        """The mode's name in `encode_parts`."""
        return "thinking" if self.thinking else "chat"

    def shortened(self) -> Conversation:
        """Without its last exchange."""
        return replace(self, exchanges=self.exchanges[:-1])

    def opening(self) -> list[Message]:
        """The system message, if there is something to say in it."""
        if not (self.system or self.tools):
            return []
        return [{"role": "system", "content": self.system, **({"tools": list(self.tools)} if self.tools else {})}]

    def messages(self) -> list[Message]:
        """All of it in OpenAI form."""
        return [*self.opening(), *(message for number, exchange in enumerate(self.exchanges) for message in messages_of(exchange, number))]


def messages_of(exchange: Exchange, number: int = 0) -> list[Message]:
    """Question and answer, with call and result between them where there is a call; `number` makes the call's id unique."""
    question, answer = {"role": "user", "content": exchange.question}, {"role": "assistant", "content": exchange.answer}
    if exchange.call is None:
        return [question, {**answer, "reasoning_content": exchange.reasoning}]
    call = {"id": f"call_{number}", "type": "function",
            "function": {"name": exchange.call.name, "arguments": json.dumps(exchange.call.arguments, ensure_ascii=False)}}
    return [question, {"role": "assistant", "content": "", "reasoning_content": exchange.reasoning, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call["id"], "content": exchange.result}, {**answer, "reasoning_content": exchange.after}]


def make_conversation(seed: str, kinds: Sequence[Kind], recipe: ConversationsRecipe, *, out: bool) -> Conversation:
    """A conversation f(seed): of held-out questions (`out`) or of those to train on."""
    rng = random.Random(seed)
    calling = [kind for kind in kinds if kind.tools]
    others = [kind for kind in kinds if not kind.tools and not kind.toolless]
    plain = [kind for kind in kinds if not kind.tools]
    thinking = rng.random() < recipe.thinking
    system = rng.choice(SYSTEM) if rng.random() < SYSTEM_RATE else ""
    if calling and (not plain or rng.random() < WITH_TOOL):
        chosen = pick(rng, calling)
        asked = [chosen if not others or rng.random() < TOOL_RATE else pick(rng, others) for _ in range(rng.randint(1, recipe.tool_turns))]
        tools = chosen.tools(rng)
    else:
        asked, tools = [pick(rng, plain) for _ in range(rng.randint(1, recipe.turns))], ()
    return Conversation(tuple(draw(kind, rng, recipe.held_out, out=out) for kind in asked), thinking, system, tools)


def pick(rng: random.Random, kinds: Sequence[Kind]) -> Kind:
    """One of the kinds, by their weights."""
    return rng.choices(kinds, [kind.weight for kind in kinds])[0]
