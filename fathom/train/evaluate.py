"""How well the model predicts held-out text, in bits per byte: a number that no tokenizer can flatter.

    bits per byte = total nats / (ln 2 · UTF-8 bytes)

The nats are those of every token of a document and of its end (EOS); BOS is given. A compressor's figure on the same documents is
comparable: 8 · compressed bytes / bytes. gzip and xz are run on each document by itself, as the model reads it. Of a conversation,
nats and bytes are those of what the assistant says; the rest is given.

Documents longer than the window are read in windows that overlap by half, and each token is scored once, in the first window that
has it: so it has at least half a window of context.
"""
from __future__ import annotations

import gzip
import lzma
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from ..model import Batch, Transformer
from ..ops import IGNORE, cross_entropy
from .data.counter import permutation
from .data.store import TokenStore

BATCH_TOKENS = 4096  # of one forward pass
SAMPLE_ORDER = 0x6576616C  # names the order in which documents are sampled


@dataclass(frozen=True)
class Score:
    """Prediction of some documents. `bits_per_byte`; tokens are those scored, `bytes` is their UTF-8."""

    nats: float
    bytes: int
    tokens: int
    documents: int

    @property
    def bits_per_byte(self) -> float:
        return self.nats / (math.log(2) * self.bytes)

    def to_dict(self) -> dict[str, float | int]:
        """JSON-ready."""
        return {"bits_per_byte": self.bits_per_byte, **asdict(self)}


def choose_documents(texts: Sequence[bytes], limit: int) -> list[int]:
    """The documents to evaluate: all for limit 0; else, in a random (fixed) order, those that fit in `limit` bytes together.

    At least one: the shortest, if none fits.
    """
    if not limit:
        return list(range(len(texts)))
    chosen, size = [], 0
    for i in permutation(len(texts), SAMPLE_ORDER).tolist():
        if size + len(texts[i]) <= limit:
            chosen.append(i)
            size += len(texts[i])
    return sorted(chosen) or [min(range(len(texts)), key=lambda i: len(texts[i]))]


def score(model: Transformer, store: TokenStore, texts: Sequence[bytes], documents: Sequence[int], length: int, device: torch.device,
          progress: Callable[[int, int], None] = lambda done, total: None) -> Score:
    """Predict `documents` of the store in windows of `length` tokens; `texts` are the store's, for their bytes."""
    windows = [window for i in documents for window in _windows(torch.from_numpy(store[i].astype("int64")), length)]
    nats, tokens, done = 0.0, 0, 0
    with torch.no_grad():
        for batch in _batches(windows, BATCH_TOKENS):
            inputs = Batch.pack([ids for ids, _ in batch]).to(device)
            targets = torch.cat([t for _, t in batch]).to(device)
            nats += float(cross_entropy(model(inputs).hidden, model.head.weight, targets, reduction="sum"))
            tokens += int((targets != IGNORE).sum())
            done += len(batch)
            progress(done, len(windows))
    return Score(nats, sum(len(texts[i]) for i in documents), tokens, len(documents))


def _windows(ids: Tensor, length: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(inputs, targets) of the windows of one document; targets that are only read, or scored in an earlier window, are IGNORE."""
    read = ids < 0
    ids, step, scored = torch.where(read, ~ids, ids), length // 2, 1  # ids[:scored] have been scored or given
    for start in range(0, len(ids), step):
        piece = ids[start:start + length + 1]
        targets = piece[1:].masked_fill(read[start + 1:start + length + 1], IGNORE)
        targets[: scored - start - 1] = IGNORE
        yield piece[:-1], targets
        scored = start + len(piece)
        if scored == len(ids):
            return


def _batches(windows: Sequence[tuple[Tensor, Tensor]], limit: int) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Windows in order, as many together as fit into `limit` tokens (at least one)."""
    batch: list[tuple[Tensor, Tensor]] = []
    for window in windows:
        if batch and sum(len(ids) for ids, _ in batch) + len(window[0]) > limit:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def compressors(texts: Sequence[bytes]) -> dict[str, float]:
    """Bits per byte of `gzip -9` and `xz -9`, each document by itself, sizes summed."""
    total = sum(map(len, texts))
    sizes = {"gzip -9": sum(len(gzip.compress(text, 9, mtime=0)) for text in texts),
             "xz -9": sum(len(lzma.compress(text, preset=9)) for text in texts)}
    return {name: 8 * size / total for name, size in sizes.items()}
