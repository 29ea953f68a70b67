"""A pretrained run in miniature and an SFT recipe for it: seconds, with every mechanism on."""
from __future__ import annotations

import json
from pathlib import Path

import torch
from rich.console import Console

from fathom.config import config_to_dict
from fathom.config.recipe import Recipe
from fathom.config.recipe_file import recipe_from_dict
from fathom.train import life
from fathom.train.display import Display
from fathom.train.run import RunFolder
from tests.train import tiny

CPU = torch.device("cpu")
QUIET = Display(Console(quiet=True))


def pretrained(folder: Path) -> RunFolder:
    """A finished pretraining run of two steps in folder/runs/base."""
    tiny.write_documents(folder / "data")
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps(config_to_dict(tiny.config(max_position_embeddings=4096))))
    recipe = tiny.recipe(folder / "data", model=str(folder / "model"), schedule={"steps": 2}, checkpoint={"minutes": 1000.0, "keep": 1})
    run = life.start(recipe, folder / "runs" / "base", CPU)
    life.train(run, CPU, QUIET)
    return run


def recipe(base: Path | str, **changes: object) -> Recipe:
    """Twelve steps on a few generated conversations; `changes` are tables laid over it."""
    table: dict = {"kind": "sft", "base": str(base), "precision": "float32",
                   "conversations": {"generated": 40, "shuffle": 8, "measured": 2, "max_tokens": 8, "kinds": ["greetings", "lists", "toolless"]},
                   "schedule": {"steps": 12, "warmup": 2}, "optimizer": {"orthogonalize": "float32", "lr": 1e-2},
                   "stage": [{"length": 256, "rows": 1, "attention": "dense", "kinds": ["echo"]},
                             {"start": 0.5, "length": 384, "rows": 2, "micro_batches": 2}],
                   "evaluation": {"steps": 5, "sample_bytes": 300, "final_bytes": 600}, "checkpoint": {"minutes": 1e-9, "keep": 2}}
    for key, value in changes.items():
        table[key] = {**table.get(key, {}), **value} if isinstance(value, dict) else value
    return recipe_from_dict(table)
