"""The token store: every document's ids in one memory-mapped file, with offsets; of held-out documents the text as well.

    NAME.tokens      ids, uint16 where the vocabulary allows, else uint32; documents end to end, BOS … EOS each
    NAME.offsets     int64: where each document begins, and the end
    NAME.text        (held out) UTF-8 of the same documents, and NAME.bytes, their offsets: what bits per byte is counted over

Reading maps the files and never loads them. A store is written once and then never changes; the run's order of data is a
function of it, so resuming doesn't look at the original files again.
"""
from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.uint16] | NDArray[np.uint32]


class TokenStore:
    """The documents of one split, read from `folder`; `store[i]` is document i's token ids [n], BOS and EOS included."""

    def __init__(self, folder: Path, name: str) -> None:
        self.offsets: NDArray[np.int64] = np.fromfile(folder / f"{name}.offsets", dtype=np.int64)
        size = (folder / f"{name}.tokens").stat().st_size
        dtype = np.dtype(np.uint16 if size == 2 * int(self.offsets[-1]) else np.uint32)
        self._ids = np.memmap(folder / f"{name}.tokens", dtype=dtype, mode="r")
        self._text_path, self._bytes_path = folder / f"{name}.text", folder / f"{name}.bytes"

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, document: int) -> Ids:
        return self._ids[self.offsets[document]:self.offsets[document + 1]]

    @property
    def num_tokens(self) -> int:
        """Ids in the store, BOS and EOS included."""
        return int(self.offsets[-1])

    def texts(self) -> list[bytes]:
        """UTF-8 of every document; only a split written with texts has them."""
        ends = np.fromfile(self._bytes_path, dtype=np.int64)
        raw = self._text_path.read_bytes()
        return [raw[a:b] for a, b in zip(ends, ends[1:])]


def write_store(folder: Path, name: str, documents: Iterable[tuple[list[int], str]], vocab_size: int, *, texts: bool = False) -> None:
    """Write one split as the documents come: (token ids, text). With `texts`, the texts too. Files are flushed to the disk."""
    dtype = np.uint16 if vocab_size <= 1 << 16 else np.uint32
    offsets, ends = [0], [0]
    with open(folder / f"{name}.tokens", "wb") as tokens_file, open(folder / f"{name}.text", "wb") as text_file:
        for ids, text in documents:
            tokens_file.write(np.asarray(ids, dtype=dtype).tobytes())
            offsets.append(offsets[-1] + len(ids))
            if texts:
                ends.append(ends[-1] + text_file.write(text.encode("utf-8")))
    np.asarray(offsets, dtype=np.int64).tofile(folder / f"{name}.offsets")
    if texts:
        np.asarray(ends, dtype=np.int64).tofile(folder / f"{name}.bytes")
    else:
        (folder / f"{name}.text").unlink()
