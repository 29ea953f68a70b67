"""Five hundred random conversations: with every kind of hit the logits of every turn are those of a cold run, to the bit.

Under each policy: from memory, while blocks and marks are evicted, and from disk with restarts in between. On the kernels that a user gets.
"""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fathom.engine import Engine, Request, Sampling
from fathom.engine.cache.disk import DiskStore
from tests.engine.models import BLOCK, CONFIG, GREEDY, check, check_empty, make_engine, make_model, tokens, watch
from tests.ops.native_isas import available

pytestmark = [pytest.mark.check, pytest.mark.timeout(1500), pytest.mark.skipif(not available(), reason="needs the native kernels")]
POLICIES = {"all": BLOCK, "every": 3 * BLOCK, "none": 0}
TALKS = 56  # of each policy and place: 504
GROUP = 4  # conversations that take turns


Watched = tuple[Engine, dict[Request, dict[int, bytes]]]  # and digests of its logits


@pytest.fixture(scope="module")
def cold() -> Watched:
    """Computes every prompt whole."""
    engine = make_engine(make_model("native"), prefix_cache=False, chunk=4096, sequences=1)
    return engine, watch(engine)


def engines(place: str, every: int, folder: Path) -> Iterator[Watched]:
    """An engine for each group of conversations: the same one, or, on disk, each time a fresh one."""
    model = make_model("native")
    if place == "disk":
        for _ in range(0, TALKS, GROUP):
            with DiskStore(folder, budget_bytes=4 << 20, keep_free_bytes=0) as store:
                engine = make_engine(model, mark_every=every, store=store)
                engine.scheduler.blocks.count = 40
                yield engine, watch(engine)
        return
    engine = make_engine(model, mark_every=every)
    if place == "evicted":
        engine.scheduler.blocks.count = 40
        engine.cache.mark_bytes = 20 * 4 * (CONFIG.sliding_window - 1) * CONFIG.head_dim
    seen = watch(engine)
    for _ in range(0, TALKS, GROUP):
        yield engine, seen


@pytest.mark.parametrize("place", ["memory", "evicted", "disk"])
@pytest.mark.parametrize("every", POLICIES.values(), ids=POLICIES)
def test_every_turn(place: str, every: int, cold: Watched, tmp_path: Path) -> None:
    random, turns, spared = np.random.default_rng(every + len(place)), 0, 0
    for engine, seen in engines(place, every, tmp_path):
        talks = [tokens(int(random.integers(6)), int(random.integers(5, 120))) for _ in range(GROUP)]  # some begin alike
        for _ in range(int(random.integers(2, 6))):
            asked = []
            for talk in talks:
                said = tuple(random.integers(0, CONFIG.vocab_size, int(random.integers(1, 30))).tolist())
                sampling = GREEDY if random.random() < 0.5 else Sampling(0.9, seed=int(random.integers(1 << 30)))
                asked.append(Request((talk + said)[:400], int(random.integers(1, 24)), sampling, top_logprobs=20))
            tickets = [engine.submit(request) for request in asked]
            while engine.step():
                check(engine)
            for i, (request, ticket) in enumerate(zip(asked, tickets, strict=True)):
                outputs = list(ticket)
                assert outputs == list(cold[0].generate(request))
                assert seen[request] == cold[1][request], "other logits"
                talks[i] = request.prompt + tuple(o.token_id for o in outputs)
                spared, turns = spared + ticket.usage.hit, turns + 1
        check_empty(engine)
    assert turns > 3 * TALKS / 2 and spared > 20 * turns
