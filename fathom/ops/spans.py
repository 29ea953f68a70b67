"""Which keys a query may see, when tokens of many sequences lie flat in one tensor.

All keys that a batch can see (window rows, or compressed entries) get flat numbers, sequence after sequence. What one query sees
is then one contiguous range [first, last). `Spans` holds those ranges and a list of tiles, (q0, q1, k0, k1): queries q0..q1 see
nothing outside keys k0..k1. Tiles bound the memory of whatever is computed per (query, key) pair.

`Entries` maps flat entry numbers to rows of a layer's pool: the identity in training, the block table's rows in inference.
"""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Tile = tuple[int, int, int, int]


@dataclass(frozen=True)
class Spans:
    """Ranges of visible keys, one a query; never decreasing from query to query.

    Attributes:
        first, last: [T] int64, last exclusive.  host_first, host_last: the same numbers as numpy arrays.
        tiles: (q0, q1, k0, k1) in order, covering all queries.
    """

    first: Tensor
    last: Tensor
    host_first: np.ndarray
    host_last: np.ndarray
    tiles: list[Tile]

    def reach(self, q0: int, q1: int) -> tuple[int, int]:
        """The keys that queries q0..q1 see between them."""
        return int(self.host_first[q0]), int(self.host_last[q1 - 1])

    def outside(self, q0: int, q1: int, k0: int, k1: int) -> Tensor:
        """[q1 - q0, k1 - k0] True where a query doesn't see a key."""
        key = torch.arange(k0, k1, device=self.first.device)
        return (key < self.first[q0:q1].unsqueeze(1)) | (key >= self.last[q0:q1].unsqueeze(1))


@dataclass(frozen=True)
class Entries:
    """Compressed entries of all runs of a batch in one layer.

    Attributes:
        pool: [P, C], the rows themselves.
        rows: [n] int64, pool row of each flat entry; None when flat entry i is row base + i.
        base: see rows.
    """

    pool: Tensor
    rows: Tensor | None = None
    base: int = 0

    def between(self, a: int, b: int) -> slice | Tensor:
        """Where flat entries a..b are in the pool: a slice, or row numbers [b - a]."""
        return slice(self.base + a, self.base + b) if self.rows is None else self.rows[a:b]

    def at(self, flat: Tensor) -> Tensor:
        """Pool rows of any flat entry numbers (int64, non-negative)."""
        return flat + self.base if self.rows is None else self.rows[flat]


def make_spans(first: np.ndarray, last: np.ndarray, runs: Iterable[tuple[int, int]], device: torch.device, *, queries: int, cells: int) -> Spans:
    """Spans with tiles of at most `queries` queries and about `cells` (query, key) pairs, a single query excepted.

    Args:
        first, last: [T] int64 visible ranges, never decreasing.
        runs: (q0, q1) of each run of queries, in order. A tile holds pieces of several runs only while it is small.
    """
    tiles: list[Tile] = []
    for q0, q1 in runs:
        a = q0
        while a < q1:
            b = min(a + queries, q1)
            while b - a > 1 and (b - a) * (last[b - 1] - first[a]) > cells:
                b = a + (b - a + 1) // 2
            start = tiles[-1][0] if tiles else a
            if start < a and b - start <= queries and (b - start) * (last[b - 1] - first[start]) <= cells // 4:
                tiles[-1] = (start, b, int(first[start]), int(last[b - 1]))
            else:
                tiles.append((a, b, int(first[a]), int(last[b - 1])))
            a = b
    return Spans(torch.from_numpy(first).to(device), torch.from_numpy(last).to(device), first, last, tiles)
