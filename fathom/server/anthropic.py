"""POST /v1/messages: from Anthropic's request to a `Chat`. The answer's form is in anthropic_reply.py.

Unlike on the OpenAI-style routes the model reasons only when asked to, as Anthropic's clients expect. Blocks become messages: a result of
a tool one of role tool, text around it one of role user; the encoding puts them together again.
"""
from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from fathom.errors import UserError
from fathom.server.anthropic_wire import (
    AnthropicAssistant,
    AnthropicMessage,
    AnthropicText,
    AnthropicThinkingBlock,
    AnthropicToolChoice,
    AnthropicToolResult,
    AnthropicToolUse,
    AnthropicUser,
    CountRequest,
    MessagesRequest,
)
from fathom.server.asking import Chat, Sampled, check_calls
from fathom.server.chat import sampled, user_of


def read_messages(request: CountRequest, *, quirks: bool) -> Chat:
    """What a request asks for, or would ask for if its tokens are only counted.

    Raises:
        UserError: fields that contradict each other.
    """
    messages = [{"role": "system", "content": text_of(request.system)}] if request.system else []
    for message in request.messages:
        messages += plain(message)
    check_calls(messages, "tool_use_id")
    thinking = request.thinking is not None and request.thinking.type != "disabled"
    config, prefix = request.output_config, messages[-1]["role"] == "assistant"
    if prefix and messages[-1]["tool_calls"]:
        raise UserError("messages", None, "end in a tool_use", "send its tool_result")
    choice, parallel = chosen(request.tool_choice)
    tools = request.tools or []
    full = request if isinstance(request, MessagesRequest) else None
    return Chat(
        messages, [{"name": tool.name, **({"description": tool.description} if tool.description else {}), "parameters": tool.input_schema}
                   for tool in tools],
        frozenset(tool.name for tool in tools if tool.strict), choice, parallel, config.format.schema_ if config and config.format else None,
        thinking, "max" if thinking and config and config.effort == "max" else None, prefix, full.max_tokens if full else None,
        sampled(full.temperature, full.top_p, full.seed, full.top_k, ignored=quirks and thinking) if full else Sampled(),
        tuple(full.stop_sequences or ()) if full else (), None, user_of(None, full.metadata.user_id if full and full.metadata else None),
    )


def plain(message: AnthropicMessage) -> list[dict[str, Any]]:
    """One message as messages in OpenAI form."""
    if isinstance(message, AnthropicAssistant):
        blocks = [AnthropicText(type="text", text=message.content)] if isinstance(message.content, str) else message.content
        calls = [{"id": block.id, "type": "function", "function": {"name": block.name, "arguments": json.dumps(block.input, ensure_ascii=False)}}
                 for block in blocks if isinstance(block, AnthropicToolUse)]
        reasoning = "".join(block.thinking for block in blocks if isinstance(block, AnthropicThinkingBlock))
        return [{"role": "assistant", "content": text_of([block for block in blocks if isinstance(block, AnthropicText)]),
                 "reasoning_content": reasoning, "tool_calls": calls}]
    if not isinstance(message, AnthropicUser):
        return [{"role": "system", "content": text_of(message.content)}]
    if isinstance(message.content, str):
        return [{"role": "user", "content": message.content}]
    return [result_of(block) if isinstance(block, AnthropicToolResult) else {"role": "user", "content": block.text} for block in message.content]


def result_of(block: AnthropicToolResult) -> dict[str, Any]:
    """A tool's result. The encoding has no mark for an error, so the text says it."""
    text = text_of(block.content or "")
    if block.is_error and not text.lower().startswith("error"):
        text = f"Error: {text}"
    return {"role": "tool", "tool_call_id": block.tool_use_id, "content": text}


def text_of(content: str | Sequence[AnthropicText]) -> str:
    """Text blocks joined by blank lines."""
    return content if isinstance(content, str) else "\n\n".join(block.text for block in content)


def chosen(choice: AnthropicToolChoice | None) -> tuple[str, bool]:
    """(choice, parallel) as in Chat."""
    if choice is None:
        return "auto", True
    if (choice.type == "tool") != (choice.name is not None):
        raise UserError("tool_choice.name", choice.name, "stands with type = tool, and only there")
    return {"any": "required", "tool": choice.name or ""}.get(choice.type, choice.type), not choice.disable_parallel_tool_use
