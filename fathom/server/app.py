"""The service as an ASGI application: routes, errors, and the door around them.

    /  and /v1, /beta    chat/completions, completions, tokenize, models, user/balance, user/usage    OpenAI's form
    /v1/messages         and /anthropic/v1/messages, …/count_tokens                                     Anthropic's form
    /metrics             with a key, like all of the above
    /healthz /readyz     without; so are the pages at / and /usage and their files under /web

What a request means is in chat.py, completions.py and anthropic.py; how it is answered, in answering.py.
"""
from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from fathom import __version__
from fathom.server.anthropic_routes import anthropic_routes
from fathom.server.door import Door, speaks_anthropic
from fathom.server.errors import BUG, ApiError, from_validation, shown
from fathom.server.openai_routes import openai_routes
from fathom.server.operation_routes import WEB, operation_routes
from fathom.server.replies import describe
from fathom.server.sending import ClientGone, Json
from fathom.server.service import Service


def make_app(service: Service) -> ASGIApp:
    """The application; its lifespan starts and stops the service."""
    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        try:
            yield
        finally:
            await service.stop()

    app = FastAPI(title="Fathom", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False)
    add_error_handlers(app)
    for base in ("", "/v1", "/beta"):
        app.include_router(openai_routes(service, base))
    for base in ("", "/anthropic"):
        app.include_router(anthropic_routes(service, base))
    app.include_router(operation_routes(service))
    if WEB.is_dir():
        app.mount("/web", StaticFiles(directory=WEB))
    describe(app, service.settings)
    return Door(app, service.accounts.authenticate, service.settings, service.metrics)


def add_error_handlers(app: FastAPI) -> None:
    """Every error in the form that the path's clients expect."""
    def answer(request: Request, error: ApiError) -> Response:
        body = error.body(speaks_anthropic(request.url.path), request.state.request_id)
        return Json(body, status_code=error.status, headers=error.headers())

    async def api_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return answer(request, error)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return answer(request, from_validation(error.errors()))

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        messages = {404: f"There is nothing at {shown(request.url.path)}.", 405: f"{request.method} isn't possible here."}
        response = answer(request, ApiError(error.status_code, messages.get(error.status_code, str(error.detail))))
        response.headers.update(error.headers or {})
        return response

    async def gone(request: Request, error: Exception) -> Response:
        return Response(status_code=499)  # nobody reads it

    async def bug(request: Request, error: Exception) -> Response:
        return answer(request, ApiError(500, BUG))  # the door logs it

    handlers = {Exception: bug, ApiError: api_error, RequestValidationError: invalid, HTTPException: http_error, ClientGone: gone}
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
