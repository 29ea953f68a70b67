"""What operators and browsers ask for: health, metrics, and the pages, which are files beside this one."""
from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse, PlainTextResponse, Response

from fathom.server.errors import ApiError
from fathom.server.replies import ErrorReply, Status, answers
from fathom.server.sending import Json
from fathom.server.service import Service

WEB = Path(__file__).parent / "web"
PAGES = {"/": "index.html", "/usage": "usage.html"}


def operation_routes(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["Operation"])

    @routes.get("/healthz", operation_id="healthz", responses=answers(Status))
    async def healthz() -> Response:
        """Whether the process lives and its engine hasn't failed."""
        if service.engine.failure is not None:
            raise ApiError(503, "The engine has failed; restart the service.", code="engine_failed")
        return Json({"status": "ok"})

    @routes.get("/readyz", operation_id="readyz", responses=answers(Status))
    async def readyz() -> Response:
        """Whether new requests are taken."""
        if not service.ready or service.engine.failure is not None:
            raise ApiError(503, "The service isn't taking requests.", code="not_ready", retry_after=5)
        return Json({"status": "ready"})

    text = {"description": "The counters", "content": {"text/plain": {"schema": {"type": "string"}}}}

    @routes.get("/metrics", operation_id="metrics", responses={200: text, 401: {"model": ErrorReply, "description": "Bad key"}})
    async def metrics() -> Response:
        """Counters for Prometheus, which can send a key as its bearer token."""
        return PlainTextResponse(service.metrics.text(), media_type="text/plain; version=0.0.4")

    for path, file in PAGES.items():
        routes.add_api_route(path, page(file), include_in_schema=False)
    return routes


def page(file: str) -> Callable[[], Awaitable[Response]]:
    """The route of one page."""
    async def show() -> Response:
        if not (WEB / file).is_file():
            raise ApiError(404, "This installation has no page here; the API is under /v1.", code="no_page")
        return FileResponse(WEB / file, headers={"Cache-Control": "no-cache"})

    return show
