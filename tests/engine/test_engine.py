"""One sequence: greedy and sampled tokens, where generation ends, what is refused."""
from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fathom.engine import Engine, Request, Sampling, pick
from fathom.errors import UserError
from fathom.model import Batch, Transformer
from tests.oracle import randomise, tiny_config

CONFIG = tiny_config(max_position_embeddings=90)
PROMPT = tuple(range(7, 47))


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(randomise(Transformer(CONFIG), 4), chunk=16)


def greedy_by_whole_forward(model: Transformer, ids: list[int], count: int) -> list[int]:
    for _ in range(count):
        with torch.no_grad():
            ids = [*ids, int(model.logits(model(Batch.pack([torch.tensor(ids)])).hidden[-1]).argmax())]
    return ids[-count:]


def test_greedy_equals_recomputing_everything(engine: Engine) -> None:
    outputs = list(engine.generate(Request(PROMPT, 25, Sampling(temperature=0))))
    assert [o.token_id for o in outputs] == greedy_by_whole_forward(engine.model, list(PROMPT), 25)
    assert [o.finish_reason for o in outputs] == [None] * 24 + ["length"]


def test_the_chunk_does_not_show(engine: Engine) -> None:
    request = Request(PROMPT, 20, Sampling(temperature=0.9, seed=3))
    assert list(Engine(engine.model, chunk=1000).generate(request))[-1].token_id == list(engine.generate(request))[-1].token_id


def test_seed_decides_and_positions_are_independent(engine: Engine) -> None:
    def ids(seed: int, prompt: tuple[int, ...] = PROMPT, n: int = 12) -> list[int]:
        return [o.token_id for o in engine.generate(Request(prompt, n, Sampling(temperature=1.5, seed=seed)))]

    assert ids(1) == ids(1) != ids(2)
    first = ids(1)
    assert ids(1, (*PROMPT, *first[:5]), 7) == first[5:], "resuming after five tokens must go on the same way"


def test_stop_token_ends_and_is_given_out(engine: Engine) -> None:
    third = [o.token_id for o in engine.generate(Request(PROMPT, 9, Sampling(temperature=0)))][2]
    outputs = list(engine.generate(Request(PROMPT, 9, Sampling(temperature=0), frozenset({third}))))
    assert outputs[-1].token_id == third and outputs[-1].finish_reason == "stop" and len(outputs) <= 3


def test_the_context_ends_it(engine: Engine) -> None:
    outputs = list(engine.generate(Request(PROMPT, 500, Sampling(temperature=0))))
    assert len(outputs) == CONFIG.max_position_embeddings - len(PROMPT) and outputs[-1].finish_reason == "length"


def test_logprobs_are_those_of_the_model(engine: Engine) -> None:
    with torch.no_grad():
        all_logits = engine.model.logits(engine.model(Batch.pack([torch.tensor(PROMPT)])).hidden).log_softmax(-1)
    expected = [float(all_logits[i, PROMPT[i + 1]]) for i in range(len(PROMPT) - 1)]
    assert engine.prompt_logprobs(PROMPT) == pytest.approx(expected, abs=1e-5)
    first = next(engine.generate(Request(PROMPT, 1, Sampling(temperature=0))))
    assert first.logprob == pytest.approx(float(all_logits[-1, first.token_id]), abs=1e-5)


@pytest.mark.parametrize(("request_", "field"), [
    (Request((), 5), "prompt"), (Request((1, 999), 5), "prompt"), (Request((1,), 0), "max_tokens"), (Request(tuple([1] * 90), 5), "prompt"),
])
def test_refused(engine: Engine, request_: Request, field: str) -> None:
    with pytest.raises(UserError) as e:
        next(engine.generate(request_))
    assert e.value.field == field and e.value.remedy + e.value.allowed


@pytest.mark.parametrize("bad", [{"temperature": 2.1}, {"temperature": -1}, {"top_p": 0}, {"top_p": 1.1}, {"top_k": -1}, {"min_p": 2}])
def test_sampling_out_of_range(bad: dict) -> None:
    with pytest.raises(UserError):
        Sampling(**bad)


def test_filters() -> None:
    logits = torch.tensor([0.0, 3.0, 2.0, 3.0, -9.0])

    def possible(**settings: object) -> set[int]:
        return {pick(logits, Sampling(seed=s, **settings), 0) for s in range(300)}

    assert possible(temperature=0) == {1}, "the tie goes to the lower id"
    assert possible(temperature=2.0, top_k=1) == {1}
    assert possible(top_k=2) == {1, 3}
    assert possible(top_p=0.5) == {1, 3}
    assert possible(min_p=0.9) == {1, 3}
    assert possible(min_p=0.3, temperature=1.0) == {1, 2, 3}
    assert possible(temperature=2.0) >= {0, 1, 2, 3}


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=6), st.floats(0.3, 2))
def test_frequencies_follow_the_softmax(values: list[float], temperature: float) -> None:
    logits = torch.tensor(values)
    p = (logits.double() / temperature).softmax(0)
    n = 400
    counts = torch.bincount(torch.tensor([pick(logits, Sampling(temperature, seed=7), i) for i in range(n)]), minlength=len(values))
    assert ((counts / n - p).abs() < 5 * (p * (1 - p) / n).sqrt() + 0.01).all()
