"""Teacher-forced: each operator, given the simulation's own inputs, is within one unit in the last place of its output's format.

Of the simulation's output, that is, or of what it would have been with other fp32 rounding errors: see `settled`. Where a choice is made (top-k),
the scores decide: what is chosen instead must be as good, but for such errors.
"""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fathom.checkpoint import open_checkpoint
from fathom.model import Transformer
from fathom.model.rope import angles, frequencies
from tests.official import simulation as s
from tests.official.conftest import CONFIG, TOKENS, load
from tests.official.numbers import Numbers, ordinal
from tests.official.ours import BITS, Ours
from tests.official.whole import Simulation, Step
from tests.quant import independent as codec

NOISES = (1.0, -1.0, 1, 2, 3, 4)
MORE = tuple(range(5, 13))  # for outputs in fp32
Range = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="session")
def ranges(simulation: Simulation) -> dict[str, list[Range]]:
    """Of each step's outputs."""
    return {name: settled(step) for name, step in simulation.steps.items()}


def settled(step: Step) -> list[Range]:
    """How far each output of a step hangs on fp32 rounding errors: lowest and highest of several repetitions, each with errors of its own.

    Almost everywhere the two are the same bf16 number. fp32 outputs show every error; a few repetitions don't find their extremes, so their
    range reaches as far to either side as any repetition went.
    """
    kinds = BITS.get(step.function.__name__, (16,))
    noises = NOISES + MORE if 32 in kinds else NOISES
    outputs = [listed(step.output), *(listed(step.function(Numbers(noise), *step.inputs)) for noise in noises)]
    made = []
    for bits, versions in zip(kinds, zip(*outputs, strict=True), strict=True):
        if bits == 32:
            away = np.max([np.abs(v - versions[0]) for v in versions], 0)
            made.append((versions[0] - away, versions[0] + away))
        else:
            made.append((np.min(versions, 0), np.max(versions, 0)))
    return made


def listed(output: Any) -> list[np.ndarray]:
    return list(output) if isinstance(output, tuple) else [output]


def units_outside(got: np.ndarray, within: Range, bits: int) -> np.ndarray:
    """Units in the last place between each number and its range; 0 inside."""
    low, here, high = (ordinal(x, bits) for x in (within[0], got, within[1]))
    return np.maximum(np.maximum(low - here, here - high), 0)


def test_every_operator(model: Transformer, simulation: Simulation, ranges: dict[str, list[Range]]) -> None:
    ours, seen = Ours(model, len(TOKENS) - 1), set()
    for name, step in simulation.steps.items():
        kind = step.function.__name__
        if kind == "scores":
            continue
        for i, (got, within) in enumerate(zip(ours(name, step), ranges[name], strict=True)):
            bits = BITS.get(kind, (16,))[i]
            if bits:
                worst = units_outside(got, within, bits).max()
                assert worst <= 1, f"output {i} of {name}: {worst} units"
            else:
                assert np.array_equal(got, listed(step.output)[i]), name
        seen.add(kind)
    assert len(seen) == 19, seen


def test_the_indexers_choice(model: Transformer, simulation: Simulation, ranges: dict[str, list[Range]]) -> None:
    ours, k, limited = Ours(model, len(TOKENS) - 1), CONFIG.index_topk, 0
    for name, step in simulation.steps.items():
        if step.function is not s.scores:
            continue
        (chosen,), (low, high) = ours(name, step), ranges[name][0]
        for t, row in enumerate(chosen):
            visible, mine = (t + 1) // 4, row[row >= 0]
            limited += visible > k
            theirs = s.best(step.output[t, :visible], k)
            assert len(set(mine)) == len(mine) == min(visible, k) and (mine < visible).all() and (row[len(mine) :] == -1).all()
            for instead in set(mine) - set(theirs):  # as good as the worst of theirs could be
                assert high[t, instead] >= low[t, theirs].min(), f"{name}, query {t}: {instead}"
    assert limited > 100


def test_ties_go_to_the_lower_entry(model: Transformer) -> None:
    """Scores that all are zero, and scores that are equal once they are rounded to bf16."""
    ours, J, K = Ours(model, 100), CONFIG.index_n_heads, CONFIG.index_head_dim
    q, w, keys = np.zeros((100, J, K)), np.ones((100, J)), np.zeros((25, K))
    q[:, 0, 0], keys[:, 0] = 1, 1
    keys[:, 1], q[:, 0, 1] = np.where(np.arange(25) % 2, 0.5, 0), 2.0**-10  # 1 or 1 + 2^-11: the same in bf16
    for queries, order in ((0 * q, None), (q, None), (q * np.where(np.arange(K) == 1, 2.0**9, 1), np.arange(1, 25, 2))):
        (chosen,) = ours("layers.1.attn.indexer.scores", Step(s.scores, (queries, w, keys), None))
        for t in range(40, 100):
            visible = np.arange((t + 1) // 4)
            first = visible if order is None else np.concatenate((order[order < len(visible)], visible[::2]))
            assert sorted(chosen[t]) == sorted(first[:8]), t


def test_the_codecs_inside_the_operators(model: Transformer) -> None:
    """Rows of the caches and FP4 queries, bit for bit: large, small and zero numbers, ties of the formats."""
    random, k = np.random.default_rng(5), Ours(model, 1).k
    C, R, K = CONFIG.head_dim, CONFIG.qk_rope_head_dim, CONFIG.index_head_dim
    x = torch.from_numpy(random.standard_normal((200, C)) * 2.0 ** random.integers(-25, 12, (200, 1))).bfloat16()
    x[0], x[1], x[2] = 0, torch.arange(C) / 16, 448.0
    values, scales = codec.e4m3_runs(x[:, : C - R].float().numpy(), 64, 1e-4)
    rows = k.encode_entries(x).numpy()
    assert np.array_equal(rows[:, : C - R], values) and np.array_equal(rows[:, C - R : C + R], x[:, C - R :].contiguous().view(torch.uint8).numpy())
    assert np.array_equal(rows[:, C + R : C + R + 2], scales) and rows.shape[1] % 8 == 0 and not rows[:, C + R + 2 :].any()
    keys = x[:, :K].contiguous()
    turned = Numbers().bf16(codec.hadamard(keys.float().numpy()).astype(np.float32) * np.float32(K**-0.5))
    packed, scales = codec.e2m1_groups(turned)
    assert np.array_equal(k.encode_keys(keys).numpy(), np.concatenate((packed, scales), 1))
    assert np.array_equal(k.index_queries(keys).float().numpy(), codec.decode_e2m1(packed, scales))


def test_weights_are_stored_as_the_independent_codec_has_them(folder: Path, simulation: Simulation) -> None:
    plain = open_checkpoint(folder)
    for name, t in load(folder, "reference").tensors().items():
        assert np.array_equal(t.double().numpy(), simulation.w[name]), name
        quantised = plain.params[name].storage in ("fp8", "expert")
        assert quantised != torch.equal(t, plain.tensor(name)), name


def test_angles() -> None:
    """Frequencies within two units of fp32; angles of any position, up to a million, those of the fp32 product."""
    positions = np.concatenate((np.arange(300), np.random.default_rng(1).integers(0, 1 << 20, 500)))
    for compressed in (False, True):
        f = frequencies(CONFIG, compressed)
        theta, yarn = (CONFIG.compress_rope_theta, (16.0, 64, 32.0, 1.0)) if compressed else (CONFIG.rope_theta, None)
        expected = s.frequencies(CONFIG.qk_rope_head_dim, theta, yarn)
        assert np.abs(ordinal(f.double().numpy(), 32) - ordinal(expected, 32)).max() <= 2
        for got, wanted in zip(angles(f, torch.from_numpy(positions)), s.angles(positions, f.double().numpy()), strict=True):
            np.testing.assert_allclose(got.double().numpy(), wanted, rtol=2**-22, atol=2**-24)
