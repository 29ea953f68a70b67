"""Anthropic's routes under one base: none, or `/anthropic`, where its client finds them with base_url = …/anthropic."""
from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from fathom.server.anthropic import read_messages
from fathom.server.anthropic_reply import streamed_message, whole_message
from fathom.server.anthropic_wire import CountRequest, MessagesRequest
from fathom.server.asking import Ask, ask
from fathom.server.replies import AnthropicReply, InputTokens, ModelList, answers
from fathom.server.routing import check_model, form_of, models_of, off_loop, send
from fathom.server.sending import Json
from fathom.server.service import Service


def anthropic_routes(service: Service, base: str) -> APIRouter:
    """The routes whose paths begin with `base`."""
    routes, suffix = APIRouter(prefix=base, tags=["Anthropic"]), base.replace("/", "_")

    async def read(body: CountRequest) -> Ask:
        check_model(service, body.model)
        return await off_loop(lambda: ask(read_messages(body, quirks=service.settings.official_quirks), service.tokenizer))

    @routes.post("/v1/messages", operation_id=f"messages{suffix}", responses=answers(AnthropicReply, anthropic=True, stream=True))
    async def messages(request: Request, body: MessagesRequest) -> Response:
        """The assistant's next message."""
        admitted = service.answer(await read(body), request.state.key, request.state.request_id)
        form = form_of(service, request, body.model, "msg")
        chunks = streamed_message(admitted, form) if body.stream else whole_message(admitted, form)
        return await send(service, request, chunks, bool(body.stream))

    @routes.post("/v1/messages/count_tokens", operation_id=f"count_tokens{suffix}", responses=answers(InputTokens, anthropic=True))
    async def count_tokens(body: CountRequest) -> Response:
        """How many tokens a request's prompt has."""
        return Json({"input_tokens": len((await read(body)).prompt)})

    if base:  # without one it is OpenAI's route, whose answer serves both
        @routes.get("/v1/models", operation_id=f"models{suffix}", responses=answers(ModelList, anthropic=True))
        async def models() -> Response:
            """The model that is served."""
            return Json(models_of(service))

    return routes
