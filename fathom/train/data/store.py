"""The token store: every document's ids in one memory-mapped file, with offsets; of held-out documents the text as well.

    NAME.tokens      ids, uint16 where the vocabulary allows, else uint32; documents end to end, BOS … EOS each
    NAME.offsets     int64: where each document begins, and the end
    NAME.learned     (conversations) a byte a token: 1 where the model learns to say it, 0 where it only reads it
    NAME.text        (held out) UTF-8 of what is predicted, and NAME.bytes, its offsets: what bits per byte is counted over

A token that is only read goes in and comes out as the complement of its id, ~id, which is negative. So one array of numbers goes through
cutting, packing and shuffling, and the loss sees in it what counts.

Reading maps the files and never loads them. A store is written once and then never changes; the run's order of data is a
function of it, so resuming doesn't look at the original files again.
"""
from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.uint16] | NDArray[np.uint32] | NDArray[np.int64]


class TokenStore:
    """The documents of one split, read from `folder`; `store[i]` is document i's token ids [n], BOS and EOS included, as complement
    where they are only read."""

    def __init__(self, folder: Path, name: str) -> None:
        self.offsets: NDArray[np.int64] = np.fromfile(folder / f"{name}.offsets", dtype=np.int64)
        size = (folder / f"{name}.tokens").stat().st_size
        dtype = np.dtype(np.uint16 if size == 2 * int(self.offsets[-1]) else np.uint32)
        self._ids = np.memmap(folder / f"{name}.tokens", dtype=dtype, mode="r")
        learned = folder / f"{name}.learned"
        self._learned = np.memmap(learned, dtype=np.bool_, mode="r") if learned.exists() else None
        self._text_path, self._bytes_path = folder / f"{name}.text", folder / f"{name}.bytes"

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, document: int) -> Ids:
        place = slice(self.offsets[document], self.offsets[document + 1])
        if self._learned is None:
            return self._ids[place]
        ids = self._ids[place].astype(np.int64)
        return np.where(self._learned[place], ids, ~ids)

    @property
    def num_tokens(self) -> int:
        """Ids in the store, BOS and EOS included."""
        return int(self.offsets[-1])

    def texts(self) -> list[bytes]:
        """UTF-8 of every document; only a split written with texts has them."""
        ends = np.fromfile(self._bytes_path, dtype=np.int64)
        raw = self._text_path.read_bytes()
        return [raw[a:b] for a, b in zip(ends, ends[1:])]


def write_store(folder: Path, name: str, documents: Iterable[tuple[list[int], str]], vocab_size: int, *, texts: bool = False,
                masked: bool = False) -> None:
    """Write one split as the documents come: (token ids, text). Files are flushed to the disk.

    Args:
        texts: keep the texts too.  masked: some ids come as complement; without it none may.
    """
    dtype = np.uint16 if vocab_size <= 1 << 16 else np.uint32
    offsets, ends = [0], [0]
    with ExitStack() as files:
        tokens_file, text_file, learned_file = (
            files.enter_context(open(folder / f"{name}.{kind}", "wb")) if wanted else None
            for kind, wanted in (("tokens", True), ("text", texts), ("learned", masked)))
        for given, text in documents:
            ids = np.asarray(given, dtype=np.int64)
            learned = ids >= 0
            assert masked or learned.all(), "a store without a mask was given tokens that are only read"
            tokens_file.write(np.where(learned, ids, ~ids).astype(dtype).tobytes())
            offsets.append(offsets[-1] + len(ids))
            if learned_file:
                learned_file.write(learned.tobytes())
            if text_file:
                ends.append(ends[-1] + text_file.write(text.encode("utf-8")))
    np.asarray(offsets, dtype=np.int64).tofile(folder / f"{name}.offsets")
    if texts:
        np.asarray(ends, dtype=np.int64).tofile(folder / f"{name}.bytes")
