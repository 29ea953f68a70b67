"""Many requests at once: each gets what it would get alone; budget, turns, preemption, cancellation, overload."""
from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from fathom.engine import Engine, Output, Overloaded, Request, Sampling, Ticket
from fathom.errors import UserError
from fathom.model import Batch, Transformer
from tests.engine.models import BLOCK, CONFIG, GREEDY, check, check_empty, cold, make_engine, run, same, tokens


def requests(count: int, seed: int = 0) -> list[Request]:
    """Prompts of all lengths, greedy and sampled under different filters."""
    random = np.random.default_rng(seed)
    samplings = (GREEDY, Sampling(1.0, seed=3), Sampling(0.8, top_k=9, seed=4), Sampling(1.3, top_p=0.8, seed=5), Sampling(1.0, min_p=0.1, seed=6))
    return [Request(tokens(seed + i, int(random.integers(1, 120))), int(random.integers(1, 40)), samplings[i % 5], top_logprobs=i % 3)
            for i in range(count)]


def test_sixteen_at_once_get_what_each_gets_alone(model: Transformer, kernels: str) -> None:
    wanted = requests(16)
    engine = make_engine(model, sequences=7)
    for got, request in zip(run(engine, wanted), wanted, strict=True):
        same(got, cold(model, request, got), kernels)
    check_empty(engine)


@pytest.mark.parametrize("place", [0, 3, 11])
def test_another_answer_is_told_from_the_right_one(model: Transformer, kernels: str, place: int) -> None:
    """What these tests compare with, where they hand it the answer that it should be."""
    request = Request(tokens(3, 30), 12, Sampling(0.9, seed=2), top_logprobs=2)
    right = cold(model, request)
    same(right, cold(model, request, right), kernels)
    same(right[:7], cold(model, request, right[:7]), kernels)
    token = right[place]
    for change in ({"token_id": (token.token_id + 1) % CONFIG.vocab_size}, {"logprob": token.logprob - 0.01}, {"finish_reason": "stop"}):
        wrong = [*right[:place], replace(token, **change), *right[place + 1 :]]
        with pytest.raises(AssertionError):
            same(wrong, cold(model, request, wrong), kernels)


def test_a_step_never_exceeds_the_budget_and_every_answer_moves(model: Transformer) -> None:
    """A long prompt comes while others decode: they get a token in each of its steps, and it gets at most its share."""
    engine = make_engine(model, chunk=24, sequences=8)
    short = [engine.submit(Request(tokens(i, 3), 40, GREEDY)) for i in range(4)]
    while not all(t.ready for t in short):
        engine.step()
    long = engine.submit(Request(tokens(9, 200), 2, GREEDY))
    seen: list[tuple[int, int, int]] = []
    real = engine._runner.run

    def watched(works):  # type: ignore[no-untyped-def]
        prompts = [w for w in works if w.seq.pending > 1]
        seen.append((sum(w.size for w in works), sum(w.size for w in prompts), len(works) - len(prompts)))
        return real(works)

    engine._runner.run = watched  # type: ignore[method-assign]
    before = [t.usage.output for t in short]
    for _ in range(10):
        engine.step()
        check(engine)
    assert all(total <= 24 and prompt <= 6 and decoding == 4 for total, prompt, decoding in seen) and any(prompt for _, prompt, _ in seen)
    assert [t.usage.output for t in short] == [n + 10 for n in before] and not long.ready
    run(engine, [])
    while engine.step():
        pass
    check_empty(engine)


def test_more_answers_than_the_budget_take_turns(model: Transformer, kernels: str) -> None:
    wanted = [Request(tokens(i, 2), 12, GREEDY) for i in range(9)]
    engine = make_engine(model, chunk=4, sequences=9)
    for got, request in zip(run(engine, wanted), wanted, strict=True):
        same(got, cold(model, request, got), kernels)
    assert engine.stats().step_tokens <= 4 * engine.stats().steps


def steps_until_done(engine: Engine, wanted: list[Request]) -> list[int]:
    """For each request, the number of the step in which it ended."""
    ends: dict[int, int] = {}
    for i, request in enumerate(wanted):
        engine.submit(request, lambda output, i=i: ends.update({i: engine.scheduler.steps}) if output.finish_reason else None)
    while engine.step():
        pass
    return [ends[i] for i in range(len(wanted))]


@pytest.mark.parametrize("sequences", [64, 16])
def test_equal_requests_end_within_three_times_the_median(model: Transformer, sequences: int) -> None:
    engine = make_engine(model, sequences=sequences, chunk=128)
    ends = steps_until_done(engine, [Request(tokens(i, 30), 8, GREEDY, owner=f"owner {i % 5}") for i in range(64)])
    assert max(ends) <= 3 * np.median(ends)
    check_empty(engine)


def test_an_owner_with_many_requests_does_not_hold_up_another(model: Transformer) -> None:
    engine = make_engine(model, sequences=2, chunk=64)
    crowd = [Request(tokens(i, 40), 6, GREEDY, owner="crowd") for i in range(20)]
    ends = steps_until_done(engine, [*crowd, Request(tokens(99, 40), 6, GREEDY, owner="one")])
    assert sum(end < ends[-1] for end in ends[:-1]) <= 4
    back = steps_until_done(engine, [Request(tokens(200 + i, 40), 6, GREEDY, owner="one" if i % 2 else "crowd") for i in range(20)])
    order = np.argsort(back)
    assert all(abs(sum(i % 2 for i in order[:n]) - n / 2) <= 2 for n in range(1, 21)), "nobody is owed turns from before"


def test_preempted_answers_go_on_as_if_nothing_had_happened(model: Transformer, kernels: str) -> None:
    """Eight answers grow in a pool that holds three of them."""
    wanted = [Request(tokens(i, 20 + i), 70, Sampling(0.9, seed=i) if i % 2 else GREEDY) for i in range(8)]
    for cache in (True, False):
        engine = make_engine(model, sequences=8, prefix_cache=cache)
        shrink(engine, 3 * 6)
        tickets = [engine.submit(request) for request in wanted]
        while engine.step():
            check(engine)
        assert engine.stats().preemptions > 3
        for ticket, request in zip(tickets, wanted, strict=True):
            got = list(ticket)
            same(got, cold(model, request, got), kernels)
        check_empty(engine)


def shrink(engine: Engine, blocks: int) -> None:
    """Leaves the engine that many blocks."""
    engine.scheduler.blocks.count = blocks
    engine.context = min(engine.context, blocks * BLOCK)


def test_what_never_fits_is_refused_and_what_does_not_fit_now_waits(model: Transformer) -> None:
    from fathom.plan.layout import block_bytes, sequence_bytes, state_layout

    layout = state_layout(CONFIG, model.precision)
    engine = make_engine(model, sequences=2, memory=2 * sequence_bytes(layout) + 9 * block_bytes(layout) + 5)
    assert engine.stats().blocks == 9 and engine.context == 9 * BLOCK
    assert engine.state.nbytes == 2 * sequence_bytes(layout) + 9 * block_bytes(layout)
    with pytest.raises(UserError, match="the context is 144 tokens"):
        engine.submit(Request(tokens(0, 144), 1, GREEDY))
    assert len(run(engine, [Request(tokens(0, 143), 500, GREEDY)])[0]) == 1, "the pool ends the answer as a context does"
    first, second = engine.submit(Request(tokens(1, 100), 20, GREEDY)), engine.submit(Request(tokens(2, 100), 20, GREEDY))
    engine.step()
    assert (engine.stats().running, engine.stats().waiting) == (1, 1)
    assert len(list(first)) == len(list(second)) == 20 and engine.stats().preemptions == 0
    with pytest.raises(UserError, match="memory"):
        make_engine(model, sequences=2, memory=sequence_bytes(layout))


def test_cancelling_frees_everything_and_disturbs_nobody(model: Transformer, kernels: str) -> None:
    """Half of the requests are cancelled, each at another moment: waiting, prefilling, decoding, done."""
    wanted, random = requests(20, seed=50), np.random.default_rng(1)
    engine = make_engine(model, sequences=5, chunk=16)
    tickets = [engine.submit(request) for request in wanted]
    doomed = {i: int(random.integers(0, 60)) for i in range(0, 20, 2)}
    for step in range(1000):
        for i, at in doomed.items():
            if at == step:
                tickets[i].cancel()
        if not engine.step():
            break
        check(engine)
    check_empty(engine)
    for i, (ticket, request) in enumerate(zip(tickets, wanted, strict=True)):
        got = list(ticket)
        answered = got
        if got[-1].finish_reason == "aborted":
            assert i in doomed and got[-1].token_id == -1
            answered = got[:-1]
        same(answered, cold(model, request, answered), kernels)
        assert ticket.usage.output == len([o for o in got if o.token_id >= 0])
        ticket.cancel()
    assert any(list_ends(t) for t in tickets) is False
    check_empty(engine)


def list_ends(ticket: Ticket) -> bool:
    """Whether a ticket has more to give than it should."""
    return ticket.ready


def test_a_generator_that_is_left_cancels_its_request(model: Transformer) -> None:
    engine = make_engine(model)
    answer = engine.generate(Request(tokens(0, 50), 30, GREEDY))
    next(answer)
    assert engine.stats().running == 1
    answer.close()
    check_empty(engine)


def test_a_full_queue_is_told(model: Transformer) -> None:
    engine = make_engine(model, sequences=1, waiting=3)
    for i in range(3):
        engine.submit(Request(tokens(i, 5), 5, GREEDY))
    with pytest.raises(Overloaded):
        engine.submit(Request(tokens(4, 5), 5, GREEDY))
    engine.step()
    engine.submit(Request(tokens(4, 5), 5, GREEDY))
    assert engine.drain()
    with pytest.raises(Overloaded):
        engine.submit(Request(tokens(4, 5), 5, GREEDY))
    check_empty(engine)


# --- the thread ---


def test_a_thread_serves_many_threads(model: Transformer, kernels: str) -> None:
    wanted = requests(12, seed=7)
    engine = make_engine(model, sequences=6)
    engine.start()
    got: dict[int, list[Output]] = {}

    def client(i: int) -> None:
        got[i] = list(engine.generate(wanted[i]))

    threads = [threading.Thread(target=client, args=(i,)) for i in range(12)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for i, request in enumerate(wanted):
        same(got[i], cold(model, request, got[i]), kernels)
    assert engine.drain()
    engine.close()
    engine.close()
    check_empty(engine)


def test_callbacks_get_the_outputs_and_a_broken_one_ends_only_its_request(model: Transformer) -> None:
    engine = make_engine(model)
    heard: list[Output] = []

    def broken(output: Output) -> None:
        raise RuntimeError("the loop is closed")

    good = engine.submit(Request(tokens(1, 9), 15, GREEDY), heard.append)
    bad = engine.submit(Request(tokens(2, 9), 15, GREEDY), broken)
    assert list(good) == []
    engine.start()
    assert engine.drain()
    engine.close()
    assert len(heard) == 15 and heard[-1].finish_reason == "length" and good.usage.output == 15
    assert bad.usage.output < 15
    check_empty(engine)


def test_closing_ends_what_is_under_way(model: Transformer) -> None:
    engine = make_engine(model, sequences=1)
    engine.start()
    tickets = [engine.submit(Request(tokens(i, 100), 300, GREEDY)) for i in range(3)]
    first = iter(tickets[0])
    next(first)
    engine.close()
    assert all(list(t)[-1].finish_reason == "aborted" for t in tickets)
    with pytest.raises(Overloaded):
        engine.submit(Request((1,), 1))
    check_empty(engine)


def test_a_failure_ends_all_requests_and_is_kept(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine(model)
    failed = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda arguments: failed.set())
    monkeypatch.setattr(engine._runner, "run", None)
    tickets = [engine.submit(Request(tokens(i, 5), 5)) for i in range(2)]
    engine.start()
    assert [o.finish_reason for t in tickets for o in t] == ["insufficient_system_resource"] * 2
    assert failed.wait(60) and isinstance(engine.failure, TypeError)
    with pytest.raises(RuntimeError, match="failed"):
        engine.submit(Request((1,), 1))


# --- what comes with the tokens ---


def test_log_probabilities_are_the_models(model: Transformer, kernels: str) -> None:
    prompt = tokens(5, 300)
    with torch.no_grad():
        p = model.logits(model(Batch.pack([torch.tensor(prompt)])).hidden).log_softmax(-1)
    engine = make_engine(model)
    ticket = engine.submit(Request(prompt, 3, GREEDY, top_logprobs=4, prompt_logprobs=True))
    outputs = list(ticket)
    assert ticket.prompt_logprobs is not None and len(ticket.prompt_logprobs) == 299
    for i, (logprob, top) in enumerate(ticket.prompt_logprobs):
        assert logprob == pytest.approx(float(p[i, prompt[i + 1]]), abs=1e-4)
        values, ids = p[i].sort(descending=True, stable=True)
        assert [t for t, _ in top] == ids[:4].tolist() or kernels == "reference"
        assert [v for _, v in top] == pytest.approx(values[:4].tolist(), abs=1e-4)
    assert outputs[0].top[0] == (outputs[0].token_id, outputs[0].logprob)
    again = engine.submit(Request(prompt, 0, prompt_logprobs=True))
    assert [o.finish_reason for o in again] == ["length"] and again.usage.output == again.usage.hit == 0
    assert [v for v, _ in again.prompt_logprobs or []] == pytest.approx([v for v, _ in ticket.prompt_logprobs], abs=1e-4)
    check_empty(engine)


class OnlyEven:
    """Even tokens, and after `count` of them nothing."""

    def __init__(self, count: int, fails_at: int = -1) -> None:
        self.taken: list[int] = []
        self.count, self.fails_at = count, fails_at

    def mask(self) -> np.ndarray | None:
        if len(self.taken) == self.fails_at:
            raise RuntimeError("a grammar that fails")
        if not self.taken:
            return None
        words = np.full(-(-CONFIG.vocab_size // 32), 0x55555555, np.uint32)
        return words if len(self.taken) < self.count else np.zeros_like(words)

    def accept(self, token_id: int) -> None:
        assert not self.taken or token_id % 2 == 0
        self.taken.append(token_id)

    def rollback(self, count: int) -> None:
        raise AssertionError("nothing is taken back")


@pytest.mark.parametrize("speculate", ["off", "always"])
def test_a_constraint_rules_the_choice_and_no_other_request(agreeing: Transformer, kernels: str, speculate: str) -> None:
    engine = make_engine(agreeing, speculate=speculate)
    free = Request(tokens(1, 20), 25, Sampling(1.0, seed=2))
    constraint, broken = OnlyEven(9), OnlyEven(99, fails_at=5)
    ruled = Request(tokens(2, 20), 25, Sampling(1.5, seed=2), constraint=constraint)
    failing = Request(tokens(3, 20), 25, Sampling(1.5, seed=2), constraint=broken)
    got, only, failed = run(engine, [free, ruled, failing])
    same(got, cold(agreeing, free, got), kernels)
    assert [o.token_id for o in only] == [*constraint.taken, -1] and len(constraint.taken) == 9 and only[-1].finish_reason == "stop"
    assert all(t % 2 == 0 for t in constraint.taken[1:])
    assert len(failed) == 6 and failed[-1].finish_reason == "insufficient_system_resource"
    check_empty(engine)


class StopAfter:
    """Ends an answer with its n-th token."""

    def __init__(self, n: int) -> None:
        self.left = n

    def accept(self, token_id: int) -> bool:
        assert self.left > 0, "asked after the end"
        self.left -= 1
        return not self.left


@pytest.mark.parametrize("speculate", ["off", "always"])
def test_stop_ends_an_answer_with_the_token_it_was_told(agreeing: Transformer, kernels: str, speculate: str) -> None:
    prompt = tokens(1, 20)
    whole = cold(agreeing, Request(prompt, 30, GREEDY))
    for n in (1, 2, 3, 10, 11):
        got = list(make_engine(agreeing, speculate=speculate).generate(Request(prompt, 30, GREEDY, stop=StopAfter(n))))
        assert [o.token_id for o in got] == [o.token_id for o in whole[:n]] and got[-1].finish_reason == "stop"


@pytest.mark.parametrize(("bad", "field"), [
    (Request((1,), 1, top_logprobs=21), "top_logprobs"), (Request((1,), 1, top_logprobs=-1), "top_logprobs"), (Request((1,), 0), "max_tokens"),
    (Request((1,), -1, prompt_logprobs=True), "max_tokens"), (Request((1, -1), 1), "prompt"),
])
def test_refused_at_once(model: Transformer, bad: Request, field: str) -> None:
    with pytest.raises(UserError) as e:
        make_engine(model).submit(bad)
    assert e.value.field == field


@pytest.mark.parametrize(("options", "field"), [
    ({"chunk": 0}, "chunk"), ({"sequences": 0}, "sequences"), ({"waiting": 0}, "waiting"), ({"mark_every": 7}, "mark_every"),
    ({"mark_every": -16}, "mark_every"), ({"speculate": "sometimes"}, "speculate"),
])
def test_options_out_of_range(model: Transformer, options: dict, field: str) -> None:
    with pytest.raises(UserError) as e:
        Engine(model, **options)
    assert e.value.field == field
