"""What the routes share: the model's name checked, work off the event loop, the form of an answer, and how it is sent."""
from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from fathom.errors import UserError
from fathom.prices import dollars
from fathom.server.anthropic_reply import PING, event_bytes
from fathom.server.chat_reply import Form
from fathom.server.door import speaks_anthropic
from fathom.server.errors import ApiError, from_user_error, shown
from fathom.server.sending import Chunks, encoded, send_answer
from fathom.server.service import Service


def check_model(service: Service, model: str) -> None:
    """Raises ApiError for a model that isn't served."""
    if not service.settings.serves(model):
        raise ApiError(400, f"model: there is no {shown(model)}; this service has {service.settings.name}", param="model", code="model_not_found")


async def off_loop(work: Callable[[], Any]) -> Any:
    """The result of `work`, off the event loop: a long prompt takes a while to tokenize. A UserError becomes the answer."""
    try:
        return await asyncio.to_thread(work)
    except UserError as error:
        raise from_user_error(error) from None


def form_of(service: Service, request: Request, model: str, prefix: str, *, logprobs: bool | None = False, stream_options: Any = None) -> Form:
    """What the answers to one request have in common. model: as the client calls it."""
    return Form(request.state.request_id, model, service.fingerprint, service.tokenizer, bool(logprobs),
                bool(stream_options and stream_options.include_usage), prefix, service.settings.keep_alive_seconds)


async def send(service: Service, request: Request, chunks: Chunks, stream: bool) -> Response:
    """The response made of chunks."""
    anthropic, request_id = speaks_anthropic(request.url.path), request.state.request_id

    def failure(error: ApiError) -> bytes:
        data = error.body(anthropic, request_id)
        return encoded(data) if not stream else event_bytes({**data, "type": "error"}) if anthropic else b"data: " + encoded(data) + b"\n\n"

    return await send_answer(chunks, request.receive, stream=stream, failure=failure, send_seconds=service.settings.send_seconds,
                             sign_of_life=PING if anthropic else b": keep-alive\n\n")


def model_of(service: Service) -> dict[str, Any]:
    """The model, for both kinds of clients. Prices in US$ per million tokens."""
    price, settings = service.price(), service.settings
    per_million = lambda nano: float(dollars(nano))
    return {"id": settings.name, "object": "model", "type": "model", "created": service.began, "owned_by": "fathom",
            "display_name": settings.name, "created_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(service.began)), "lifecycle": "active",
            "context_length": service.context, "max_output_tokens": min(settings.most_output, service.context),
            "pricing": {"currency": "USD", "cached": per_million(price.cached), "input": per_million(price.input),
                        "output": per_million(price.output), "row": price.key()}}


def models_of(service: Service) -> dict[str, Any]:
    """The list of the one model."""
    name = service.settings.name
    return {"object": "list", "data": [model_of(service)], "has_more": False, "first_id": name, "last_id": name}
