"""A client for any OpenAI-compatible endpoint, polite and stubborn: it waits when told to, and gives up only on what won't change.

Three kinds of trouble: *later* (429, or 503 with Retry-After) holds everybody back for as long as the service says and halves how
many requests go out at once, which then grows back by one per round; *failure* (a dropped connection, a timeout, a 5xx, an answer
that isn't JSON) is tried again with exponential backoff; *refusal* (another 4xx) is final: the same request would be refused again.
A wrong key or an unknown model is the user's to mend and stops the run.

Every try of a request carries the same X-Request-Id, by which a service may go on with an answer that it was cut off in. One that has
ended the request meanwhile, since we were cut off or killed before its answer was stored, says 409: it is asked anew, under another id.

The environment isn't read, proxies included. The key goes into one header and nowhere else; a service that says it back is not quoted.
"""
from __future__ import annotations

import email.utils
import hashlib
import json
import random
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fathom.errors import UserError
from fathom.eval.store import Attempt, Reply

MAX_BODY = 64 * 2**20  # bytes of one answer
LONGEST_WAIT = 900.0  # seconds that a service may ask for before the run stops instead
BACKOFF = (1.0, 60.0)  # seconds: first and longest
UNCOUNTED = (429, 409)  # no failures of the service: it asks for patience; it already knows this id
AGAIN = "start again later: the run is continued where it stopped"
Log = Callable[[Attempt], None]


class Failure(Exception):
    """No answer after all attempts; asking again later may help."""


class Refused(Exception):
    """The endpoint says no to this very request; asking again won't help."""


class Pace:
    """How many requests may be out at once, and not before when; shared by all threads of a run."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.most, self.clock = most, clock
        self.limit, self.active, self.open_at, self.last_cut = float(most), 0, 0.0, float("-inf")
        self._changed = threading.Condition()

    def __enter__(self) -> None:
        with self._changed:
            while self.active >= int(self.limit) or self.clock() < self.open_at:
                self._changed.wait(min(max(self.open_at - self.clock(), 0.02), 1.0))
            self.active += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self.active -= 1
            self._changed.notify_all()

    def succeeded(self) -> None:
        """One more at a time after each full round of successes."""
        with self._changed:
            self.limit = min(float(self.most), self.limit + 1 / self.limit)
            self._changed.notify_all()

    def later(self, seconds: float) -> None:
        """Nobody before `seconds` from now, and half as many at once; a burst of refusals halves once."""
        with self._changed:
            now = self.clock()
            self.open_at = max(self.open_at, now + seconds)
            if now - self.last_cut > 1.0:
                self.limit, self.last_cut = max(1.0, self.limit / 2), now


class Endpoint:
    """An OpenAI-compatible chat endpoint.

    Args:
        url: base (`https://host/v1`, `http://127.0.0.1:8000`) or the full …/chat/completions.
        model: the name sent.  key: bearer token, may be empty.
        concurrency: most requests at once.  timeout: seconds for one attempt, from sending to the last byte.
        attempts: how often a failing request is tried.  temperature: None sends none.
        room: tokens granted for reasoning on top of an item's own limit.
        extra: fields laid over the request body; a null removes one.  proxy: URL of an HTTP proxy.
    """

    remote = True

    def __init__(self, url: str, model: str, key: str = "", *, concurrency: int = 8, timeout: float = 600.0, attempts: int = 8,
                 temperature: float | None = 0.0, room: int = 0, extra: Mapping[str, Any] | None = None, proxy: str | None = None,
                 sleep: Callable[[float], None] = time.sleep) -> None:
        try:
            import httpx
        except ImportError:
            raise UserError("httpx", None, "is not installed", "install it with: pip install 'fathom[eval]'") from None
        self.httpx, self.name, self.url = httpx, model, chat_url(url)
        self.timeout, self.attempts, self.temperature, self.room = timeout, attempts, temperature, room
        self.extra, self.sleep, self.pace, self.key = dict(extra or {}), sleep, Pace(concurrency), key
        self.limit_field = "max_tokens"
        self.http = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {}, timeout=httpx.Timeout(timeout, connect=min(30.0, timeout)),
            limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency), trust_env=False, proxy=proxy,
            follow_redirects=False)

    def close(self) -> None:
        """Closes the connections."""
        self.http.close()

    def body(self, messages: Sequence[Mapping[str, str]], max_tokens: int) -> dict[str, Any]:
        """The request body for one asking."""
        body: dict[str, Any] = {"model": self.name, "messages": [dict(m) for m in messages], "stream": False}
        body[self.limit_field] = max_tokens + self.room
        if self.temperature is not None:
            body["temperature"] = self.temperature
        return {k: v for k, v in (body | self.extra).items() if v is not None}

    def ask(self, messages: Sequence[Mapping[str, str]], *, max_tokens: int, request_id: str, log: Log) -> Reply:
        """One answer, after as many attempts as it takes; each is told to `log`.

        Raises Failure when attempts run out, Refused on a final no, UserError on a wrong key, an unknown address or a service that
        wants to be left alone for longer than LONGEST_WAIT.
        """
        first_id, jitter = header_id(request_id), random.Random(request_id)  # jitter spreads retries; equal for equal requests
        request_id = first_id
        failures = waits = 0
        while True:
            with self.pace:
                status, headers, text, seconds, trouble = self._send(self.body(messages, max_tokens), request_id)
            reply = None
            if status == 200 and not trouble:
                reply, trouble = read_reply(text, seconds)
            if reply is not None:
                self.pace.succeeded()
                log(Attempt(status, True, seconds, ""))
                return reply
            wait = retry_after(headers, time.time())
            later = status == 429 or (status == 503 and wait is not None)
            message = trouble or f"HTTP {status}: {server_message(text)}"
            log(Attempt(status, status not in UNCOUNTED, seconds, message[:500]))
            if later:
                waits += 1
                wait = wait if wait is not None else min(BACKOFF[1], BACKOFF[0] * 2 ** (waits - 1)) * (0.5 + jitter.random() / 2)
                if wait > LONGEST_WAIT or waits > 60:
                    raise UserError("--endpoint", self.url, f"asks to be left alone for {wait:.0f} s", AGAIN)
                self.pace.later(wait)
                self.sleep(wait)
                continue
            if 300 <= status < 500 and status not in (408, 409, 425):
                if self._other_limit_field(status, text):
                    continue
                self._refuse(status, text)
            failures += 1
            if failures >= self.attempts:
                raise Failure(message)
            if status == 409:
                request_id = f"{first_id}-{secrets.token_hex(4)}"
            self.sleep(min(BACKOFF[1], BACKOFF[0] * 2 ** (failures - 1)) * (0.5 + jitter.random() / 2))

    def _send(self, body: dict[str, Any], request_id: str) -> tuple[int, Mapping[str, str], str, float, str]:
        """(status or 0, headers, text, seconds, trouble): one attempt; trouble is "" when an HTTP answer came whole and in time."""
        began = time.monotonic()
        status = 0
        headers: Mapping[str, str] = {}
        try:
            content = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
            send = {"Content-Type": "application/json", "X-Request-Id": request_id}
            with self.http.stream("POST", self.url, content=content, headers=send) as response:
                status, headers = response.status_code, response.headers
                chunks, size = [], 0
                for chunk in response.iter_bytes():  # a read timeout alone would let a dribbling service hold us for ever
                    chunks.append(chunk)
                    size += len(chunk)
                    if time.monotonic() - began > self.timeout:
                        return 0, headers, "", time.monotonic() - began, f"no whole answer in {self.timeout:g} s"
                    if size > MAX_BODY:
                        return 0, headers, "", time.monotonic() - began, f"an answer of more than {MAX_BODY >> 20} MiB"
            text = b"".join(chunks).decode("utf-8", "replace")
            return status, headers, text.replace(self.key, "(the key)") if self.key else text, time.monotonic() - began, ""
        except self.httpx.TimeoutException:
            return 0, headers, "", time.monotonic() - began, f"no answer in {self.timeout:g} s"
        except (self.httpx.UnsupportedProtocol, self.httpx.InvalidURL) as error:
            raise UserError("--endpoint", self.url, f"is not an address: {error}", "give a URL such as http://127.0.0.1:8000/v1") from None
        except self.httpx.TransportError as error:
            return 0, headers, "", time.monotonic() - began, f"connection lost: {type(error).__name__} {error}".strip()

    def _other_limit_field(self, status: int, text: str) -> bool:
        """Some services renamed the limit; switches once, for all further requests."""
        if status in (400, 422) and self.limit_field == "max_tokens" and "max_completion_tokens" in text:
            self.limit_field = "max_completion_tokens"
            return True
        return False

    def _refuse(self, status: int, text: str) -> None:
        said = server_message(text)
        if status in (401, 403):
            raise UserError("--key-file", None, f"the endpoint refuses the key (HTTP {status}: {said})", "give a valid key")
        if status == 402:
            raise UserError("--endpoint", self.url, f"the account is out of balance ({said})", f"top it up; {AGAIN}")
        if status < 400 or status in (404, 405):
            remedy = f"check the address (often it ends in /v1) and the model {self.name!r}"
            raise UserError("--endpoint", self.url, f"HTTP {status}: {said}", remedy)
        raise Refused(f"HTTP {status}: {said}")


def chat_url(url: str) -> str:
    """The address of chat completions for a base URL. Raises UserError on one that isn't http(s) or carries credentials."""
    url = url.strip().rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise UserError("--endpoint", url, "an http:// or https:// URL", "for example http://127.0.0.1:8000/v1")
    if "@" in url.split("/")[2]:
        raise UserError("--endpoint", None, "carries a user name or a password", "put the key into a file: --key-file FILE")
    return url if url.endswith("/chat/completions") else f"{url}/chat/completions"


def header_id(text: str) -> str:
    """An id as any service takes it: letters, digits, dots and hyphens, at most 100. A hash keeps those apart that had to be changed."""
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", text)
    return text if plain == text and len(text) <= 100 else f"{plain[:80]}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds to wait by Retry-After (seconds or an HTTP date; `now` is Unix time) or retry-after-ms; None where neither is readable."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        value = headers["retry-after"].strip()
    except (KeyError, ValueError):
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return None


def server_message(text: str) -> str:
    """What a service says about an error: its JSON message, or the beginning of the text; one line."""
    try:
        data = json.loads(text)
        error = data.get("error", data) if isinstance(data, dict) else data
        text = str(error.get("message", error) if isinstance(error, dict) else error)
    except (ValueError, RecursionError):
        text = text[:300]
    return " ".join(text.split())[:300]


def read_reply(text: str, seconds: float) -> tuple[Reply | None, str]:
    """(reply, "") from the body of a 200, or (None, what is wrong with it). Leading blank lines are keep-alives."""
    try:
        data = json.loads(text)
        choice = data["choices"][0]
        message = choice["message"]
        content = message.get("content")
        if isinstance(content, list):
            content = "".join(part.get("text", "") for part in content if isinstance(part, dict))
        usage = data.get("usage") or {}
        count = lambda value: value if isinstance(value, int) and not isinstance(value, bool) else None
        details = usage.get("prompt_tokens_details") or {}
        cached = count(usage.get("prompt_cache_hit_tokens"))
        cached = cached if cached is not None else count(details.get("cached_tokens"))
        reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
        return Reply(str(content or ""), str(reasoning), str(choice.get("finish_reason") or ""), count(usage.get("prompt_tokens")), cached,
                     count(usage.get("completion_tokens")), seconds), ""
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        return None, f"an answer that isn't a chat completion ({type(error).__name__}: {' '.join(text.split())[:80]!r})"
