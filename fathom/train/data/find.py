"""Which documents there are: files of known suffixes in folders, lines of .jsonl; what can't be one is counted with its reason.

A document is a place (file, byte range), not a text: texts are read when they are needed, so that a folder larger than memory can
be gone through. Names are relative to the folder given, and documents come in the order of their names: the same folder gives the
same documents on every machine.
"""
from __future__ import annotations

import fnmatch
import json
import os
import sysconfig
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...config.recipe import DataRecipe
from ...errors import UserError

STDLIB = "python-stdlib"  # in place of a path: the .py files of the standard library of the Python that runs, without its tests
STDLIB_EXCLUDE = ("test", "tests", "idle_test", "test_*.py", "site-packages", "dist-packages")


@dataclass(frozen=True)
class Document:
    """One document: a file, or one line of a .jsonl file (byte range `start`…`end`)."""

    name: str
    path: Path
    start: int = 0
    end: int | None = None

    def text(self) -> str | None:
        """Its text, without a byte-order mark; None when it is not text after all (binary, not UTF-8, a line without a text field)."""
        with open(self.path, "rb") as file:
            file.seek(self.start)
            raw = file.read() if self.end is None else file.read(self.end - self.start)
        if b"\0" in raw:
            return None
        try:
            text = raw.decode("utf-8-sig")
            if self.end is None:
                return text
            row = json.loads(text)
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
            return None
        if isinstance(row, dict):
            row = next((row[key] for key in ("text", "content") if key in row), None)
        return row if isinstance(row, str) and not _has_surrogate(row) else None


def _has_surrogate(text: str) -> bool:
    """JSON may spell half a character (a lone surrogate), which no UTF-8 text can hold."""
    return any("\ud800" <= c <= "\udfff" for c in text)


def find_documents(recipe: DataRecipe, skipped: Counter[str]) -> Iterator[Document]:
    """Documents of the recipe's paths in the order of their names; `skipped` counts the files and lines left out, by reason.

    Raises:
        UserError: a path that isn't there, or no path at all; before the first document.
    """
    if not recipe.paths:
        raise UserError("data.paths", None, "no data given", "name files or folders with --data PATH, or in the recipe under [data]")
    roots = [Path(sysconfig.get_paths()["stdlib"]) if given == STDLIB else Path(given) for given in recipe.paths]
    for given, root in zip(recipe.paths, roots):
        if not root.exists():
            raise UserError("data", given, "no such file or folder", "check the path given with --data or in the recipe's data.paths")
    for given, root in zip(recipe.paths, roots):
        suffixes, exclude = (recipe.suffixes, recipe.exclude) if given != STDLIB else ((".py",), (*recipe.exclude, *STDLIB_EXCLUDE))
        for path in [root] if root.is_file() else _walk(root, suffixes, exclude, skipped):
            name = root.name if path == root else f"{root.name}/{path.relative_to(root).as_posix()}"
            yield from _documents(path, name, recipe.max_file_bytes, skipped)


def check_data(recipe: DataRecipe) -> None:
    """Refuse paths that aren't there or hold no document, before anything is made for them; stops at the first document.

    Raises:
        UserError: with what was skipped, and why.
    """
    skipped: Counter[str] = Counter()
    if next(find_documents(recipe, skipped), None) is None:
        raise UserError("data", ", ".join(recipe.paths), f"no document found ({reasons(skipped) or 'empty'})",
                        f"give files or folders with {' '.join(recipe.suffixes[:6])} …")


def reasons(skipped: Mapping[str, int]) -> str:
    """Counts by reason in words, the commonest first."""
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(skipped.items(), key=lambda item: (-item[1], item[0])))


def _walk(root: Path, suffixes: tuple[str, ...], exclude: Sequence[str], skipped: Counter[str]) -> Iterator[Path]:
    """Files under a folder, sorted, without what is excluded; links to folders are not followed (they may lead in circles)."""
    for folder, subfolders, files in os.walk(root):
        left_out = {name for name in subfolders if name.startswith(".") or name == "__pycache__" or _excluded(name, exclude)}
        if left_out:
            skipped["hidden or excluded folder"] += len(left_out)
        subfolders[:] = sorted(set(subfolders) - left_out)
        for name in sorted(files):
            if _excluded(name, exclude):
                skipped["excluded by name"] += 1
            elif not name.lower().endswith(suffixes):
                skipped["other suffix"] += 1
            else:
                yield Path(folder, name)


def _excluded(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _documents(path: Path, name: str, max_bytes: int, skipped: Counter[str]) -> Iterator[Document]:
    """The documents of one file: itself, or its lines."""
    try:
        if path.suffix.lower() == ".jsonl":
            yield from _lines(path, name, max_bytes, skipped)
            return
        if path.stat().st_size > max_bytes:
            skipped[f"larger than {max_bytes:,} bytes"] += 1
        elif _is_text(path, skipped):
            yield Document(name, path)
    except OSError:
        skipped["unreadable"] += 1


def _is_text(path: Path, skipped: Counter[str]) -> bool:
    raw = path.read_bytes()
    if not raw.strip():
        skipped["empty"] += 1
    elif b"\0" in raw:
        skipped["binary"] += 1
    else:
        try:
            raw.decode("utf-8")
            return True
        except UnicodeDecodeError:
            skipped["not UTF-8"] += 1
    return False


def _lines(path: Path, name: str, max_bytes: int, skipped: Counter[str]) -> Iterator[Document]:
    """Lines of a .jsonl file that hold a text: a string, or an object with "text" or "content"."""
    end = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            start, end = end, end + len(line)
            if not line.strip():
                continue
            if len(line) > max_bytes:
                skipped[f"larger than {max_bytes:,} bytes"] += 1
                continue
            document = Document(f"{name}:{number}", path, start, end)
            text = document.text()
            if text and text.strip():
                yield document
            else:
                skipped["line without a text"] += 1
