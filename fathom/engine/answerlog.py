"""The file of one answer: a magic line, then records, each appended once and never changed.

    payload length u32 | CRC-32 u32 | payload

The first payload is JSON and says whose log it is; each further one is an Output. A CRC goes on from that of the record before, so a
record holds only in its place. Reading stops at the first that doesn't hold: a kill in the middle of a write tears the tail, and
reopening cuts it off. Damage in the middle costs what follows it; sampling by counter brings the same tokens back.

CRC-32 is what such logs use: it has to notice torn writes, and any wrong token would contradict the records after it.
"""
from __future__ import annotations

import contextlib
import json
import os
import struct
import zlib
from dataclasses import dataclass
from typing import Any

from .request import FinishReason, Output

MAGIC = b"fathom answer 1\n"
ENDS: tuple[FinishReason | None, ...] = (None, "stop", "length")
"""The reasons that end an answer for good, by their number in the file; 0 is none."""
_FIRST_CRC = zlib.crc32(MAGIC)  # not 0: a tail of zeros, which some file systems leave after a power cut, must not pass for records
_FRAME = struct.Struct("<II")
_OUTPUT = struct.Struct("<BidH")  # finish reason, token id, log-probability, number of likeliest tokens
_TOP = struct.Struct("<id")


@dataclass
class AnswerLog:
    """A log open for more.

    Attributes:
        path, handle: the file; handle is -1 when it is closed, and for a log that was complete when it was reopened.
        length: bytes of the file that hold records.  crc: of the last record appended.
        finished: the last Output ended the answer.  empty: there is none.
    """

    path: str
    handle: int
    length: int
    crc: int
    finished: bool
    empty: bool = True

    def __post_init__(self) -> None:
        self._waiting = bytearray()

    def append(self, output: Output) -> None:
        """One more Output, to be written by the next `write`."""
        reason = output.finish_reason if output.finish_reason in ENDS else None
        self._append(_OUTPUT.pack(ENDS.index(reason), output.token_id, output.logprob, len(output.top)) +
                     b"".join(_TOP.pack(*pair) for pair in output.top))
        self.finished, self.empty = reason is not None, False

    def write(self, fsync: bool) -> None:
        """Writes what was appended. If that raises OSError, it is kept, and the next try writes to the same place."""
        data, done = bytes(self._waiting), 0
        while done < len(data):
            done += os.pwrite(self.handle, data[done:], self.length + done)
        if fsync and data:
            os.fsync(self.handle)
        self.length += done
        self._waiting.clear()

    def close(self) -> None:
        """Closes the file, written or not."""
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1

    def _append(self, payload: bytes) -> None:
        self.crc = zlib.crc32(payload, self.crc)
        self._waiting += _FRAME.pack(len(payload), self.crc) + payload


@dataclass(frozen=True)
class Contents:
    """What holds in a file. length: of its good part in bytes.  crc: of the last good record."""

    head: dict[str, Any]
    outputs: tuple[Output, ...]
    length: int
    crc: int

    @property
    def finished(self) -> bool:
        """Whether the answer is complete."""
        return bool(self.outputs) and self.outputs[-1].finish_reason is not None


def create_log(path: str, head: dict[str, Any], fsync: bool) -> AnswerLog:
    """Begins a file, which mustn't be there yet. Raises OSError where that fails; then it isn't there after it either."""
    log = AnswerLog(path, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), 0, _FIRST_CRC, False)
    log._waiting += MAGIC
    log._append(json.dumps(head).encode())
    try:
        log.write(fsync)
        if fsync:
            _flush_names(os.path.dirname(path))
    except OSError:
        log.close()
        remove_log(path)
        raise
    return log


def reopen_log(path: str, found: Contents) -> AnswerLog:
    """Opens a file for more, whose contents were just read; what didn't hold is cut off."""
    handle = -1
    if not found.finished:
        handle = os.open(path, os.O_WRONLY)
        os.ftruncate(handle, found.length)
    return AnswerLog(path, handle, found.length, found.crc, found.finished, not found.outputs)


def read_log(path: str) -> Contents | None:
    """The good part of a file; None where there is no file, or where not even its first record holds. Raises OSError."""
    try:
        with open(path, "rb") as f:
            data = f.read()
    except FileNotFoundError:
        return None
    if not data.startswith(MAGIC):
        return None
    head, outputs, at, crc = None, [], len(MAGIC), _FIRST_CRC
    while at + _FRAME.size <= len(data):
        length, expected = _FRAME.unpack_from(data, at)
        payload = data[at + _FRAME.size : at + _FRAME.size + length]
        if len(payload) < length or zlib.crc32(payload, crc) != expected:
            break
        if head is None:
            head = json.loads(payload)
        else:
            outputs.append(_output(payload))
        at, crc = at + _FRAME.size + length, expected
    return None if head is None else Contents(head, tuple(outputs), at, crc)


def remove_log(path: str) -> None:
    """Removes a file, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _output(payload: bytes) -> Output:
    reason, token, logprob, count = _OUTPUT.unpack_from(payload)
    return Output(token, logprob, ENDS[reason], tuple(_TOP.unpack_from(payload, _OUTPUT.size + i * _TOP.size) for i in range(count)))


def _flush_names(folder: str) -> None:
    """Waits until the disk has the folder's list of names."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
