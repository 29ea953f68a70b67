"""A prefix hit gives what a cold run gives: to the bit on native kernels, to their tolerance on the reference ones.

Random conversations grow, branch, are repeated and share beginnings, several at once; under each policy for what a hit needs beside its
blocks, while blocks and marks are evicted, after preemption, from disk, and after a restart.
"""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fathom.engine import Engine, Output, Request, Sampling
from fathom.engine.cache.disk import DiskStore
from fathom.model import Transformer
from tests.engine.models import BLOCK, CONFIG, GREEDY, KERNELS, check, check_empty, cold, make_engine, make_model, same, tokens

POLICIES = {"all": BLOCK, "every": 3 * BLOCK, "none": 0}
ON_BOTH_KERNELS = pytest.mark.parametrize(("kernels", "every"), [  # those of the reference take ten times as long
    pytest.param(kernels, policy, marks=[pytest.mark.check] if kernels == "reference" and policy != "every" else [])
    for kernels in KERNELS for policy in POLICIES], indirect=True)
REBUILD = CONFIG.num_hidden_layers * (CONFIG.sliding_window - 1)


@pytest.fixture(scope="module", params=KERNELS)
def kernels(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(kernels: str) -> Transformer:
    return make_model(kernels)


@pytest.fixture(scope="module")
def expected(model: Transformer) -> Callable[..., list[Output]]:
    """Cold answers, each computed once; see `cold`."""
    known: dict[Request, list[Output]] = {}
    return lambda request, got=None: known[request] if request in known else known.setdefault(request, cold(model, request, got))


@pytest.fixture
def every(request: pytest.FixtureRequest) -> int:
    return POLICIES[request.param]


class Talk:
    """Conversations as a client holds them: token ids, each turn's answer appended, now and then cut back to an earlier point."""

    def __init__(self, seed: int, longest: int = 24) -> None:
        self.random, self.longest = np.random.default_rng(seed), longest
        self.histories = [tokens(i % 2, 75)[: int(self.random.integers(5, 75))] for i in range(3)]  # some begin alike

    def next(self) -> tuple[int, Request]:
        """Whose turn it is, and the request."""
        i = int(self.random.integers(len(self.histories)))
        history = self.histories[i]
        if self.random.random() < 0.25:
            history = history[: int(self.random.integers(1, len(history) + 1))]
        said = tuple(self.random.integers(0, CONFIG.vocab_size, int(self.random.integers(0, 30))).tolist())
        prompt = (history + said)[:300]
        sampling = GREEDY if self.random.random() < 0.5 else Sampling(0.9, seed=int(self.random.integers(4)))
        return i, Request(prompt, int(self.random.integers(1, self.longest)), sampling, top_logprobs=20)

    def answered(self, i: int, request: Request, outputs: list[Output]) -> None:
        """The client keeps the whole conversation."""
        self.histories[i] = request.prompt + tuple(o.token_id for o in outputs)


def converse(engine: Engine, talk: Talk, turns: int, expected: Callable[..., list[Output]], kernels: str, at_once: int = 3) -> int:
    """Plays turns, several at a time; gives how many tokens the cache spared."""
    spared = 0
    for _ in range(turns):
        asked = [talk.next() for _ in range(int(talk.random.integers(1, at_once + 1)))]
        tickets = [engine.submit(request) for _, request in asked]
        while engine.step():
            check(engine)
        for (i, request), ticket in zip(asked, tickets, strict=True):
            outputs = list(ticket)
            same(outputs, expected(request, outputs), kernels)
            talk.answered(i, request, outputs)
            spared += ticket.usage.hit
    return spared


@ON_BOTH_KERNELS
def test_hits_are_cold_runs(model: Transformer, kernels: str, every: int, expected: Callable) -> None:
    engine = make_engine(model, mark_every=every)
    assert converse(engine, Talk(0), 25, expected, kernels) > 300
    check_empty(engine)


@ON_BOTH_KERNELS
def test_under_eviction(model: Transformer, kernels: str, every: int, expected: Callable) -> None:
    """Blocks for three long conversations at most, marks for five block ends: what is found is often half gone."""
    engine = make_engine(model, mark_every=every)
    engine.scheduler.blocks.count = 50
    mark = sum(4 * (CONFIG.sliding_window - 1) * CONFIG.head_dim for _ in range(5))
    engine.cache.mark_bytes = 5 * mark
    assert converse(engine, Talk(1), 25, expected, kernels) > 100
    check_empty(engine)


@ON_BOTH_KERNELS
def test_after_preemption(model: Transformer, kernels: str, every: int, expected: Callable) -> None:
    """Running answers lose everything and find some of it again."""
    engine = make_engine(model, mark_every=every, sequences=6)
    engine.scheduler.blocks.count = 24
    converse(engine, Talk(2, longest=70), 8, expected, kernels, at_once=6)
    assert engine.stats().preemptions > 0
    check_empty(engine)


@ON_BOTH_KERNELS
def test_from_disk_and_after_a_restart(model: Transformer, kernels: str, every: int, expected: Callable, tmp_path: Path) -> None:
    """Memory keeps next to nothing, or is gone; the disk keeps some."""
    talk, spared, read = Talk(3), 0, 0
    for _ in range(4):
        with DiskStore(tmp_path, budget_bytes=3 << 20, keep_free_bytes=0) as store:
            engine = make_engine(model, mark_every=every, store=store)
            engine.scheduler.blocks.count = 30
            spared += converse(engine, talk, 6, expected, kernels, at_once=1)
            check_empty(engine)
            read += store.stats.hits
    assert spared > 200 and read > 20


def test_damaged_and_foreign_records_change_nothing(model: Transformer, kernels: str, expected: Callable, tmp_path: Path) -> None:
    """A record of other tokens under the right key, one of another model, one that is cut: absent, all of them."""
    request = Request(tokens(5, 150), 8, GREEDY, top_logprobs=20)
    store = Store()
    engine = make_engine(model, store=store)
    same(list(engine.generate(request)), expected(request), kernels)
    assert len(store.records) == 9
    for spoil in (spoil_ids, spoil_parent, spoil_length, spoil_mark):
        spoilt = Store(dict(store.records))
        for key in list(spoilt.records)[4:]:
            spoilt.records[key] = spoil(*spoilt.records[key])
        engine = make_engine(model, store=spoilt)
        ticket = engine.submit(request)
        same(list(ticket), expected(request), kernels)
        assert ticket.usage.hit <= 4 * BLOCK
    other = make_engine(make_model(kernels, 5), store=Store(dict(store.records)))
    ticket = other.submit(request)
    list(ticket)
    assert ticket.usage.hit == 0


class Store:
    """A second tier in memory."""

    def __init__(self, records: dict | None = None) -> None:
        self.records: dict[bytes, tuple[dict, dict[str, torch.Tensor]]] = records or {}

    def put(self, key: bytes, header: dict, named: dict[str, torch.Tensor]) -> None:
        self.records[key] = dict(header), dict(named)

    def get(self, key: bytes) -> tuple[dict, dict[str, torch.Tensor]] | None:
        return self.records.get(key)

    def __contains__(self, key: bytes) -> bool:
        return key in self.records

    def discard(self, key: bytes) -> None:
        self.records.pop(key, None)

    def close(self) -> None:
        pass


def spoil_ids(header: dict, named: dict) -> tuple[dict, dict]:
    return header | {"ids": [(t + 1) % 64 for t in header["ids"]]}, named


def spoil_parent(header: dict, named: dict) -> tuple[dict, dict]:
    return header | {"parent": "00" * 32}, named


def spoil_length(header: dict, named: dict) -> tuple[dict, dict]:
    return header, named | {"block": named["block"][:-1]}


def spoil_mark(header: dict, named: dict) -> tuple[dict, dict]:
    return header, named | {"mark": torch.cat((named["block"], named["block"]))}


def test_a_conversation_computes_only_what_is_new(model: Transformer, kernels: str, expected: Callable) -> None:
    """Twenty turns; every block that was full before is a hit."""
    engine, history = make_engine(model), tokens(8, 9)
    for turn in range(20):
        request = Request(history + tokens(turn, 6), 7, GREEDY, top_logprobs=20)
        before = engine.stats().step_tokens
        ticket = engine.submit(request)
        outputs = list(ticket)
        full = (len(history) - 1) // BLOCK * BLOCK if turn else 0
        assert ticket.usage.hit == full
        assert engine.stats().step_tokens - before == len(request.prompt) - full + len(outputs) - 1
        same(outputs, expected(request, outputs), kernels)
        history = request.prompt + tuple(o.token_id for o in outputs)


def test_without_marks_only_the_last_windows_are_computed_again(model: Transformer) -> None:
    engine = make_engine(model, mark_every=0)
    for hit in (0, 320 - REBUILD):
        ticket = engine.submit(Request(tokens(8, 321), 1, GREEDY))
        list(ticket)
        assert ticket.usage.hit == hit


def test_owners_do_not_share(model: Transformer) -> None:
    engine, hits = make_engine(model), []
    for owner in ("a", "b", "a", "b"):
        ticket = engine.submit(Request(tokens(8, 100), 2, GREEDY, owner=owner))
        list(ticket)
        hits.append(ticket.usage.hit)
    assert hits == [0, 0, 96, 96]


def test_the_law_can_be_broken(model: Transformer, kernels: str, expected: Callable) -> None:
    """A cached block whose content is another's shows; so does a mark."""
    request = Request(tokens(5, 150), 12, GREEDY, top_logprobs=20)
    for spoil in (False, True):
        engine = make_engine(model)
        list(engine.generate(request))
        nodes = engine.cache.nodes()
        if spoil:
            nodes[8].mark.copy_(nodes[7].mark)
        else:
            for b in engine.state.layout:
                if b.per == "block":
                    engine.state.buffers[b.name][nodes[3].block] = engine.state.buffers[b.name][nodes[2].block]
        got = list(engine.generate(request))
        assert max(abs(a.logprob - b.logprob) for a, b in zip(got, expected(request), strict=True)) > 1e-4
