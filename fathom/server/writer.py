"""The one thread that writes: it takes all operations that wait and commits them together.

While one commit is under way the next operations gather, so a busy server commits often enough that nobody waits long and seldom
enough that it doesn't matter: at most once per `interval`, however many requests record. An operation that finds the thread
idle is committed at once. Its future resolves when the commit has returned, not before.

A batch that the database fails (connection lost, disk full, deadlock) is tried again operation by operation, so that nobody fails
for another's sake. That is safe although a failed commit may have happened all the same: every operation, carried out twice, does
what it does once. What fails again is BooksClosed to whoever waits for it.
"""
from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from fathom.server.metering import Operation
from fathom.server.refusals import BooksClosed
from fathom.server.transaction import Outcome

INTERVAL = 0.02  # seconds from commit to commit at least
MOST = 512  # operations in one transaction

Job = tuple[Operation, Future[Any]]


class Writer:
    """Commits operations in the order in which they are submitted.

    Args:
        commit: runs operations in one transaction and gives an outcome for each (transaction.run); raises what the database raises.
        interval: seconds between the starts of two commits, at least.
    """

    def __init__(self, commit: Callable[[Sequence[Operation]], list[Outcome]], interval: float = INTERVAL) -> None:
        self._commit, self._interval = commit, interval
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._lock, self._closed = threading.Lock(), False
        self._thread = threading.Thread(target=self._run, name="accounts writer", daemon=True)
        self._thread.start()

    def submit(self, operation: Operation) -> Future[Any]:
        """Queues an operation; any thread may. Its future gives what Books.apply gives; cancelled while it waits, it isn't carried out."""
        future: Future[Any] = Future()
        with self._lock:
            if self._closed and threading.current_thread() is not self._thread:  # what a future's callback still has to say is heard
                raise BooksClosed("accounts", None, "are closed", "the server is stopping")
            self._jobs.put((operation, future))
        return future

    def close(self) -> None:
        """Commits what waits and ends the thread; a second time does nothing."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        last, ending = float("-inf"), False
        while not (ending and self._jobs.empty()):
            first = self._jobs.get()
            if first is None:
                ending = True
                continue
            time.sleep(max(0.0, last + self._interval - time.monotonic()))
            last = time.monotonic()
            batch, last_one = self._gather(first)
            ending = ending or last_one
            live = [(op, future) for op, future in batch if future.set_running_or_notify_cancel()]
            for (_, future), outcome in zip(live, self._outcomes([op for op, _ in live]), strict=True):
                if isinstance(outcome, Exception):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)

    def _gather(self, first: Job) -> tuple[list[Job], bool]:
        """What waits, and whether the end was among it."""
        batch = [first]
        while len(batch) < MOST:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is None:
                return batch, True
            batch.append(job)
        return batch, False

    def _outcomes(self, operations: list[Operation]) -> list[Outcome]:
        if not operations:
            return []
        try:
            return self._commit(operations)
        except BooksClosed as closed:
            return [closed] * len(operations)
        except Exception as error:  # the database's, or our own: each is told, and the thread goes on
            if len(operations) > 1:
                return [self._outcomes([op])[0] for op in operations]
            return [self._again(operations[0], error)]

    def _again(self, operation: Operation, error: Exception) -> Outcome:
        if not isinstance(error, SQLAlchemyError):
            return error
        try:
            return self._commit([operation])[0]
        except Exception as second:
            if not isinstance(second, SQLAlchemyError):
                return second
            refused = BooksClosed("accounts", None, f"can't be written: {getattr(second, 'orig', None) or second}", "look after the database")
            refused.__cause__ = second
            return refused
