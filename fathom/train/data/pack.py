"""From stored documents to rows: cut, rearrange for fill-in-the-middle, pack by best fit, shuffle; each a function of (seed, epoch).

    epoch    an order of all documents, a permutation f(seed, epoch)
    window   the next `shuffle_documents` of that order: what is cut, packed and shuffled together
    piece    up to length + 1 ids of one document: the inputs are all but its last id, the targets all but its first. Two pieces of
             a document share one id, so that every token is a target once
    row      pieces whose inputs fit in `length` tokens; pieces of a row never see each other, a row has no padding

Ids that are only read (a user's words in a conversation) come as their complement, ~id, and stay it: the loss takes them apart.

Best fit, longest first (Ding et al. 2024, "Fewer truncations"): a piece goes where the least room is left. Few tokens of a row
stay unused, and no document is cut that fits a row whole.

Where reading stands is a `Position`, a value: `take` maps (position, rows wanted) to (rows, next position) and remembers nothing.
"""
from __future__ import annotations

import bisect
import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .counter import draw, draw_unit, permutation
from .store import TokenStore

Piece = NDArray[np.int64]  # [n + 1] ids: n inputs and, shifted by one, n targets; negative (~id) where it is no target
Row = tuple[Piece, ...]


@dataclass(frozen=True)
class Position:
    """Where reading stands: the next row to take is `row` of window `window` of epoch `epoch`, cut for rows of `length` tokens. `split`:
    the store it stands in, of a run that has several."""

    epoch: int = 0
    window: int = 0
    row: int = 0
    length: int = 0
    split: str = "train"


class FimIds(NamedTuple):
    """Token ids of `<｜fim▁begin｜>`, `<｜fim▁hole｜>`, `<｜fim▁end｜>`, and those that open and close a document."""

    begin: int
    hole: int
    end: int
    bos: int
    eos: int


class Packer:
    """Rows of one store in an order f(seed, epoch).

    Args:
        shuffle_documents: documents in a window.
        fim_rate: share of the pieces rearranged to `begin prefix hole suffix end middle` (prefix–suffix–middle, PSM).
    """

    def __init__(self, store: TokenStore, *, seed: int, shuffle_documents: int, fim_rate: float, fim: FimIds) -> None:
        self._store, self._seed, self._fim_rate, self._fim = store, seed, fim_rate, fim
        self._per_window = shuffle_documents
        self._windows = -(-len(store) // shuffle_documents)
        self._order = functools.lru_cache(maxsize=1)(lambda epoch: permutation(len(store), seed, epoch))
        self._rows = functools.lru_cache(maxsize=1)(self._pack_window)

    def take(self, position: Position, count: int, length: int) -> tuple[list[Row], Position]:
        """The next `count` rows of at most `length` tokens, and where reading then stands. Epochs follow one another without end.

        When `length` changes inside a window, reading goes on at the next window: rows already cut don't fit the new length.
        """
        at = position
        if at.length != length:
            at = dataclasses.replace(at, length=length) if at.row == 0 else self._next_window(at, length)
        rows: list[Row] = []
        while len(rows) < count:
            packed = self._rows(at.epoch, at.window, length)
            new = packed[at.row:at.row + count - len(rows)]
            rows += new
            end = at.row + len(new)
            at = dataclasses.replace(at, row=end) if end < len(packed) else self._next_window(at, length)
        return rows, at

    def _next_window(self, at: Position, length: int) -> Position:
        """The first row of the window after, which may be the next epoch's first."""
        last = at.window + 1 == self._windows
        return dataclasses.replace(at, epoch=at.epoch + last, window=0 if last else at.window + 1, row=0, length=length)

    def _pack_window(self, epoch: int, window: int, length: int) -> list[Row]:
        """All rows of a window, shuffled."""
        pieces: list[Piece] = []
        for document in self._order(epoch)[window * self._per_window:(window + 1) * self._per_window].tolist():
            ids = self._store[document]
            starts = np.arange(0, len(ids) - 1, length)
            chosen = draw_unit(self._seed, epoch, document, starts, 0) < self._fim_rate
            for start, rearrange in zip(starts.tolist(), chosen.tolist()):
                piece = ids[start:start + length + 1].astype(np.int64)
                if rearrange:
                    piece = fill_in_the_middle(piece, length, self._fim, (self._seed, epoch, document, start, 1))
                pieces.append(piece)
        rows = best_fit([len(piece) - 1 for piece in pieces], length)
        order = permutation(len(rows), self._seed, epoch, window, 2)
        return [tuple(pieces[i] for i in rows[r]) for r in order.tolist()]


def fill_in_the_middle(piece: Piece, length: int, fim: FimIds, counter: Sequence[int]) -> Piece:
    """BOS, begin, prefix, hole, suffix, end, middle, EOS: the piece's ids with two random cuts, the middle moved to the end.

    The result is a sample of its own, so it opens and closes as a document even when the piece was the middle of one. Cuts fall on
    token borders. When the five extra ids don't fit into length + 1, the end of the piece is left out. Source: Bavarian et al. 2022.
    """
    body = piece[(piece != fim.bos) & (piece != fim.eos)][: length + 1 - 5]
    first, second = sorted((draw(*counter, np.arange(2)) % np.uint64(len(body) + 1)).tolist())
    prefix, middle, suffix = body[:first], body[first:second], body[second:]
    return np.concatenate([[fim.bos, fim.begin], prefix, [fim.hole], suffix, [fim.end], middle, [fim.eos]]).astype(np.int64)


def best_fit(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of `sizes` grouped into rows of at most `capacity`: longest first, each into the row with the least room that takes it."""
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, row), sorted
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        assert 0 < sizes[i] <= capacity
        at = bisect.bisect_left(room, (sizes[i], -1))
        if at < len(room):
            left, row = room.pop(at)
            rows[row].append(i)
        else:
            left, row = capacity, len(rows)
            rows.append([i])
        if left > sizes[i]:
            bisect.insort(room, (left - sizes[i], row))
    return rows
