"""The prefix cache's second tier: records as files in one folder, within a byte budget, the least recently used going first.

Keeps records for the tier above, across restarts. What it promises:

- What `get` gives is what was put under exactly this key, or None. A damaged, truncated, foreign or old file is removed and counted.
- `put` never waits for the disk: a thread writes, from a queue with a bound. When the disk is too slow for it, records are dropped.
- The files, one being written included, never take more than the budget, and leave `keep_free_bytes` of the disk to others
  (accounts and ledger may lie on the same one). A full or broken disk costs records and is counted; nothing is raised.
- A file appears under its name by a rename, whole. There is no fsync and no index to go wrong: a kill loses nothing that was written,
  a power cut may lose records, which their sums give away. The order of use is the files' modification times.
- One process owns the folder (claim.py). All methods may be called from any thread.

A file's name is a digest of the record's key, in which the tier above puts owner, model, precision and tokens; the file holds the full
key and it is compared, so owners stay apart whatever the names. Files are readable for their owner only. Format: record.py.
"""
from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ...errors import UserError
from ..claim import claim
from .record import Damaged, Record, read_record

QUEUE_BYTES = 256 << 20
KEEP_FREE_BYTES = 1 << 30
_OURS = re.compile(r"[0-9a-f]{64}\.record(\.partial)?")


@dataclass(frozen=True)
class DiskStats:
    """Counts since opening, and what is there.

    Attributes:
        hits, misses: of `get`.  written: records.  evicted: records removed for room.
        damaged: files removed because they weren't whole records of their key.
        failed: operations that the disk refused.  error: the last refusal in words, "" if none.
        dropped: records not written: larger than the budget, queue full, or too little free space on the disk.
        records, bytes: files that are there.  queued: bytes waiting to be written.
    """

    hits: int = 0
    misses: int = 0
    written: int = 0
    evicted: int = 0
    damaged: int = 0
    failed: int = 0
    error: str = ""
    dropped: int = 0
    records: int = 0
    bytes: int = 0
    queued: int = 0


@dataclass(eq=False)
class _File:
    """One file, as long as it is that file: another one under the same name is another object."""

    size: int


class DiskStore:
    """Records on disk; a `BlockStore`.

    Args:
        folder: made if it isn't there; holds nothing else.
        budget_bytes: what the files may take, by their lengths.
        queue_bytes: what may wait in memory to be written.
        keep_free_bytes: space on the disk that is left to others; records are dropped or evicted for it.

    Raises:
        UserError: a budget or limit out of range; a folder that can't be used, holds other files, or is in use by another process.
    """

    def __init__(self, folder: str | Path, *, budget_bytes: int, queue_bytes: int = QUEUE_BYTES, keep_free_bytes: int = KEEP_FREE_BYTES) -> None:
        for field, value, least in (("budget_bytes", budget_bytes, 1), ("queue_bytes", queue_bytes, 1), ("keep_free_bytes", keep_free_bytes, 0)):
            if value < least:
                raise UserError(field, value, f"at least {least}")
        self.folder, self.budget_bytes, self.queue_bytes, self.keep_free_bytes = Path(folder), budget_bytes, queue_bytes, keep_free_bytes
        self._claim = claim(self.folder, "prefix cache", lambda name: bool(_OURS.fullmatch(name)))
        self._changed = threading.Condition()  # guards all that follows; notified when the queue changes
        self._files: OrderedDict[str, _File] = OrderedDict()  # least recently used first
        self._queue: dict[str, Record] = {}  # first in, first out; a record stays until its file is in place
        self._used = self._queued = self._stamp = 0
        self._counts = dict.fromkeys(("hits", "misses", "written", "evicted", "damaged", "failed", "dropped"), 0)
        self._error, self._closed = "", False
        self._bug: Exception | None = None
        try:
            self._look_around()
        except OSError as e:
            self._claim.close()
            raise UserError("prefix cache folder", self.folder, f"can't be read ({e.strerror or e})", "give another folder") from e
        self._writer = threading.Thread(target=self._write_queue, name="prefix cache writer", daemon=True)
        self._writer.start()

    def put(self, key: bytes, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Keeps a record, in place of one under the same key. It is written later: header and tensors must not change.

        Raises:
            ValueError: what `Record` can't hold.
        """
        record, name = Record(key, header, tensors), _name(key)
        with self._changed:
            self._check()
            self._unqueue(name)
            if record.size > self.budget_bytes or self._queued + record.size > self.queue_bytes:
                self._counts["dropped"] += 1
                self._remove(name)  # the older one isn't this key's record any more
                return
            self._queue[name] = record
            self._queued += record.size
            self._changed.notify_all()

    def get(self, key: bytes) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """Header and tensors in fresh memory (the tensors share one buffer), or None. A hit makes the record the last to be evicted."""
        name = _name(key)
        with self._changed:
            self._check()
            waiting, file = self._queue.get(name), self._files.get(name)
            if waiting is None and file is None:
                self._counts["misses"] += 1
                return None
        found, reason = None, ""
        if waiting is not None:
            found = waiting.copy()
        else:
            try:
                found = read_record(self._path(name), key)
            except Damaged:
                reason = "damaged"
            except FileNotFoundError:
                reason = "misses"  # evicted this moment, or deleted by hand
            except OSError as e:
                reason = self._refused(e)
        with self._changed:
            current = self._files.get(name) is file and file is not None
            if found is not None:
                self._counts["hits"] += 1
                if current:
                    self._touch(name)
                return found
            self._counts["misses"] += 1
            if reason == "damaged":
                self._counts["damaged"] += 1
            if current:
                self._remove(name)
        return None

    def __contains__(self, key: bytes) -> bool:
        """Whether there is a record, whole or not. Costs no disk access and is no use of it."""
        with self._changed:
            return _name(key) in self._queue or _name(key) in self._files

    def discard(self, key: bytes) -> None:
        """Removes a record, written or waiting, if there is one."""
        with self._changed:
            self._check()
            self._unqueue(_name(key))
            self._remove(_name(key))

    def flush(self) -> None:
        """Waits until everything that was put is written, or has failed."""
        with self._changed:
            self._changed.wait_for(lambda: not self._queue or self._bug is not None)
            self._check()

    def close(self) -> None:
        """Writes what is waiting and gives the folder back. Closing twice is fine."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._writer.join()
        self._claim.close()

    @property
    def stats(self) -> DiskStats:
        """A snapshot."""
        with self._changed:
            return DiskStats(**self._counts, error=self._error, records=len(self._files), bytes=self._used, queued=self._queued)

    def __enter__(self) -> DiskStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self) -> None:
        if self._closed:
            raise ValueError("the prefix cache's disk tier is closed")
        if self._bug is not None:
            raise RuntimeError("the prefix cache's writer has failed") from self._bug

    def _look_around(self) -> None:
        """Takes stock of the folder: what an earlier process left half-written goes, the rest is ordered by its last use."""
        found = []
        for entry in os.scandir(self.folder):
            if _OURS.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                if entry.name.endswith(".partial"):
                    os.unlink(entry)
                else:
                    status = entry.stat(follow_symlinks=False)
                    found.append((status.st_mtime_ns, entry.name, status.st_size))
        for self._stamp, name, size in sorted(found):
            self._files[name] = _File(size)
            self._used += size
        while self._used > self.budget_bytes:
            self._evict()

    def _write_queue(self) -> None:
        """The writer thread."""
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._queue or self._closed)
                    if not self._queue:
                        return
                    name, record = next(iter(self._queue.items()))
                self._write(name, record)
                with self._changed:
                    if self._queue.get(name) is record:
                        self._unqueue(name)
                    self._changed.notify_all()
        except Exception as bug:  # told to whoever calls next; a silent death would let flush wait for ever
            with self._changed:
                self._bug, self._queued = bug, 0
                self._queue.clear()
                self._changed.notify_all()

    def _write(self, name: str, record: Record) -> None:
        """Writes one record, or counts why not."""
        draft = self._path(f"{name}.partial")
        try:
            with self._changed:
                self._remove(name)  # get finds the new one in the queue
                if not self._make_room(record.size):
                    self._counts["dropped"] += 1
                    return
            record.write(draft)
            with self._changed:
                if self._queue.get(name) is not record:  # discarded or replaced meanwhile
                    os.unlink(draft)
                    return
                os.replace(draft, self._path(name))
                self._files[name] = _File(record.size)
                self._used += record.size
                self._counts["written"] += 1
                self._touch(name)
        except OSError as e:
            self._refused(e)
            with contextlib.suppress(OSError):
                os.unlink(draft)

    def _make_room(self, size: int) -> bool:
        """Evicts until a file of this size fits budget and disk. Evicts nothing where that couldn't help."""
        free = shutil.disk_usage(self.folder).free - self.keep_free_bytes
        if size > free + self._used:
            return False
        while self._used + size > self.budget_bytes or size > free:
            free += self._evict()
        return True

    def _evict(self) -> int:
        """Removes the least recently used record; gives its size."""
        name, file = next(iter(self._files.items()))
        self._remove(name)
        self._counts["evicted"] += 1
        return file.size

    def _remove(self, name: str) -> None:
        file = self._files.pop(name, None)
        if file is not None:
            self._used -= file.size
            try:
                os.unlink(self._path(name))
            except FileNotFoundError:
                pass
            except OSError as e:
                self._refused(e)

    def _touch(self, name: str) -> None:
        """Makes a file the most recently used, in memory and on disk. Stamps only grow, whatever the clock does."""
        self._files.move_to_end(name)
        self._stamp = max(self._stamp + 1, time.time_ns())
        with contextlib.suppress(OSError):
            os.utime(self._path(name), ns=(self._stamp, self._stamp))

    def _path(self, name: str) -> str:
        """The file's path. Never a Path: pathlib interns each part, and thousands of names that come and go blow up Python's table of strings."""
        return os.path.join(self.folder, name)

    def _unqueue(self, name: str) -> None:
        record = self._queue.pop(name, None)
        if record is not None:
            self._queued -= record.size

    def _refused(self, error: OSError) -> str:
        with self._changed:
            self._counts["failed"] += 1
            self._error = str(error)
        return "failed"


def _name(key: bytes) -> str:
    return f"{hashlib.sha256(key).hexdigest()}.record"
