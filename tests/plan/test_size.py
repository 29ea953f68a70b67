"""Bytes of weights and state: the published figures, sums by hand, and laws."""
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom.config import Param, parameters, preset
from fathom.errors import UserError
from fathom.plan.layout import block_bytes, sequence_bytes, state_layout
from fathom.plan.size import WEIGHT_PRECISIONS, param_bytes, param_format, state_size, weight_bytes, weight_bytes_by_part

MILLION = 1048576


def test_fp16_weights_of_pro_with_mtp():
    assert f"{weight_bytes(preset('v4-pro'), 'fp16') / 1e12:.1f}" == "3.2"


@pytest.mark.parametrize("name, per_token, cache_gb, tail_mb, window_mb",
                         [("v4-pro", 5031, 5.3, 19, 4.6), ("v4-flash", 3514, 3.7, 12, 3.2)])
def test_published_state_sizes(name, per_token, cache_gb, tail_mb, window_mb):
    size = state_size(preset(name))
    assert int(size.per_token) == per_token
    assert round(size.paged(MILLION) / 1e9, 1) == cache_gb
    assert round(size.tail / 1e6) == tail_mb
    assert round(size.window / 1e6, 1) == window_mb
    assert size.streams == 0


def test_one_matrix_by_hand():
    config = preset("v4-flash")
    dense = Param("layers.0.attn.wq_a.weight", (1024, 4096), "fp8")
    expert = Param("layers.0.ffn.experts.w1", (3, 2048, 4096), "expert", experts=3)
    assert param_bytes(config, dense, "official") == 1024 * 4096 + 8 * 32  # a byte a weight, a byte per 128×128
    assert param_bytes(config, expert, "official") == 3 * (2048 * 4096 // 2 + 2048 * 4096 // 32)
    assert param_bytes(config, expert, "fp8") == 3 * (2048 * 4096 + 16 * 32)
    assert param_bytes(config, expert, "fp16") == 3 * 2048 * 4096 * 2
    assert param_bytes(config, Param("x.hc_attn_fn", (24, 16384), "fp32"), "bf16") == 24 * 16384 * 4
    assert param_bytes(config, Param("x.tid2eid", (10, 6), "int64"), "fp32") == 480


def test_a_matrix_that_its_blocks_do_not_divide_stays_bf16():
    config = preset("nano")
    assert param_format(config, Param("a", (64, 256), "fp8"), "official") == "bf16"
    assert param_format(config, Param("a", (4, 64, 48), "expert", experts=4), "official") == "bf16"
    assert param_format(config, Param("a", (4, 64, 64), "expert", experts=4), "official") == "fp4"


@pytest.mark.parametrize("precision", WEIGHT_PRECISIONS)
@pytest.mark.parametrize("name", ["v4-flash", "v4-pro", "bench-130m", "nano"])
def test_every_tensor_is_in_one_part(name, precision):
    config = preset(name)
    assert weight_bytes(config, precision) == sum(param_bytes(config, p, precision) for p in parameters(config))
    assert weight_bytes(config, precision, mtp=False) == weight_bytes(config, precision) - weight_bytes_by_part(config, precision)["mtp"]


def test_narrower_is_smaller():
    sizes = [weight_bytes(preset("v4-pro"), p) for p in ("fp32", "bf16", "fp8", "official")]
    assert sizes == sorted(sizes, reverse=True) and weight_bytes(preset("v4-pro"), "fp16") == sizes[1]


@given(st.sampled_from(["v4-flash", "v4-pro", "bench-130m", "nano"]), st.sampled_from(["fp32", "bf16", "fp16", "official"]),
       st.integers(1, MILLION), st.integers(0, 4), st.booleans())
def test_state_is_the_layout_added_up(name, precision, context, drafts, mtp):
    config = preset(name)
    layout = state_layout(config, precision, drafts=drafts, mtp=mtp)
    blocks = -(-context // config.block_size)
    assert state_size(config, precision, drafts=drafts, mtp=mtp).at(context) == sequence_bytes(layout) + blocks * block_bytes(layout)


def test_unknown_precision_names_the_known_ones():
    with pytest.raises(UserError, match="fp32, bf16, fp16, fp8, official"):
        state_size(preset("nano"), "fp6")
    with pytest.raises(UserError, match="official"):
        weight_bytes(preset("nano"), "int4")
