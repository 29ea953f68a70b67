"""Which token sees what: everything about a batch that doesn't depend on a layer's values, worked out once per forward.

Windows. All key-value rows that a batch needs are put in one buffer, run by run: what the ring remembers of the run's last W - 1
tokens, then the run's own. Each query sees one contiguous range of rows.

Compression. For a ratio m, a run from position p to s completes the entries p//m … s//m - 1. Their source tokens are those of the
run and, where a window began earlier, tokens that wait in the tail. Entries get flat numbers, run after run; each query sees the
first (t + 1)//m of its own run's. `rows` are their places in a paged pool.

Everything is computed on the host with numpy and moved to the device in a few small tensors.
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..config import CSA_RATIO, ModelConfig
from ..ops import Spans, make_spans
from .batch import Batch, Run
from .rope import angles

QUERIES = 128  # queries of a tile at most
CELLS = 1 << 20  # (query, head, key) cells of an attention tile, about


@dataclass(frozen=True)
class Compression:
    """Geometry of one ratio. R counts tail rows read back, then the batch's tokens.

    Attributes:
        tail_slot, tail_position: [h] sequence slot and position of each tail row to read.
        own: [n, m] row of each new entry's window in (tail rows, tokens).  previous: [n, m] likewise for the window before (CSA), -1 for none.
        position: [n] first position of each new entry's window.
        new: [n] pool row of each new entry, block_size // ratio entries a block.
        rows: [all] pool row of every visible flat entry; None when flat entry i is row base + i.
        spans: visible flat entries of each query.
    """

    tail_slot: Tensor
    tail_position: Tensor
    own: Tensor
    previous: Tensor | None
    position: Tensor
    new: Tensor
    rows: Tensor | None
    base: int
    spans: Spans


class Geometry:
    """Geometry of one batch for one model. With `paged`, runs may start after 0 and their history is in a state."""

    def __init__(self, config: ModelConfig, batch: Batch, frequency: dict[bool, Tensor], *, paged: bool) -> None:
        self.config, self.batch, self.paged = config, batch, paged
        self.device = batch.token_ids.device
        self._frequency = frequency
        assert paged or all(r.start == 0 for r in batch.runs), "a run that continues a sequence needs a state"
        heads, W = config.num_attention_heads, config.sliding_window
        self._queries = max(16, min(QUERIES, CELLS // (heads * W)))
        self._by_ratio: dict[int, Compression] = {}
        self._angles: dict[bool, tuple[Tensor, Tensor]] = {}
        self._last: dict[int, Tensor | None] = {}

    @cached_property
    def host_positions(self) -> np.ndarray:
        """[T] position of each token in its sequence."""
        return np.concatenate([np.arange(r.start, r.stop) for r in self.batch.runs])

    @cached_property
    def positions(self) -> Tensor:
        """host_positions on the device."""
        return self._move(self.host_positions)

    @cached_property
    def slots(self) -> Tensor:
        """[T] state slot of each token."""
        return self._move(np.concatenate([np.full(r.length, r.slot) for r in self.batch.runs]))

    def last_tokens(self, count: int) -> Tensor | None:
        """Flat numbers of the last `count` tokens of each run; None when that is all of them."""
        if count not in self._last:
            ends = self.batch.cu_seqlens
            parts = [np.arange(max(a, b - count), b) for a, b in zip(ends, ends[1:], strict=False)]
            keep = np.concatenate(parts)
            self._last[count] = None if len(keep) == ends[-1] else self._move(keep)
        return self._last[count]

    def angles(self, compressed: bool) -> tuple[Tensor, Tensor]:
        """cos, sin [T, R/2] at the tokens' positions."""
        if compressed not in self._angles:
            self._angles[compressed] = angles(self._frequency[compressed], self.positions)
        return self._angles[compressed]

    def entry_angles(self, ratio: int) -> tuple[Tensor, Tensor]:
        """cos, sin at the positions of the new entries."""
        return angles(self._frequency[True], self.compression(ratio).position)

    # --- windows ---

    @cached_property
    def window_history(self) -> tuple[Tensor, Tensor]:
        """(slot, position) of each ring row to read back, run after run."""
        reach = self.config.sliding_window - 1
        return self._stretches([(r.slot, max(0, r.start - reach), r.start) for r in self.batch.runs])

    @cached_property
    def window_order(self) -> Tensor | None:
        """Permutation of (history rows, tokens) that puts each run's history before its tokens; None when it changes nothing."""
        history = [min(r.start, self.config.sliding_window - 1) for r in self.batch.runs]
        if len(history) == 1 or not any(history):
            return None
        total, before, token, parts = sum(history), 0, 0, []
        for h, run in zip(history, self.batch.runs, strict=True):
            parts += [np.arange(before, before + h), np.arange(total + token, total + token + run.length)]
            before, token = before + h, token + run.length
        return self._move(np.concatenate(parts))

    @cached_property
    def window_spans(self) -> Spans:
        """Window rows each query sees."""
        W = self.config.sliding_window
        first, last, offset = [], [], 0
        for run in self.batch.runs:
            history = min(run.start, W - 1)
            end = offset + history + np.arange(1, run.length + 1)
            first.append(np.maximum(offset, end - W))
            last.append(end)
            offset += history + run.length
        cells = CELLS // self.config.num_attention_heads
        return make_spans(np.concatenate(first), np.concatenate(last), self._query_runs(), self.device, queries=self._queries, cells=cells)

    # --- compression ---

    def compression(self, ratio: int) -> Compression:
        """Geometry of compression with this ratio."""
        if ratio not in self._by_ratio:
            self._by_ratio[ratio] = self._compression(ratio)
        return self._by_ratio[ratio]

    def _compression(self, m: int) -> Compression:
        runs, overlap = self.batch.runs, m == CSA_RATIO
        waiting = [self._waiting(run, m) for run in runs]
        tail, token, total = 0, 0, sum(waiting)
        own, previous, position, first, last, offset = [], [], [], [], [], 0
        for run, wait in zip(runs, waiting, strict=True):
            def source(at: np.ndarray, run: Run = run, wait: int = wait, tail: int = tail, token: int = token) -> np.ndarray:
                row = at - run.start + np.where(at >= run.start, total + token, tail + wait)  # tail rows come first, then the tokens
                return np.where(at < 0, -1, row)

            begins = np.arange(run.start // m, run.stop // m) * m  # first positions of the windows that this run completes
            window = begins[:, None] + np.arange(m)
            own.append(source(window))
            previous.append(source(window - m))
            position.append(begins)
            first.append(np.full(run.length, offset))
            last.append(offset + np.arange(run.start + 1, run.stop + 1) // m)
            tail, token, offset = tail + wait, token + run.length, offset + run.stop // m
        slot, where = self._stretches([(r.slot, r.start - w, r.start) for r, w in zip(runs, waiting, strict=True)])
        rows, new = self._rows(m)
        base = int(rows[0]) if len(rows) else 0
        straight = bool((np.diff(rows) == 1).all())
        cells = 16 * CELLS // self.config.num_attention_heads
        spans = make_spans(np.concatenate(first), np.concatenate(last), self._query_runs(), self.device, queries=self._queries, cells=cells)
        return Compression(slot, where, self._move(np.concatenate(own)), self._move(np.concatenate(previous)) if overlap else None,
                           self._move(np.concatenate(position)), self._move(new), None if straight else self._move(rows), base, spans)

    @staticmethod
    def _waiting(run: Run, m: int) -> int:
        """Tokens before the run that its new entries are made of: an unfinished window, for CSA also the full one before it."""
        if run.stop // m == run.start // m:
            return 0
        return run.start - max(0, run.start // m - (m == CSA_RATIO)) * m

    def _rows(self, m: int) -> tuple[np.ndarray, np.ndarray]:
        """Pool rows of all visible entries, run after run, and of the new ones among them."""
        per_block = self.config.block_size // m
        rows, new, offset = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0
        for run in self.batch.runs:
            entry = np.arange(run.stop // m)
            if self.paged:
                table = np.asarray(run.blocks, dtype=np.int64)
                assert len(table) * per_block >= len(entry), "block table too short"
                row = table[entry // per_block] * per_block + entry % per_block
            else:
                row = offset + entry
                offset += len(entry)
            rows.append(row)
            new.append(row[run.start // m :])
        return np.concatenate(rows), np.concatenate(new)

    # --- plumbing ---

    def _query_runs(self) -> list[tuple[int, int]]:
        ends = self.batch.cu_seqlens
        return list(zip(ends, ends[1:], strict=False))

    def _stretches(self, stretches: list[tuple[int, int, int]]) -> tuple[Tensor, Tensor]:
        slots = [np.full(b - a, slot) for slot, a, b in stretches] or [np.zeros(0, np.int64)]
        where = [np.arange(a, b) for _, a, b in stretches] or [np.zeros(0, np.int64)]
        return self._move(np.concatenate(slots)), self._move(np.concatenate(where))

    def _move(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64)).to(self.device)

