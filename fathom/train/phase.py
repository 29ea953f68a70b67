"""What a kind of training run does its own way; everything else is the same for all (life.py).

The answers of a finished model come from an engine, which this room may not know: whoever starts a run hands in a function for it.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from ..config import ModelConfig
from ..config.recipe import Recipe
from .run import RunFolder
from .trainer import Trainer

Tell = Callable[[str, int, int], None]  # what, done, of how many
Answer = Callable[[Path, Sequence[Sequence[int]], int], Iterable[list[int]]]
"""(run folder, prompts as token ids, most tokens of an answer) → each prompt's likeliest continuation, EOS included where it comes."""


class Summary(Protocol):
    """What became of the data."""

    def lines(self) -> list[str]:
        """It in words."""


class Phase(Protocol):
    """A kind of training run. All of it is a function of the arguments; nothing is remembered between calls."""

    def resolve(self, recipe: Recipe) -> Recipe:
        """The recipe with what it names made absolute, so that it means the same anywhere and later. Raises UserError: it isn't there."""

    def config(self, recipe: Recipe) -> ModelConfig:
        """The model's configuration."""

    def check(self, recipe: Recipe) -> None:
        """Refuse a recipe whose data can't be had, before anything is made for it."""

    def prepare(self, recipe: Recipe, config: ModelConfig, folder: Path, progress: Tell) -> Summary:
        """Make the token store with its tokenizer in `folder`, whole or not at all, unless it is there."""

    def begin(self, trainer: Trainer) -> None:
        """Give the model its first weights, where they aren't those of the seed."""

    def measure(self, run: RunFolder, recipe: Recipe, answer: Answer | None, progress: Tell) -> dict[str, Any]:
        """What belongs into the finished run's results beside held-out bits per byte."""
