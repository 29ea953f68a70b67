"""The fields of requests that are accepted without effect, all of them, each with the reason.

The official API accepts some parameters and ignores them, and clients send others by habit. They stand in this one list; every other
field of a request is honoured, or the request is refused. A test walks the request models and the code that reads them against it.

A field that isn't in the models at all is refused by name, unless its value is null: many clients send every field they know.
"""
from __future__ import annotations

OFFICIAL = "accepted without effect by the official API"
BOOKKEEPING = "about the client's own bookkeeping, not about the answer"

WITHOUT_EFFECT: dict[str, dict[str, str]] = {
    "ChatRequest": {
        "presence_penalty": OFFICIAL,
        "frequency_penalty": OFFICIAL,
        "store": BOOKKEEPING,
        "metadata": BOOKKEEPING,
        "service_tier": "there is one tier",
        "prompt_cache_key": "the prefix cache finds its entries by their tokens",
        "safety_identifier": BOOKKEEPING,
    },
    "CompletionRequest": {
        "presence_penalty": OFFICIAL,
        "frequency_penalty": OFFICIAL,
    },
    "SystemMessage": {"name": "the encoding has no place for it"},
    "UserMessage": {"name": "the encoding has no place for it"},
    "AssistantMessage": {"name": "the encoding has no place for it"},
    "ToolMessage": {"name": "the encoding has no place for it; a result belongs to its call by tool_call_id"},
    "ToolCall": {"index": "clients that put streamed deltas together keep it; calls are in order"},
    "JsonSchema": {"name": "the encoding has no place for it", "strict": "a schema is always enforced"},
    "CountRequest": {"cache_control": "caching is always on"},
    "MessagesRequest": {
        "service_tier": "there is one tier",
        "context_management": "what is kept of old reasoning is the encoding's own rule",
    },
    "AnthropicThinking": {
        "budget_tokens": "the model has no budget for its reasoning; max_tokens bounds it (the official API ignores it too)",
        "display": "reasoning is always shown",
    },
    "AnthropicText": {"cache_control": "caching is always on", "citations": "clients send back what they got"},
    "AnthropicThinkingBlock": {"signature": "reasoning isn't signed"},
    "AnthropicToolUse": {"cache_control": "caching is always on"},
    "AnthropicToolResult": {"cache_control": "caching is always on"},
    "AnthropicTool": {"cache_control": "caching is always on", "eager_input_streaming": "arguments are always streamed as they form"},
}
"""Request model → field → why it has no effect."""

IN_QUIRKS = ("temperature", "top_p")
"""With --official-quirks these have no effect in thinking mode either; without, they are honoured there too."""
