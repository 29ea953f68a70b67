"""One answer under way: admitted, metered, read, and handed on in batches.

    async with service.answer(ask, key, request_id) as answer:      # refused here: 402, 409, 429, 503
        async for batch in answer.batches():                        # what has come since the last one; None: still waiting
            …

Tokens are generated and journalled by the engine first, recorded by the meter second, handed on third (accounts.py says why); while a
record is written, the next tokens gather. Leaving the block before the engine has come to the answer's end, because the client has gone
or the answer took too long, cancels the request, which frees what it held, and closes its row. What is told to come again (503) has no
row: it may come again under its id.
"""
from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fathom.engine import Output, Overloaded, Request, Sampling, Ticket
from fathom.engine.journal import DifferentRequest, RunningRequest
from fathom.errors import UserError
from fathom.server.accounts import Key, Meter, OutOfBalance, Taken
from fathom.server.accounts import Usage as Billed
from fathom.server.asking import Ask
from fathom.server.errors import ApiError, from_user_error
from fathom.server.metering import NORMAL
from fathom.server.reader import Piece, Reader, Seen, StopWatch

if TYPE_CHECKING:
    from fathom.server.service import Service

log = logging.getLogger("fathom.server")
BUSY = "The service is busy; the same request may pass in a moment."


@dataclass(frozen=True)
class Batch:
    """What has come. finish: on the last batch, why it is the last (a finish_reason of the API)."""

    seen: Seen
    finish: str | None = None


class Arrivals:
    """Outputs on their way from the engine's thread to the event loop."""

    def __init__(self) -> None:
        self._loop, self._outputs, self._event = asyncio.get_running_loop(), deque[Output](), asyncio.Event()
        self._told = False

    def put(self, output: Output) -> None:
        """Called by the engine's thread."""
        self._outputs.append(output)
        if not self._told:
            self._told = True
            with contextlib.suppress(RuntimeError):  # the loop has ended; nobody waits any more
                self._loop.call_soon_threadsafe(self._event.set)

    async def drain(self, seconds: float) -> list[Output]:
        """All that is there, waiting up to `seconds` for the first; empty if none came."""
        end = self._loop.time() + seconds
        while True:
            self._event.clear()
            self._told = False  # before looking: what is put from here on tells again
            drained = []
            while self._outputs:
                drained.append(self._outputs.popleft())
            if drained or self._loop.time() >= end:
                return drained
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(end):
                    await self._event.wait()


class Answer:
    """Made by `Service.answer`. After the last batch: usage, prompt (its pieces, if asked for), reader.stopped."""

    def __init__(self, service: Service, ask: Ask, meter: Meter | None, ticket: Ticket, arrivals: Arrivals, reader: Reader) -> None:
        self._service, self._meter, self._ticket, self._arrivals = service, meter, ticket, arrivals
        self.ask, self.reader = ask, reader
        self.over = False
        """Whether the engine has given its last token."""
        self.whole = False
        """Whether the row is closed, or being closed, with the whole answer, which stays on file for whoever asks again."""
        self._began = time.monotonic()
        self.usage = Billed(0, len(ask.prompt))

    async def batches(self) -> AsyncIterator[Batch | None]:
        """Batches as they come, None for each `keep_alive_seconds` in which nothing came.

        Raises:
            ApiError: 402 when the balance is spent, 503 when the first token doesn't come in time.
        """
        settings, first = self._service.settings, True
        while True:
            outputs = await self._arrivals.drain(settings.keep_alive_seconds)
            waited = time.monotonic() - self._began
            if not outputs:
                if first and waited > settings.wait_seconds:
                    if self._meter:
                        await self._meter.withdraw()
                    raise ApiError(503, BUSY, code="no_room_in_time", retry_after=30)
                if waited > settings.answer_seconds:
                    outputs = [Output(-1, 0.0, None)]
                else:
                    yield None
                    continue
            if first:
                first = False
                self._service.metrics.first_token.observe(waited)
            batch = self._read(outputs, late=waited > settings.answer_seconds)
            await self._record(batch.finish)
            yield batch
            if batch.finish is not None:
                return

    def prompt_pieces(self) -> list[Piece]:
        """The prompt's tokens with their log-probabilities, once they are computed; the first has none."""
        scores = self._ticket.prompt_logprobs or []
        first, *rest = self.ask.prompt
        return [Piece(first, None), *(Piece(token, logprob, top) for token, (logprob, top) in zip(rest, scores))]

    def _read(self, outputs: list[Output], late: bool) -> Batch:
        self.over = outputs[-1].finish_reason is not None
        reason = outputs[-1].finish_reason or ("insufficient_system_resource" if late else None)
        if not self.ask.max_tokens:  # one was computed because the engine always does; it was not asked for
            outputs = []
        seen = self.reader.feed(outputs)
        if reason:
            end = self.reader.finish(cut=reason != "stop")
            seen.events += end.events
            seen.reasoning += end.reasoning
            seen.content += end.content
            if reason == "stop" and self.reader.calls and self.reader.stopped is None:
                reason = "tool_calls"
        recorded, usage = self._meter.usage if self._meter else Billed(), self._ticket.usage
        hit, miss = (recorded.hit, recorded.miss) if recorded.hit + recorded.miss else (usage.hit, usage.prompt - usage.hit)
        self.usage = Billed(hit, miss, self.reader.tokens, self.reader.reasoning_tokens)
        return Batch(seen, reason)

    async def _record(self, finish: str | None) -> None:
        if finish:
            self.whole = self.over and finish in NORMAL
        if self._meter is None:
            return
        usage = self.usage if self.usage.covers(self._meter.usage) else None  # a resumed answer isn't back where it was
        try:
            if finish:
                await self._meter.finish(finish, usage)
            elif usage is not None:
                await self._meter.record(usage)
        except UserError as error:
            self.whole = False
            if isinstance(error, OutOfBalance):
                with contextlib.suppress(UserError):
                    await self._meter.finish("balance")  # on disk before it is told: who asks again is told the same
            self._meter.finish_soon("failed")
            raise from_user_error(error) from None


@contextlib.asynccontextmanager
async def answering(service: Service, ask: Ask, key: Key, request_id: str) -> AsyncIterator[Answer]:
    """Admits one answer: see the top of this file.

    Args:
        request_id: unique among the key's requests; asked again after a crash, the answer goes on.

    Raises:
        ApiError: the request isn't admitted.
    """
    scoped = scoped_id(key, request_id)
    request = await asyncio.to_thread(engine_request, service, ask, key, scoped)
    meter = await open_meter(service, key, scoped, request)
    arrivals = Arrivals()
    async with meter or contextlib.nullcontext():
        try:
            ticket = service.engine.submit(request, arrivals.put)
        except Exception as error:
            if meter:
                await meter.withdraw()
            raise refused_by_engine(error) from None
        answer = Answer(service, ask, meter, ticket, arrivals, Reader(service.tokenizer, ask.parsed, ask.stops))
        try:
            yield answer
        finally:
            if not answer.over:
                ticket.cancel()
            if meter and not answer.whole:
                service.forget_after(None if answer.over else arrivals, meter, request.id)
            service.metrics.count(answer.usage)
            for notice in answer.reader.notices:
                log.debug("request %s: %s", request_id, notice.problem)
            if problem := getattr(request.constraint, "broken", ""):
                log.warning("request %s: its grammar gave up: %s", request_id, problem)


def scoped_id(key: Key, request_id: str) -> str:
    """A request's id among those of all keys: a client chooses freely within its own."""
    return f"{key.prefix}-{request_id}"


def engine_request(service: Service, ask: Ask, key: Key, scoped: str) -> Request:
    """The engine's side of an ask. Compiling a grammar can take a second, so not on the event loop."""
    context = service.context
    if len(ask.prompt) >= context + (ask.max_tokens == 0 and ask.prompt_logprobs):
        raise ApiError(400, f"The model's context is {context} tokens, answer included; the prompt alone has {len(ask.prompt)}.",
                       param="messages" if ask.parsed != "text" else "prompt", code="context_length_exceeded")
    try:
        constraint = None if ask.grammar is None else service.grammars.constraint(**ask.grammar)
    except UserError as error:
        raise from_user_error(error) from None
    how = ask.sampled
    seed = how.seed if how.seed is not None else int.from_bytes(digest(scoped, 7), "little")
    most = max(0 if ask.prompt_logprobs else 1, min(ask.max_tokens, service.settings.most_output))
    decided = json.dumps({**vars(ask), "sampled": vars(ask.sampled)}, sort_keys=True)  # so that a log is found by the very request that it is of
    return Request(
        ask.prompt, most, Sampling(how.temperature, how.top_k, how.top_p, seed=seed), frozenset({service.tokenizer.eos_id}),
        id=f"{scoped}-{digest(decided, 8).hex()}", owner=f"{key.prefix}/{ask.user}", top_logprobs=ask.top_logprobs or 0,
        prompt_logprobs=ask.prompt_logprobs, constraint=constraint,
        stop=StopWatch(service.tokenizer, ask.parsed, ask.stops) if ask.stops else None,
    )


def refused_by_engine(error: Exception) -> Exception:
    """What a client is told when the engine doesn't take its request; a bug stays what it is."""
    match error:
        case Overloaded():
            return ApiError(503, BUSY, code="overloaded", retry_after=2)
        case DifferentRequest():
            return ApiError(409, "The request under this id was begun with another model.", code=Taken.code)
        case RunningRequest():
            return ApiError(409, "The request under this id hasn't ended yet; ask again in a moment.", code=Taken.code)
        case UserError():
            return from_user_error(error)
    return error


async def open_meter(service: Service, key: Key, scoped: str, request: Request) -> Meter | None:
    """The meter of a request: a fresh one, or that of the same request before a crash, or none for an answer that is billed and on file."""
    try:
        return await service.accounts.begin(scoped, key, service.settings.name, len(request.prompt))
    except Taken as taken:
        refused = from_user_error(taken)
        if taken.billed:
            row = await service.accounts.request(key, scoped)
            if row is not None and await asyncio.to_thread(service.on_file, request.id, row.usage.output):
                return None
            if row is not None and row.status == "balance":
                refused = from_user_error(OutOfBalance("request", scoped, "ended when the balance was spent",
                                                       "top up the account, then ask under another id"))
            raise refused from None
    except UserError as error:
        raise from_user_error(error) from None
    if await asyncio.to_thread(service.logs_of, scoped) - {request.id}:
        raise refused  # it goes on for whoever asks the same as before
    try:
        return await service.accounts.resume(scoped, key)
    except UserError as error:
        raise from_user_error(error) from None


def digest(text: str, size: int) -> bytes:
    """A few bytes that stand for a text."""
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=size).digest()


def totals(usages: list[Billed]) -> Billed:
    """The sum of some answers' usage, for a request with several prompts."""
    parts: dict[str, Any] = {name: sum(getattr(usage, name) for usage in usages) for name in ("hit", "miss", "output", "reasoning")}
    return Billed(**parts)
