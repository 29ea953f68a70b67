"""Small files that are there whole or not at all, whatever kills the process or the power; and tidying up after a kill.

The one recipe for it: write under another name, flush to the disk, rename. A rename replaces at once; the flush before it keeps a
crash from leaving the new name with empty content. Folders are made the same way by `checkpoint.replace_folder`.
"""
from __future__ import annotations

import os
import shutil
from pathlib import Path


def write_file(path: Path, content: str) -> None:
    """Write a text file, replacing the old one at once."""
    draft = path.with_name(f".{path.name}.partial")
    draft.write_text(content, encoding="utf-8")
    flush(draft)
    os.replace(draft, path)
    flush(path.parent)


def remove(folder: Path) -> None:
    """Delete a folder so that at no moment half of it has its name: rename, then delete."""
    doomed = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(doomed, ignore_errors=True)
    os.rename(folder, doomed)
    shutil.rmtree(doomed)


def sweep(folder: Path) -> None:
    """Delete what a killed process left unfinished in `folder`: everything hidden."""
    for path in folder.glob(".*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def flush(path: Path) -> None:
    """fsync of a file, or of a folder's list of names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
