"""Guessing ahead changes the speed and nothing else: greedy and sampled answers are those without guesses, token for token."""
from __future__ import annotations

import numpy as np
import pytest

from fathom.engine import Request, Sampling
from fathom.model import Transformer
from tests.engine.models import BLOCK, CONFIG, GREEDY, KERNELS, check, check_empty, cold, make_engine, make_model, run, same, tokens
from tests.oracle import tiny_config


@pytest.fixture(scope="module", params=KERNELS)
def kernels(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def agreeing(kernels: str) -> Transformer:
    return make_model(kernels, agreeing=True)


def requests(count: int) -> list[Request]:
    """All lengths, so that drafts end inside and at the ends of windows, blocks and answers; every other one sampled."""
    random = np.random.default_rng(count)
    return [Request(tokens(100 + i, int(random.integers(1, 60))), int(random.integers(1, 40)),
                    Sampling(0.7, seed=i, top_p=0.95) if i % 2 else GREEDY, top_logprobs=i % 3, speculate=i % 7 != 6) for i in range(count)]


@pytest.mark.parametrize("count", [24, pytest.param(200, marks=pytest.mark.check)])
def test_speculative_answers_are_plain_answers(agreeing: Transformer, kernels: str, count: int) -> None:
    wanted = requests(count)
    engine = make_engine(agreeing, speculate="always", sequences=8)
    for got, request in zip(run(engine, wanted), wanted, strict=True):
        same(got, cold(agreeing, request, got), kernels)
    stats = engine.stats()
    assert 0.3 * stats.drafted < stats.accepted < stats.drafted, "both right and wrong guesses took part"
    check_empty(engine)


def test_with_a_block_that_guesses_at_random(kernels: str) -> None:
    model = make_model(kernels, 9)
    wanted = requests(12)
    engine = make_engine(model, speculate="always")
    for got, request in zip(run(engine, wanted), wanted, strict=True):
        same(got, cold(model, request, got), kernels)
    assert engine.stats().accepted < 0.2 * engine.stats().drafted


@pytest.mark.parametrize("ratio", [4, 16])
def test_with_a_block_that_compresses(kernels: str, ratio: int) -> None:
    """An MTP block with entries of its own; after a hit it doesn't guess, since the entries aren't cached."""
    config = tiny_config(num_hidden_layers=2, compress_ratios=(4, 16, ratio), hash_routed=(True, False), num_nextn_predict_layers=1,
                         max_position_embeddings=512)
    model = make_model(kernels, 3, agreeing=True, config=config)
    engine = make_engine(model, speculate="always")
    first = Request(tokens(1, 70), 40, GREEDY)
    answer = run(engine, [first])[0]
    same(answer, cold(model, first, answer), kernels)
    assert engine.stats().accepted > 3
    drafted = engine.stats().drafted
    second = Request(first.prompt + tuple(o.token_id for o in answer) + tokens(2, 5), 20, GREEDY)
    answer = run(engine, [second])[0]
    same(answer, cold(model, second, answer), kernels)
    assert engine.stats().drafted == drafted and engine.stats().hit_tokens > 90


@pytest.mark.parametrize(("kernels", "every"), [
    ("reference", 3 * BLOCK), pytest.param("reference", BLOCK, marks=pytest.mark.check), pytest.param("reference", 0, marks=pytest.mark.check),
    ("native", BLOCK), ("native", 3 * BLOCK), ("native", 0),
], indirect=["kernels"])
def test_together_with_hits_eviction_and_preemption(agreeing: Transformer, kernels: str, every: int) -> None:
    engine = make_engine(agreeing, speculate="always", mark_every=every, sequences=6, chunk=32)
    engine.scheduler.blocks.count = 24
    random, histories = np.random.default_rng(3), [tokens(i, 20) for i in range(5)]
    for _ in range(5):
        wanted = [Request((h + tokens(int(random.integers(99)), int(random.integers(1, 20))))[:200], int(random.integers(1, 70)),
                          GREEDY if random.random() < 0.5 else Sampling(0.7, seed=1)) for h in histories]
        tickets = [engine.submit(request) for request in wanted]
        while engine.step():
            check(engine)
        for i, (ticket, request) in enumerate(zip(tickets, wanted, strict=True)):
            outputs = list(ticket)
            same(outputs, cold(agreeing, request, outputs), kernels)
            histories[i] = request.prompt + tuple(o.token_id for o in outputs)
    stats = engine.stats()
    assert stats.preemptions and stats.hit_tokens and stats.accepted
    check_empty(engine)


def test_a_hit_goes_on_guessing_as_well_as_before(agreeing: Transformer) -> None:
    """What the MTP block remembers is part of the mark: its guesses after a hit are those of an uninterrupted answer."""
    request = Request(tokens(1, 64), 60, GREEDY)

    def guesses(warm: bool) -> list[tuple[int, ...]]:
        engine = make_engine(agreeing, speculate="always")
        if warm:
            run(engine, [Request(request.prompt, 1, GREEDY)])
        ticket, seen = engine.submit(request), []
        while engine.step():
            seen += [s.drafts for s in engine.scheduler.running]
        assert ticket.usage.hit == (48 if warm else 0)
        return seen

    plain, after = guesses(False), guesses(True)
    assert after[-50:] == plain[-50:]


def test_it_turns_itself_off_and_looks_again(kernels: str) -> None:
    """Guesses at random are hardly ever right: after a few the engine stops making them; the answer doesn't notice."""
    model = make_model(kernels, 9)
    engine = make_engine(model, speculate="auto")
    request = Request(tokens(3, 30), 450, GREEDY)
    answer = run(engine, [request])[0]
    same(answer, cold(model, request, answer), kernels)
    assert 8 <= engine.stats().drafted < 60
    assert CONFIG.num_nextn_predict_layers == 1
