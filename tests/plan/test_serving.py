"""Predictions: worked by hand for one device, and laws that must hold when chip, layout or load are disturbed."""
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom.config import preset
from fathom.plan.chips import load_chips
from fathom.plan.profile import profile
from fathom.plan.serving import Layout, Load, memory, predict
from fathom.plan.size import WEIGHT_PRECISIONS, state_size, weight_bytes

CHIPS = load_chips()
PRO, FLASH = profile(preset("v4-pro")), profile(preset("v4-flash"))
IDEAL = dataclasses.replace(CHIPS["h200"].efficiency, compute=1.0, memory=1.0, links=1.0, layer_overhead=0.0, hop=0.0)


@pytest.mark.parametrize("precision", WEIGHT_PRECISIONS)
@pytest.mark.parametrize("name", ["v4-pro", "v4-flash", "bench-130m", "nano"])
def test_one_device_holds_exactly_the_weights_and_states(name, precision):
    config = preset(name)
    p = profile(config, precision)
    parts = memory(p, CHIPS["h200"], Layout(), Load(3000, 5, 100))
    assert parts["attention and shared"] + parts["experts"] + parts["embedding and head"] == weight_bytes(config, precision, mtp=False)
    assert parts["compressed state"] + parts["windows and tails"] == 5 * state_size(config.without_mtp(), precision).at(3000)


@given(st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 6]))
def test_devices_together_hold_everything(tp, dp, cp, pp):
    layout = Layout(tp, tp * dp * cp, pp, cp, dp)
    one, many = memory(PRO, CHIPS["h200"], Layout(), Load(65536, 48, 64)), memory(PRO, CHIPS["h200"], layout, Load(65536, 48, 64))
    for part in ("attention and shared", "experts", "compressed state", "windows and tails"):
        assert many[part] * layout.devices >= one[part] * (1 - 1e-12), part  # some of it more than once, none of it missing
        assert many[part] <= one[part]
    assert many["experts"] * layout.devices == pytest.approx(one["experts"] * -(-61 // pp) * pp / 61)


def test_what_each_parallelism_makes_smaller():
    load = Load(65536, 8, 1024)
    base = memory(PRO, CHIPS["h200"], Layout(), load)

    def smaller(layout: Layout) -> set[str]:
        return {part for part, size in memory(PRO, CHIPS["h200"], layout, load).items() if size < base[part]}

    assert smaller(Layout(ep=8)) == {"experts"}
    assert smaller(Layout(tp=8)) == {"attention and shared", "embedding and head", "workspace"}  # one K=V head: the state is copied
    assert smaller(Layout(cp=8)) == {"compressed state", "workspace"}  # windows and tails are whole on every rank
    assert smaller(Layout(dp=8)) == {"compressed state", "windows and tails", "workspace"}
    assert smaller(Layout(pp=2)) == set(base)


def test_decode_of_one_user_by_hand():
    chip = dataclasses.replace(CHIPS["h200"], efficiency=IDEAL)
    step = predict(FLASH, chip, Layout(), Load(65536, 1, 100)).decode
    state = 43 * 128 * 584 + 21 * (512 * 584 + 16384 * 68) + 20 * 512 * 584  # windows; CSA: top-k entries and all keys; HCA: all entries
    experts = FLASH.expert_bytes * 6 / 256
    weights = weight_bytes(preset("v4-flash"), "official", mtp=False) - FLASH.expert_bytes - FLASH.vocab_bytes / 2  # no embedding table
    assert step.compute == step.link == step.overhead == 0  # one token never computes for longer than it reads
    moved = 43 * 2 * (6 * 4 * 4096 + 4 * 64 * 512 + 6 * 3 * (4096 + 2048))  # streams, queries and outputs, experts' activations
    assert step.memory == pytest.approx((weights + experts + state + moved) / 4.8e12, rel=1e-6)


def test_activations_cost_time_by_the_kernels_traffic():
    chip = dataclasses.replace(CHIPS["h200"], efficiency=dataclasses.replace(IDEAL, traffic=0.0))
    none, once, thrice = (predict(FLASH, dataclasses.replace(chip, efficiency=dataclasses.replace(IDEAL, traffic=t)), Layout(),
                                  Load(65536, 1, 100)).prefill for t in (0.0, 1.0, 3.0))
    assert none.compute == once.compute == thrice.compute and none.memory == 0
    assert thrice.memory == pytest.approx(3 * once.memory)


@pytest.mark.parametrize("p, width", [(PRO, 3072), (FLASH, 2048)])
def test_the_rule_for_hiding_expert_traffic(p, width):
    """C/B ≤ 2d: with compute-bound experts spread wide, a link just above C/2d hides all traffic, one below doesn't."""
    layout, load = Layout(ep=128, dp=128), Load(65536, 128, 64)
    compute = CHIPS["h200"].flops["fp8"]
    limit = compute / (2 * width)
    for factor, hidden in ((1.01, True), (0.95, False)):
        chip = dataclasses.replace(CHIPS["h200"], efficiency=IDEAL, domain=128, scale_up=limit * factor)
        found = predict(p, chip, layout, load)
        assert found.hides_up_to == 2 * width
        assert (found.compute_per_byte <= found.hides_up_to) == (found.reached_per_byte <= found.hides_up_to) == hidden
        assert (found.prefill.link == 0) == hidden


@pytest.mark.parametrize("layout", [Layout(ep=8, dp=8), Layout(ep=16, dp=16), Layout(ep=64, dp=64), Layout(tp=2, ep=32, dp=16)])
def test_what_is_said_of_expert_traffic_is_what_is_computed(layout):
    """Across domains too, where a token crosses once for several experts: hidden by the rule exactly where a prompt waits for no link."""
    seen = set()
    for scale_out in (5e9, 10e9, 20e9, 40e9, 80e9, 160e9):
        chip = dataclasses.replace(CHIPS["h200"], scale_out=scale_out, efficiency=dataclasses.replace(CHIPS["h200"].efficiency, hop=0.0))
        found = predict(PRO, chip, layout, Load(65536, 64, 64))
        reduced = predict(PRO, dataclasses.replace(chip, scale_out=1e30, scale_up=chip.scale_up), layout, Load(65536, 64, 64)).prefill.link
        assert (found.reached_per_byte <= found.hides_up_to) == (found.prefill.link - reduced <= 1e-12)
        seen.add(found.reached_per_byte <= found.hides_up_to)
    assert seen == ({True} if layout.ep == 8 else {True, False})


def test_bf16_traffic_is_wider_and_hides_worse():
    assert profile(preset("v4-pro"), "bf16").sent == 4 and predict(profile(preset("v4-pro"), "bf16"), CHIPS["h200"], Layout(ep=8, dp=8),
                                                                     Load(1000, 8, 10)).hides_up_to == 1.5 * 3072


def test_what_binds_follows_the_chip():
    layout, load = Layout(tp=2, ep=8, dp=4), Load(65536, 64, 1024)
    h200 = CHIPS["h200"]
    assert predict(PRO, h200, layout, load).decode.binds == "memory"
    assert predict(PRO, dataclasses.replace(h200, bandwidth=1e18), layout, load).decode.binds != "memory"
    assert predict(PRO, dataclasses.replace(h200, scale_up=1e6), layout, load).decode.binds == "link"
    slow = dataclasses.replace(h200, efficiency=dataclasses.replace(h200.efficiency, layer_overhead=1.0))
    assert predict(PRO, slow, layout, load).decode.binds == "overhead"
    assert predict(PRO, dataclasses.replace(h200, flops=dict.fromkeys(h200.flops, 1e12)), layout, load).decode.binds == "compute"


LAYOUTS = [Layout(), Layout(ep=8, dp=8), Layout(tp=2, ep=16, cp=2, dp=4), Layout(ep=4, pp=2, dp=4)]


@given(st.sampled_from(sorted(CHIPS)), st.sampled_from(LAYOUTS), st.integers(2000, 200000), st.integers(1, 500),
       st.sampled_from(["bandwidth", "scale_up", "scale_out", "flops"]))
def test_a_better_chip_is_never_slower_and_more_work_never_faster(chip_id, layout, context, users, figure):
    chip, load = CHIPS[chip_id], Load(context, users, 1000)
    base = predict(FLASH, chip, layout, load)
    value = {f: 2 * v for f, v in chip.flops.items()} if figure == "flops" else 2 * getattr(chip, figure)
    better = predict(FLASH, dataclasses.replace(chip, **{figure: value}), layout, load)
    if figure == "flops":  # faster experts hide less traffic, so only the sum is sure not to grow
        assert better.prefill.total <= base.prefill.total * (1 + 1e-12)
    assert better.token_time <= base.token_time * (1 + 1e-12)
    longer = predict(FLASH, chip, layout, Load(2 * context, users, 1000))
    more = predict(FLASH, chip, layout, Load(context, 2 * users, 1000))
    assert longer.token_time >= base.token_time and more.token_time >= base.token_time * (1 - 1e-12)
    assert more.needed >= base.needed and longer.needed > base.needed
    assert sum(base.memory.values()) == base.needed and base.decode_rate == pytest.approx(users / base.token_time)


def test_cached_prompt_is_brought_back_at_the_host_links_rate():
    found = predict(PRO, CHIPS["h200"], Layout(dp=4), Load(1048576, 4, 64))
    size = state_size(preset("v4-pro"))
    assert found.load_rate == pytest.approx(4 * 64e9 / (size.per_token + size.fixed / (1048576 - 64)))
