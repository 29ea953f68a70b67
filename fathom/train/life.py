"""A training run from its recipe to its results: start or resume, train, evaluate. The same for every kind of run.

    start     recipe → resolved (data given, "auto" decided) → run folder
    train     data, made once → first weights, or the newest checkpoint → steps → held-out bits per byte, loss plot → results.json

What the kinds do differently (which data, which first weights, what is measured at the end) is a `Phase`: pretrain.py and sft/phase.py.
What is said on the way goes to a `Display` (display.py); nothing is printed here.
"""
from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from ..config import ModelConfig
from ..config.recipe import Recipe
from ..errors import UserError
from ..report.plots import line_plot
from .display import Display
from .loop import disk_errors, final_results, run_steps
from .phase import Answer, Phase
from .precision import faster_dtype
from .pretrain import Pretraining
from .run import RunFolder
from .sft.phase import FineTuning
from .trainer import Trainer

PHASES: Mapping[str, Phase] = MappingProxyType({"pretrain": Pretraining(), "sft": FineTuning()})


def start(recipe: Recipe, folder: Path, device: torch.device) -> RunFolder:
    """Make a new run: its folder, with the resolved recipe and the configuration. It is not locked afterwards.

    Raises:
        UserError: the folder already has a run, the recipe doesn't fit the model, or what it starts from isn't there (data, or a model);
            nothing is left behind.
    """
    run, phase = RunFolder(folder), PHASES[recipe.kind]
    if run.exists:
        raise UserError("--name", folder.name, f"a new name ({folder} is a run already)", f"go on with it: fathom train --resume {folder}")
    recipe = phase.resolve(recipe)
    config = phase.config(recipe)
    check_fit(recipe, config)
    phase.check(recipe)
    run.lock()
    try:
        with disk_errors(run):
            run.create(decided(recipe, device), config)
        run.mark_latest()
    finally:
        run.unlock()
    return run


def decided(recipe: Recipe, device: torch.device) -> Recipe:
    """The recipe with "auto" decided for this device."""
    fast: Any = faster_dtype(device) if "auto" in (recipe.precision, recipe.optimizer.orthogonalize) else ""
    return _with_auto(recipe, fast, fast)


def made_by(recipe: Recipe, resolved: Recipe) -> bool:
    """Whether a run's resolved recipe came from `recipe`, whatever "auto" was decided to be."""
    return _with_auto(PHASES[recipe.kind].resolve(recipe), resolved.precision, resolved.optimizer.orthogonalize) == resolved


def _with_auto(recipe: Recipe, precision: Any, orthogonalize: Any) -> Recipe:
    optimizer = recipe.optimizer
    if optimizer.orthogonalize == "auto":
        optimizer = dataclasses.replace(optimizer, orthogonalize=orthogonalize)
    return dataclasses.replace(recipe, precision=precision if recipe.precision == "auto" else recipe.precision, optimizer=optimizer)


def check_fit(recipe: Recipe, config: ModelConfig) -> None:
    """Refuse rows or evaluation windows longer than the model's context."""
    for name, length in (*(("stage.length", stage.length) for stage in recipe.stage), ("evaluation.length", recipe.evaluation_length)):
        if length > config.max_position_embeddings:
            raise UserError(name, length, f"at most the model's max_position_embeddings = {config.max_position_embeddings}")


def train(run: RunFolder, device: torch.device, display: Display, should_stop: Callable[[], bool] = lambda: False,
          answer: Answer | None = None) -> dict[str, Any] | None:
    """Take a run from where it stands to its end.

    Args:
        should_stop: asked after every step; true makes a checkpoint and ends this call.
        answer: lets the finished model answer prompts; without it an SFT run's answers aren't measured.

    Returns the results, or None when it was stopped. A finished run is not touched: its results are returned.

    Raises:
        UserError: no data or no documents, a disk that is full, a loss that is no longer finite, another process at work in the folder,
            a damaged checkpoint.
    """
    recipe, config = run.recipe(), run.config()
    phase = PHASES[recipe.kind]
    if (results := run.results()) is not None:
        return results
    run.lock()
    try:
        with disk_errors(run), display.preparing() as progress:
            summary = phase.prepare(recipe, config, run.data, progress)
            trainer = Trainer(recipe, config, run.data, device)
            trainer.tokenizer.save(run.path)
        display.prepared(summary, config, trainer.model, device)
        if checkpoints := run.checkpoints():
            display.note(trainer.load(checkpoints[-1][1]))
            display.resumed(trainer.step)
        else:
            phase.begin(trainer)
        with disk_errors(run):
            run.cut_metrics(trainer.step)
        with display.training(recipe, trainer.step) as shown:
            for event in run_steps(trainer, run, should_stop):
                shown(event)
        display.note(plot(run))
        if trainer.step < recipe.schedule.steps:
            return None
        with display.evaluating() as progress:
            results = final_results(trainer, run, progress)
            results |= phase.measure(run, recipe, answer, progress)
        with disk_errors(run):
            run.write_results(results)
        return results
    finally:
        run.unlock()


def plot(run: RunFolder) -> str:
    """Draw loss.png and bits_per_byte.png from metrics.jsonl; returns a remark when that wasn't possible, else ""."""
    lines, name = run.metrics(), run.path.name
    try:
        if lines:
            steps, losses = [line["step"] for line in lines], [line["loss"] for line in lines]
            curves = [("each step", steps, losses), ("running mean", steps, _running_mean(losses, max(1, len(losses) // 25)))]
            line_plot(run.path / "loss.png", curves, title=f"{name}: training loss", x_label="step", y_label="nats per token")
        if held_out := [line for line in lines if "held_out_bits_per_byte" in line]:
            curve = ("held-out sample", [line["step"] for line in held_out], [line["held_out_bits_per_byte"] for line in held_out])
            line_plot(run.path / "bits_per_byte.png", [curve], title=f"{name}: held-out text", x_label="step", y_label="bits per byte")
    except UserError as error:  # without matplotlib everything else still works
        return f"no loss plot: {error}"
    return ""


def _running_mean(values: list[float], span: int) -> list[float]:
    """At each place the mean of the last `span` values, of fewer at the beginning."""
    return [sum(values[max(0, i - span + 1):i + 1]) / min(i + 1, span) for i in range(len(values))]
