"""What changes over a run: learning rate, the MTP loss's weight, the stage. Each is a function of the step, counted from 0.

    rate
    1 ┤   ╭──────────────────────╮
      │  ╱                        ╲        warm-up, constant, cosine to `floor`
      │ ╱                          ╰──     the MTP loss weighs less once the cosine begins
    0 ┼─────────────────────────────────── step

Source: SPEC 5.
"""
from __future__ import annotations

import math

from ..config.recipe import Recipe, StageRecipe


def learning_rate(recipe: Recipe, step: int) -> float:
    """The learning rate of step `step`: never 0, also at the first and the last one."""
    schedule = recipe.schedule
    rate = recipe.optimizer.lr
    if step < schedule.warmup:
        rate *= (step + 1) / (schedule.warmup + 1)
    start = decay_start(recipe)
    if step >= start:
        through = (step + 1 - start) / (schedule.steps - start)
        rate *= schedule.floor + (1 - schedule.floor) * 0.5 * (1 + math.cos(math.pi * through))
    return rate


def decay_start(recipe: Recipe) -> int:
    """The first step of the decay; the number of steps when there is none."""
    return recipe.schedule.steps - round(recipe.schedule.decay * recipe.schedule.steps)


def mtp_weight(recipe: Recipe, step: int) -> float:
    """Weight of the MTP loss in step `step`."""
    return recipe.loss.mtp_decay if step >= decay_start(recipe) else recipe.loss.mtp


def stage_at(recipe: Recipe, step: int) -> StageRecipe:
    """The stage that step `step` belongs to."""
    return [stage for stage in recipe.stage if round(stage.start * recipe.schedule.steps) <= step][-1]
