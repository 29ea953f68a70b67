"""Pretraining: from first values, on text. What a run of this kind does its own way; its life is life.py's."""
from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ..config import ModelConfig, resolve_config
from ..config.recipe import Recipe
from .data.find import STDLIB, check_data
from .data.prepare import Summary, prepare
from .data.store import TokenStore
from .evaluate import choose_documents, compressors
from .phase import Answer, Tell
from .run import RunFolder
from .trainer import Trainer


class Pretraining:
    """See phase.Phase."""

    def resolve(self, recipe: Recipe) -> Recipe:
        """The recipe with absolute paths."""
        paths = tuple(path if path == STDLIB else str(Path(path).absolute()) for path in recipe.data.paths)
        model = str(Path(recipe.model).absolute()) if Path(recipe.model).exists() else recipe.model
        return dataclasses.replace(recipe, model=model, data=dataclasses.replace(recipe.data, paths=paths))

    def config(self, recipe: Recipe) -> ModelConfig:
        """That of the recipe's model."""
        return resolve_config(recipe.model)

    def check(self, recipe: Recipe) -> None:
        """There must be at least one document."""
        check_data(recipe.data)

    def prepare(self, recipe: Recipe, config: ModelConfig, folder: Path, progress: Tell) -> Summary:
        """See data/prepare.py."""
        return prepare(recipe, config, folder, progress)

    def begin(self, trainer: Trainer) -> None:
        """Nothing: the trainer's first values are those of the seed."""

    def measure(self, run: RunFolder, recipe: Recipe, answer: Answer | None, progress: Tell) -> dict[str, Any]:
        """What gzip and xz make of the held-out documents."""
        texts = TokenStore(run.data, "held_out").texts()
        return {"compressors": compressors([texts[i] for i in choose_documents(texts, recipe.evaluation.final_bytes)])}
