"""Calibration: it explains the models it timed, its chip can be kept in a file, and the planner takes it."""
import dataclasses

import pytest

from fathom.bench import calibrate as room
from fathom.config import preset
from fathom.device import choose_device
from fathom.plan.chips import chip_toml, load_chips
from fathom.plan.profile import profile
from fathom.plan.search import plan_serving
from fathom.plan.serving import Layout, Load, predict

CHIP = room.with_efficiency(load_chips()["xeon"], memory=1.0, traffic=0.0, layer_overhead=1e-4)
MODEL = preset("bench-130m")


def predicted(chip, prompt=room.PROMPT):
    return predict(profile(MODEL, "bf16"), chip, Layout(), Load(prompt + 1, 1, 1))


@pytest.mark.parametrize("true", [0.02, 0.3, 1.0])
def test_memory_share_is_what_explains_a_decode_step(true):
    seconds = predicted(room.with_efficiency(CHIP, memory=true)).token_time
    assert room.memory_share(CHIP, MODEL, "bf16", seconds) == pytest.approx(true)


def test_memory_share_stays_a_share():
    assert room.memory_share(CHIP, MODEL, "bf16", 0.0) == 1.0  # faster than calling the operators: nothing to explain
    assert room.memory_share(CHIP, MODEL, "bf16", 1e9) == 0.01


@pytest.mark.parametrize("true", [0.0, 1.0, 20.0])
def test_traffic_is_what_explains_a_prompt(true):
    seconds = predicted(room.with_efficiency(CHIP, traffic=true)).prefill.total
    assert room.traffic(CHIP, MODEL, "bf16", seconds) == pytest.approx(true, abs=1e-9)
    assert room.traffic(CHIP, MODEL, "bf16", 0.0) == 0.0


def test_a_whole_calibration(monkeypatch, tmp_path):
    """On models and matrices small enough for a test: the parts fit together, and what was timed is then predicted."""
    for name, value in {"PRODUCT": 64, "SMALL_PRODUCT": 32, "STREAMED": 1 << 16, "PROMPT": 64, "STEPS": 2, "REPEATS": 1, "MIDDLE": room.TINY}.items():
        monkeypatch.setattr(room, name, value)
    timed = []
    monkeypatch.setattr(room, "time_model", lambda *a, original=room.time_model, **k: timed.append(original(*a, **k)) or timed[-1])
    chip = room.calibrate(choose_device("cpu"))
    assert chip.id == "here" and chip.memory > 1e8 and set(chip.flops) >= {"fp32", "bf16"} and all(v > 0 for v in chip.flops.values())
    assert chip.efficiency.layer_overhead == pytest.approx(timed[0].token / 8)
    assert "efficiency" not in chip.estimates and {"price", "scale_out"} <= chip.estimates
    tiny = dataclasses.replace(preset("bench-130m"), **room.TINY)
    precision = "bf16" if chip.flops["bf16"] > chip.flops["fp32"] else "fp32"
    if chip.efficiency.traffic > 0:
        found = predict(profile(tiny, precision), chip, Layout(), Load(65, 1, 1)).prefill.total
        assert found == pytest.approx(timed[1].prompt, rel=1e-6)
    (tmp_path / "here.toml").write_text(chip_toml(chip))
    assert load_chips([tmp_path / "here.toml"])["here"] == chip
    assert plan_serving(preset("nano"), Load(1024, 1, 512), [chip], precision=precision, devices=1).options


def test_comparison_is_of_rates(monkeypatch):
    monkeypatch.setattr(room, "STEPS", 2)
    tiny = dataclasses.replace(preset("bench-130m"), **room.TINY)
    (row,) = room.compare(CHIP, tiny, "fp32", (40,), choose_device("cpu"), samples=1, budget=0.0)
    assert row.prompt == 40 and min(row.measured_prefill, row.measured_decode, row.predicted_prefill, row.predicted_decode) > 0
