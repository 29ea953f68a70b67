"""What is asked of the engine, in the service's own terms: an `Ask`, whatever route it came by; and a `Chat`, which becomes one.

A Chat is a conversation in OpenAI form with everything around it decided: defaults, tools, how they may be called, the form of the
answer. OpenAI's and Anthropic's routes both make one (chat.py, anthropic.py); `ask` encodes it. What the encoding leaves open, and this
file decides:
- Tools and response_format stand on the system message that comes first; without one an empty one is put there.
- A conversation that ends in system messages gives the assistant no turn. If they follow a user's turn they are moved before it; if
  they follow the assistant, or stand alone, they are asked as the encoding's developer turns, so that the model answers.
- `prefix`: the last assistant message is continued. With reasoning and no content, the reasoning is.
Text is tokenized by parts, so nothing that a client sends can become a control token.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fathom.errors import UserError
from fathom.text import Tokenizer, encode_parts

CHAT, THINKING, MOST_THINKING, FILL = 8192, 65536, 131072, 4096
"""Default max_tokens: a chat answer, one that reasons, one that reasons at maximum effort; and a plain completion."""
LEAST_TOP_P = 1e-9
Parsed = str
"""How the answer is read: "thinking" or "chat" by the completion parser, "text" as it is."""


@dataclass(frozen=True)
class Sampled:
    """How tokens are chosen. seed: None for one made from the request's id."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None


@dataclass(frozen=True)
class Ask:
    """One answer wanted, and all that decides it.

    Attributes:
        prompt: token ids.  parsed: how the answer is read.  max_tokens: at least 0; at 0 one token is computed and not shown.
        stops: strings that end the content.  grammar: arguments of Grammars.constraint, None for free text.
        top_logprobs: None for no log-probabilities.  prompt_logprobs: also those of the prompt.
        user: who asks, within the key; isolates the prefix cache.
    """

    prompt: tuple[int, ...]
    parsed: Parsed
    max_tokens: int
    sampled: Sampled = field(default_factory=Sampled)
    stops: tuple[str, ...] = ()
    grammar: Mapping[str, Any] | None = None
    top_logprobs: int | None = None
    prompt_logprobs: bool = False
    user: str = ""


@dataclass(frozen=True)
class Chat:
    """A conversation that wants an answer.

    Attributes:
        messages: OpenAI form (role, content, reasoning_content, tool_calls, tool_call_id), the roles system, user, assistant and tool.
        tools: functions as given, for the prompt.  strict: names of those whose arguments must fit their schemas.
        choice: "auto", "none", "required" or a function's name.  parallel: more than one call in an answer.
        schema: JSON schema of the content, None for text.
        thinking: whether the model reasons first.  effort: None or "max".
        prefix: the last message, of the assistant, is continued.
        max_tokens, stops, sampled, top_logprobs, user: as in Ask; max_tokens None for the default.
    """

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] = ()
    strict: frozenset[str] = frozenset()
    choice: str = "auto"
    parallel: bool = True
    schema: Mapping[str, Any] | None = None
    thinking: bool = True
    effort: str | None = None
    prefix: bool = False
    max_tokens: int | None = None
    sampled: Sampled = field(default_factory=Sampled)
    stops: tuple[str, ...] = ()
    top_logprobs: int | None = None
    user: str = ""


def ask(chat: Chat, tokenizer: Tokenizer) -> Ask:
    """Encodes a chat.

    Raises:
        UserError: tools or messages that contradict each other.
    """
    check_tools(chat)
    messages = with_schemas(chat)
    begun = messages.pop() if chat.prefix else None
    messages, unfinished = answerable(messages), ""
    if begun is not None:
        if not messages or messages[-1]["role"] in ("system", "assistant"):
            messages.append({"role": "user", "content": ""})  # nobody asked: an empty question opens the assistant's turn
        if chat.thinking and not begun["content"]:
            unfinished = begun.get("reasoning_content") or ""
        else:
            messages.append({**begun, "wo_eos": True})
    parts = encode_parts(messages, thinking_mode="thinking" if chat.thinking else "chat", reasoning_effort=chat.effort)
    prompt = tokenizer.encode_parts([*parts, (unfinished, False)])
    reasons = chat.thinking and not messages[-1].get("wo_eos")
    grammar = None
    if chat.tools or chat.schema is not None:
        tools = [{**tool, "strict": tool["name"] in chat.strict} for tool in chat.tools]
        prefix = chat.messages[-1]["content"] if chat.prefix and not reasons else ""
        grammar = {"thinking": reasons, "tools": tools, "choice": chat.choice, "parallel": chat.parallel, "schema": chat.schema, "prefix": prefix}
    default = CHAT if not chat.thinking else MOST_THINKING if chat.effort == "max" else THINKING
    return Ask(tuple(prompt), "thinking" if reasons else "chat", chat.max_tokens or default, chat.sampled, chat.stops, grammar,
               chat.top_logprobs, user=chat.user)


def check_tools(chat: Chat) -> None:
    """Raises UserError where tools, the choice among them and thinking don't go together."""
    names = [tool["name"] for tool in chat.tools]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError("tools", twice[0], "is the name of two functions", "give each its own")
    if chat.choice in ("auto", "none"):
        return
    if not names:
        raise UserError("tool_choice", chat.choice, "needs tools", "send tools, or leave it out")
    if chat.choice != "required" and chat.choice not in names:
        raise UserError("tool_choice", chat.choice, f"one of the tools: {', '.join(names)}")
    if chat.thinking:
        raise UserError("tool_choice", chat.choice, "auto or none in thinking mode", 'switch thinking off: "thinking": {"type": "disabled"}')


def with_schemas(chat: Chat) -> list[dict[str, Any]]:
    """The messages with tools and schema on the first one, a system message."""
    messages = [dict(message) for message in chat.messages]
    if not chat.tools and chat.schema is None:
        return messages
    if not messages or messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": ""})
    if chat.tools:
        messages[0]["tools"] = [{"type": "function", "function": tool} for tool in chat.tools]
    if chat.schema is not None:
        messages[0]["response_format"] = chat.schema
    return messages


def answerable(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages so that the assistant's turn is next: see the top of this file."""
    end = len(messages)
    while end and messages[end - 1]["role"] == "system":
        end -= 1
    asked = end
    while asked and messages[asked - 1]["role"] in ("user", "tool"):
        asked -= 1
    trailing = messages[end:]
    if not trailing:
        return messages
    if asked < end:
        return [*messages[:asked], *trailing, *messages[asked:end]]
    if not end and len(trailing) > 1:
        return [trailing[0], *({**message, "role": "developer"} for message in trailing[1:])]
    if not end and not trailing[0]["content"]:  # nothing but tools: an empty question
        return [*trailing, {"role": "user", "content": ""}]
    asks = [{**message, "role": "developer"} for message in trailing]
    return [*messages[:end], *asks]


def check_calls(messages: Sequence[Mapping[str, Any]], name: str = "tool_call_id") -> None:
    """Raises UserError for a tool's result without its call: it would be put nowhere. name: what the client calls the field."""
    open_calls: set[str] = set()
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            open_calls = {call["id"] for call in message.get("tool_calls") or ()}
        elif message["role"] == "tool" and message["tool_call_id"] not in open_calls:
            raise UserError(f"messages[{i}].{name}", message["tool_call_id"], "the id of a call in the assistant message before it",
                            "send that message first")
