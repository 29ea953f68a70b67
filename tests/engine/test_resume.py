"""After a crash a request goes on from its log: nothing is computed twice that was given out, and the answer is the uninterrupted one."""
from __future__ import annotations

from pathlib import Path

import pytest

from fathom.engine import Engine, Output, Request, Sampling
from fathom.engine.journal import FileJournal
from fathom.errors import UserError
from fathom.model import Transformer
from tests.engine.models import GREEDY, check_empty, cold, make_engine, same, tokens
from tests.engine.test_batching import OnlyEven, StopAfter


def journal(folder: Path) -> FileJournal:
    return FileJournal(folder, model="tiny")


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(1.2, seed=3)])
def test_an_interrupted_answer_goes_on(model: Transformer, kernels: str, tmp_path: Path, sampling: Sampling) -> None:
    """Killed three times, at some token each; the journal's folder is all that is left. Nobody's answer differs, nobody loses a token."""
    request = Request(tokens(1, 40), 30, sampling, id="r1", top_logprobs=2)
    expected, before = cold(model, request), 0
    for steps in (9, 1, 12):
        log = journal(tmp_path)
        engine = make_engine(model, journal=log)
        ticket = engine.submit(request)
        for _ in range(steps):
            engine.step()
        given = [ticket._arrived.get() for _ in range(ticket.usage.output)]
        same(given, expected[: len(given)], kernels)
        assert len(given) > before
        before = len(given)
        log._claim.close()  # the process is gone: its claim on the folder ends, nothing is flushed or closed
    log = journal(tmp_path)
    engine = make_engine(model, journal=log)
    same(list(engine.submit(request)), expected, kernels)
    assert engine.stats().step_tokens == 40 + 30 - 1
    computed = engine.stats().step_tokens
    same(list(engine.submit(request)), expected, kernels)
    assert engine.stats().step_tokens == computed, "a finished answer is given again from its log"
    check_empty(engine)
    log.close()


def test_constraint_and_stop_follow_the_log(model: Transformer, tmp_path: Path) -> None:
    def ask(engine: Engine) -> list[Output]:
        request = Request(tokens(1, 20), 20, Sampling(1.5, seed=1), id="r", constraint=OnlyEven(99), stop=StopAfter(15))
        ticket = engine.submit(request)
        if engine.journal is logs[0]:
            for _ in range(8):
                engine.step()
            return []
        return list(ticket)

    logs = [journal(tmp_path)]
    ask(make_engine(model, journal=logs[0]))
    logs[0].close()
    logs.append(journal(tmp_path))
    outputs = ask(make_engine(model, journal=logs[1]))
    assert len(outputs) == 15 and outputs[-1].finish_reason == "stop" and all(o.token_id % 2 == 0 for o in outputs[1:])
    logs[1].close()


def test_a_cancelled_answer_can_be_resumed_and_an_id_is_one_request(model: Transformer, kernels: str, tmp_path: Path) -> None:
    log = journal(tmp_path)
    engine = make_engine(model, journal=log)
    request = Request(tokens(1, 40), 30, GREEDY, id="r")
    first = engine.submit(request)
    with pytest.raises(UserError, match="running"):
        engine.submit(request)
    for _ in range(5):
        engine.step()
    first.cancel()
    engine.step()
    assert list(first)[-1].finish_reason == "aborted"
    with pytest.raises(UserError, match="different request"):
        engine.submit(Request(tokens(2, 40), 30, GREEDY, id="r"))
    same(list(engine.submit(request)), cold(model, request), kernels)
    check_empty(engine)
    log.close()


def test_what_cannot_be_logged_is_not_given_out(model: Transformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = journal(tmp_path)
    engine = make_engine(model, journal=log)
    logged, free = engine.submit(Request(tokens(1, 4), 30, GREEDY, id="r")), engine.submit(Request(tokens(2, 4), 30, GREEDY))
    for _ in range(5):
        engine.step()

    def full() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(log, "commit", full)
    outputs = list(logged)
    assert len(outputs) == 6 and outputs[-1] == Output(-1, 0.0, "insufficient_system_resource")
    assert list(free)[-1].finish_reason == "length"
    check_empty(engine)
    log.close()
