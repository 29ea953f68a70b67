"""Files and folders that are there whole or not at all, whatever kills the process or the power.

The one recipe for it: write under another name, flush to the disk, rename. A rename replaces at once; the flush before it keeps a
crash from leaving the new name with old, empty content.
"""
from __future__ import annotations

import os
import shutil
from pathlib import Path


def write_file(path: Path, content: str) -> None:
    """Write a text file, replacing the old one at once."""
    draft = path.with_name(f".{path.name}.partial")
    draft.write_text(content, encoding="utf-8")
    _flush(draft)
    os.replace(draft, path)
    _flush(path.parent)


def publish(draft: Path, final: Path) -> None:
    """Give a finished folder (no subfolders) its name; `final` must not exist."""
    for file in sorted(draft.iterdir()):
        _flush(file)
    _flush(draft)
    os.rename(draft, final)
    _flush(final.parent)


def remove(folder: Path) -> None:
    """Delete a folder so that at no moment half of it has its name: rename, then delete."""
    doomed = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(doomed, ignore_errors=True)
    os.rename(folder, doomed)
    shutil.rmtree(doomed)


def sweep(folder: Path) -> None:
    """Delete what a killed process left unfinished in `folder`."""
    for path in folder.glob(".*.partial"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _flush(path: Path) -> None:
    """fsync of a file, or of a folder's list of names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
