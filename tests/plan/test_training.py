"""Training: exact persistent bytes from the table, Muon's arithmetic by hand, and laws of the cluster plan."""
import pytest

from fathom.config import parameters, preset
from fathom.errors import UserError
from fathom.plan.chips import load_chips
from fathom.plan.training import Run, gradient_bytes, muon_flops, persistent_bytes, plan_training

CHIPS = load_chips()
RUN = Run(33e12, 94.4e6, 4096)


@pytest.mark.parametrize("name", ["nano", "bench-130m", "v4-flash", "v4-pro"])
def test_persistent_bytes_count_every_row_once(name):
    config, found = preset(name), persistent_bytes(preset(name))
    assert found["weights"] + found["biases"] == 4 * sum(p.numel for p in parameters(config) if p.is_parameter)
    assert found["momentum"] + found["moments"] / 2 == found["weights"]
    hashed = sum(config.hash_routed)
    assert found["tables"] == 8 * hashed * config.vocab_size * config.num_experts_per_tok
    assert found["biases"] == 4 * config.n_routed_experts * (config.num_blocks - hashed)


def test_gradients_are_of_what_a_loss_reaches():
    config = preset("nano")
    indexer = sum(4 * p.numel for p in parameters(config) if ".indexer." in p.name)
    mtp = sum(4 * p.numel for p in parameters(config) if p.name.startswith("mtp.") and p.optimizer != "none")
    assert indexer > 0 and mtp > 0
    assert gradient_bytes(config) == persistent_bytes(config)["weights"]
    assert gradient_bytes(config, indexer=False) == gradient_bytes(config) - indexer
    assert gradient_bytes(config, mtp=False) == gradient_bytes(config) - mtp


def test_muon_by_hand():
    config = preset("nano").without_mtp()
    one = next(p for p in parameters(config) if p.name == "layers.0.attn.wq_a.weight")
    rows, cols = sorted(one.shape)
    fused = next(p for p in parameters(config) if p.name == "layers.1.attn.wo_a.weight")
    n, m = sorted((fused.row_parts[0], fused.shape[1]))
    assert len(fused.row_parts) == config.o_groups
    by_hand = {one.name: 10 * (4 * rows**2 * cols + 2 * rows**3), fused.name: len(fused.row_parts) * 10 * (4 * n * n * m + 2 * n**3)}
    import fathom.plan.training as module
    total = muon_flops(config)
    for name, flops in by_hand.items():
        kept = [p for p in parameters(config) if p.name != name]
        original = module.parameters
        try:
            module.parameters = lambda c, kept=kept: kept
            assert total - muon_flops(config) == pytest.approx(flops)
        finally:
            module.parameters = original


def test_published_run_on_h800():
    plan = plan_training(preset("v4-pro"), RUN, [CHIPS["h800"]])
    assert plan.flops == pytest.approx(9.67e24, rel=1e-3)
    best = plan.options[0]
    assert best.needed <= best.room
    assert best.cost == pytest.approx(best.days * 24 * best.layout.devices * 2.0)
    assert 0.1 < best.use < 0.4  # DeepSeek-V3's run: 3.3e24 FLOP in 2.664 M H800 hours, 0.17 of the FP8 peak
    assert best.use == pytest.approx(plan.flops / (best.days * 86400 * best.layout.devices * 1978.9e12))
    costs = [o.cost for o in plan.options]
    assert costs == sorted(costs)


def test_days_are_a_limit_and_misses_say_why():
    quick = plan_training(preset("v4-pro"), RUN, [CHIPS["h800"]], days=90)
    assert quick.options and all(o.days <= 90 for o in quick.options)
    reasons = {layout.devices: why for _, layout, why in quick.misses}
    assert "a device more" in reasons[8] and "days" in reasons[1024]
    assert not set(reasons) & {o.layout.devices for o in quick.options}


def test_more_devices_take_fewer_days_and_less_memory():
    plan = plan_training(preset("v4-flash"), Run(32e12, 75.5e6, 4096), [CHIPS["b200"]])
    fastest = {}
    for o in plan.options:
        fastest[o.layout.devices] = min(fastest.get(o.layout.devices, o.days), o.days)
    counts = sorted(fastest)
    assert len(counts) >= 4
    assert all(fastest[a] > fastest[b] for a, b in zip(counts, counts[1:], strict=False))


@pytest.mark.parametrize("run, field", [(Run(0, 1e6, 4096), "train-tokens"), (Run(1e9, 100, 4096), "batch"), (Run(1e9, 2e9, 4096), "batch"),
                                        (Run(1e9, 1e6, 2 << 20), "length")])
def test_impossible_runs(run, field):
    with pytest.raises(UserError) as error:
        plan_training(preset("v4-pro"), run, [CHIPS["h800"]])
    assert error.value.field == field
