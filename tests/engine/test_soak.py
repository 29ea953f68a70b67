"""Random load of everything at once, with every count checked after every step."""
from __future__ import annotations

import numpy as np
import pytest

from fathom.engine import Overloaded, Request, Sampling, Ticket
from fathom.model import Transformer
from tests.engine.models import BLOCK, GREEDY, check, check_empty, cold, make_engine, same, tokens

SHORT, LONG = {"reference": 250, "native": 500}, {"reference": 4000, "native": 8000}  # steps; the former's take many times as long


@pytest.mark.parametrize("options", [
    {"speculate": "always"}, {"mark_every": 2 * BLOCK, "speculate": "auto"}, {"mark_every": 0, "chunk": 24}, {"prefix_cache": False, "chunk": 7},
])
@pytest.mark.parametrize("long", [False, pytest.param(True, marks=[pytest.mark.check, pytest.mark.timeout(900)])], ids=["short", "long"])
def test_random_load(agreeing: Transformer, kernels: str, options: dict, long: bool) -> None:
    steps = (LONG if long else SHORT)[kernels]
    random = np.random.default_rng(len(repr(options)))
    engine = make_engine(agreeing, sequences=5, waiting=12, **options)
    engine.scheduler.blocks.count = 40
    shared = [tokens(i, 200) for i in range(3)]
    open_tickets: list[Ticket] = []
    finished: list[tuple[Request, list]] = []
    for _ in range(steps):
        if random.random() < 0.35:
            head = shared[int(random.integers(3))][: int(random.integers(0, 200))]
            request = Request(head + tokens(int(random.integers(50)), int(random.integers(1, 40))), int(random.integers(1, 60)),
                              GREEDY if random.random() < 0.5 else Sampling(1.0, seed=int(random.integers(9)), top_p=0.9),
                              frozenset({int(random.integers(64))}), owner=f"owner {random.integers(3)}", top_logprobs=int(random.integers(4)),
                              prompt_logprobs=random.random() < 0.1, speculate=random.random() < 0.8)
            try:
                open_tickets.append(engine.submit(request))
            except Overloaded:
                assert engine.stats().waiting >= 12  # and those that were preempted
        if open_tickets and random.random() < 0.05:
            open_tickets[int(random.integers(len(open_tickets)))].cancel()
        engine.step()
        check(engine)
        for ticket in [t for t in open_tickets if t not in engine._sequences]:
            open_tickets.remove(ticket)
            finished.append((ticket.request, list(ticket)))
    while engine.step():
        check(engine)
    check_empty(engine)
    assert len(finished) > steps / 20 and {o.finish_reason for _, outputs in finished for o in outputs} >= {None, "stop", "length", "aborted"}
    for request, outputs in finished[:: max(1, len(finished) // 25)]:
        if outputs[-1].finish_reason == "aborted":
            outputs = outputs[:-1]
        same(outputs, cold(agreeing, request, outputs), kernels)
