"""Tokens as the model sees them: flat, of any number of sequences, without padding.

A run is a stretch of consecutive tokens of one sequence. A packed training row is runs that all start at 0; a whole prompt is one
run; a chunk of a prompt is one run that starts later; sixteen decoding sequences are sixteen runs of one token. They are all the
same call. Runs that continue a sequence need a state: `slot` is the sequence's row in it and `blocks` its block table.

Two more things serve caches of earlier state. Entries up to position `known` are in the blocks already: windows before it are read, not
compressed again. `marks` are positions of which the state is wanted as it was just before them (State.captured).
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Run:
    """Tokens start..start+length of one sequence; slot and blocks locate its state (unused in stateless forwards).

    known: a multiple of the block size; 0 where every window is this sequence's own to compress.
    marks: ascending, in start..start+length; multiples of the ratios of the blocks that are run.
    """

    start: int
    length: int
    slot: int = 0
    blocks: Sequence[int] | np.ndarray = ()
    known: int = 0
    marks: tuple[int, ...] = ()

    @property
    def stop(self) -> int:
        """Position after the last token."""
        return self.start + self.length


@dataclass(frozen=True)
class Batch:
    """token_ids [T] int64 of all runs, one after the other; each run has at least one token."""

    token_ids: Tensor
    runs: tuple[Run, ...]

    def __post_init__(self) -> None:
        assert self.runs and all(r.length > 0 and r.start >= 0 for r in self.runs), "empty run"
        assert self.token_ids.shape == (sum(r.length for r in self.runs),), "runs don't cover the tokens"

    @classmethod
    def pack(cls, documents: Sequence[Tensor]) -> Batch:
        """Whole documents that don't see each other: a packed training row, or prompts without state."""
        return cls(torch.cat(list(documents)), tuple(Run(0, len(d)) for d in documents))

    @property
    def cu_seqlens(self) -> list[int]:
        """Where each run begins in the flat tokens, and the end: len(runs) + 1 numbers."""
        ends = [0]
        for run in self.runs:
            ends.append(ends[-1] + run.length)
        return ends

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tokens on `device`."""
        return Batch(self.token_ids.to(device), self.runs)
