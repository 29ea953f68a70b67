"""OpenAI's routes under one base: `/`, `/v1` or `/beta`. Prefix, FIM and strict tools work on every base."""
from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from fathom.prices import dollars
from fathom.server.answering import scoped_id
from fathom.server.asking import ask
from fathom.server.chat import read_chat
from fathom.server.chat_reply import streamed_chat, whole_chat
from fathom.server.completions import Choice, read_completion, streamed_completion, whole_completion
from fathom.server.errors import ApiError, shown
from fathom.server.replies import BalanceReply, ChatCompletion, ModelList, ModelReply, Receipt, TextCompletion, TokenCount, UsageList, answers
from fathom.server.routing import check_model, form_of, model_of, models_of, off_loop, send
from fathom.server.sending import Json
from fathom.server.service import Service
from fathom.server.wire import ChatRequest, CompletionRequest, TokenizeRequest


def openai_routes(service: Service, base: str) -> APIRouter:
    """The routes whose paths begin with `base`."""
    routes = APIRouter(prefix=base, tags=["OpenAI"])
    add_answers(routes, service, base.replace("/", "_"))
    add_account(routes, service, base.replace("/", "_"))
    return routes


def add_answers(routes: APIRouter, service: Service, suffix: str) -> None:
    """Answers, and counting their tokens."""
    settings, tokenizer = service.settings, service.tokenizer

    @routes.post("/chat/completions", operation_id=f"chat{suffix}", responses=answers(ChatCompletion, stream=True))
    async def chat(request: Request, body: ChatRequest) -> Response:
        """The assistant's next message."""
        check_model(service, body.model)
        wanted = await off_loop(lambda: ask(read_chat(body, lenient=settings.lenient, quirks=settings.official_quirks), tokenizer))
        form = form_of(service, request, body.model, "chatcmpl", logprobs=body.logprobs, stream_options=body.stream_options)
        admitted = service.answer(wanted, request.state.key, request.state.request_id)
        return await send(service, request, streamed_chat(admitted, form) if body.stream else whole_chat(admitted, form), bool(body.stream))

    @routes.post("/completions", operation_id=f"completion{suffix}", responses=answers(TextCompletion, stream=True))
    async def completion(request: Request, body: CompletionRequest) -> Response:
        """A text continued, or with `suffix` the gap before it filled."""
        check_model(service, body.model)
        asks = await off_loop(lambda: read_completion(body, tokenizer, service.config.vocab_size))
        choices = await off_loop(lambda: [Choice(i, body, tokenizer) for i in range(len(asks))])
        form = form_of(service, request, body.model, "cmpl", stream_options=body.stream_options)
        key, request_id = request.state.key, request.state.request_id
        admit = lambda i: service.answer(asks[i], key, request_id if len(asks) == 1 else f"{request_id}:{i}")
        chunks = streamed_completion(admit(0), choices[0], form) if body.stream else whole_completion(admit, choices, form)
        return await send(service, request, chunks, bool(body.stream))

    @routes.post("/tokenize", operation_id=f"tokenize{suffix}", responses=answers(TokenCount))
    async def tokenize(body: TokenizeRequest) -> Response:
        """How many tokens a text, or a conversation as it would be sent, has."""
        if (body.prompt is None) == (body.messages is None):
            raise ApiError(400, "prompt, messages: send exactly one of them", param="prompt")
        check_model(service, settings.name if body.model is None else body.model)

        def count() -> int:
            if body.prompt is not None:
                return len(tokenizer.encode(body.prompt))
            asked = ChatRequest.model_construct(model=settings.name, messages=body.messages, thinking=body.thinking, tools=body.tools)
            return len(ask(read_chat(asked, lenient=True, quirks=False), tokenizer).prompt)

        return Json({"count": await off_loop(count), "max_model_len": service.context})


def add_account(routes: APIRouter, service: Service, suffix: str) -> None:
    """What there is, what is left, and what was used."""
    @routes.get("/models", operation_id=f"models{suffix}", responses=answers(ModelList))
    async def models() -> Response:
        """The model that is served."""
        return Json(models_of(service))

    @routes.get("/models/{model:path}", operation_id=f"model{suffix}", responses=answers(ModelReply))
    async def model(model: str) -> Response:
        """One model by name."""
        if not service.settings.serves(model):
            raise ApiError(404, f"There is no model {shown(model)}; this service has {service.settings.name}.", param="model", code="model_not_found")
        return Json(model_of(service))

    @routes.get("/user/balance", operation_id=f"balance{suffix}", responses=answers(BalanceReply))
    async def balance(request: Request) -> Response:
        """What the key's account has left."""
        return Json((await service.accounts.balance(request.state.key)).api())

    @routes.get("/user/usage", operation_id=f"usage{suffix}", responses=answers(UsageList))
    async def usage(request: Request, days: Annotated[int, Query(ge=1, le=3660)] = 30) -> Response:
        """What the key's account used, by day, key and model; the days are UTC's, today's included."""
        until = service.today()
        since = until - timedelta(days=days - 1)
        rows = await service.accounts.usage(request.state.key, since, until)
        return Json({"object": "list", "since": since.isoformat(), "until": until.isoformat(), "currency": "USD", "data": [
            {"day": row.day, "key": row.key, "name": row.name, "model": row.model, "requests": row.requests, "prompt_cache_hit_tokens": row.hit,
             "prompt_cache_miss_tokens": row.miss, "completion_tokens": row.output, "reasoning_tokens": row.reasoning,
             "cost": dollars(row.cost)} for row in rows]})

    @routes.get("/user/requests/{request_id}", operation_id=f"receipt{suffix}", responses=answers(Receipt))
    async def receipt(request: Request, request_id: str) -> Response:
        """What one request of this key was billed, once it has ended: for whoever didn't hear it to its end."""
        row = await service.accounts.request(request.state.key, scoped_id(request.state.key, request_id))
        if row is None:
            raise ApiError(404, f"No ended request of this key has the id {shown(request_id)}.", param="request_id", code="request_not_found")
        return Json({"id": request_id, "object": "request", "model": row.model, "status": row.status,
                     "started": int(row.started.timestamp()), "finished": int(row.finished.timestamp()),
                     "prompt_cache_hit_tokens": row.usage.hit, "prompt_cache_miss_tokens": row.usage.miss,
                     "completion_tokens": row.usage.output, "reasoning_tokens": row.usage.reasoning, "cost": dollars(row.cost)})
