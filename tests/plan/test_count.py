"""Parameter counts: the published figures, and that every parameter lands in exactly one part."""
import dataclasses

import pytest

from fathom.config import parameters, preset
from fathom.plan.count import ACTIVE_COUNTING, PARTS, active_by_part, active_parameters, parameters_by_part, part_of, total_parameters


@pytest.mark.parametrize("name, billions, active", [("v4-flash", "284.33", 13), ("v4-pro", "1573.00", 49)])
def test_published_sizes(name, billions, active):
    config = preset(name)
    assert f"{total_parameters(config, mtp=False) / 1e9:.2f}" == billions
    assert round(active_parameters(config) / 1e9) == active
    assert "embedding" in ACTIVE_COUNTING and "MTP" in ACTIVE_COUNTING  # the counting is said in words


def test_bench_model_size():
    assert f"{total_parameters(preset('bench-130m')) / 1e6:.2f}" == "130.37"


@pytest.mark.parametrize("name", ["v4-flash", "v4-pro", "bench-130m", "nano"])
def test_parts_add_up_and_active_is_within_them(name):
    config = preset(name)
    counts, active = parameters_by_part(config), active_by_part(config)
    assert tuple(counts) == PARTS == tuple(active)
    assert sum(counts.values()) == sum(p.numel for p in parameters(config) if p.is_parameter)
    assert all(0 <= active[part] <= counts[part] for part in PARTS)
    assert active["embedding"] == active["mtp"] == 0 and active["head"] == counts["head"]
    assert active["experts"] * config.n_routed_experts == counts["experts"] * config.num_experts_per_tok


def test_dropping_mtp_drops_just_that_part():
    config = preset("v4-pro")
    assert parameters_by_part(config.without_mtp()) == parameters_by_part(config) | {"mtp": 0}
    assert total_parameters(config.without_mtp()) == total_parameters(config, mtp=False)


def test_a_part_reacts_to_its_own_setting_only():
    config = preset("bench-130m")
    before = parameters_by_part(config)
    changes = {"index_n_heads": {"indexer"}, "n_routed_experts": {"experts", "router"}, "vocab_size": {"embedding", "head"},
               "o_lora_rank": {"attention"}, "q_lora_rank": {"attention", "indexer", "norms"},
               "moe_intermediate_size": {"experts", "shared"}}
    for field, parts in changes.items():
        after = parameters_by_part(dataclasses.replace(config, **{field: 2 * getattr(config, field)}))
        assert {part for part in PARTS if after[part] != before[part]} == parts, field


def test_parts_by_example():
    expected = {
        "embed.weight": "embedding", "head.weight": "head", "norm.weight": "norms", "hc_head_fn": "mhc", "layers.2.hc_attn_fn": "mhc",
        "layers.2.attn.wo_a.weight": "attention", "layers.2.attn.attn_sink": "attention", "layers.2.attn.kv_norm.weight": "norms",
        "layers.2.attn.compressor.ape": "compressors", "layers.2.attn.compressor.norm.weight": "norms",
        "layers.2.attn.indexer.compressor.wkv.weight": "indexer", "layers.2.ffn.experts.w1": "experts",
        "layers.2.ffn.shared_experts.w2.weight": "shared", "layers.2.ffn.gate.weight": "router", "mtp.0.hc_head_fn": "mtp",
    }
    rows = {p.name: p for p in parameters(preset("v4-flash"))}
    assert {name: part_of(rows[name]) for name in expected} == expected
