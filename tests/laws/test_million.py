"""A million tokens: read in chunks within bounded memory, and every single block of the history counts."""
from __future__ import annotations

import resource
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from fathom.model import Batch, Run, State, Transformer, kernel_rows
from fathom.plan.size import state_size
from tests.ops.native_isas import available
from tests.oracle import randomise, tiny_config

TOKENS, CHUNK, ANSWER = 1 << 20, 4096, 64
CONFIG = tiny_config(num_hidden_layers=3, compress_ratios=(0, 4, 128), hash_routed=(True, False, False), num_attention_heads=2,
                     index_n_heads=1, index_topk=8, sliding_window=16, max_position_embeddings=TOKENS + 256)
pytestmark = [pytest.mark.check, pytest.mark.timeout(1200), pytest.mark.skipif(not available(), reason="needs the native kernels")]


class Read:
    """A model that has read a million tokens, its state, and the blocks they are in."""

    def __init__(self) -> None:
        plain = randomise(Transformer(CONFIG), 5)
        self.model = Transformer(CONFIG, dtype=torch.bfloat16, rows=kernel_rows(CONFIG, torch.device("cpu"), "bf16"))
        targets = self.model.tensors()
        for name, values in plain.tensors().items():
            targets[name].copy_(values)
        self.model.requires_grad_(False)
        self.tokens = torch.randint(0, CONFIG.vocab_size, (TOKENS + ANSWER,), generator=torch.Generator().manual_seed(1))
        count = -(-(TOKENS + ANSWER) // CONFIG.block_size)
        self.state = State(CONFIG, num_slots=2, num_blocks=2 * count, precision="bf16")
        order = np.random.default_rng(1).permutation(2 * count).astype(np.int32)
        self.blocks, self.strangers = order[:count], order[count:]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with torch.no_grad():
            for a in range(0, TOKENS, CHUNK):
                self.model(Batch(self.tokens[a : a + CHUNK], (Run(a, CHUNK, 0, self.blocks),)), self.state)
            stranger = self.tokens.flip(0)
            for a in range(0, 1 << 14, CHUNK):
                self.model(Batch(stranger[a : a + CHUNK], (Run(a, CHUNK, 1, self.strangers),)), self.state)
        self.grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        self.rings = {name: t.clone() for name, t in self.state.buffers.items() if name.endswith(("window", "tail"))}

    def answer(self, blocks: np.ndarray) -> torch.Tensor:
        """Hidden states of the tokens after the million, with their history in these blocks. One entry among thousands moves a value by less
        than bf16 shows, so many values are looked at."""
        for name, values in self.rings.items():
            self.state.buffers[name].copy_(values)
        with torch.no_grad():
            return self.model(Batch(self.tokens[TOKENS:], (Run(TOKENS, ANSWER, 0, blocks),)), self.state).hidden


@pytest.fixture(scope="module")
def read() -> Iterator[Read]:
    yield Read()


def positions() -> list[int]:
    """Twenty whole blocks: the first, the last, and some between."""
    whole = TOKENS // CONFIG.block_size
    return sorted({0, 1, whole - 1, whole - 2, *np.random.default_rng(2).integers(2, whole - 2, 16).tolist()})


def test_every_block_counts(read: Read) -> None:
    """Dropped (another block in its place and one fewer of them), repeated, or exchanged with a stranger's: the answer changes."""
    right = read.answer(read.blocks)
    assert torch.equal(right, read.answer(read.blocks.copy()))
    assert len(positions()) >= 20
    for i in positions():
        dropped, repeated, exchanged = read.blocks.copy(), read.blocks.copy(), read.blocks.copy()
        dropped[i:-1] = dropped[i + 1 :]
        repeated[i] = repeated[i - 1]
        exchanged[i] = read.strangers[i % (1 << 14 >> 7)]
        for what, blocks in (("dropped", dropped), ("repeated", repeated), ("exchanged", exchanged)):
            assert not torch.equal(read.answer(blocks), right), f"{what} block {i}"


def test_memory_is_pools_and_a_chunk(read: Read) -> None:
    """What reading added to the process is far below a tensor of a number per token and head: the pools were planned, the rest is a chunk's."""
    planned = 2 * state_size(CONFIG, "bf16").at(TOKENS + ANSWER)
    assert read.state.nbytes == planned
    assert read.grown < planned + 400 * 2**20
