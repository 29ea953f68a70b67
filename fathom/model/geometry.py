"""Which token sees what: everything about a batch that doesn't depend on a layer's values, shared by all layers of one forward.

Windows. All key-value rows that a batch needs are put in one buffer, run by run: what the ring remembers of the run's last W - 1
tokens, then the run's own. Each query sees one contiguous range of rows.

Compression. For a ratio m, a run from position p to s completes the entries p//m … s//m - 1. Their source tokens are those of the
run and, where a window began earlier, tokens that wait in the tail. Entries get flat numbers, run after run; each query sees the
first (t + 1)//m of its own run's.

Numbers are worked out on the host with numpy, when a kernel first asks for them (ops/spans.py).
"""
from __future__ import annotations

from functools import cached_property

import numpy as np
from torch import Tensor

from ..config import CSA_RATIO, ModelConfig
from ..ops import History, Places, Runs, Spans
from ..ops.spans import ends, expand, stacked
from .batch import Batch
from .rope import angles


class Geometry:
    """Geometry of one batch for one model. With `paged`, runs may start after 0 and their history is in a state.

    frequency: [R/2] turns a position, of window blocks (False) and of those with compression (True).
    """

    def __init__(self, config: ModelConfig, batch: Batch, frequency: dict[bool, Tensor], *, paged: bool) -> None:
        self.config, self.batch, self.paged, self.frequency = config, batch, paged, frequency
        assert paged or all(r.start == 0 for r in batch.runs), "a run that continues a sequence needs a state"
        self.runs = Runs([(r.length, r.start, r.slot) for r in batch.runs], heads=config.num_attention_heads, window=config.sliding_window,
                         device=batch.token_ids.device, known=[r.known for r in batch.runs])
        self.marks = [(number, mark) for number, r in enumerate(batch.runs) for mark in r.marks]
        self._by_ratio: dict[int, Compression] = {}
        self._angles: dict[bool, tuple[Tensor, Tensor, Tensor]] = {}

    def angles(self, compressed: bool) -> tuple[Tensor, Tensor, Tensor]:
        """cos, sin and -sin [T, R/2] at the tokens' positions; the last one turns back."""
        if compressed not in self._angles:
            cos, sin = angles(self.frequency[compressed], self.runs.positions)
            self._angles[compressed] = cos, sin, -sin
        return self._angles[compressed]

    @cached_property
    def _tables(self) -> list[np.ndarray] | None:
        return [np.asarray(r.blocks, dtype=np.int32) for r in self.batch.runs] if self.paged else None

    @cached_property
    def block_tables(self) -> Tensor:
        """[R, widest] int32 block numbers of all runs on the host, short tables filled up; with a state."""
        assert self._tables is not None
        return stacked(self._tables)

    @cached_property
    def window_history(self) -> History:
        """What windows need of the tokens before each run."""
        return self.runs.history(np.minimum(self.runs.start, self.config.sliding_window - 1))

    @cached_property
    def window_spans(self) -> Spans:
        """Window rows each query sees."""
        return Spans(self.runs, window=self.config.sliding_window)

    @cached_property
    def window_marks(self) -> Tensor:
        """[marks, W - 1] rows (of history and tokens) before each mark; where a sequence has fewer, its first row again."""
        return self.runs.move(_rows_before(self.marks, self.window_history, self.config.sliding_window - 1))

    def compression(self, ratio: int) -> Compression:
        """Geometry of compression with this ratio."""
        if ratio not in self._by_ratio:
            self._by_ratio[ratio] = Compression(self.runs, ratio, self._tables, self.config.block_size // ratio, self.frequency[True], self.marks)
        return self._by_ratio[ratio]


class Compression:
    """Geometry of one ratio.

    Attributes:
        spans: visible flat entries of each query.  places: where entries are in the pools.
        count: entries that the batch makes, n.  history: waiting tokens that they (and what marks want) are also made of.
    """

    def __init__(self, runs: Runs, ratio: int, tables: list[np.ndarray] | None, per_block: int, frequency: Tensor,
                 marks: list[tuple[int, int]]) -> None:
        self.runs, self.ratio, self.overlap, self._frequency = runs, ratio, ratio == CSA_RATIO, frequency
        self.spans = Spans(runs, ratio=ratio)
        self.places = Places(self.spans, tables, per_block)
        self._begin, self._made = runs.made(ratio)
        self.count = int(self._made.sum())
        self._marks = marks
        assert all(mark % ratio == 0 for _, mark in marks), "a mark within a window"

    @cached_property
    def history(self) -> History:
        """Tokens before each run that its new entries are made of: an unfinished window, for CSA also the full one before it."""
        oldest = np.maximum(0, self._begin - self.overlap) * self.ratio
        counts = np.where(self._made > 0, np.maximum(0, self.runs.start - oldest), 0)
        for run, mark in self._marks if self.overlap else ():
            counts[run] = max(counts[run], self.runs.start[run] - max(0, mark - self.ratio))
        return self.runs.history(counts)

    @cached_property
    def tail_marks(self) -> Tensor | None:
        """[marks, m] rows (of history and tokens) of the last full window before each mark (CSA); None without marks, or where nothing waits."""
        return self.runs.move(_rows_before(self._marks, self.history, self.ratio)) if self.overlap and self._marks else None

    @cached_property
    def position(self) -> Tensor:
        """[n] position of the first token of each new entry's window."""
        return self.runs.move(self._host_position)

    @cached_property
    def own(self) -> Tensor:
        """[n, m] rows (of history and tokens, run after run) of each new entry's window."""
        return self.runs.move(self._sources(self._host_position))

    @cached_property
    def previous(self) -> Tensor | None:
        """[n, m] likewise for the window before (CSA), -1 for none; None without overlap."""
        return self.runs.move(self._sources(self._host_position - self.ratio)) if self.overlap else None

    @cached_property
    def angles(self) -> tuple[Tensor, Tensor]:
        """cos, sin [n, R/2] at `position`."""
        return angles(self._frequency, self.position)

    @cached_property
    def _host_position(self) -> np.ndarray:
        return expand(self._begin, self._made) * self.ratio

    def _sources(self, begins: np.ndarray) -> np.ndarray:
        row = np.repeat(ends(self.history.counts + self.runs.length)[:-1] - (self.runs.start - self.history.counts), self._made)
        at = begins[:, None] + np.arange(self.ratio)
        return np.where(at < 0, -1, at + row[:, None])


def _rows_before(marks: list[tuple[int, int]], history: History, count: int) -> np.ndarray:
    """[marks, count] rows of history and tokens of the `count` positions before each (run, mark)."""
    run, mark = np.array(marks, dtype=np.int64).reshape(-1, 2).T
    oldest = history.offsets[run]
    last = oldest + mark - (history.runs.start - history.counts)[run]
    return np.maximum(last[:, None] + np.arange(-count, 0), oldest[:, None])
