"""A folder that appears whole or not at all.

Everything is written into a hidden sibling folder, flushed to the disk, and only then renamed to its name; an older folder of that
name is renamed away first and deleted last. Whatever happens before — full disk, exception, power cut — the older folder stays as
it was. Between the two renames, for microseconds, neither is under the name: a reader that comes then, or after a kill right then,
finds the older one under its hidden name (`readable`), and the next write clears up what a kill left behind.

Only a checkpoint may be replaced: an existing folder without config.json, or with folders in it (a run, a home), is refused.
"""
from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from ..errors import UserError


@contextlib.contextmanager
def replace_folder(folder: str | Path) -> Iterator[Path]:
    """Context that gives an empty folder to write into and makes it `folder` at the end, in place of an older checkpoint there.

    Files that the caller writes should be flushed by it (`write_tensor_file` does); the folders are flushed here. If the body or
    the renaming fails, nothing of it is left.

    Raises:
        UserError: `folder` exists and is no checkpoint; or an OSError while writing (disk full, no permission), naming the folder.
    """
    folder = Path(folder).resolve()  # a link such as runs/latest stays; the folder it points to is replaced
    _refuse_strangers(folder)
    new, old = _siblings(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _clear_up(folder, new, old)
        new.mkdir()
        try:
            yield new
            _flush_folder(new)
            if folder.exists():
                folder.rename(old)
            new.rename(folder)
            _flush_folder(folder.parent)
        except BaseException:
            if old.exists() and not folder.exists():
                old.rename(folder)
            raise
        finally:
            shutil.rmtree(new, ignore_errors=True)
    except OSError as e:
        kept = "; what was there before is untouched" if folder.exists() else ""
        raise UserError(str(folder), None, f"can't be written ({e.strerror or e})", f"free disk space or choose another place{kept}") from e
    shutil.rmtree(old, ignore_errors=True)


def readable(folder: Path) -> tuple[Path, str]:
    """The folder to read for `folder`, and a notice if it isn't that one: the older checkpoint, where replacing it was interrupted."""
    old = _siblings(folder)[1]
    if not folder.exists() and old.exists():
        return old, f"replacing {folder} was interrupted: this is the checkpoint from before"
    return folder, ""


def _siblings(folder: Path) -> tuple[Path, Path]:
    """Hidden names for the folder being written and the one being replaced."""
    folder = folder.resolve()
    return folder.with_name(f".{folder.name}.writing"), folder.with_name(f".{folder.name}.previous")


def _clear_up(folder: Path, new: Path, old: Path) -> None:
    """Undo what an earlier, killed write left."""
    if old.exists() and not folder.exists():
        old.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(new, ignore_errors=True)


def _refuse_strangers(folder: Path) -> None:
    if not folder.exists():
        return
    inside = list(folder.iterdir()) if folder.is_dir() else None
    if inside is None or (inside and (not (folder / "config.json").is_file() or any(p.is_dir() for p in inside))):
        raise UserError(str(folder), None, "exists and is not a checkpoint folder: it would be overwritten", "choose another name")


def _flush_folder(folder: Path) -> None:
    """Make the folder's entries durable, where the system can do that for folders; the files in it were flushed on their own."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
