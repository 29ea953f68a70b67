"""The write-ahead log of answers: one append-only file per request, from which an interrupted request goes on.

After a crash a request must resume, not start over (starting over favours short answers), and metering must be able to prove what was
given out. So the law: a token that was handed to the caller is in the log. The engine appends the tokens of a step, commits, then
hands them out.

What a commit means is the flush policy. `flush_seconds = 0`: written to the system before `commit` returns; a kill loses nothing that
was handed out. `flush_seconds = x`: written at the latest x seconds after the write before, by `commit` or by a thread when nothing
comes any more; a kill loses at most what one such write would have held. Neither waits for the disk: a power cut may lose the last
seconds, unless `fsync` is on, which makes every write wait for it.

A log begins with whose it is: id, owner, and digests of all that decides the answer. The prompt itself isn't kept. A file's name is a
digest of the id, whatever the id is. The files: answerlog.py. What constraints and stop strings do to an answer can't be compared here:
a server that offers resuming puts them into the id it passes down.
"""
from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .answerlog import ENDS, AnswerLog, create_log, read_log, remove_log, reopen_log
from .claim import claim
from .request import Logged, Output, Request

RETENTION_SECONDS = 3600.0
UNFINISHED_SECONDS = 86400.0
_PRUNE_SECONDS = 60.0
_OURS = re.compile(r"[0-9a-f]{64}\.(log|done)")


class DifferentRequest(UserError):
    """The log under this id is of another request."""


class RunningRequest(UserError):
    """The request under this id is running."""


@dataclass(frozen=True)
class Entry:
    """What a log says. prompt_tokens: the prompt's length.  outputs: those on file.  finished: the last of them ended the answer."""

    id: str
    owner: str
    prompt_tokens: int
    outputs: tuple[Output, ...]
    finished: bool


class FileJournal:
    """Logs of answers in one folder; a `Journal`. Any thread may call it.

    Args:
        folder: made if it isn't there; holds nothing else, and belongs to one process at a time.
        model: fingerprint of what computes the answers: weights, precision, tokenizer.
        flush_seconds: the flush policy, see above.  fsync: each write waits until the disk has it.
        retention_seconds: a finished log is removed so long after its end;  unfinished_seconds: one that nobody resumes, so long after
            its last token. Both count from opening at the earliest, so there is time to look at what a crash left (`entries`).

    Raises:
        UserError: a negative time, or a folder that can't be used, holds other files or is in use.
    """

    def __init__(self, folder: str | Path, *, model: str, flush_seconds: float = 0.0, fsync: bool = False,
                 retention_seconds: float = RETENTION_SECONDS, unfinished_seconds: float = UNFINISHED_SECONDS) -> None:
        for field, value in (("flush_seconds", flush_seconds), ("retention_seconds", retention_seconds), ("unfinished_seconds", unfinished_seconds)):
            if not value >= 0:
                raise UserError(field, value, "0 or more seconds")
        self.folder, self.model, self.flush_seconds, self.fsync = Path(folder), model, flush_seconds, fsync
        self.retention_seconds, self.unfinished_seconds = retention_seconds, unfinished_seconds
        self._claim = claim(self.folder, "journal", lambda name: bool(_OURS.fullmatch(name)))
        self._opened, self._written = time.time(), time.monotonic()
        self._changed = threading.Condition()  # guards all that follows
        self._logs: dict[str, AnswerLog] = {}  # of running requests
        self._dirty: dict[str, AnswerLog] = {}
        self._failed = self._closed = False
        self._keeper = threading.Thread(target=self._keep, name="journal keeper", daemon=True)
        self._keeper.start()

    def open(self, request: Request) -> Logged:
        """Begins or resumes the log of a request; gives what was logged before.

        Raises:
            DifferentRequest: the log under this id began with another prompt, sampling, length, stop tokens, owner or model.
            RunningRequest: the request under this id hasn't ended.
            OSError: the log can't be read or begun.
        """
        if not request.id:
            raise ValueError("a request without an id isn't logged")
        with self._changed:
            self._check()
            if request.id in self._logs:
                raise RunningRequest("id", request.id, "a request with this id is running", "wait for its answer, or use another id")
            head, path = self._head(request), self._find(request.id)
            found = read_log(path)
            if found is None:
                remove_log(path)  # a file whose beginning doesn't hold is no log
                self._logs[request.id] = create_log(_with_end(path, ".log"), head, self.fsync)
                return Logged()
            _compare(found.head, head)
            self._logs[request.id] = reopen_log(path, found)
            return Logged(found.outputs)

    def append(self, request_id: str, output: Output) -> None:
        """One more Output of an open log. An "aborted" or "insufficient_system_resource" isn't logged: such an answer can be resumed."""
        if output.token_id < 0 and output.finish_reason not in ENDS:
            return
        with self._changed:
            self._check()
            log = self._logs[request_id]
            if log.finished:
                raise ValueError(f"the answer of {request_id!r} has ended")
            log.append(output)
            self._dirty[request_id] = log
            if self.flush_seconds:
                self._changed.notify_all()  # the keeper's clock starts

    def commit(self) -> None:
        """Writes what was appended, as the flush policy says.

        Raises:
            OSError: not all could be written, for one because the disk is full. What couldn't stays and is tried again with the next
                commit; the Outputs since the commit before must not be handed out.
        """
        with self._changed:
            self._check()
            if self._failed or time.monotonic() - self._written >= self.flush_seconds:
                self._write()

    def release(self, request_id: str) -> None:
        """The request isn't running any more. Its log is written, closed and kept, unless there is nothing in it.

        Raises:
            OSError: it couldn't be written to the end; it is closed all the same, and what couldn't be written is lost.
        """
        with self._changed:
            log = self._logs.pop(request_id)
            self._dirty.pop(request_id, None)
            try:
                log.write(self.fsync)
                if log.finished:
                    os.rename(log.path, _with_end(log.path, ".done"))  # so that nobody has to read it to know
                elif log.empty:
                    remove_log(log.path)
            finally:
                log.close()

    def forget(self, request_id: str) -> None:
        """Removes a log, if there is one; of a running request too, which then isn't logged any more."""
        with self._changed:
            log = self._logs.pop(request_id, None)
            self._dirty.pop(request_id, None)
            if log is not None:
                log.close()
            remove_log(self._find(request_id))

    def read(self, request_id: str) -> Entry | None:
        """What is on file under an id; the log may be a running one. None where there is nothing.

        Raises:
            OSError: the file can't be read.
        """
        return _entry(self._find(request_id))

    def entries(self) -> Iterator[Entry]:
        """All logs on file, finished or not, in no order: what metering compares its ledger with after a crash."""
        for name in os.listdir(self.folder):
            if _OURS.fullmatch(name):
                entry = _entry(os.path.join(self.folder, name))
                if entry is not None:
                    yield entry

    def prune(self, now: float | None = None) -> int:
        """Removes the logs whose time is over, by the clock or as of `now` (seconds since the epoch); gives their number.

        It happens by itself once a minute.
        """
        now, removed = time.time() if now is None else now, 0
        for entry in os.scandir(self.folder):
            if not _OURS.fullmatch(entry.name):
                continue
            with self._changed, contextlib.suppress(FileNotFoundError):
                keep = self.retention_seconds if entry.name.endswith(".done") else self.unfinished_seconds
                over = max(entry.stat().st_mtime, self._opened) + keep <= now
                if over and not any(_with_end(log.path, "") == _with_end(entry.path, "") for log in self._logs.values()):
                    os.unlink(entry)
                    removed += 1
        return removed

    def close(self) -> None:
        """Writes everything, closes the files and gives the folder back. Closing twice is fine.

        Raises:
            OSError: something couldn't be written; everything is closed all the same.
        """
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        self._keeper.join()
        errors = []
        for request_id in list(self._logs):
            try:
                self.release(request_id)
            except OSError as e:
                errors.append(e)
        self._claim.close()
        if errors:
            raise errors[0]

    def _check(self) -> None:
        if self._closed:
            raise ValueError("the journal is closed")

    def _head(self, request: Request) -> dict[str, Any]:
        """What a log begins with: whose it is, and what decides the answer."""
        prompt = np.asarray(request.prompt, dtype="<i8").tobytes()
        decides = {"prompt": prompt, "sampling": repr(request.sampling).encode(), "max_tokens": repr(request.max_tokens).encode(),
                   "stop_ids": repr(sorted(request.stop_ids)).encode(), "top_logprobs": repr(request.top_logprobs).encode(),
                   "owner": request.owner.encode("utf-8", "surrogatepass"), "model": self.model.encode()}
        return {"id": request.id, "owner": request.owner, "prompt_tokens": len(request.prompt),
                "decides": {field: hashlib.sha256(value).hexdigest() for field, value in decides.items()}}

    def _find(self, request_id: str) -> str:
        """The file of a request. Not a Path, which interns its parts: names that come and go blow up Python's table of strings."""
        done = os.path.join(self.folder, f"{hashlib.sha256(request_id.encode('utf-8', 'surrogatepass')).hexdigest()}.done")
        return done if os.path.exists(done) else _with_end(done, ".log")

    def _write(self) -> None:
        """Writes every log that has something waiting; tries all of them, then raises the first error."""
        self._written = time.monotonic()
        errors = []
        for request_id, log in list(self._dirty.items()):
            try:
                log.write(self.fsync)
                del self._dirty[request_id]
            except OSError as e:
                errors.append(e)
        self._failed = bool(errors)
        if errors:
            raise errors[0]

    def _keep(self) -> None:
        """The keeper thread: writes what has waited long enough, and prunes."""
        prune_at = time.monotonic() + _PRUNE_SECONDS
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or (self.flush_seconds and self._dirty), max(0.0, prune_at - time.monotonic()))
                if not self._closed and self.flush_seconds and self._dirty:
                    self._changed.wait_for(lambda: self._closed, self.flush_seconds)
                if self._closed:
                    return
                if self.flush_seconds and self._dirty:
                    with contextlib.suppress(OSError):  # the next commit tries again and raises
                        self._write()
            if time.monotonic() >= prune_at:
                with contextlib.suppress(OSError):  # a folder that can't be listed now may be in a minute
                    self.prune()
                prune_at = time.monotonic() + _PRUNE_SECONDS


def _with_end(path: str, end: str) -> str:
    """The path of the same log with another end: ".log", ".done" or none."""
    return os.path.splitext(path)[0] + end


def _compare(head: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raises DifferentRequest where a log that begins with `head` isn't the one of `wanted`."""
    fields = [field for field, digest in wanted["decides"].items() if head["decides"].get(field) != digest]
    if head["id"] != wanted["id"] or fields:
        raise DifferentRequest("id", wanted["id"], f"belongs to a different request ({', '.join(fields) or 'id'} differs)",
                               "use another id, or repeat the request unchanged")


def _entry(path: str) -> Entry | None:
    found = read_log(path)
    return None if found is None else Entry(found.head["id"], found.head["owner"], found.head["prompt_tokens"], found.outputs, found.finished)
