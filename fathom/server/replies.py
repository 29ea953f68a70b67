"""What answers look like, for the OpenAPI description at /openapi.json. Documentation that tests hold the service to; nothing here runs.

The description says what this very service takes: the model's name is an enumeration of one.
"""
from __future__ import annotations

from typing import Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict

from fathom.server.settings import Settings


class Reply(BaseModel):
    """An object in an answer: these fields and no others."""

    model_config = ConfigDict(extra="forbid")


class PromptDetails(Reply):
    """Of the prompt's tokens."""

    cached_tokens: int


class CompletionDetails(Reply):
    """Of the answer's tokens."""

    reasoning_tokens: int


class UsageReply(Reply):
    """prompt_tokens = hit + miss."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_cache_hit_tokens: int
    prompt_cache_miss_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class TopLogprob(Reply):
    """A token that might have come. bytes: of part of a character the text says nothing."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """A token that came."""

    top_logprobs: list[TopLogprob]


class LogprobsReply(Reply):
    """Tokens of the content and of the reasoning."""

    content: list[TokenLogprob]
    reasoning_content: list[TokenLogprob] | None = None


class FunctionReply(Reply):
    """arguments: the text of a JSON object."""

    name: str
    arguments: str


class CallReply(Reply):
    """A call."""

    id: str
    type: Literal["function"]
    function: FunctionReply


class MessageReply(Reply):
    """The assistant's message. reasoning_content: in thinking mode."""

    role: Literal["assistant"]
    content: str
    reasoning_content: str | None = None
    tool_calls: list[CallReply] | None = None


Finish = Literal["stop", "length", "tool_calls", "content_filter", "insufficient_system_resource", "aborted"]


class ChatChoice(Reply):
    """The one choice."""

    index: int
    finish_reason: Finish
    message: MessageReply
    logprobs: LogprobsReply | None


class ChatCompletion(Reply):
    """POST /chat/completions, not streamed."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: UsageReply


class TextLogprobs(Reply):
    """Parallel lists. The first token of all has no log-probability."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(Reply):
    """One completion."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Finish


class TextCompletion(Reply):
    """POST /completions, not streamed."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: UsageReply


class Pricing(Reply):
    """US$ per million tokens, and the price table's row."""

    currency: Literal["USD"]
    cached: float
    input: float
    output: float
    row: str


class ModelReply(Reply):
    """A model, for OpenAI's and Anthropic's clients."""

    id: str
    object: Literal["model"]
    type: Literal["model"]
    created: int
    owned_by: str
    display_name: str
    created_at: str
    lifecycle: Literal["active"]
    context_length: int
    max_output_tokens: int
    pricing: Pricing


class ModelList(Reply):
    """GET /models."""

    object: Literal["list"]
    data: list[ModelReply]
    has_more: bool
    first_id: str
    last_id: str


class BalanceInfo(Reply):
    """Amounts as text, exact."""

    currency: Literal["USD"]
    total_balance: str
    granted_balance: str
    topped_up_balance: str


class BalanceReply(Reply):
    """GET /user/balance."""

    is_available: bool
    balance_infos: list[BalanceInfo]


class UsageLine(Reply):
    """One key's requests to one model on one UTC day. cost: US$ as text, exact."""

    day: str
    key: str
    name: str
    model: str
    requests: int
    prompt_cache_hit_tokens: int
    prompt_cache_miss_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    cost: str


class UsageList(Reply):
    """GET /user/usage."""

    object: Literal["list"]
    since: str
    until: str
    currency: Literal["USD"]
    data: list[UsageLine]


class Receipt(Reply):
    """GET /user/requests/ID. started, finished: Unix time.  status: a finish_reason, or cancelled, failed, balance, crashed.  cost: US$."""

    id: str
    object: Literal["request"]
    model: str
    status: str
    started: int
    finished: int
    prompt_cache_hit_tokens: int
    prompt_cache_miss_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    cost: str


class TokenCount(Reply):
    """POST /tokenize."""

    count: int
    max_model_len: int


class AnthropicUsageReply(Reply):
    """input_tokens: those not read from the cache."""

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int
    cache_creation_input_tokens: int


class BlockReply(Reply):
    """A block of content: thinking, text or tool_use."""

    type: Literal["thinking", "text", "tool_use"]
    thinking: str | None = None
    signature: str | None = None
    text: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None


class AnthropicReply(Reply):
    """POST /v1/messages, not streamed."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[BlockReply]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]
    stop_sequence: str | None
    usage: AnthropicUsageReply


class InputTokens(Reply):
    """POST /v1/messages/count_tokens."""

    input_tokens: int


class Status(Reply):
    """GET /healthz, /readyz."""

    status: Literal["ok", "ready"]


class ErrorDetail(Reply):
    """What went wrong, where, and a short name of it."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(Reply):
    """An error in OpenAI's form."""

    error: ErrorDetail


class AnthropicErrorDetail(Reply):
    """What went wrong."""

    type: str
    message: str


class AnthropicError(Reply):
    """An error in Anthropic's form."""

    type: Literal["error"]
    error: AnthropicErrorDetail
    request_id: str


REASONS = {
    400: "Bad format", 401: "Bad key", 402: "Out of balance", 404: "No such thing", 408: "The body is too slow", 409: "The request id is taken",
    413: "The body is too large", 422: "Bad parameter", 429: "Too many at once", 500: "Our bug", 503: "Overloaded",
}
EVENT = {"type": "object", "required": ["data"], "properties": {"event": {"type": "string"}, "data": {"type": "string"}}}
"""One server-sent event; data is JSON, or `[DONE]`."""
Documented = dict[int | str, dict[str, Any]]


def answers(reply: type[Reply], *, anthropic: bool = False, stream: bool = False) -> Documented:
    """What a route can answer, for its `responses`."""
    error = AnthropicError if anthropic else ErrorReply
    good: dict[str, Any] = {"model": reply, "description": "The answer"}
    if stream:
        good["content"] = {"text/event-stream": {"schema": EVENT}}
    return {200: good, **{status: {"model": error, "description": reason} for status, reason in REASONS.items()}}


def describe(app: FastAPI, settings: Settings) -> None:
    """Finishes the OpenAPI description: every route needs a key but those that say otherwise, and there is one model."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = made()
            parts = schema["components"]
            parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            for path, operations in schema["paths"].items():
                for operation in operations.values():
                    if path not in ("/healthz", "/readyz"):
                        operation["security"] = [{"key": []}]
                    for parameter in operation.get("parameters", ()):
                        if parameter["name"] == "model":
                            parameter["schema"] = {"type": "string", "enum": [settings.name]}
            for name in ("ChatRequest", "CompletionRequest", "MessagesRequest", "CountRequest", "TokenizeRequest"):
                parts["schemas"][name]["properties"]["model"] = {"type": "string", "enum": [settings.name]}
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
