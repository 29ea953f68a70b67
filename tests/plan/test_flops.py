"""Arithmetic counts: the published ratios, closed forms against sums, and laws."""
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.config import parameters, preset
from fathom.plan.count import active_parameters
from fathom.plan.flops import V32, formats_of, is_matrix, prompt_flops, token_flops, training_flops, v32_ratio, visible_sum

MILLION = 1048576


@pytest.mark.parametrize("name, ratio", [("v4-pro", 0.265), ("v4-flash", 0.099)])
def test_published_ratio_to_v32(name, ratio):
    config = preset(name)
    assert round(v32_ratio(config, MILLION), 3) == ratio
    assert v32_ratio(config, MILLION, exact=True) == pytest.approx(ratio, abs=1e-3)


def test_v32_reference():
    assert V32().kv_bytes_per_token == 48068
    assert round(V32().kv_bytes_per_token * MILLION / 1e9, 1) == 50.4
    core = 2 * (576 + 512) * 128 * 2048 * 61  # logits over latent and rope dims, values over latent
    assert V32().fp8_equivalents(MILLION) == 2 * 37e9 + 2 * core + 2 * 64 * 128 * MILLION * 61
    assert V32().fp8_equivalents(100) < V32().fp8_equivalents(2048)  # below top-k the core attention shrinks too


def test_training_compute_of_the_published_run():
    assert training_flops(preset("v4-pro"), 33e12) == pytest.approx(6 * 49e9 * 33e12, rel=0.01)
    assert training_flops(preset("v4-flash"), 32e12) == pytest.approx(6 * 13e9 * 32e12, rel=0.03)


@given(st.integers(0, 3000), st.integers(1, 140), st.none() | st.integers(1, 60))
def test_closed_form_equals_the_sum(tokens, ratio, most):
    slow = sum(min(t // ratio, most if most is not None else t) for t in range(1, tokens + 1))
    assert visible_sum(tokens, ratio, most) == slow


def test_pro_attention_by_hand():
    flops = token_flops(preset("v4-pro"), MILLION)
    entries = 30 * (128 + 1024) + 31 * (128 + MILLION // 128)  # CSA: window and top-k; HCA: window and all
    assert flops.core == 4 * 128 * 512 * entries
    assert flops.index == 2 * 64 * 128 * (MILLION // 4) * 30
    assert flops.fp8_equivalents == flops.linear + flops.experts + 2 * flops.core + flops.index / 2


@settings(max_examples=5, deadline=None)
@given(st.sampled_from(["bench-130m", "nano"]), st.integers(1, 600), st.integers(1, 150))
def test_a_prompt_is_its_tokens(name, first, more):
    config = preset(name)
    whole = prompt_flops(config, first + more)
    head, rest = prompt_flops(config, first), prompt_flops(config, first + more, start=first)
    assert head.total + rest.total == whole.total
    tokens = [token_flops(config, t) for t in range(first + 1, first + more + 1)]
    assert rest.core == sum(t.core for t in tokens)
    assert rest.index == sum(t.index for t in tokens)
    assert rest.linear == more * tokens[0].linear


def test_matrices_are_nearly_all_of_the_active_parameters():
    for name in ("v4-flash", "v4-pro"):
        config = preset(name)
        flops = token_flops(config, 1)
        assert (flops.linear + flops.experts) / 2 == pytest.approx(active_parameters(config), rel=1e-3)
    left_out = {p.name for p in parameters(preset("nano")) if not is_matrix(p) and len(p.shape) > 1}
    assert {n for n in left_out if not n.endswith((".ape", ".tid2eid"))} == {"embed.weight"}


def test_formats_follow_the_precision():
    assert set(formats_of("bf16").values()) == {"bf16"}
    config = preset("v4-pro")
    assert token_flops(config, MILLION, "bf16").fp8_equivalents == 2 * token_flops(config, MILLION).total
