"""POST /chat/completions: from OpenAI's request to a `Chat`. The answer's form is in chat_reply.py."""
from __future__ import annotations

import hashlib
from typing import Any

from fathom.errors import UserError
from fathom.server.asking import LEAST_TOP_P, Chat, Sampled, check_calls
from fathom.server.wire import (
    AssistantMessage,
    ChatRequest,
    ChosenTool,
    Content,
    JsonObjectFormat,
    JsonSchemaFormat,
    Message,
    Thinking,
    ToolMessage,
)

EFFORTS = {"minimal": "low", "low": "low", "medium": "high", "high": "high", "xhigh": "high", "max": "max", "ultra": "max", "none": None}


def read_chat(request: ChatRequest, *, lenient: bool, quirks: bool) -> Chat:
    """What an OpenAI-style request asks for.

    Args:
        lenient: with tools, an earlier assistant turn may lack reasoning_content.  quirks: thinking mode ignores temperature and top_p.

    Raises:
        UserError: fields that contradict each other.
    """
    thinking = thinks(request.thinking, request.reasoning_effort)
    effort = "max" if thinking and EFFORTS.get(request.reasoning_effort or "high") == "max" else None
    messages = [plain(message) for message in request.messages]
    check_calls(messages)
    prefix = check_prefix(request.messages)
    tools = request.tools or []
    if tools and thinking and not lenient:
        for i, message in enumerate(request.messages[: len(messages) - prefix]):
            if isinstance(message, AssistantMessage) and message.reasoning_content is None and message.reasoning is None:
                raise UserError(f"messages[{i}].reasoning_content", None, "is missing: with tools every assistant turn carries it",
                                'send back what you got; "" is fine')
    choice = request.tool_choice
    return Chat(
        messages, [tool.function.as_given for tool in tools], frozenset(tool.function.name for tool in tools if tool.function.strict),
        choice.function.name if isinstance(choice, ChosenTool) else choice or "auto", request.parallel_tool_calls is not False,
        schema_of(request), thinking, effort, prefix, output_limit(request.max_tokens, request.max_completion_tokens),
        sampled(request.temperature, request.top_p, request.seed, ignored=quirks and thinking), stops(request.stop), wanted_logprobs(request),
        user_of(request.user_id, request.user),
    )


def thinks(thinking: Thinking | None, effort: str | None) -> bool:
    """Whether the model reasons first; by default it does."""
    if thinking is not None and thinking.type == "enabled" and effort == "none":
        raise UserError("reasoning_effort", "none", "contradicts thinking = enabled", "leave one of them out")
    return effort != "none" if thinking is None else thinking.type == "enabled"


def plain(message: Message) -> dict[str, Any]:
    """A message as fathom.text takes it."""
    text = text_of(message.content)
    if isinstance(message, AssistantMessage):
        calls = [{"id": call.id, "type": call.type, "function": {"name": call.function.name, "arguments": call.function.arguments}}
                 for call in message.tool_calls or ()]
        reasoning = message.reasoning_content if message.reasoning_content is not None else message.reasoning
        return {"role": message.role, "content": text, "reasoning_content": reasoning or "", "tool_calls": calls}
    if isinstance(message, ToolMessage):
        return {"role": message.role, "content": text, "tool_call_id": message.tool_call_id}
    return {"role": message.role, "content": text}


def text_of(content: Content | None) -> str:
    """A message's content as one text; its parts are joined by blank lines, as the encoding does it."""
    return content or "" if content is None or isinstance(content, str) else "\n\n".join(part.text for part in content)


def check_prefix(messages: list[Message]) -> bool:
    """Whether the last message is to be continued. Raises UserError for an assistant turn that can't be."""
    for i, message in enumerate(messages):
        if not isinstance(message, AssistantMessage):
            continue
        last = i == len(messages) - 1
        if message.prefix and not last:
            raise UserError(f"messages[{i}].prefix", True, "only the last message can be continued", "leave it out")
        if last and not message.prefix:
            raise UserError(f"messages[{i}].role", "assistant", "the last message asks: user, tool or system, or assistant with prefix = true",
                            "add a user message, or set prefix")
        if message.prefix and message.tool_calls:
            raise UserError(f"messages[{i}].tool_calls", None, "a turn that ends in calls can't be continued", "send the tools' results")
    return isinstance(messages[-1], AssistantMessage)


def schema_of(request: ChatRequest) -> dict[str, Any] | None:
    """The schema that the content must fit, None for text."""
    match request.response_format:
        case JsonObjectFormat():
            return {"type": "object"}
        case JsonSchemaFormat(json_schema=wanted):
            described = {"description": wanted.description} if wanted.description and "description" not in wanted.schema_ else {}
            return {**described, **wanted.schema_} or {"type": ["object", "array", "string", "number", "boolean", "null"]}
    return None


def output_limit(max_tokens: int | None, max_completion_tokens: int | None) -> int | None:
    """Two names for one thing."""
    if max_tokens is not None and max_completion_tokens is not None and max_tokens != max_completion_tokens:
        raise UserError("max_completion_tokens", max_completion_tokens, f"contradicts max_tokens = {max_tokens}", "send one of them")
    return max_tokens if max_completion_tokens is None else max_completion_tokens


def sampled(temperature: float | None, top_p: float | None, seed: int | None, top_k: int | None = None, *, ignored: bool = False) -> Sampled:
    """How to choose tokens; top_p = 0 means the likeliest alone, as elsewhere."""
    if ignored:
        return Sampled(top_k=top_k or 0, seed=seed)
    return Sampled(1.0 if temperature is None else float(temperature), 1.0 if top_p is None else max(float(top_p), LEAST_TOP_P), top_k or 0, seed)


def stops(stop: str | list[str] | None) -> tuple[str, ...]:
    """Stop strings as a tuple."""
    return (stop,) if isinstance(stop, str) else tuple(stop or ())


def wanted_logprobs(request: ChatRequest) -> int | None:
    """How many likeliest tokens come with each token; None for no log-probabilities."""
    if request.top_logprobs is not None and not request.logprobs:
        raise UserError("top_logprobs", request.top_logprobs, "needs logprobs = true")
    return (request.top_logprobs or 0) if request.logprobs else None


def user_of(user_id: str | None, user: str | None) -> str:
    """Who asks, within the key: `user_id`, else a digest of OpenAI's free-form `user`."""
    if user_id is not None:
        return user_id
    return hashlib.blake2b(user.encode("utf-8", "replace"), digest_size=16).hexdigest() if user else ""
