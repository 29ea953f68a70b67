"""What goes into the engine and what comes out, and the contracts of what a caller may hand in with a request.

The engine knows nothing of text. Grammars and stop strings, which do, are handed in behind two small protocols, `Constraint` and
`Stop`, in token ids. An answer comes out of a `Ticket` as `Output`s: to iterate over, or to a callback for those who can't block.

Everything here is data and contracts; who runs what when is in scheduler/.
"""
from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from .sampler import Sampling

FinishReason = Literal["stop", "length", "aborted", "insufficient_system_resource"]
Top = tuple[tuple[int, float], ...]
"""Likeliest tokens with their log-probabilities, likeliest first, ties to the lower id."""


class Constraint(Protocol):
    """What the next token may be, from the tokens so far: a grammar. One object belongs to one request.

    It is called by the engine's thread only. A mask in which no token may come next ends the answer with "stop". If one of its methods
    raises, that request ends with "insufficient_system_resource" and the others go on.
    """

    def mask(self) -> np.ndarray | None:
        """[ceil(V/32)] uint32: bit t % 32 of word t // 32 is set where token t may come next. None: every token may.

        The engine reads it before the next call to this object; it needn't be a copy.
        """

    def accept(self, token_id: int) -> None:
        """Takes the next token, which the last mask allowed (also stop tokens, and those of a resumed answer)."""

    def rollback(self, count: int) -> None:
        """Takes back the last `count` accepted tokens; speculation guesses ahead and may be wrong."""


class Stop(Protocol):
    """What ends an answer besides stop_ids: stop strings over the text of the tokens. Never asked to take a token back."""

    def accept(self, token_id: int) -> bool:
        """Takes the next token of the answer; True: the answer ends with it, finish_reason "stop"."""


@dataclass(frozen=True)
class Request:
    """What to continue, how far and how.

    Attributes:
        prompt: token ids, at least one.  max_tokens: at least 1.
        stop_ids: tokens that end the answer; the one that does is given out as the last Output.
        id: name under which an engine with a journal logs it, so that the same request under the same id resumes; "" isn't logged.
        owner: whose request it is. Prefix cache entries are shared only within an owner, and turns are taken between owners.
        top_logprobs: so many likeliest tokens come with each Output.
        prompt_logprobs: also log-probabilities of the prompt's tokens (Ticket.prompt_logprobs); it then uses no cached prefix.
        constraint, stop: see there; fresh objects, used by this request alone.
        speculate: allow speculative decoding, which changes nothing but the speed.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    stop_ids: frozenset[int] = frozenset()
    id: str = ""
    owner: str = ""
    top_logprobs: int = 0
    prompt_logprobs: bool = False
    constraint: Constraint | None = None
    stop: Stop | None = None
    speculate: bool = True


@dataclass(frozen=True)
class Output:
    """One token: its id, its log-probability under the unfiltered softmax, and, on the last one, why it is the last.

    An answer that ends without a token of its own ("aborted", "insufficient_system_resource", or a constraint that allows nothing
    more) ends with token_id -1, which is no part of it.  top: the likeliest tokens, as many as Request.top_logprobs asked for.
    """

    token_id: int
    logprob: float
    finish_reason: FinishReason | None
    top: Top = ()


@dataclass(frozen=True)
class Usage:
    """Tokens of a request: in the prompt, those of it that a cached prefix spared, and given out so far."""

    prompt: int
    hit: int
    output: int


class Overloaded(Exception):
    """The waiting queue is full; the same request may fit a moment later."""


class Ticket:
    """A submitted request. Iterate over it for its Outputs; iteration blocks until the next one is there, and ends after the last.

    Args:
        on_output: called with each Output by the engine's thread instead; it must be quick, and if it raises, the request is cancelled.
            (An asyncio server passes the Output on with loop.call_soon_threadsafe.) Iterating then gives nothing.
        cancel: called by `cancel`.  work: called before waiting; returns at once where the engine has a thread.
    """

    def __init__(self, request: Request, on_output: Callable[[Output], None] | None, cancel: Callable[[Ticket], None],
                 work: Callable[[Ticket], None]) -> None:
        self.request = request
        self.prompt_logprobs: list[tuple[float, Top]] | None = None
        """Log-probability and likeliest tokens of each prompt token after the first, once prefilled and if asked for."""
        self.usage = Usage(len(request.prompt), 0, 0)
        """Complete once the last Output has come."""
        self._arrived: queue.SimpleQueue[Output] = queue.SimpleQueue()
        self._on_output, self._cancel, self._work = on_output, cancel, work

    def __iter__(self) -> Iterator[Output]:
        while self._on_output is None:
            self._work(self)
            output = self._arrived.get()
            yield output
            if output.finish_reason:
                return

    @property
    def ready(self) -> bool:
        """Whether iterating would give an Output without waiting."""
        return not self._arrived.empty()

    def cancel(self) -> None:
        """Ends the request; what it held is free after the step that is running. The last Output says "aborted" unless it has
        already ended. From any thread, any number of times."""
        self._cancel(self)

    def deliver(self, output: Output) -> None:
        """Hands out one Output; the engine calls it."""
        (self._on_output or self._arrived.put)(output)


@dataclass(frozen=True)
class Logged:
    """What a journal knows of a request: the Outputs given out before, and whether the last of them ended it (its finish_reason)."""

    outputs: tuple[Output, ...] = ()


class Journal(Protocol):
    """A write-ahead log of answers: no token is given out before it is logged. One engine's thread calls it.

    A request is the same request when id, prompt, max_tokens, sampling, stop_ids and top_logprobs are the same, and the model is.
    """

    def open(self, request: Request) -> Logged:
        """Begins or resumes the log of a request with an id.

        Raises:
            UserError: field "id": the log under this id is of another request, or that request is running.
        """

    def append(self, request_id: str, output: Output) -> None:
        """One more Output of an open log. One with a finish_reason "stop" or "length" ends the answer for good; "aborted" and
        "insufficient_system_resource" leave it to be resumed (a cancelled one the server may `forget`)."""

    def commit(self) -> None:
        """Everything appended so far outlives a kill of the process. Called once a step, before its Outputs are given out."""

    def release(self, request_id: str) -> None:
        """The request is no longer running; its log stays for whoever asks again, for as long as the journal keeps logs."""

    def forget(self, request_id: str) -> None:
        """Removes a log."""

    def close(self) -> None:
        """Commits and closes the files."""
