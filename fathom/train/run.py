"""The run folder: what a training run leaves on disk, and in which order, so that it can be killed at any moment.

    runs/NAME/
      recipe.toml       resolved: every value filled in
      config.json       the model's
      tokenizer.json    and tokenizer_config.json
      data/             the token store (prepare.py)
      metrics.jsonl     a line a step
      checkpoints/step-N/     weights in the published layout, config, tokenizer, and training state; the newest k
      results.json      the final evaluation; its presence means that the run is finished
      loss.png
    runs/latest         a link to the last run started

Checkpoints appear by a rename, the older ones go only after it, and metrics are cut back to the checkpoint's step on resume. A
process holds a lock while it writes to a run; the system drops it when the process dies, however it dies.
"""
from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from ..checkpoint import replace_folder
from ..config import ModelConfig, config_to_dict, read_config
from ..config.recipe import Recipe
from ..config.recipe_file import read_recipe, recipe_to_toml
from ..errors import UserError
from .durable import remove, sweep, write_file

_STEP = re.compile(r"step-(\d+)")


class RunFolder:
    """One run's folder. Nothing is written until `create`, and only by the process that holds `lock`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock: TextIO | None = None

    @property
    def data(self) -> Path:
        """The token store's folder."""
        return self.path / "data"

    @property
    def exists(self) -> bool:
        """Whether a run was started here."""
        return (self.path / "recipe.toml").exists()

    def create(self, recipe: Recipe, config: ModelConfig) -> None:
        """Write the resolved recipe and the configuration; the recipe last, it marks the folder as a run."""
        write_file(self.path / "config.json", json.dumps(config_to_dict(config), indent=1) + "\n")
        write_file(self.path / "recipe.toml", recipe_to_toml(recipe))

    def recipe(self) -> Recipe:
        """The resolved recipe. Raises UserError when there is no run here."""
        if not self.exists:
            raise UserError("run", self.path, "a run folder (with recipe.toml)", "start one with fathom train RECIPE --data PATH")
        return read_recipe(self.path / "recipe.toml")

    def config(self) -> ModelConfig:
        """The model's configuration."""
        return read_config(self.path / "config.json")

    def lock(self) -> None:
        """Claim the folder for this process, make it if need be, and clear away what a killed process left half done.

        Raises:
            UserError: another process is writing to it.
        """
        (self.path / "checkpoints").mkdir(parents=True, exist_ok=True)
        self._lock = open(self.path / ".lock", "w")  # open as long as the process writes
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError("run", self.path, "another process is training here", "wait for it, or take another --name") from error
        sweep(self.path / "checkpoints")

    def unlock(self) -> None:
        """Give the folder back."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def mark_latest(self) -> None:
        """Point runs/latest here."""
        link, draft = self.path.parent / "latest", self.path.parent / f".latest.{os.getpid()}"
        draft.unlink(missing_ok=True)
        draft.symlink_to(self.path.name)
        os.replace(draft, link)

    def checkpoints(self) -> list[tuple[int, Path]]:
        """(step, folder) of every complete checkpoint, oldest first."""
        found = [(int(match[1]), path) for path in (self.path / "checkpoints").glob("step-*") if (match := _STEP.fullmatch(path.name))]
        return sorted(found)

    def save_checkpoint(self, step: int, write: Callable[[Path], None], keep: int) -> Path:
        """Make checkpoints/step-N whole or not at all: `write` fills a folder, then it gets its name, then all but the newest `keep` go.

        Whatever `write` raises passes through; the unfinished folder is removed, the older checkpoints are untouched.
        """
        folder = self.path / "checkpoints" / f"step-{step}"
        if folder.exists():
            return folder  # a run is deterministic: it holds the same bits
        try:
            with replace_folder(folder) as new:
                write(new)
        except BaseException:
            sweep(folder.parent)
            raise
        for _, old in self.checkpoints()[:-keep]:
            remove(old)
        return folder

    def append_metrics(self, line: dict[str, Any]) -> None:
        """Add one line to metrics.jsonl."""
        with open(self.path / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All lines of metrics.jsonl; one that a killed process didn't finish is left out."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return []
        lines = path.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines[:-1]]  # what follows the last line break is empty or unfinished

    def cut_metrics(self, step: int) -> None:
        """Drop the lines of steps after `step`: the resumed run writes them again."""
        kept = [json.dumps(line) + "\n" for line in self.metrics() if line["step"] <= step]
        write_file(self.path / "metrics.jsonl", "".join(kept))

    def results(self) -> dict[str, Any] | None:
        """The final evaluation, None while the run isn't finished."""
        path = self.path / "results.json"
        return json.loads(path.read_text()) if path.exists() else None

    def write_results(self, results: dict[str, Any]) -> None:
        """Write the final evaluation: the run is finished."""
        write_file(self.path / "results.json", json.dumps(results, indent=1) + "\n")
