"""Asks a run's items, many at once, and judges the answers. All it learns goes through the store; it can be killed anywhere.

A thread takes one asking of one item through its turns: what the store already has is not asked again, each new answer is
stored before the next turn, and the verdict follows the last one. Threads are daemons and talk to the main thread through one
queue, so that Ctrl-C is heard at once, even while an endpoint keeps silent.
"""
from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

from fathom.errors import UserError
from fathom.eval.client import Failure, Log, Refused
from fathom.eval.items import Kind, Verdict, visible
from fathom.eval.pools import Probe
from fathom.eval.store import Attempt, Key, Reply, Store

MEND = "see that it is up and takes such requests; where it limits max_tokens, lower --thinking-room"
HOPELESS = 3  # so many askings without an answer, and none with one, and the run stops
GRACE = 0.5  # seconds for answers that have just come to reach the store when a run is stopped


class Model(Protocol):
    """What can be asked. `ask` may be called from several threads; it raises as client.Endpoint.ask does.

    remote: whether nothing but trouble from the start means a wrong address or a dead service, so that the run stops.
    """

    name: str
    remote: bool

    def ask(self, messages: Sequence[Mapping[str, str]], *, max_tokens: int, request_id: str, log: Log) -> Reply:
        """One answer to the messages."""

    def body(self, messages: Sequence[Mapping[str, str]], max_tokens: int) -> dict[str, Any]:
        """The request as it is sent, for the store."""

    def close(self) -> None:
        """Lets go of what it holds."""


class Opened(NamedTuple):
    """A checkpoint ready to be asked.

    name: how the run is called.  chat(messages, max_tokens=…, temperature=…) -> text, or an object like Reply.
    at_once: how many calls of `chat` may run at a time.
    """

    name: str
    chat: Callable[..., Any]
    at_once: int = 1


class LocalModel:
    """A model in this process.

    Args:
        opened: the model.  name: how to call the run instead.  temperature: passed on; None is left to the model.
        room: tokens granted for reasoning on top of an item's own limit.
    """

    remote = False  # a model whose context is too short for everything has a score: 0

    def __init__(self, opened: Opened, name: str | None = None, temperature: float | None = 0.0, room: int = 0) -> None:
        self.name, self.chat, self.temperature, self.room = name or opened.name, opened.chat, temperature, room
        self.at_once = opened.at_once
        self._turns = threading.BoundedSemaphore(opened.at_once)

    def body(self, messages: Sequence[Mapping[str, str]], max_tokens: int) -> dict[str, Any]:
        """The call's arguments."""
        body = {"model": self.name, "messages": [dict(m) for m in messages], "max_tokens": max_tokens + self.room}
        body["temperature"] = self.temperature
        return {key: value for key, value in body.items() if value is not None}

    def ask(self, messages: Sequence[Mapping[str, str]], *, max_tokens: int, request_id: str, log: Log) -> Reply:
        """One call. A UserError of the model (a prompt beyond its context) is a refusal of this item."""
        with self._turns:
            began = datetime.now(UTC)
            try:
                answer = self.chat([dict(m) for m in messages], max_tokens=max_tokens + self.room, temperature=self.temperature)
            except UserError as error:
                raise Refused(error.one_line()) from None
            seconds = (datetime.now(UTC) - began).total_seconds()
        log(Attempt(200, False, seconds, ""))
        if isinstance(answer, str):
            return Reply(answer, seconds=seconds)
        fields = {name: getattr(answer, name) for name in Reply.__dataclass_fields__ if hasattr(answer, name)}
        return Reply(**{**fields, "seconds": seconds})

    def close(self) -> None:
        """Nothing to let go of."""


@dataclass(frozen=True)
class Event:
    """What happened to one asking. verdict: None where no answer came.  asked: how many requests it took (0: all was stored)."""

    probe: Probe
    repeat: int
    verdict: Verdict | None
    asked: int
    trouble: str = ""


def run_probes(probes: Sequence[Probe], model: Model, store: Store, run_id: str, kinds: Mapping[str, Kind], *, concurrency: int,
               max_tokens: int | None = None, sandbox: object = None, tell: Callable[[Event], None] = lambda event: None) -> bool:
    """Asks and judges all that the store lacks. True when every asking has its verdict.

    Args:
        probes: the run's, in the order of asking.  kinds: by name; those of `ready` items are needed too.
        concurrency: threads.  max_tokens: at most so many an answer, whatever its item grants; None leaves it to the items.
        sandbox: handed to the judges.  tell: called in this thread for each asking, stored ones too.

    Raises UserError where going on is pointless: a wrong key or address, nothing but trouble with an endpoint from the start, or a run
    whose items another version of Fathom made.
    """
    replies, verdicts = store.replies(run_id), store.verdicts(run_id)
    asking = _Asking(model, store, run_id, kinds, replies, store.fingerprints(run_id), max_tokens, sandbox)
    jobs: queue.SimpleQueue[tuple[Probe, int]] = queue.SimpleQueue()
    done: queue.SimpleQueue[Event | BaseException] = queue.SimpleQueue()
    stop = threading.Event()
    open_jobs = 0
    for repeat in range(max((p.repeats for p in probes), default=0)):  # all first askings before any second one
        for probe in probes:
            if repeat >= probe.repeats:
                continue
            if (probe.id, repeat) in verdicts:
                tell(Event(probe, repeat, verdicts[probe.id, repeat], 0))
            else:
                jobs.put((probe, repeat))
                open_jobs += 1

    def work() -> None:
        while not stop.is_set():
            try:
                probe, repeat = jobs.get_nowait()
            except queue.Empty:
                return
            try:
                done.put(_one(probe, repeat, asking, stop))
            except BaseException as error:  # handed to the main thread, which raises it
                done.put(error)
                return

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(concurrency, open_jobs))]
    for thread in threads:
        thread.start()
    complete, heard, silent = True, bool(replies), 0
    try:
        for _ in range(open_jobs):
            event = done.get()
            if isinstance(event, BaseException):
                raise event
            tell(event)
            heard = heard or not event.trouble
            complete = complete and event.verdict is not None
            silent += bool(event.trouble)
            if model.remote and not heard and silent >= HOPELESS:
                raise UserError("--endpoint", None, f"gave no answer at all: {event.trouble}", MEND)
    finally:
        stop.set()
        end = time.monotonic() + GRACE
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
    return complete


@dataclass(frozen=True)
class _Asking:
    """What every asking of a run needs: see run_probes. replies: what the store had when the run began or was taken up again."""

    model: Model
    store: Store
    run_id: str
    kinds: Mapping[str, Kind]
    replies: Mapping[Key, Reply]
    fingerprints: Mapping[str, str]
    max_tokens: int | None
    sandbox: object


def _one(probe: Probe, repeat: int, a: _Asking, stop: threading.Event) -> Event:
    """One asking of one item: its turns, then its verdict."""
    item, model, store, run_id = probe.item(a.kinds), a.model, a.store, a.run_id
    if item.fingerprint() != a.fingerprints[item.id]:
        raise UserError("--resume", run_id, f"was begun by another version of Fathom, which makes {item.id} differently", "begin anew with --fresh")
    limit = item.max_tokens if a.max_tokens is None else min(item.max_tokens, a.max_tokens)
    messages: list[Mapping[str, str]] = list(item.messages)
    answers, asked = [], 0
    now = lambda: datetime.now(UTC).isoformat(timespec="milliseconds")
    for turn in range(item.turns):
        key = (item.id, repeat, turn)
        if turn:
            messages += [{"role": "assistant", "content": answers[-1]}, {"role": "user", "content": item.followups[turn - 1]}]
        reply = a.replies.get(key)
        if reply is None:
            if stop.is_set():
                return Event(probe, repeat, None, asked)
            store.sent(run_id, key, model.body(messages, limit), now())
            asked += 1
            try:
                reply = model.ask(messages, max_tokens=limit, request_id=f"{run_id}-{item.id}-{repeat}-{turn}",
                                  log=lambda attempt, key=key: store.attempted(run_id, key, attempt, now()))
            except Failure as error:
                return Event(probe, repeat, None, asked, str(error))
            except Refused as error:  # final: a verdict, or a restart would ask for it for ever
                verdict = Verdict(0.0, False, f"refused: {error}"[:500])
                store.judged(run_id, item.id, repeat, verdict, refused=True)
                return Event(probe, repeat, verdict, asked, str(error))
            store.answered(run_id, key, reply)
        answers.append(visible(reply.text))
    verdict = a.kinds[item.kind].judge(item, answers, sandbox=a.sandbox)
    store.judged(run_id, item.id, repeat, verdict)
    return Event(probe, repeat, verdict, asked)
