"""Blocks in one native call give what their operators give one by one: the same bits, in what comes out and in what is remembered."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fathom.model import Batch, Run, State, Transformer
from fathom.ops import Row, select
from fathom.ops.native.kernels import OPERATORS
from tests.ops.native_isas import ALL, native, on_native
from tests.oracle import randomise, tiny_config

CONFIG = tiny_config(num_hidden_layers=4, compress_ratios=(0, 4, 16, 4, 4), hash_routed=(True, False, False, False), num_nextn_predict_layers=1,
                     index_topk=12)
SLOTS, BLOCKS = 5, 12  # blocks a sequence


@pytest.fixture(params=[(isa, precision) for precision in ("bf16", "official") for isa in ALL], ids="-".join, scope="module")
def model(request: pytest.FixtureRequest) -> Transformer:
    return on_native(randomise(Transformer(CONFIG), 5), *request.param)


@contextmanager
def one_by_one(model: Transformer) -> Iterator[None]:
    """The model without a kernel for whole blocks."""
    (key, kernels), = [*model._kernels.items()]
    model._kernels[key] = replace(kernels, whole_blocks=None)
    yield
    model._kernels[key] = kernels


def batches(seed: int) -> Iterator[list[tuple[int, int, int]]]:
    """(sequence, start, length) of each run: pieces of prompts, of any length, and single tokens; sequences begin anew in old slots."""
    random, at = np.random.default_rng(seed), [0] * SLOTS
    for _ in range(14):
        runs = []
        for i in random.permutation(SLOTS)[: random.integers(1, SLOTS + 1)]:
            n = int(random.choice([1, 1, 1, 2, 7, 40, 130]))
            if at[i] + n > BLOCKS * CONFIG.block_size:
                at[i] = 0
            runs.append((int(i), at[i], n))
            at[i] += n
        yield runs


def serve(model: Transformer, seed: int, known: int = 0) -> tuple[list[torch.Tensor], State]:
    """Everything that comes out of all batches, and the state they leave."""
    state = State(CONFIG, num_slots=SLOTS, num_blocks=SLOTS * BLOCKS, precision=model.precision, drafts=1, mtp=True)
    for t in state.buffers.values():
        t.zero_()
    tables = np.random.default_rng(seed).permutation(SLOTS * BLOCKS).reshape(SLOTS, BLOCKS)
    ids, out = torch.Generator().manual_seed(seed), []
    for runs in batches(seed):
        tokens = torch.randint(0, CONFIG.vocab_size, (sum(n for *_, n in runs),), generator=ids)
        batch = Batch(tokens, tuple(Run(start, n, i, tables[i], known) for i, start, n in runs))
        done = model(batch, state)
        out += [done.hidden, done.streams.clone(), *(t for r in done.routing for t in (r.scores, r.experts))]
        hidden, routing = model.predict_second(done.streams, tokens, batch, state)
        out += [hidden, routing.scores, routing.experts]
        assert [r.name for r in done.routing] == [f"layers.{i}.ffn" for i in range(4)] and routing.name == "mtp.0.ffn"
    return out, state


@pytest.mark.parametrize(("seed", "known"), [(0, 0), (1, 0), (2, CONFIG.block_size)])
def test_the_same_bits(model: Transformer, seed: int, known: int) -> None:
    got, state = serve(model, seed, known)
    assert state.whole_blocks and all(whole for whole, _ in state.whole_blocks.values())
    with one_by_one(model):
        expected, other = serve(model, seed, known)
    assert not other.whole_blocks
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)
    for name, rows in state.buffers.items():
        assert torch.equal(rows.view(torch.uint8), other.buffers[name].view(torch.uint8)), name


def test_where_more_is_wanted_operators_serve(model: Transformer) -> None:
    """Marks, attention to everything, no state."""
    tokens = torch.arange(CONFIG.block_size + 3) % CONFIG.vocab_size
    table, state = np.arange(BLOCKS), State(CONFIG, num_slots=1, num_blocks=BLOCKS, precision=model.precision)
    model(Batch(tokens, (Run(0, len(tokens), 0, table, 0, (CONFIG.block_size,)),)), state)
    assert state.captured and not state.whole_blocks
    model(Batch(tokens, (Run(0, len(tokens), 0, table),)), state, sparse=False)
    assert not state.whole_blocks
    if model.precision == "bf16":
        model(Batch(tokens, (Run(0, len(tokens)),)))


def test_a_kernel_of_another_source_isn_t_passed_by() -> None:
    k = native("portable")
    rows = [Row(op, "cpu", "bf16", False, "native", getattr(k, op), "", k.packer) for op in OPERATORS]
    assert select("cpu", "bf16", training=False, rows=rows)[0].whole_blocks
    mine = Row("attend", "cpu", "bf16", False, "mine", k.attend, "")
    kernels, chosen = select("cpu", "bf16", training=False, rows=[mine, *rows])
    assert kernels.whole_blocks is None and "whole_blocks" not in {row.operator for row in chosen}


def test_larger_models_go_operator_by_operator() -> None:
    k = native("portable")
    rows = tuple(Row(op, "cpu", "bf16", False, "native", getattr(k, op), "", k.packer) for op in OPERATORS)
    model = Transformer(CONFIG, dtype=torch.bfloat16, rows=rows, resident=2)
    block = model.layers[0]
    assert k.whole_blocks([(block.sizes, block.weights, {})]) is None


@pytest.mark.parametrize(("what", "change"), [
    ("hc_fn", {"streams": 3}), ("hc_fn", {"hidden": 63}), ("queries", {"heads": 3}), ("router", {"top_k": 99}), ("compressor", {"overlap": False}),
    ("streams", {"streams": None}), ("indexer", {"index_heads": 1}), ("rope dims", {"rope_dims": 4096}),
])
def test_sizes_that_don_t_belong_together_are_refused(what: str, change: dict[str, Any]) -> None:
    model = on_native(randomise(Transformer(CONFIG), 5), "portable", "bf16")
    state, block = State(CONFIG, num_slots=1, num_blocks=1, precision="bf16"), model.layers[1]
    sizes = {name: value for name, value in (block.sizes | change).items() if value is not None}
    with pytest.raises(ValueError, match=f"block: .*({what})"):
        native("portable").whole_blocks([(sizes, block.weights, state.buffers_of(1))])


def test_runs_outside_the_state_are_refused(model: Transformer) -> None:
    state = State(CONFIG, num_slots=2, num_blocks=2, precision=model.precision)
    tokens = torch.zeros(CONFIG.block_size, dtype=torch.int64)
    for run in (Run(0, len(tokens), 2, np.array([0])), Run(0, len(tokens), 0, np.array([2])), Run(0, len(tokens), 0, np.array([-1]))):
        with pytest.raises(ValueError, match="sight|run_blocks"):
            model(Batch(tokens, (run,)), state)
    with pytest.raises(ValueError, match="too short"):
        model(Batch(tokens, (Run(0, len(tokens), 0, ()),)), state)
