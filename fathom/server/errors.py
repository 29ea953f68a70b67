"""Errors as clients of the two APIs expect them: the status, and the body in OpenAI's or Anthropic's shape.

    400 bad format   401 bad key   402 out of balance   404 no such route   405 wrong method   408 too slow a body   409 request id taken
    413 too large a body   422 bad parameter   429 too many at once   500 our bug   503 overloaded

What pydantic finds is 400 where the form is wrong (a missing field, a string for a number, a field that doesn't exist) and 422 where
the form is right and the value isn't allowed. Every message names the field, what it was, and what is allowed.
"""
from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fathom.errors import UserError
from fathom.server.refusals import Refusal, TooMany

OPENAI_TYPES = {401: "authentication_error", 402: "insufficient_balance", 404: "not_found_error", 429: "rate_limit_error", 500: "server_error",
                503: "overloaded_error"}
ANTHROPIC_TYPES = {401: "authentication_error", 402: "billing_error", 403: "permission_error", 404: "not_found_error", 413: "request_too_large",
                   429: "rate_limit_error", 500: "api_error", 503: "overloaded_error"}
BUG = "The service has a bug; the operator's log says more."
VALUE_ERRORS = re.compile(r"greater_than|less_than|multiple_of|finite_number|pattern|too_long|too_short|literal_error|enum|value_error")
"""Types of pydantic's errors that are about the value of a field whose form is right."""
BRANCH = re.compile(r"str|int|float|bool|none|any|dict|[A-Z]\w*|.*\[.*|(constrained|function|tagged|json|nullable)-.*")
"""Parts of pydantic's locations that name a branch of a union and no field."""
TAGS = ("system", "user", "assistant", "tool", "text", "thinking", "redacted_thinking", "tool_use", "tool_result")
"""Roles and types by which pydantic tells branches apart; behind an index they aren't fields either."""


class ApiError(Exception):
    """An answer other than the one asked for.

    Args:
        status: the HTTP status.  message: one sentence or two for a person.  param: the request's field at fault, if one is.
        code: a short name for programs.  retry_after: seconds, for 429 and 503.
    """

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry_after = status, message, param, code, retry_after

    def headers(self) -> dict[str, str]:
        """Headers that go with the status."""
        found = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return found | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})

    def body(self, anthropic: bool, request_id: str) -> dict[str, Any]:
        """The body of the answer, or of an error event in a stream."""
        if anthropic:
            kind = ANTHROPIC_TYPES.get(self.status, "invalid_request_error")
            return {"type": "error", "error": {"type": kind, "message": self.message}, "request_id": request_id}
        kind = OPENAI_TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code or kind}}


def from_user_error(error: UserError) -> ApiError:
    """What a room below, or the accounts, refused."""
    if isinstance(error, Refusal):
        later = error.retry_after if isinstance(error, TooMany) else 5 if error.status == 503 else None
        return ApiError(error.status, error.one_line(), param=None, code=error.code, retry_after=later)
    return ApiError(400, error.one_line(), param=error.field)


def from_validation(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """The most telling of what pydantic found: of a union's branches the one that got furthest, and there what is about a value."""
    error = max(errors, key=lambda error: (len(place_of(error["loc"])), VALUE_ERRORS.search(error["type"]) is not None))
    kind, place = error["type"], place_of(error["loc"])
    if kind == "json_invalid":
        what = error.get("ctx", {}).get("error", "parse error")
        return ApiError(400, f"The body isn't JSON: {what} at character {error['loc'][-1]}.", code="invalid_json")
    field = spelled(place) or "body"
    message = f"{field}: {error['msg']}"
    if kind == "extra_forbidden":
        message = f"{field}: this field isn't supported; leave it out"
    elif kind not in ("missing", "value_error") and not isinstance(error.get("input"), Mapping | list):
        message += f", not {shown(error.get('input'))}"
    about_value = VALUE_ERRORS.search(kind) is not None and not (place and place[-1] in ("role", "type") and "messages" in place)
    return ApiError(422 if about_value else 400, message, param=field)


def place_of(location: Sequence[Any]) -> list[Any]:
    """The fields and indexes of one of pydantic's locations, without the names of unions' branches."""
    place: list[Any] = []
    parts = list(location[1:] if location and location[0] in ("body", "query", "path", "header") else location)
    for i, part in enumerate(parts):
        tag = place and (part == place[-1] or isinstance(place[-1], int) and part in TAGS and i + 1 < len(parts))
        if isinstance(part, int) or not tag and not BRANCH.fullmatch(part):
            place.append(part)
    return place


def spelled(place: Sequence[Any]) -> str:
    """messages[0].content"""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")


def shown(value: Any) -> str:
    """A short form of a value, on one line."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "…"
