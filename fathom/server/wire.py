"""Request bodies of the OpenAI-style routes, as pydantic models. Only their form and ranges; what they mean is in chat.py and completions.py.

Strict: a number in quotes is no number. A field that no model has is refused, unless it is null (accepted.py lists those that are
accepted without effect). Source: SPEC section 9.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

MOST_OUTPUT = 393216
NAME = r"^[A-Za-z0-9_-]{1,64}$"
USER_ID = r"^[a-zA-Z0-9\-_]{1,512}$"
Stop = Annotated[str, Field(min_length=1)] | Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=16)] | None
Penalty = Annotated[float, Field(ge=-2, le=2)] | None
Seed = Annotated[int, Field(ge=-(2**63), lt=2**64)] | None
Self = TypeVar("Self", bound="Wire")


class Wire(BaseModel):
    """A JSON object from a client."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _as_json_means_it(cls, data: Any) -> Any:
        """A null asks for nothing, so a field we don't know may be null; and 5.0 is a whole number, as JSON knows no difference."""
        if not isinstance(data, Mapping):
            return data
        known = {name for key, field in cls.model_fields.items() for name in (key, field.alias)}
        return {key: whole(value) for key, value in data.items() if value is not None or key in known}


def whole(value: Any) -> Any:
    """Floats that are whole numbers as such, in lists too."""
    if isinstance(value, list):
        return [whole(entry) if isinstance(entry, float | list) else entry for entry in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


class TextPart(Wire):
    """A part of a message's content. The model reads text only."""

    type: Literal["text"]
    text: str


Content = str | list[TextPart]


class SystemMessage(Wire):
    """Instructions."""

    role: Literal["system"]
    content: Content
    name: str | None = None


class UserMessage(Wire):
    """What the user says."""

    role: Literal["user"]
    content: Content
    name: str | None = None


class CalledFunction(Wire):
    """Which function, with what. arguments: the text of a JSON object; any other text becomes one argument called `arguments`."""

    name: str
    arguments: str


class ToolCall(Wire):
    """A call that the assistant made."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None


class AssistantMessage(Wire):
    """An earlier turn of the assistant, or with `prefix`, as the last message, the beginning of the one wanted."""

    role: Literal["assistant"]
    content: Content | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCall] | None = None
    prefix: bool | None = None
    name: str | None = None


class ToolMessage(Wire):
    """What a tool answered."""

    role: Literal["tool"]
    tool_call_id: str
    content: Content
    name: str | None = None


Message = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


class Function(Wire):
    """A function that the model may call. strict: its arguments always fit `parameters`."""

    name: Annotated[str, Field(pattern=NAME)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    _given: dict[str, Any] = PrivateAttr(default_factory=dict)

    @model_validator(mode="wrap")
    @classmethod
    def _keep_as_given(cls, data: Any, handler: Any) -> Any:
        function = handler(data)
        if isinstance(data, Mapping):
            function._given = {key: value for key, value in data.items() if key != "strict"}
        return function

    @property
    def as_given(self) -> dict[str, Any]:
        """For the prompt: the client's own keys in their order. `strict` is said to the service, not to the model."""
        return self._given


class Tool(Wire):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: Function


class ChosenFunction(Wire):
    """A function by name."""

    name: Annotated[str, Field(pattern=NAME)]


class ChosenTool(Wire):
    """The one tool to call."""

    type: Literal["function"]
    function: ChosenFunction


class Thinking(Wire):
    """Whether the model reasons before it answers."""

    type: Literal["enabled", "disabled"]


class StreamOptions(Wire):
    """include_usage: also the chunks before the last have a usage field, which is null."""

    include_usage: bool | None = None


class JsonSchema(Wire):
    """A schema for the answer. It is always enforced, whatever `strict` says."""

    name: Annotated[str, Field(pattern=NAME)]
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class TextFormat(Wire):
    """Free text."""

    type: Literal["text"]


class JsonObjectFormat(Wire):
    """Any JSON object."""

    type: Literal["json_object"]


class JsonSchemaFormat(Wire):
    """JSON by a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


class ChatRequest(Wire):
    """POST /chat/completions."""

    model: str
    messages: Annotated[list[Message], Field(min_length=1)]
    thinking: Thinking | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max", "ultra"] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MOST_OUTPUT)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=MOST_OUTPUT)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Penalty = None
    frequency_penalty: Penalty = None
    stop: Stop = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    user_id: Annotated[str, Field(pattern=USER_ID)] | None = None
    user: Annotated[str, Field(max_length=512)] | None = None
    seed: Seed = None
    n: Literal[1] | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None


Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
MOST_PROMPTS = 64


class CompletionRequest(Wire):
    """POST /completions: continue a text, or fill the gap between prompt and suffix."""

    model: str
    prompt: str | Ids | Annotated[list[str], Field(min_length=1, max_length=MOST_PROMPTS)] | Annotated[
        list[Ids], Field(min_length=1, max_length=MOST_PROMPTS)]
    suffix: str | None = None
    max_tokens: Annotated[int, Field(ge=0, le=MOST_OUTPUT)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Penalty = None
    frequency_penalty: Penalty = None
    stop: Stop = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    user_id: Annotated[str, Field(pattern=USER_ID)] | None = None
    user: Annotated[str, Field(max_length=512)] | None = None
    seed: Seed = None
    n: Literal[1] | None = None
    best_of: Literal[1] | None = None


class TokenizeRequest(Wire):
    """POST /tokenize: how many tokens a text or a conversation is. Exactly one of prompt and messages."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    thinking: Thinking | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
