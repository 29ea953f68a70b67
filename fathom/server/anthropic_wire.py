"""Request bodies of the Anthropic-style routes, as pydantic models; see wire.py for the rules. What they mean is in anthropic.py."""
from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from fathom.server.wire import MOST_OUTPUT, NAME, Seed, Wire

CacheControl = dict[str, Any] | None


class AnthropicText(Wire):
    """Text."""

    type: Literal["text"]
    text: str
    cache_control: CacheControl = None
    citations: list[Any] | None = None


class AnthropicThinkingBlock(Wire):
    """Reasoning of an earlier turn."""

    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class AnthropicToolUse(Wire):
    """A call that the assistant made."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]
    cache_control: CacheControl = None


class AnthropicToolResult(Wire):
    """What a tool answered."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: str | list[AnthropicText] | None = None
    is_error: bool | None = None
    cache_control: CacheControl = None


UserBlock = Annotated[AnthropicText | AnthropicToolResult, Field(discriminator="type")]
AssistantBlock = Annotated[AnthropicText | AnthropicThinkingBlock | AnthropicToolUse, Field(discriminator="type")]


class AnthropicUser(Wire):
    """A turn of the user."""

    role: Literal["user"]
    content: str | Annotated[list[UserBlock], Field(min_length=1)]


class AnthropicAssistant(Wire):
    """A turn of the assistant; the last message, if it is one, is continued."""

    role: Literal["assistant"]
    content: str | list[AssistantBlock]


class AnthropicSystem(Wire):
    """Instructions in the middle of a conversation."""

    role: Literal["system"]
    content: str | list[AnthropicText]


AnthropicMessage = Annotated[AnthropicUser | AnthropicAssistant | AnthropicSystem, Field(discriminator="role")]


class AnthropicTool(Wire):
    """A function that the model may call. strict: its input always fits input_schema."""

    name: Annotated[str, Field(pattern=NAME)]
    input_schema: dict[str, Any]
    description: str | None = None
    type: Literal["custom"] | None = None
    strict: bool | None = None
    cache_control: CacheControl = None
    eager_input_streaming: bool | None = None


class AnthropicToolChoice(Wire):
    """How tools may be used. name: with type = tool, which."""

    type: Literal["auto", "any", "tool", "none"]
    name: Annotated[str, Field(pattern=NAME)] | None = None
    disable_parallel_tool_use: bool | None = None


class AnthropicThinking(Wire):
    """Whether the model reasons first."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Field(ge=1)] | None = None
    display: Literal["summarized", "omitted"] | None = None


class AnthropicFormat(Wire):
    """JSON by a schema."""

    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(Wire):
    """Effort of the reasoning, and the form of the answer."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: AnthropicFormat | None = None


class Metadata(Wire):
    """user_id: who asks, in the client's own terms; isolates the prefix cache."""

    user_id: Annotated[str, Field(max_length=4096)] | None = None


class CountRequest(Wire):
    """POST /v1/messages/count_tokens."""

    model: str
    messages: Annotated[list[AnthropicMessage], Field(min_length=1)]
    system: str | list[AnthropicText] | None = None
    tools: Annotated[list[AnthropicTool], Field(max_length=128)] | None = None
    tool_choice: AnthropicToolChoice | None = None
    thinking: AnthropicThinking | None = None
    output_config: OutputConfig | None = None
    cache_control: CacheControl = None


class MessagesRequest(CountRequest):
    """POST /v1/messages."""

    max_tokens: Annotated[int, Field(ge=1, le=MOST_OUTPUT)]
    stream: bool | None = None
    stop_sequences: Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=16)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    seed: Seed = None
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    context_management: dict[str, Any] | None = None
