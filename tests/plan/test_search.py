"""The search: nothing cheaper is missed, nothing that fails is shown, and a refusal says by how much."""
import itertools

import pytest

from fathom.config import preset
from fathom.errors import UserError
from fathom.plan.chips import load_chips
from fathom.plan.profile import profile
from fathom.plan.search import Option, Wishes, best_by_devices, judge, layouts, nothing_fits, plan_serving
from fathom.plan.serving import Layout, Load
from fathom.plan.size import weight_bytes

CHIPS = load_chips()
LOAD = Load(65536, 64, 1024)


def test_pro_at_fp16_refuses_eight_h200_and_says_by_how_much():
    config, chip = preset("v4-pro"), CHIPS["h200"]
    plan = plan_serving(config, LOAD, [chip], precision="fp16", devices=8)
    assert not plan.options
    near = plan.rejected[0]
    least = weight_bytes(config, "fp16", mtp=False) / 8 - chip.memory  # even spread perfectly, and with all of the memory
    assert near.reason == "memory" and near.missing > least > 2 * chip.memory * 0.8
    message = str(nothing_fits(config, "v4-pro", plan, [chip], 8))
    assert "v4-pro at fp16 on 8 × h200: does not fit" in message and "290.96 GB a device more" in message and "2.33 TB in all" in message
    assert "take 32 devices" in message
    assert plan_serving(config, LOAD, [chip], precision="fp16", devices=32).options  # the remedy works


def test_pro_in_official_formats_fits_there():
    best = plan_serving(preset("v4-pro"), LOAD, [CHIPS["h200"]], devices=8).options[0]
    assert best.prediction.short_by <= 0 and best.layout.devices == 8


@pytest.mark.parametrize("name, chip_id, devices", [("v4-pro", "h200", 16), ("v4-flash", "b200", 12), ("bench-130m", "xeon", 4)])
def test_nothing_cheaper_is_missed(name, chip_id, devices):
    """Against every grid there is, from loops over all five sizes."""
    config, chip = preset(name), CHIPS[chip_id]
    p = profile(config)
    plan = plan_serving(config, LOAD, [chip], devices=devices)
    cheapest = min(plan.options, key=lambda o: o.costs.request).costs.request
    assert plan.options[0].costs.request == cheapest
    sizes = [n for n in range(1, devices + 1) if devices % n == 0]
    for tp, pp, cp, dp in itertools.product(sizes, repeat=4):
        if tp * pp * cp * dp != devices or tp > chip.domain or p.groups % tp or p.index_heads % tp or pp > p.layers:
            continue
        if tp & (tp - 1) or cp & (cp - 1):  # the search keeps these two to powers of two
            continue
        stage = tp * cp * dp
        eps = [e for e in (stage, min(stage, chip.domain)) if p.experts % e == 0 and stage % e == 0]
        for ep in eps:
            found = judge(p, chip, Layout(tp, ep, pp, cp, dp), LOAD, Wishes())
            assert not isinstance(found, Option) or found.costs.request >= cheapest * (1 - 1e-12)


def test_options_fit_and_are_sorted_and_misses_do_not_fit():
    plan = plan_serving(preset("v4-pro"), LOAD, list(CHIPS.values()))
    costs = [o.costs.request for o in plan.options]
    assert costs == sorted(costs)
    assert all(o.prediction.short_by <= 0 for o in plan.options)
    assert plan.rejected and all(r.missing > 0 and r.reason == "memory" for r in plan.rejected)
    carried = {(o.chip, o.layout.devices) for o in plan.options}
    assert not carried & {(r.chip, r.layout.devices) for r in plan.rejected}
    best = best_by_devices(plan.options)
    assert len(best) == len(carried) and best[0] is plan.options[0]
    assert {o.chip for o in plan.options} == set(CHIPS)


def test_layouts_are_distinct_and_lawful():
    p = profile(preset("v4-flash"))
    for devices in (1, 6, 8, 48, 64):
        made = list(layouts(p, CHIPS["h200"], devices))
        assert len(set(made)) == len(made) > 0
        for layout in made:
            assert layout.devices == devices and layout.stage % layout.ep == 0 and p.experts % layout.ep == 0
            assert p.groups % layout.tp == 0 and layout.tp <= 8
    assert all(layout.dp <= 3 for layout in layouts(p, CHIPS["h200"], 64, users=3))


def test_wishes_act_and_their_misses_are_named():
    free = plan_serving(preset("v4-pro"), LOAD, [CHIPS["h200"]])
    fast = plan_serving(preset("v4-pro"), LOAD, [CHIPS["h200"]], wishes=Wishes(speed=100))
    assert all(1 / o.prediction.token_time >= 100 for o in fast.options) and 0 < len(fast.options) < len(free.options)
    assert any(r.reason == "speed" and "too slow" in r.text for r in fast.rejected)
    prompt = plan_serving(preset("v4-pro"), LOAD, [CHIPS["h200"]], wishes=Wishes(wait=1.0))
    assert all(o.prediction.first_token <= 1.0 for o in prompt.options)
    assert any(r.reason == "wait" and "too late" in r.text for r in prompt.rejected)
    impossible = plan_serving(preset("v4-pro"), LOAD, [CHIPS["h200"]], wishes=Wishes(speed=1e6))
    assert not impossible.options
    assert "tokens/s a user too slow" in str(nothing_fits(preset("v4-pro"), "v4-pro", impossible, [CHIPS["h200"]], None))


@pytest.mark.parametrize("load, field", [(Load(1, 1, 1), "context"), (Load(2 << 20, 1, 1), "context"), (Load(100, 0, 1), "users"),
                                         (Load(100, 1, 100), "answer"), (Load(100, 1, 0), "answer"), (Load(100, 1, 1, 1.5), "hit")])
def test_impossible_loads(load, field):
    with pytest.raises(UserError) as error:
        plan_serving(preset("v4-pro"), load, [CHIPS["h200"]])
    assert error.value.field == field


def test_a_number_of_devices_without_a_grid():
    plan = plan_serving(preset("v4-pro"), Load(1000, 1, 10), [CHIPS["h200"]], devices=1009)
    assert not plan.options
    assert "no grid" in str(nothing_fits(preset("v4-pro"), "v4-pro", plan, [CHIPS["h200"]], 1009))
    with pytest.raises(UserError, match="devices"):
        plan_serving(preset("v4-pro"), LOAD, [CHIPS["h200"]], devices=0)
