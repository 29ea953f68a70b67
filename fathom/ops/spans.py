"""Who sees what, when tokens of many sequences lie flat in one tensor.

Everything here follows from the runs of a batch (`Runs`): which stretch of which sequence each piece of the flat tokens is. The rest is
derived from it when it is first asked for, because kernels differ in what they want: the reference asks for index tensors, native
kernels work them out from the runs themselves.

All keys that a batch can see (window rows, or compressed entries) get flat numbers, run after run. What one query sees is then one
contiguous range [first, last) of them (`Spans`), and work is cut into tiles, (q0, q1, k0, k1): queries q0..q1 see nothing outside keys
k0..k1. Tiles bound the memory of whatever is computed per (query, key) pair.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

Tile = tuple[int, int, int, int]
QUERIES = 128  # queries of a tile at most
WINDOW_QUERIES = 256  # the same for windows
BAND = 32  # queries of a window's tile that share keys: each meets BAND + window of them, the more the more of them masked out
CELLS = 1 << 20  # (query, head, key) cells of an attention tile, about


class Runs:
    """The stretches of sequences that make up a batch, in the order of the flat tokens.

    Attributes:
        table: [R, 4] int64 on the host: first flat token, length, position of the first token, state slot.
        known: [R] entries of windows before this position aren't made again.
        heads: query heads, by which tiles are sized.  device: where index tensors are made.
    """

    def __init__(self, stretches: Sequence[tuple[int, int, int]], *, heads: int, window: int, device: torch.device,
                 known: Sequence[int] | None = None) -> None:
        """stretches: (length, start, slot) of each run.  window: keys a query sees at most nearby; tiles are sized for it."""
        self.table = np.zeros((len(stretches), 4), dtype=np.int64)
        self.table[:, 1:] = stretches
        np.cumsum(self.table[:-1, 1], out=self.table[1:, 0])
        self.known = np.zeros(len(stretches), dtype=np.int64) if known is None else np.array(known, dtype=np.int64)
        self.heads, self.window, self.device = heads, window, device

    def __len__(self) -> int:
        return len(self.table)

    @property
    def first(self) -> np.ndarray:
        """[R] flat number of each run's first token."""
        return self.table[:, 0]

    @property
    def length(self) -> np.ndarray:
        """[R] tokens of each run."""
        return self.table[:, 1]

    @property
    def start(self) -> np.ndarray:
        """[R] position of each run's first token."""
        return self.table[:, 2]

    @property
    def stop(self) -> np.ndarray:
        """[R] position after each run's last token."""
        return self.table[:, 2] + self.table[:, 1]

    @property
    def slot(self) -> np.ndarray:
        """[R] state slot of each run."""
        return self.table[:, 3]

    def made(self, ratio: int) -> tuple[np.ndarray, np.ndarray]:
        """[R] first entry that each run makes, [R] how many."""
        stop = self.stop
        begin = np.minimum(np.maximum(self.known, self.start), stop) // ratio
        return begin, stop // ratio - begin

    @cached_property
    def tensor(self) -> Tensor:
        """`table` as a tensor, for kernels that take the runs as they are."""
        return torch.from_numpy(np.ascontiguousarray(self.table))

    @cached_property
    def known_tensor(self) -> Tensor:
        """`known` as a tensor, likewise."""
        return torch.from_numpy(self.known)

    @cached_property
    def host_positions(self) -> np.ndarray:
        """[T] position of each token in its sequence."""
        return expand(self.start, self.length)

    @cached_property
    def positions(self) -> Tensor:
        """host_positions on the device."""
        return self.move(self.host_positions)

    @cached_property
    def token_slots(self) -> Tensor:
        """[T] state slot of each token."""
        return self.move(np.repeat(self.slot, self.length))

    def move(self, array: np.ndarray) -> Tensor:
        """An int64 array on the device."""
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64)).to(self.device)

    def history(self, counts: np.ndarray) -> History:
        """The last counts[r] tokens before each run, as something to read back from a ring."""
        return History(self, counts)


class History:
    """Rows before each run that its tokens need: counts [R]. With the tokens they make up rows, run after run: history, then tokens."""

    def __init__(self, runs: Runs, counts: np.ndarray) -> None:
        self.runs, self.counts = runs, counts
        self._kept: dict[int, Tensor | None] = {}

    @cached_property
    def tensor(self) -> Tensor:
        """`counts` as a tensor on the host, for kernels that take the runs as they are."""
        return torch.from_numpy(np.ascontiguousarray(self.counts))

    @cached_property
    def offsets(self) -> np.ndarray:
        """[R] row of each run's first history row."""
        return ends(self.counts + self.runs.length)[:-1]

    @cached_property
    def read(self) -> tuple[Tensor, Tensor]:
        """(slot, position) of each history row, run after run."""
        slots, positions = np.repeat(self.runs.slot, self.counts), expand(self.runs.start - self.counts, self.counts)
        return self.runs.move(slots), self.runs.move(positions)

    @cached_property
    def order(self) -> Tensor | None:
        """Permutation of (all history, all tokens) into rows; None when that is their order already."""
        if len(self.runs) == 1 or not self.counts.any():
            return None
        history, token = ends(self.counts)[:-1], int(self.counts.sum()) + self.runs.first
        begins, lengths = np.column_stack((history, token)).ravel(), np.column_stack((self.counts, self.runs.length)).ravel()
        return self.runs.move(expand(begins, lengths))

    def kept(self, count: int) -> Tensor | None:
        """Flat numbers of the last `count` tokens of each run; None when that is all of them."""
        if count not in self._kept:
            lengths = np.minimum(self.runs.length, count)
            whole = bool((lengths == self.runs.length).all())
            self._kept[count] = None if whole else self.runs.move(expand(self.runs.first + self.runs.length - lengths, lengths))
        return self._kept[count]


class Spans:
    """Ranges of visible keys, one a query; never decreasing from query to query. Made by `window_spans` and `entry_spans`.

    Attributes:
        runs: what they follow from.  window: window size, 0 for entries.  ratio: tokens an entry, 0 for windows.
    """

    def __init__(self, runs: Runs, *, window: int = 0, ratio: int = 0, queries: int | None = None, cells: int | None = None) -> None:
        self.runs, self.window, self.ratio = runs, window, ratio
        self._queries = queries or max(16, min(WINDOW_QUERIES if window else QUERIES, CELLS // (runs.heads * runs.window)))
        self._cells = cells or (CELLS if window else 16 * CELLS) // runs.heads
        self._masks: dict[Tile, Tensor] = {}

    @cached_property
    def host_first(self) -> np.ndarray:
        """[T] first key of each query."""
        if self.window:
            return np.maximum(np.repeat(self.base, self.runs.length), self.host_last - self.window)
        return np.repeat(self.base, self.runs.length)

    @cached_property
    def host_last(self) -> np.ndarray:
        """[T] key after the last one of each query."""
        if self.window:
            return expand(self.base + self._history + 1, self.runs.length)
        return np.repeat(self.base, self.runs.length) + (self.runs.host_positions + 1) // self.ratio

    @cached_property
    def base(self) -> np.ndarray:
        """[R] flat number of each run's first key."""
        return ends(self._history + self.runs.length if self.window else self.runs.stop // self.ratio)[:-1]

    @cached_property
    def base_tensor(self) -> Tensor:
        """`base` as a tensor on the host."""
        return torch.from_numpy(np.ascontiguousarray(self.base))

    @property
    def _history(self) -> np.ndarray:
        return np.minimum(self.runs.start, self.window - 1)

    @cached_property
    def first(self) -> Tensor:
        """host_first on the device."""
        return self.runs.move(self.host_first)

    @cached_property
    def last(self) -> Tensor:
        """host_last on the device."""
        return self.runs.move(self.host_last)

    @cached_property
    def tiles(self) -> list[Tile]:
        """(q0, q1, k0, k1) in order, covering all queries."""
        runs = [(int(a), int(a + n)) for a, n in zip(self.runs.first, self.runs.length, strict=True)]
        return _tiles(self.host_first, self.host_last, runs, self._queries, self._cells, BAND if self.window else 1)

    def reach(self, q0: int, q1: int) -> tuple[int, int]:
        """The keys that queries q0..q1 see between them."""
        return int(self.host_first[q0]), int(self.host_last[q1 - 1])

    def bands(self, q0: int, q1: int, align: int) -> tuple[int, int, int]:
        """How the queries of a window's tile share keys: (groups, first key of the first group, keys a group, mostly a multiple of `align`).

        Groups have BAND queries, and the keys of each begin BAND after those of the one before. One group where that doesn't fit.
        """
        w0, w1 = self.reach(q0, q1)
        keys = _rounded_up(BAND + self.window - 1, align)
        begin = int(self.host_last[q0]) + BAND - 1 - keys
        consecutive = self.host_last[q1 - 1] - self.host_last[q0] == q1 - q0 - 1
        if (q1 - q0) % BAND == 0 and consecutive and begin >= 0:
            return (q1 - q0) // BAND, begin, keys
        begin = max(0, w1 - _rounded_up(w1 - w0, align))
        return 1, begin, w1 - begin

    def partly_seen(self, q0: int, q1: int, k0: int, k1: int) -> list[tuple[int, int]]:
        """The stretches of keys k0..k1 that not all of the queries see: before what the last one sees first, after what the first sees last."""
        first, last = min(int(self.host_first[q1 - 1]), k1), max(int(self.host_last[q0]), k0)
        if first >= last:
            return [(k0, k1)]
        return [(a, b) for a, b in ((k0, first), (last, k1)) if a < b]

    def outside(self, q0: int, q1: int, k0: int, k1: int, groups: int = 1) -> Tensor:
        """[q1 - q0, k1 - k0] True where a query doesn't see a key. With groups as in `bands`, k0..k1 are the first one's keys."""
        key = torch.arange(k0, k1, device=self.first.device)
        if groups > 1:
            key = (torch.arange(0, q1 - q0, (q1 - q0) // groups, device=key.device).unsqueeze(1) + key).repeat_interleave((q1 - q0) // groups, 0)
        return (key < self.first[q0:q1].unsqueeze(1)) | (key >= self.last[q0:q1].unsqueeze(1))

    def mask(self, q0: int, q1: int, k0: int, k1: int, groups: int = 1) -> Tensor:
        """[q1 - q0, k1 - k0] fp32 to add to logits: -inf where `outside`, else 0. Those of windows are kept for the other layers."""
        tile = (q0, q1, k0, k1)
        mask = self._masks.get(tile)
        if mask is None:
            outside = self.outside(*tile, groups)
            mask = torch.zeros(outside.shape, dtype=torch.float32, device=outside.device).masked_fill_(outside, float("-inf"))
            if self.window:
                self._masks[tile] = mask
        return mask


class Places:
    """Pool rows of the flat entries of all runs: consecutive in training, block by block in inference.

    Args:
        spans: entry spans of the ratio.  tables: block numbers of each run; None when flat entry i is row i.  per_block: entries a block.
    """

    def __init__(self, spans: Spans, tables: Sequence[Sequence[int] | np.ndarray] | None, per_block: int) -> None:
        self.spans, self.per_block = spans, per_block
        self._tables = None if tables is None else [np.asarray(t, dtype=np.int32) for t in tables]
        if self._tables is not None:
            visible = spans.runs.stop // spans.ratio
            assert all(len(t) * per_block >= n for t, n in zip(self._tables, visible, strict=True)), "block table too short"

    @cached_property
    def table(self) -> Tensor | None:
        """[R, widest] int32 block numbers on the host, short ones filled up; None in training."""
        return None if self._tables is None else stacked(self._tables)

    @cached_property
    def new(self) -> Tensor:
        """[n] pool rows of the entries that the runs make."""
        runs = self.spans.runs
        begin, count = runs.made(self.spans.ratio)
        if self._tables is None:
            return runs.move(expand(self.spans.base + begin, count))
        return runs.move(np.concatenate([self._rows(r, a, a + n) for r, (a, n) in enumerate(zip(begin, count, strict=True))]))

    @cached_property
    def rows(self) -> Tensor | None:
        """[all] pool row of every visible flat entry; None when flat entry i is row base + i."""
        return None if self._straight else self.spans.runs.move(self._all)

    @cached_property
    def base(self) -> int:
        """See rows."""
        return int(self._all[0]) if len(self._all) else 0

    @cached_property
    def _all(self) -> np.ndarray:
        visible = self.spans.runs.stop // self.spans.ratio
        if self._tables is None:
            return np.arange(int(visible.sum()))
        return np.concatenate([self._rows(r, 0, n) for r, n in enumerate(visible)])

    @cached_property
    def _straight(self) -> bool:
        return bool((np.diff(self._all) == 1).all())

    def _rows(self, run: int, a: int, b: int) -> np.ndarray:
        entry = np.arange(a, b)
        return self._tables[run][entry // self.per_block].astype(np.int64) * self.per_block + entry % self.per_block


@dataclass(frozen=True)
class Entries:
    """Compressed entries of all runs of a batch in one layer: the rows [P, C], and which are whose."""

    pool: Tensor
    places: Places

    def between(self, a: int, b: int) -> slice | Tensor:
        """Where flat entries a..b are in the pool: a slice, or row numbers [b - a]."""
        rows, base = self.places.rows, self.places.base
        return slice(base + a, base + b) if rows is None else rows[a:b]

    def at(self, flat: Tensor) -> Tensor:
        """Pool rows of any flat entry numbers (int64, non-negative)."""
        rows = self.places.rows
        return flat + self.places.base if rows is None else rows[flat]


def stacked(tables: Sequence[np.ndarray]) -> Tensor:
    """[R, widest] int32 of tables [.] int32, short ones filled up with zeros."""
    if len(tables) == 1:
        return torch.from_numpy(tables[0]).unsqueeze(0)
    out = np.zeros((len(tables), max(len(t) for t in tables)), dtype=np.int32)
    for row, t in zip(out, tables, strict=True):
        row[: len(t)] = t
    return torch.from_numpy(out)


def expand(begins: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """begins[0], begins[0] + 1, … (lengths[0] numbers), then begins[1], …"""
    if len(begins) == 1:
        return np.arange(begins[0], begins[0] + lengths[0])
    shift = np.repeat(begins - ends(lengths)[:-1], lengths)
    return np.arange(len(shift)) + shift


def ends(lengths: np.ndarray) -> np.ndarray:
    """Running sums with a zero in front: where each of several stretches begins, and where the last one ends."""
    sums = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=sums[1:])
    return sums


def _rounded_up(count: int, step: int) -> int:
    return -(-count // step) * step


def _tiles(first: np.ndarray, last: np.ndarray, runs: list[tuple[int, int]], queries: int, cells: int, step: int) -> list[Tile]:
    """Tiles of at most `queries` queries and about `cells` (query, key) pairs, a single query excepted; of multiples of `step` queries where
    that goes. A tile holds pieces of several runs only while it is small."""
    tiles: list[Tile] = []
    for q0, q1 in runs:
        a = q0
        while a < q1:
            b = min(a + queries, q1)
            if b - a > step:
                b -= (b - a) % step
            while b - a > 1 and (b - a) * (last[b - 1] - first[a]) > cells:
                b = a + (b - a + 1) // 2
            start = tiles[-1][0] if tiles else a
            if start < a and b - start <= queries and (b - start) * (last[b - 1] - first[start]) <= cells // 4:
                tiles[-1] = (start, b, int(first[start]), int(last[b - 1]))
            else:
                tiles.append((a, b, int(first[a]), int(last[b - 1])))
            a = b
    return tiles
