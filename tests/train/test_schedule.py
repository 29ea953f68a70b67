"""What changes over a run."""
import math

import pytest

from fathom.config.recipe_file import recipe_from_dict
from fathom.train.schedule import decay_start, learning_rate, mtp_weight, stage_at

RECIPE = recipe_from_dict({"schedule": {"steps": 100, "warmup": 10, "decay": 0.3, "floor": 0.1}, "optimizer": {"lr": 1e-3},
                           "stage": [{"length": 64}, {"start": 0.2, "length": 128}, {"start": 0.5, "rows": 16}]})


def test_the_rate_rises_stays_and_falls_to_a_tenth():
    rates = [learning_rate(RECIPE, step) for step in range(100)]
    assert all(a < b for a, b in zip(rates[:10], rates[1:11])) and rates[0] > 0
    assert rates[10:70] == [1e-3] * 60
    assert all(a > b for a, b in zip(rates[69:], rates[70:]))
    assert rates[-1] == pytest.approx(1e-4)
    assert rates[84] == pytest.approx(1e-3 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 2))))  # half-way down


@pytest.mark.parametrize("schedule", [{"steps": 1}, {"steps": 3, "warmup": 50}, {"steps": 5, "decay": 0.0},
                                      {"steps": 5, "decay": 1.0, "warmup": 0}])
def test_every_step_of_any_run_learns_something(schedule):
    recipe = recipe_from_dict({"schedule": schedule})
    assert all(0 < learning_rate(recipe, step) <= recipe.optimizer.lr for step in range(recipe.schedule.steps))


def test_mtp_weighs_less_from_the_decay_on():
    assert decay_start(RECIPE) == 70
    assert [mtp_weight(RECIPE, step) for step in (0, 69, 70, 99)] == [0.3, 0.3, 0.1, 0.1]
    without = recipe_from_dict({"schedule": {"decay": 0.0, "steps": 10}})
    assert mtp_weight(without, 9) == 0.3


def test_stages_begin_at_their_share():
    found = [stage_at(RECIPE, step) for step in (0, 19, 20, 49, 50, 99)]
    assert [(s.length, s.rows) for s in found] == [(64, 8), (64, 8), (128, 8), (128, 8), (512, 16), (512, 16)]
