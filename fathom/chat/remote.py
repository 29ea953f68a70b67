"""A service as one that answers: SPEC section 9's chat route over plain HTTP from the standard library. The environment isn't read,
proxies included; the key goes into one header and nowhere else.
"""
from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

from fathom.chat.answers import Asked, End, Trouble
from fathom.errors import UserError
from fathom.prices import money
from fathom.text import ContentDelta, Event, ReasoningDelta, ToolCallDelta, ToolCallStart

SILENT_SECONDS = 60.0  # the service gives a sign of life every few seconds
WORDS = {
    401: "The service doesn't know this key, or it was revoked.",
    402: "The key's account is used up. Whoever runs the service can add money: fathom keys top-up.",
    413: "This is more text than the service takes at once.",
    429: "This key has too many requests at the moment; try /again in a while.",
    500: "The service has a fault; its operator's log says more.",
    503: "The service is busy; try /again in a while.",
}
STATUS = {"authentication_error": 401, "insufficient_balance": 402, "rate_limit_error": 429, "overloaded_error": 503, "invalid_request_error": 400}
GONE = "The service can't be reached. Is it running, and is the URL right?"
BROKEN = "The connection broke off before the answer was complete."


class Remote:
    """A service. url: its address, with or without /v1.  key: the bearer token.  model: a name it serves, its first one if None.

    Raises UserError: an address that isn't one, a wrong key, a service that can't be reached, a model it doesn't have.
    """

    def __init__(self, url: str, key: str, model: str | None = None) -> None:
        parts = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise UserError("--url", url, "an address such as http://127.0.0.1:8000")
        if not key.isascii() or not key.isprintable() or not key:
            raise UserError("--key", None, "a key of the service", "fathom keys create NAME makes one; FATHOM_API_KEY may hold it")
        self._base = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/v1')}"
        self._key, self._open = key, urllib.request.build_opener(urllib.request.ProxyHandler({})).open
        try:
            models = self._json("GET", "/models")["data"]
        except Trouble as trouble:
            raise UserError("--url", url, str(trouble)) from None
        found = [m for m in models if model in (None, m["id"])]
        if not found:
            raise UserError("--name", model, f"one of {', '.join(m['id'] for m in models)}")
        self.name, self.context = found[0]["id"], found[0].get("context_length", 0)
        prices = found[0].get("pricing")
        self._prices = None if not prices else {n: money.parse_dollars(str(prices[n])) for n in ("cached", "input", "output")}

    def tokens(self, text: str) -> int:
        """See Answers."""
        return self._json("POST", "/tokenize", {"prompt": text})["count"]

    def answer(self, asked: Asked) -> Iterator[Event | End]:
        """See Answers."""
        finish, usage, ids, done = None, None, {}, False
        with self._send("POST", "/chat/completions", self._body(asked), asked.request_id) as response:
            for data in _events(response):
                if data == "[DONE]":
                    done = True
                    break
                chunk = json.loads(data)
                if error := chunk.get("error"):
                    raise Trouble(words(STATUS.get(error.get("type"), 500), error.get("message", "")))
                usage = chunk.get("usage") or usage
                for choice in chunk["choices"]:
                    finish = choice["finish_reason"] or finish
                    yield from _deltas(choice["delta"], ids)
        if not done or finish is None:
            raise Trouble(BROKEN)
        counts = usage_of(usage or {})
        yield End(finish, counts, self._cost(counts), tuple(ids[i] for i in sorted(ids)))

    def receipt(self, asked: Asked) -> End | None:
        """See Answers; the service closes its books on a cancelled answer a moment after it."""
        for wait in (0.2, 0.8, 2.0):
            time.sleep(wait)
            try:
                row = self._json("GET", f"/user/requests/{asked.request_id}")
            except Trouble:
                continue
            return End("stopped", usage_of(row), money.parse_dollars(row["cost"]))
        return None

    def _body(self, asked: Asked) -> dict[str, Any]:
        thinking = asked.mode != "off"
        body: dict[str, Any] = {"model": self.name, "messages": asked.messages, "stream": True, "stream_options": {"include_usage": True},
                                "thinking": {"type": "enabled" if thinking else "disabled"}}
        if thinking:
            body["reasoning_effort"] = "max" if asked.mode == "max" else "high"
        if asked.tools:
            body["tools"] = asked.tools
            if asked.choice != "auto" and (asked.choice == "none" or not thinking):
                plain = asked.choice in ("none", "required")
                body["tool_choice"] = asked.choice if plain else {"type": "function", "function": {"name": asked.choice}}
        for name in ("temperature", "top_p", "max_tokens", "seed"):
            if (value := getattr(asked, name)) is not None:
                body[name] = value
        return body

    def _cost(self, usage: Mapping[str, int]) -> int | None:
        if self._prices is None:
            return None
        return money.cost(hit=usage["hit"], miss=usage["miss"], output=usage["output"], cached_price=self._prices["cached"],
                          input_price=self._prices["input"], output_price=self._prices["output"])

    def _json(self, method: str, path: str, body: Any = None) -> Any:
        with self._send(method, path, body) as response:
            try:
                return json.loads(response.read())
            except (OSError, ValueError):
                raise Trouble(BROKEN) from None

    def _send(self, method: str, path: str, body: Any = None, request_id: str = "") -> Any:
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json", **({"X-Request-Id": request_id} if request_id else {})}
        data = None if body is None else json.dumps(body).encode()
        try:
            return self._open(urllib.request.Request(self._base + path, data=data, headers=headers, method=method), timeout=SILENT_SECONDS)
        except urllib.error.HTTPError as error:
            with error:
                raise Trouble(words(error.code, _message(error.read()))) from None
        except OSError:
            raise Trouble(GONE) from None


def words(status: int, message: str) -> str:
    """A refusal for a person."""
    text = WORDS.get(status) or (WORDS[500] if status >= 500 else "The service doesn't take this request.")
    return f"{text} ({message})" if message and status != 401 else text


def usage_of(found: Mapping[str, Any]) -> dict[str, int]:
    """The four counts of a usage object or a receipt."""
    reasoning = found.get("reasoning_tokens", (found.get("completion_tokens_details") or {}).get("reasoning_tokens", 0))
    return {"hit": found.get("prompt_cache_hit_tokens", 0), "miss": found.get("prompt_cache_miss_tokens", 0),
            "output": found.get("completion_tokens", 0), "reasoning": reasoning}


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return ""


def _events(response: Any) -> Iterator[str]:
    """The data of server-sent events; comments are skipped."""
    try:
        for line in response:
            if line.startswith(b"data:"):
                yield line[5:].decode("utf-8", "replace").strip()
    except OSError:
        raise Trouble(BROKEN) from None


def _deltas(delta: Mapping[str, Any], ids: dict[int, str]) -> Iterator[Event]:
    if text := delta.get("reasoning_content"):
        yield ReasoningDelta(text)
    if text := delta.get("content"):
        yield ContentDelta(text)
    for call in delta.get("tool_calls") or ():
        index, function = call["index"], call.get("function") or {}
        if index not in ids:
            ids[index] = call.get("id") or f"call_{index}"
            yield ToolCallStart(index, function.get("name") or "")
        if text := function.get("arguments"):
            yield ToolCallDelta(index, text)
