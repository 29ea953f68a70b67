"""What the engine's tests share: small models on both kinds of kernels, answers to compare, and what must hold between any two steps."""
from __future__ import annotations

import hashlib
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch

from fathom.config import ModelConfig
from fathom.engine import Engine, Output, Request, Sampling
from fathom.engine.sequence import Sequence
from fathom.model import Batch, State, Transformer, kernel_rows
from fathom.model import Output as Streams
from tests.oracle import randomise, tiny_config

CONFIG = tiny_config(num_hidden_layers=4, compress_ratios=(0, 4, 16, 4, 0), hash_routed=(True, False, False, False), num_nextn_predict_layers=1,
                     max_position_embeddings=512, hc_sinkhorn_iters=4)  # few: on the reference kernels they cost most and aren't what is tested
BLOCK = CONFIG.block_size
KERNELS = ("reference", "native")
GREEDY = Sampling(temperature=0)


def plain_model(seed: int = 4, *, agreeing: bool = False, config: ModelConfig = CONFIG) -> Transformer:
    """A random model in fp32 on the reference kernels.

    agreeing: the next token follows mostly from the last one, for the model and for its MTP block alike, so drafts are often right.
    """
    plain = randomise(Transformer(config), seed)
    if agreeing:
        for name, weight in plain.tensors().items():
            if name.endswith(("wo_b.weight", "w2", "w2.weight", "h_proj.weight")):
                weight *= 0.25
            elif name.endswith("e_proj.weight"):
                weight.copy_(torch.eye(len(weight)))
            elif name.endswith(("enorm.weight", "hnorm.weight")) or name in ("norm.weight", "mtp.0.norm.weight"):
                weight.fill_(1.0)
    return plain


def make_model(kernels: str, seed: int = 4, *, agreeing: bool = False, config: ModelConfig = CONFIG) -> Transformer:
    """The plain model, or the same in bf16 on the native kernels, whose bits don't depend on the batch."""
    plain = plain_model(seed, agreeing=agreeing, config=config)
    if kernels == "reference":
        return plain
    rows = kernel_rows(config, torch.device("cpu"), "bf16", "auto")
    if not any(row.kernel for row in rows):
        pytest.skip(rows[0].reason)
    model = Transformer(config, dtype=torch.bfloat16, rows=rows)
    targets = model.tensors()
    for name, values in plain.tensors().items():
        targets[name].copy_(values)
    return model


def make_engine(model: Transformer, **options: object) -> Engine:
    """An engine whose state is filled with NaN, so that whoever reads what nobody wrote is noticed."""
    engine = Engine(model, **{"memory": 64 << 20, "mark_memory": 16 << 20, "chunk": 64, "sequences": 4, "speculate": "off"} | options)
    for buffer in engine.state.buffers.values():
        buffer.fill_(float("nan") if buffer.is_floating_point() else 0x7F)  # E4M3's NaN
    return engine


def cold(model: Transformer, request: Request, got: list[Output] | None = None) -> list[Output]:
    """The answer without company, cache, cuts or drafts.

    got: what should be this answer, or its beginning; no more than that is computed then. On the reference kernels, which have no bits
    to compare and are slow, it takes one forward for all of it, without any state.
    """
    engine = make_engine(model, prefix_cache=False, chunk=4096, sequences=1)
    if got is None:
        return list(engine.generate(request))
    if not model.packer:
        engine._runner.model = Foreseen(model, (*request.prompt, *(o.token_id for o in got[:-1])))
    return list(islice(engine.generate(request), len(got)))


class Foreseen:
    """A model that has computed the tokens it will be asked for, and looks them up."""

    def __init__(self, model: Transformer, ids: tuple[int, ...]) -> None:
        self.ids, self.logits = ids, model.logits
        with torch.no_grad():
            self.out = model(Batch.pack([torch.tensor(ids)]))

    def __call__(self, batch: Batch, state: State) -> Streams:
        (run,) = batch.runs
        part = slice(run.start, run.stop)
        assert tuple(batch.token_ids.tolist()) == self.ids[part], "the answer isn't the one that was foreseen"
        return Streams(self.out.hidden[part], self.out.streams[part], [], [])


def watch(engine: Engine) -> dict[Request, dict[int, bytes]]:
    """Digests of the logits from which each token will be drawn, by request and position, to the bit."""
    seen: dict[Request, dict[int, bytes]] = {}
    draw = engine._runner._next

    def watched(seq: Sequence, row: np.ndarray) -> Output:
        seen.setdefault(seq.request, {})[len(seq.ids)] = hashlib.sha256(row.tobytes()).digest()
        return draw(seq, row)

    engine._runner._next = watched  # type: ignore[method-assign]
    return seen


def same(got: list[Output], expected: list[Output], kernels: str) -> None:
    """The same answer: to the bit on native kernels, to their tolerance on the reference ones."""
    assert [(o.token_id, o.finish_reason) for o in got] == [(o.token_id, o.finish_reason) for o in expected]
    if kernels == "native":
        assert got == expected
    for a, b in zip(got, expected, strict=True):
        assert a.logprob == pytest.approx(b.logprob, abs=1e-4)
        assert [p for _, p in a.top] == pytest.approx([p for _, p in b.top], abs=1e-4)
        mine, theirs = dict(a.top), dict(b.top)  # near equals may change places, and the last one its holder
        for token in mine.keys() | theirs.keys():
            assert mine.get(token, a.top[-1][1]) == pytest.approx(theirs.get(token, b.top[-1][1]), abs=1e-4)


def tokens(seed: int, count: int, config: ModelConfig = CONFIG) -> tuple[int, ...]:
    """Random token ids."""
    return tuple(torch.randint(0, config.vocab_size, (count,), generator=torch.Generator().manual_seed(seed)).tolist())


def run(engine: Engine, requests: list[Request]) -> list[list[Output]]:
    """All answers, computed together."""
    tickets = [engine.submit(request) for request in requests]
    return [list(ticket) for ticket in tickets]


def check(engine: Engine) -> None:
    """What must hold between steps: every block and slot has exactly one place, counts are right, budgets are kept."""
    scheduler, cache = engine.scheduler, engine.cache
    running = scheduler.running
    slots = [s.slot for s in running]
    assert len(set(slots)) == len(slots) and len(slots) + scheduler.slots.free == scheduler.slots.count
    private = [int(b) for s in running for b in s.blocks[len(s.path) :]]
    nodes = cache.nodes() if cache else []
    taken = private + [n.block for n in nodes]
    assert len(set(taken)) == len(taken), "a block in two places"
    assert len(taken) + scheduler.blocks.free == scheduler.blocks.count, "a block is lost"
    used = Counter(n for s in running for n in s.path)
    for s in running:
        assert [n.block for n in s.path] == s.blocks[: len(s.path)].tolist()
        assert [t for n in s.path for t in n.ids] == s.ids[: len(s.path) * BLOCK]
        assert all(n.owner == s.request.owner for n in s.path)
        assert s.computed <= len(s.ids) and s.num_blocks * BLOCK >= s.computed
    for s in (s for queue in scheduler.turns.waiting.values() for s in queue):
        assert s.slot == -1 and not s.num_blocks and not s.path
    if cache:
        assert all(n.users == used[n] for n in nodes) and set(cache._idle) == {n for n in nodes if not n.users}
        assert cache.bytes_of_marks == sum(n.mark.nbytes for n in nodes if n.mark is not None) <= cache.mark_bytes
        inner, outer = (set(marks) for marks in cache._marks)
        assert inner == {n for n in nodes if n.mark is not None and len(n.children) == 1}
        assert outer == {n for n in nodes if n.mark is not None and len(n.children) != 1}
        assert all(n.parent.children[n.ids] is n for n in nodes)
    tickets = {s.ticket for s in running} | {s.ticket for queue in scheduler.turns.waiting.values() for s in queue}
    assert tickets | {s.ticket for s in engine._submitted} == set(engine._sequences)


def check_empty(engine: Engine) -> None:
    """Nothing is left of any request but what the cache keeps."""
    check(engine)
    s = engine.stats()
    assert s.running == s.waiting == 0 and s.free_blocks + s.cached_blocks == s.blocks
    assert not engine.scheduler.turns._served and not engine.scheduler.turns._present
