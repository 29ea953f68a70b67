"""The steps of a run, with everything that happens between them: evaluation, checkpoints, metrics, the end.

`run_steps` is a generator: it does the work and says what happened; whoever iterates shows it. What it does at a step depends on the
step, except for checkpoints, which go by the clock and change nothing in the run.

Stopping: when `should_stop()` turns true, the step is finished and a checkpoint is made. Being killed is fine too.
"""
from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from .data.store import TokenStore
from .evaluate import choose_documents, score
from .run import RunFolder
from .trainer import Trainer


@dataclass(frozen=True)
class Stepped:
    """A step was made; `line` is its line of metrics.jsonl, with "held_out_bits_per_byte" and "held_out_loss" (nats a token) where it was
    evaluated."""

    line: dict[str, Any]


@dataclass(frozen=True)
class Saved:
    """A checkpoint was made."""

    step: int
    folder: Path


@dataclass(frozen=True)
class Stopped:
    """The run was asked to stop and did, with a checkpoint."""

    step: int


Event = Stepped | Saved | Stopped


def run_steps(trainer: Trainer, run: RunFolder, should_stop: Callable[[], bool]) -> Iterator[Event]:
    """Train to the last step, or until asked to stop. The run folder must be locked by this process.

    Raises:
        UserError: the disk is full (the checkpoints before stay whole), or the loss is no longer finite.
    """
    recipe = trainer.recipe
    held_out = TokenStore(run.data, "held_out")
    texts = held_out.texts()
    sample = choose_documents(texts, recipe.evaluation.sample_bytes)
    saved_at = time.monotonic()
    while trainer.step < recipe.schedule.steps:
        line = trainer.train_step()
        if trainer.step % recipe.evaluation.steps == 0 or trainer.step == recipe.schedule.steps:
            found = score(trainer.model, held_out, texts, sample, recipe.evaluation_length, trainer.device)
            line |= {"held_out_bits_per_byte": found.bits_per_byte, "held_out_loss": found.nats / found.tokens}
        with disk_errors(run):
            run.append_metrics(line)
        yield Stepped(line)
        stop = should_stop()
        last = trainer.step == recipe.schedule.steps
        if last or stop or time.monotonic() - saved_at > 60 * recipe.checkpoint.minutes:
            with disk_errors(run):
                folder = run.save_checkpoint(trainer.step, trainer.save, recipe.checkpoint.keep)
            saved_at = time.monotonic()
            yield Saved(trainer.step, folder)
        if stop and not last:
            yield Stopped(trainer.step)
            return


def final_results(trainer: Trainer, run: RunFolder, progress: Callable[[str, int, int], None]) -> dict[str, Any]:
    """What results.json says of any finished run: how long it took, and how well it predicts the held-out documents."""
    held_out = TokenStore(run.data, "held_out")
    texts = held_out.texts()
    chosen = choose_documents(texts, trainer.recipe.evaluation.final_bytes)
    found = score(trainer.model, held_out, texts, chosen, trainer.recipe.evaluation_length, trainer.device,
                  lambda done, total: progress("held-out text", done, total))
    return {"step": trainer.step, "tokens": trainer.tokens, "training_seconds": trainer.seconds, "threads": torch.get_num_threads(),
            "held_out": found.to_dict()}


@contextmanager
def disk_errors(run: RunFolder) -> Iterator[None]:
    """Turn "disk full" into one line that says what is safe and what to do."""
    try:
        yield
    except (OSError, UserError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if getattr(cause, "errno", None) not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        steps = [step for step, _ in run.checkpoints()]
        safe = f"the checkpoint of step {steps[-1]} is intact" if steps else "there is no checkpoint yet"
        remedy = f"free some space, then: fathom train --resume {run.path}"
        raise UserError("disk", run.path, f"full while writing; {safe}", remedy) from error

