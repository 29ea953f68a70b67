"""What a request gets is the same to the bit, whatever happens around it: strangers, hits, eviction, preemption, guesses.

Here on every instruction set of the native kernels and in both of their precisions, by the logits themselves; the laws with larger loads
(test_prefix_hits.py, test_speculation.py, …) run on the set that a user gets.
"""
from __future__ import annotations

import numpy as np
import pytest

from fathom.engine import Engine, Output, Request, Sampling
from fathom.engine.cache.disk import DiskStore
from fathom.model import Transformer
from tests.engine.models import BLOCK, GREEDY, check, check_empty, make_engine, plain_model, tokens, watch
from tests.ops.native_isas import ALL, on_native

Bits = tuple[list[Output], dict[int, bytes]]
ASKED = [Request(tokens(i % 2, 40 + 17 * i) + tokens(9 + i, 4), 14, Sampling(0.8, seed=i, top_p=0.95) if i % 2 else GREEDY, top_logprobs=20)
         for i in range(6)]


@pytest.fixture(params=[(isa, precision) for precision in ("bf16", "official") for isa in ALL], ids="-".join, scope="module")
def model(request: pytest.FixtureRequest) -> Transformer:
    return on_native(plain_model(agreeing=True), *request.param)


def answers(engine: Engine, wanted: list[Request], strangers: tuple[Request, ...] = ()) -> list[Bits]:
    """Answers and the digests of the logits they were drawn from; strangers come in between, some cancelled after a while."""
    seen, tickets, others = watch(engine), [], []
    for i in range(max(len(wanted), len(strangers))):
        if i < len(strangers):
            others.append(engine.submit(strangers[i]))
        if i < len(wanted):
            tickets.append(engine.submit(wanted[i]))
        engine.step()
        if i % 5 == 4 and strangers:
            others[i // 5].cancel()
    while engine.step():
        check(engine)
    check_empty(engine)
    return [(list(ticket), seen[ticket.request]) for ticket in tickets]


@pytest.fixture(scope="module")
def alone(model: Transformer) -> list[Bits]:
    """Each by an engine of its own that cuts nothing, keeps nothing and guesses nothing."""
    return [answers(make_engine(model, prefix_cache=False, chunk=4096, sequences=1), [request])[0] for request in ASKED]


@pytest.mark.parametrize("number", [0, 3, 5])
def test_among_fifteen_strangers(model: Transformer, alone: list[Bits], number: int) -> None:
    random = np.random.default_rng(number)
    strangers = tuple(Request(tokens(50 + i, int(random.integers(1, 120))), int(random.integers(5, 40)), Sampling(1.0, seed=i), owner=f"owner {i}")
                      for i in range(15))
    for speculate in ("off", "always"):
        engine = make_engine(model, sequences=16, chunk=50, speculate=speculate)
        assert answers(engine, [ASKED[number]], strangers) == [alone[number]]


@pytest.mark.parametrize("every", [BLOCK, 3 * BLOCK, 0])
def test_hits(model: Transformer, alone: list[Bits], every: int) -> None:
    """In memory, with guesses, and under eviction."""
    for speculate, blocks in (("off", 400), ("always", 400), ("off", 24)):
        engine = make_engine(model, mark_every=every, speculate=speculate, sequences=2)
        engine.scheduler.blocks.count = blocks
        for _ in range(2):
            assert answers(engine, ASKED) == alone
        assert engine.stats().hit_tokens > 100


@pytest.mark.parametrize("every", [BLOCK, 0])
def test_hits_on_disk_after_a_restart(model: Transformer, alone: list[Bits], every: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("cache")
    for life in range(3):
        with DiskStore(folder, budget_bytes=64 << 20, keep_free_bytes=0) as store:
            engine = make_engine(model, mark_every=every, store=store, speculate="always" if life == 1 else "off")
            assert answers(engine, ASKED) == alone
            assert not life or (store.stats.hits and engine.stats().hit_tokens > (300 if every else 200))


def test_preemption(model: Transformer, alone: list[Bits]) -> None:
    engine = make_engine(model, sequences=6, chunk=40)
    engine.scheduler.blocks.count = 14
    long = tuple(Request(tokens(70 + i, 30), 90, GREEDY) for i in range(3))
    assert answers(engine, ASKED, long) == alone
    assert engine.stats().preemptions


def test_the_law_can_be_broken(model: Transformer, alone: list[Bits]) -> None:
    """One other token at the beginning shows."""
    other = Request(((ASKED[5].prompt[0] + 1) % 64, *ASKED[5].prompt[1:]), 14, ASKED[5].sampling, top_logprobs=20)
    assert answers(make_engine(model), [other])[0][1] != alone[5][1]
