"""Supervised fine-tuning: from a trained model, on conversations. What a run of this kind does its own way; its life is life.py's.

The run takes the weights and the tokenizer of its base, and starts optimizers, schedule and steps afresh. It needs the base until its
own first checkpoint.
"""
from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ...checkpoint import open_checkpoint
from ...config import ModelConfig
from ...config.recipe import Recipe
from ...errors import UserError
from ..phase import Answer, Tell
from ..run import RunFolder
from ..trainer import Trainer
from .base import checkpoint_of
from .measure import measure
from .prepare import Summary, check_conversations, prepare


class FineTuning:
    """See phase.Phase."""

    def resolve(self, recipe: Recipe) -> Recipe:
        """The recipe with the base's newest checkpoint named, and absolute paths."""
        paths = tuple(str(Path(path).absolute()) for path in recipe.conversations.paths)
        return dataclasses.replace(recipe, base=str(checkpoint_of(recipe.base).absolute()),
                                   conversations=dataclasses.replace(recipe.conversations, paths=paths))

    def config(self, recipe: Recipe) -> ModelConfig:
        """That of the base."""
        return open_checkpoint(recipe.base).config

    def check(self, recipe: Recipe) -> None:
        """The kinds must exist, and there must be conversations."""
        check_conversations(recipe)

    def prepare(self, recipe: Recipe, config: ModelConfig, folder: Path, progress: Tell) -> Summary:
        """See prepare.py."""
        return prepare(recipe, config, folder, progress)

    def begin(self, trainer: Trainer) -> None:
        """The base's weights."""
        if not Path(trainer.recipe.base).is_dir():
            raise UserError("base", trainer.recipe.base, "a checkpoint folder, and it is gone", "start the run again under another --name")
        trainer.start_from(Path(trainer.recipe.base))

    def measure(self, run: RunFolder, recipe: Recipe, answer: Answer | None, progress: Tell) -> dict[str, Any]:
        """How the finished model answers held-out questions."""
        return {} if answer is None or not recipe.conversations.measured else {"answers": measure(run, recipe, answer, progress)}
