"""The codecs against an independent implementation, bit by bit, and the laws that hold between them."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom import quant
from fathom.errors import UserError
from fathom.quant.fp4 import E2M1_MAX
from fathom.quant.fp8 import E4M3_MAX
from fathom.quant.scale import SMALLEST
from tests.quant import independent as ref


def raw(x: torch.Tensor) -> np.ndarray:
    return x.contiguous().view(torch.uint8).numpy()


def wild(seed: int, *shape: int, spread: float = 20.0) -> torch.Tensor:
    """fp32 numbers over a wide range of magnitudes, with zeros, exact powers of two and exact ties among them."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=g) * torch.exp2(torch.randint(int(-spread), int(spread) + 1, shape, generator=g).float())
    kind = torch.randint(0, 12, shape, generator=g)
    ties = torch.randint(0, 4096, shape, generator=g).float() / 8  # multiples of 1/8 hit the borders of both formats
    x = torch.where(kind == 0, torch.zeros(()), x)
    x = torch.where(kind == 1, torch.exp2(x.abs().clamp(1e-6, 1e6).log2().round()), x)
    return torch.where(kind == 2, ties, x)


def test_every_e4m3_and_e8m0_byte_means_what_the_layout_says():
    bytes_ = torch.arange(256, dtype=torch.uint8)
    decoded = bytes_.view(torch.float8_e4m3fn).float().numpy()
    np.testing.assert_array_equal(decoded[:128], ref.E4M3.astype(np.float32))
    np.testing.assert_array_equal(decoded[128:], -ref.E4M3.astype(np.float32))
    scales = quant.scale_values(bytes_).numpy()
    np.testing.assert_array_equal(scales[:255], [2.0 ** (b - 127) for b in range(255)])
    assert np.isnan(scales[255])


@pytest.mark.parametrize("largest, floor", [(448, E4M3_MAX * SMALLEST), (6, E2M1_MAX * SMALLEST)])
def test_the_fp32_scale_rule_is_the_exact_one_for_every_mantissa(largest: int, floor: float):
    """All 2^23 mantissas of one binade: amax <= largest · scale, and half the scale would not do."""
    amax = (torch.arange(1 << 23, dtype=torch.int32) | (127 << 23)).view(torch.float32)
    scale = quant.scale_values(quant.power_of_two_scale(amax, largest, floor))
    assert torch.equal(scale, torch.where(amax.double() <= largest * scale.double() / 2, float("nan"), scale).float())
    assert bool((amax.double() <= largest * scale.double()).all())


def test_scales_at_both_ends():
    def code(x: float) -> int:
        return int(raw(quant.power_of_two_scale(torch.tensor([x]), 448, 448 * SMALLEST))[0])
    assert code(0.0) == code(448 * SMALLEST) == 1 and code(448 * SMALLEST * 1.01) == 2
    assert code(3.4e38) == 120 + 127 and code(float("inf")) == code(float("nan")) == 255


def test_e4m3_rounds_to_nearest_even_and_saturates():
    between = np.concatenate([ref.E4M3[:127], (ref.E4M3[:126] + ref.E4M3[1:127]) / 2])
    x = np.concatenate([between, np.nextafter(between, 0), np.nextafter(between, 1e9), [449, 480, 1e30, np.inf]]).astype(np.float32)
    x = np.concatenate([x, -x])
    np.testing.assert_array_equal(raw(quant.to_e4m3(torch.from_numpy(x))), ref.encode(x, ref.E4M3[:127], 0x80))
    assert torch.isnan(quant.to_e4m3(torch.tensor([float("nan")])).float())


def test_e2m1_rounds_to_nearest_even_and_saturates():
    between = np.concatenate([ref.E2M1, (ref.E2M1[:7] + ref.E2M1[1:]) / 2])
    x = np.concatenate([between, np.nextafter(between, 0), np.nextafter(between, 9), [6.5, 1e30, np.inf]]).astype(np.float32)
    x = np.concatenate([x, -x])
    np.testing.assert_array_equal(quant.to_e2m1(torch.from_numpy(x)).numpy(), ref.encode(x, ref.E2M1, 8))


def test_packing_puts_the_first_of_a_pair_low():
    codes = torch.tensor([[1, 2, 15, 0]], dtype=torch.uint8)
    packed = quant.pack_e2m1(codes)
    assert packed.dtype == torch.int8 and raw(packed).tolist() == [[0x21, 0x0F]]
    assert torch.equal(quant.unpack_e2m1(packed), codes)


@given(st.integers(0, 10**6), st.sampled_from([(128, 128), (256, 384), (200, 130), (1, 7), (129, 1)]))
@settings(max_examples=15)
def test_fp8_weights_bit_by_bit(seed: int, shape: tuple[int, int]):
    w = wild(seed, *shape)
    values, scale = quant.encode_fp8(w)
    codes, scales = ref.e4m3_blocks(w.numpy())
    assert values.dtype == torch.float8_e4m3fn and scale.dtype == torch.float8_e8m0fnu
    np.testing.assert_array_equal(raw(values), codes)
    np.testing.assert_array_equal(raw(scale), scales)
    decoded = ref.value(codes, ref.E4M3, 0x80) * 2.0 ** (np.kron(scales, np.ones((128, 128)))[: shape[0], : shape[1]] - 127)
    np.testing.assert_array_equal(quant.decode_fp8(values, scale).numpy(), decoded.astype(np.float32))
    assert torch.equal(quant.decode_fp8(values, scale, torch.bfloat16), quant.decode_fp8(values, scale).bfloat16())
    again, smaller = quant.encode_fp8(quant.decode_fp8(values, scale))
    assert torch.equal(quant.decode_fp8(again, smaller), quant.decode_fp8(values, scale))


def test_fp8_scales_of_older_exports_are_plain_floats():
    values, _ = quant.encode_fp8(wild(1, 130, 257))
    scale = torch.rand(2, 3) + 0.1
    expected = values.float() * scale.repeat_interleave(128, 0)[:130].repeat_interleave(128, 1)[:, :257]
    assert torch.equal(quant.decode_fp8(values, scale), expected)
    assert torch.equal(quant.decode_fp8(values, scale, torch.bfloat16), expected.bfloat16())


def test_stacked_experts_are_encoded_one_by_one():
    w = wild(2, 3, 130, 64)
    for encode, decode in ((quant.encode_fp8, quant.decode_fp8), (quant.encode_fp4, quant.decode_fp4)):
        values, scale = encode(w)
        for e in range(3):
            one, one_scale = encode(w[e])
            assert np.array_equal(raw(one), raw(values[e])) and np.array_equal(raw(one_scale), raw(scale[e]))
            assert torch.equal(decode(values, scale)[e], decode(one, one_scale))


@given(st.integers(0, 10**6), st.sampled_from([128, 256, 320, 100]))
@settings(max_examples=10)
def test_activations_bit_by_bit(seed: int, channels: int):
    x = wild(seed, 5, channels).bfloat16()
    values, scale = quant.encode_activations(x)
    codes, scales = ref.e4m3_runs(x.float().numpy(), 128, 1e-4)
    np.testing.assert_array_equal(raw(values), codes)
    np.testing.assert_array_equal(raw(scale), scales)
    expected = ref.value(codes, ref.E4M3, 0x80) * 2.0 ** (np.repeat(scales, 128, 1)[:, :channels] - 127.0)
    np.testing.assert_array_equal(quant.decode_activations(values, scale).numpy(), expected.astype(np.float32))


def test_small_activations_meet_the_floor():
    _, scale = quant.encode_activations(torch.tensor([[0.0] * 128, [1e-6] * 128, [1e-4] * 128, [1e-3] * 128]))
    assert raw(scale)[:, 0].tolist() == [127 - 22, 127 - 22, 127 - 22, 127 - 18]  # 1e-4 / 448 is just below 2^-22


@given(st.integers(0, 10**6), st.sampled_from([32, 64, 160, 16, 50]))
@settings(max_examples=15)
def test_fp4_bit_by_bit(seed: int, n: int):
    x = wild(seed, 7, n)
    packed, scale = quant.encode_fp4(x)
    expected, scales = ref.e2m1_groups(x.numpy())
    np.testing.assert_array_equal(raw(packed), expected)
    np.testing.assert_array_equal(raw(scale), scales)
    for dtype in (torch.float32, torch.bfloat16):
        np.testing.assert_array_equal(quant.decode_fp4(packed, scale, dtype).float().numpy(), ref.decode_e2m1(expected, scales))


def fp4_matrix(seed: int, lowest: int, highest: int, shape: tuple[int, int] = (256, 256)) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    packed = torch.randint(-128, 128, (shape[0], shape[1] // 2), generator=g, dtype=torch.int8)
    scale = torch.randint(lowest, highest + 1, (shape[0], -(-shape[1] // 32)), generator=g, dtype=torch.uint8)
    scale[0, 0], scale[1, 0] = lowest, highest  # both ends in the first block
    packed[0, 0] = 0x11  # half a unit of the smallest scale: the smallest number there is
    return packed, scale.view(torch.float8_e8m0fnu)


@pytest.mark.parametrize("lowest, highest", [(113, 127), (127, 127), (0, 14), (0, 3), (240, 254)])
@pytest.mark.parametrize("shape", [(256, 256), (200, 96)])
def test_fp4_to_fp8_loses_nothing_up_to_a_spread_of_2_to_14(lowest: int, highest: int, shape: tuple[int, int]):
    packed, scale = fp4_matrix(lowest, lowest, highest, shape)
    values, blocks, exact = quant.fp4_to_fp8(packed, scale)
    assert exact
    np.testing.assert_array_equal(raw(blocks)[0, 0], max(highest - 6, 0))
    full = np.kron(raw(blocks), np.ones((128, 128)))[: shape[0], : shape[1]] - 127
    np.testing.assert_array_equal(ref.value(raw(values), ref.E4M3, 0x80) * 2.0**full, ref.decode_e2m1(raw(packed), raw(scale)))


def test_fp4_to_fp8_says_when_the_spread_is_too_wide():
    packed, scale = fp4_matrix(0, 112, 127)
    values, blocks, exact = quant.fp4_to_fp8(packed, scale)
    assert not exact
    near, there = quant.decode_fp8(values, blocks), quant.decode_fp4(packed, scale)
    assert bool(((near - there).abs() <= 2.0 ** (127 - 127 - 6 - 10)).all())  # half of E4M3's smallest step
    packed[torch.arange(256) % 7 == 0] = 0
    scale.view(torch.uint8)[:] = 127
    scale.view(torch.uint8)[torch.arange(256) % 7 == 0] = 100  # a tiny scale over zeros does no harm
    assert quant.fp4_to_fp8(packed, scale)[2]


@pytest.mark.parametrize("head_dim, rope_dims", [(512, 64), (128, 32), (33, 2), (70, 4), (64, 64)])
def test_entry_rows_bit_by_bit(head_dim: int, rope_dims: int):
    plain = head_dim - rope_dims
    x = wild(3, 6, head_dim, spread=8.0).bfloat16()
    x[0] = 0
    rows = quant.encode_entries(x, rope_dims)
    assert rows.shape == (6, quant.entry_bytes(head_dim, rope_dims)) and rows.dtype == torch.uint8 and rows.shape[-1] % 8 == 0
    codes, scales = ref.e4m3_runs(x[:, :plain].float().numpy(), 64, 1e-4)
    rope = ref.to_bf16_bits(x[:, plain:].float().numpy()).view(np.uint8)
    row = np.concatenate([codes, rope, scales], axis=1)
    np.testing.assert_array_equal(rows.numpy()[:, : row.shape[1]], row)
    assert not rows.numpy()[:, row.shape[1] :].any()
    back = quant.decode_entries(rows, head_dim, rope_dims)
    assert back.dtype == torch.bfloat16 and torch.equal(back[:, plain:], x[:, plain:])
    expected = ref.value(codes, ref.E4M3, 0x80) * 2.0 ** (np.repeat(scales, 64, 1)[:, :plain] - 127.0)
    np.testing.assert_array_equal(back[:, :plain].double().numpy(), expected)
    assert torch.equal(quant.decode_entries(quant.encode_entries(back, rope_dims), head_dim, rope_dims), back)


def test_official_rows_have_the_published_sizes():
    assert quant.entry_bytes(512, 64) == 584 and quant.index_key_bytes(128) == 68


def test_the_planner_counts_the_bytes_that_are_written():
    """A planned row is as wide as what the codecs really make."""
    from fathom.plan.layout import state_layout  # the two rooms don't know each other; this test knows both
    from tests.oracle import tiny_config
    for dim, rope, index_dim in ((512, 64, 128), (128, 32, 64), (34, 2, 32), (70, 4, 16), (64, 64, 64)):
        config = tiny_config(head_dim=dim, qk_rope_head_dim=min(rope, index_dim), index_head_dim=index_dim)
        width = {b.name: b.shape[-1] for b in state_layout(config, "official")}
        assert width["layers.1.entries"] == quant.encode_entries(torch.ones(1, dim), config.qk_rope_head_dim).shape[-1]
        assert width["layers.1.index_keys"] == quant.encode_index_keys(torch.ones(1, index_dim)).shape[-1]


@pytest.mark.parametrize("n", [2, 16, 64, 128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_index_keys_bit_by_bit(n: int, dtype: torch.dtype):
    x = wild(4, 9, n, spread=6.0).to(dtype)
    rotated = ref.hadamard(x.float().numpy()) * np.float32(n**-0.5)
    if dtype == torch.bfloat16:
        rotated = (ref.to_bf16_bits(rotated).astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(quant.hadamard(x).float().numpy(), rotated)
    packed, scales = ref.e2m1_groups(rotated)
    rows = quant.encode_index_keys(x)
    np.testing.assert_array_equal(rows.numpy(), np.concatenate([packed, scales], axis=1))
    np.testing.assert_array_equal(quant.decode_index_keys(rows, n).numpy(), ref.decode_e2m1(packed, scales))


def test_the_hadamard_rotation_keeps_scores_and_undoes_itself():
    q, k = torch.randn(2, 128, dtype=torch.float32, generator=torch.Generator().manual_seed(0))
    assert abs(float(quant.hadamard(q) @ quant.hadamard(k) - q @ k)) < 1e-4
    torch.testing.assert_close(quant.hadamard(quant.hadamard(q)), q)
    signs = (quant.hadamard(torch.eye(8)) * 8**0.5).round().int()
    assert [[(-1) ** bin(i & j).count("1") for j in range(8)] for i in range(8)] == signs.tolist()  # natural order


def test_an_index_dim_without_a_hadamard_matrix_is_refused_by_name():
    with pytest.raises(UserError, match="index_head_dim = 48.*power of two"):
        quant.encode_index_keys(torch.zeros(1, 48))


def test_a_nan_spoils_its_own_group_only():
    w = torch.ones(128, 256)
    w[3, 7] = float("nan")
    fp8, fp4 = quant.decode_fp8(*quant.encode_fp8(w)), quant.decode_fp4(*quant.encode_fp4(w))
    assert fp8[:, :128].isnan().all() and torch.equal(fp8[:, 128:], w[:, 128:])
    assert fp4[3, :32].isnan().all() and fp4[:3].isfinite().all() and fp4[3, 32:].isfinite().all()
