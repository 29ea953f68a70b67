"""What sequences share while they run: prompts that begin alike, blocks that two finish at once, and which marks are kept for those to come."""
from __future__ import annotations

import pytest

from fathom.engine import Engine, Output, Request, Sampling
from fathom.model import Transformer
from tests.engine.models import BLOCK, CONFIG, GREEDY, check, check_empty, cold, make_engine, run, same, tokens

REBUILD = (CONFIG.num_hidden_layers - 1) * (CONFIG.sliding_window - 1) + max(CONFIG.sliding_window - 1, 4)


def step_through(engine: Engine, wanted: list[Request]) -> list[list[Output]]:
    """All answers, computed together, with every count checked after every step."""
    tickets = [engine.submit(request) for request in wanted]
    while engine.step():
        check(engine)
    return [list(ticket) for ticket in tickets]


@pytest.mark.parametrize("every", [BLOCK, 4 * BLOCK, 0])
@pytest.mark.parametrize("chunk", [512, 64])
def test_prompts_that_begin_alike_are_computed_once_even_if_they_come_at_once(model: Transformer, kernels: str, every: int, chunk: int) -> None:
    """Six of them in one step's time; each computes its own end, and what the policy asks for before it."""
    engine = make_engine(model, sequences=6, chunk=chunk, mark_every=every)
    wanted = [Request(tokens(1, 150) + tokens(10 + i, 3 * i), 3, GREEDY, top_logprobs=5) for i in range(6)]
    for got, request in zip(step_through(engine, wanted), wanted, strict=True):
        same(got, cold(model, request, got), kernels)
    begin = {BLOCK: 144, 4 * BLOCK: 144, 0: 144 - REBUILD}[every]  # where a prompt of 150 tokens goes on after the first
    tails = sum(3 * i for i in range(6))
    assert engine.stats().step_tokens <= 150 + 5 * (150 - begin) + tails + 6 * 2
    assert engine.stats().hit_tokens >= 5 * begin
    check_empty(engine)


def test_others_do_not_wait(model: Transformer) -> None:
    """Neither another owner's prompt, nor one that has no full block in common, nor one whose prompt is scored."""
    engine = make_engine(model, sequences=4, chunk=512)
    prompt = tokens(1, 100)
    for request in (Request(prompt, 2, GREEDY), Request(prompt, 2, GREEDY, owner="other"), Request(prompt[:8] + tokens(2, 60), 2, GREEDY),
                    Request(prompt, 2, GREEDY, prompt_logprobs=True)):
        engine.submit(request)
    engine.step()
    assert all(s.entered for s in engine.scheduler.running) and len(engine.scheduler.running) == 4
    while engine.step():
        check(engine)
    check_empty(engine)


@pytest.mark.parametrize("after", range(1, 5))
def test_whoever_followed_goes_on_alone(model: Transformer, kernels: str, after: int) -> None:
    """The one that computed for all is cancelled in the middle of its prompt."""
    engine = make_engine(model, sequences=3, chunk=30)
    wanted = [Request(tokens(1, 120), 4, GREEDY), Request(tokens(1, 130), 4, Sampling(1.0, seed=1)), Request(tokens(1, 90), 4, GREEDY)]
    tickets = [engine.submit(request) for request in wanted]
    for _ in range(after):
        engine.step()
        check(engine)
    tickets[0].cancel()
    while engine.step():
        check(engine)
    assert list(tickets[0])[-1].finish_reason == "aborted"
    for ticket, request in zip(tickets[1:], wanted[1:], strict=True):
        got = list(ticket)
        same(got, cold(model, request, got), kernels)
    assert engine.stats().step_tokens < 150 + 30
    check_empty(engine)


def test_a_burst_larger_than_the_pool(model: Transformer, kernels: str) -> None:
    """Twelve prompts of eight blocks and a pool of twenty: what they share is there once, so several fit."""
    engine = make_engine(model, sequences=12, chunk=64)
    engine.scheduler.blocks.count = 20
    wanted = [Request(tokens(1, 120) + (i,), 5, GREEDY) for i in range(12)]
    tickets = [engine.submit(request) for request in wanted]
    most = 0
    while engine.step():
        check(engine)
        most = max(most, engine.stats().running)
    assert most > 6
    for ticket, request in zip(tickets, wanted, strict=True):
        got = list(ticket)
        same(got, cold(model, request, got), kernels)
    check_empty(engine)


def test_a_block_that_two_finish_at_once_is_kept_once(model: Transformer) -> None:
    """The same prompt, too short for a hit, answered alike."""
    engine = make_engine(model, sequences=2)
    tickets = [engine.submit(Request(tokens(1, 10), 40, GREEDY)) for _ in range(2)]
    for _ in range(30):
        engine.step()
        check(engine)
    a, b = engine.scheduler.running
    assert len(a.path) == 2 and a.path == b.path and a.blocks[:2].tolist() == b.blocks[:2].tolist()
    assert all(node.users == 2 for node in a.path)
    first, second = (list(ticket) for ticket in tickets)
    assert [o.token_id for o in first] == [o.token_id for o in second]
    check_empty(engine)


def hits(engine: Engine, *prompts: tuple[int, ...]) -> list[int]:
    """What the cache spares each prompt, one after the other."""
    found = []
    for prompt in prompts:
        ticket = engine.submit(Request(prompt, 1, GREEDY))
        list(ticket)
        found.append(ticket.usage.hit)
        check(engine)
    return found


def test_where_prompts_part_a_mark_is_kept(model: Transformer) -> None:
    """Under a policy with marks far apart the second prompt computes something again, the third doesn't."""
    engine = make_engine(model, mark_every=16 * BLOCK)
    stem = tokens(1, 10 * BLOCK + 5)
    assert hits(engine, stem + tokens(2, 60), stem + tokens(3, 60), stem + tokens(4, 60)) == [0, 10 * BLOCK - REBUILD, 10 * BLOCK]


def test_marks_within_a_chain_go_first(model: Transformer) -> None:
    """Room for four marks: three conversations can still be taken up at their ends after each has left many behind."""
    engine = make_engine(model)
    list(engine.generate(Request(tokens(1, 40), 1, GREEDY)))
    engine.cache.mark_bytes = 4 * engine.cache.nodes()[0].mark.nbytes
    ends = [tokens(i, 12 * BLOCK + 1) for i in range(2, 5)]
    assert hits(engine, *ends) == [0, 0, 0]
    assert hits(engine, *ends) == [12 * BLOCK] * 3
    assert sum(node.mark is not None for node in engine.cache.nodes()) == 4


def test_a_generator_that_is_dropped_frees_everything(model: Transformer) -> None:
    """Also in the middle of a step, where another request's receiver held the last reference to it."""
    engine = make_engine(model)
    answer = engine.generate(Request(tokens(0, 50), 30, GREEDY))
    next(answer)
    del answer
    check_empty(engine)
    held = [engine.generate(Request(tokens(1, 50), 30, GREEDY))]
    next(held[0])
    engine.submit(Request(tokens(2, 50), 9, GREEDY), lambda output: held.clear())
    for _ in range(4):
        engine.step()
    assert not held
    while engine.step():
        check(engine)
    check_empty(engine)


def test_a_request_resumed_within_what_is_cached_spares_no_more_than_its_prompt(model: Transformer) -> None:
    """Preempted, it finds its own answer's blocks again; what it was spared at first is what counts."""
    engine = make_engine(model, sequences=4)
    engine.scheduler.blocks.count = 14
    tickets = [engine.submit(Request(tokens(i, 30), 70, GREEDY)) for i in range(4)]
    while engine.step():
        check(engine)
    assert engine.stats().preemptions and all(ticket.usage.hit == 0 for ticket in tickets)
    assert run(engine, []) == []
