"""The whole model in precision `official`: near the simulation, the same from every checkpoint, in the bytes that were planned."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fathom.checkpoint import convert, save_checkpoint
from fathom.config import parameters, preset
from fathom.model import Batch, Run, State, Transformer, kernel_rows
from fathom.ops import DTYPES
from fathom.plan.layout import block_bytes, sequence_bytes, state_layout
from fathom.plan.packed import packed_size
from tests.checkpoint.models import small
from tests.official.conftest import CONFIG, TOKENS, load
from tests.official.whole import Simulation
from tests.ops.native_isas import available
from tests.oracle import randomise

CUTS = (0, 1, 38, 41, 70, *range(90, 101))  # pieces of a prompt, then token by token


def served(model: Transformer, cuts: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Logits of TOKENS and of the MTP block, from a state with scattered blocks, piece by piece."""
    tokens = torch.from_numpy(TOKENS)
    size = model.config.block_size
    blocks = np.random.default_rng(1).permutation(-(-len(TOKENS) // size))
    state, made = State(model.config, num_slots=2, num_blocks=len(blocks), precision=model.precision, mtp=True), []
    with torch.no_grad():
        for a, b in zip(cuts, cuts[1:], strict=False):
            batch = Batch(tokens[a:b], (Run(a, b - a, 1, blocks),))
            out = model(batch, state)
            streams = out.streams.clone()
            made.append((model.logits(out.hidden), model.logits(model.predict_second(streams, tokens[a + 1 : b + 1], batch, state)[0])))
    first, second = (torch.cat(parts).double().numpy() for parts in zip(*made, strict=True))
    return first, second


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.square(a - b).mean()))


def test_logits_are_near_the_simulation(model: Transformer, simulation: Simulation) -> None:
    """At most twice as far from it as it is from fp32 with the same stored weights."""
    wide = Transformer(CONFIG).requires_grad_(False)
    for name, t in wide.tensors().items():
        t.copy_(torch.from_numpy(simulation.w[name]))
    exact, got = served(wide, (0, 100)), served(model, CUTS)
    for ours, theirs, fp32 in zip(got, (simulation.first, simulation.second), exact, strict=True):
        assert distance(theirs, fp32) < 0.2 * distance(fp32, 0 * fp32)  # a rounded model, not another one
        assert distance(ours, theirs) <= 2 * distance(theirs, fp32), (distance(ours, theirs), distance(theirs, fp32))


# --- where the weights come from ---


@pytest.mark.parametrize("kernels", ["reference", "native"])
@pytest.mark.parametrize("layout", ["fp4-experts", "fp8"])
def test_converted_beforehand_or_quantised_at_load(tmp_path: Path, kernels: str, layout: str) -> None:
    """A converted checkpoint, one that was saved so, and the bf16 one: the same logits, bit by bit."""
    if kernels == "native":
        if not available():
            pytest.skip("needs a C++ compiler")
        kernels = available()[0]
    config = small(index_topk=4, sliding_window=16, expert_dtype="fp8" if layout == "fp8" else None)
    tensors = {name: t.bfloat16() if t.is_floating_point() and not p.dtype_fp32 else t for (name, t), p in
               zip(randomise(Transformer(config), 5).tensors().items(), parameters(config), strict=True)}
    save_checkpoint(tmp_path / "bf16", config, tensors)
    save_checkpoint(tmp_path / "saved", config, tensors, quantize=layout)
    convert(tmp_path / "bf16", tmp_path / "converted", layout)
    expected = logits(tmp_path / "saved", kernels)
    assert torch.equal(logits(tmp_path / "converted", kernels), expected)
    if layout == "fp4-experts":  # a bf16 checkpoint's experts are taken to be FP4
        assert torch.equal(logits(tmp_path / "bf16", kernels), expected)


def logits(folder: Path, kernels: str) -> torch.Tensor:
    model = load(folder, kernels)
    with torch.no_grad():
        return model.logits(model(Batch.pack([torch.from_numpy(TOKENS % model.config.vocab_size)])).hidden)


# --- bytes ---


@pytest.mark.parametrize("precision", ["bf16", "official"])
def test_planned_bytes_of_bench_130m(precision: str) -> None:
    """Pools, fixed state and packed weights as they are allocated."""
    config = preset("bench-130m")
    layout = state_layout(config, precision)
    assert State(config, num_slots=3, num_blocks=50, precision=precision).nbytes == 3 * sequence_bytes(layout) + 50 * block_bytes(layout)
    formats = {p.name: {"fp8": "fp8", "expert": "fp4"}[p.storage] for p in parameters(config) if p.storage in ("fp8", "expert")}
    held = formats if precision == "official" else {}
    rows = kernel_rows(config, torch.device("cpu"), precision)
    model = Transformer(config, dtype=DTYPES[precision], precision=precision, rows=rows, formats=held)
    assert sum(t.nbytes for t in model.tensors().values()) == packed_size(config, held, precision).total
