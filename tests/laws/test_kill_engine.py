"""Killed at any moment, an engine with a journal goes on where its log ends, and the answers are those of an undisturbed run.

Also the law that metering stands on: what was handed out is counted, and what is counted is logged, however a request ends.
"""
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fathom.engine import Output, Request, Sampling
from fathom.engine.journal import DifferentRequest, FileJournal
from fathom.model import Transformer
from tests.engine.models import GREEDY, KERNELS, check_empty, cold, make_engine, make_model, same, tokens
from tests.laws import killed_engine

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=KERNELS)
def kernels(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(kernels: str) -> Transformer:
    return make_model(kernels, agreeing=True)


def killed(folder: Path, kernels: str, speculate: str, kills: int) -> tuple[list[list[Output]], int]:
    command = [sys.executable, str(Path(killed_engine.__file__)), str(folder), kernels, speculate, str(kills)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=290)
    assert done.returncode == 0, done.stdout + done.stderr
    lines, cut = done.stdout.splitlines()
    (folder / "answers").write_text("".join(said + "\n" for answer in json.loads(lines) for said in answer))
    return killed_engine.told(folder / "answers"), int(cut)


@pytest.mark.parametrize("speculate", ["off", "always"])
def test_killed_at_random_moments_the_answers_are_the_same(model: Transformer, kernels: str, speculate: str, tmp_path: Path) -> None:
    found, cut = killed(tmp_path, kernels, speculate, 5)
    assert cut >= 4
    for got, request in zip(found, killed_engine.requests(), strict=True):
        same(got, cold(model, request, got), kernels)


@pytest.mark.check
@pytest.mark.parametrize("speculate", ["off", "always"])
def test_killed_many_times_more(model: Transformer, kernels: str, speculate: str, tmp_path: Path) -> None:
    found, cut = killed(tmp_path, kernels, speculate, 25)
    assert cut >= 15
    for got, request in zip(found, killed_engine.requests(), strict=True):
        same(got, cold(model, request, got), kernels)


class Broken:
    """A stop that fails at its n-th token, or a constraint that does."""

    def __init__(self, n: int) -> None:
        self.left = n

    def mask(self) -> None:
        return None

    def accept(self, token_id: int) -> bool:
        self.left -= 1
        if not self.left:
            raise RuntimeError("a rule that fails")
        return False

    def rollback(self, count: int) -> None:
        raise AssertionError("nothing is taken back")


ENDS = {"length": {}, "stop": {"stop_ids": frozenset(range(0, 64, 9))}, "constraint fails": {"constraint": 5}, "stop fails": {"stop": 5},
        "cancelled": {}, "disk full": {}}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("speculate", ["off", "always"])
def test_what_is_handed_out_is_counted_and_what_is_counted_is_logged(model: Transformer, kernels: str, end: str, speculate: str, tmp_path: Path,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the same request, undisturbed, goes on from the log to the answer of a cold run."""
    plain = Request(tokens(3, 40), 30, Sampling(0.9, seed=1), id="r", stop_ids=ENDS[end].get("stop_ids", frozenset()))
    rules = {name: Broken(n) for name, n in ENDS[end].items() if name != "stop_ids"}
    journal = FileJournal(tmp_path, model="m")
    engine = make_engine(model, journal=journal, speculate=speculate)
    ticket = engine.submit(Request(plain.prompt, plain.max_tokens, plain.sampling, plain.stop_ids, plain.id, **rules))
    heard = []
    for output in ticket:
        heard.append(output)
        if len(heard) == 8:
            if end == "cancelled":
                ticket.cancel()
            if end == "disk full":
                monkeypatch.setattr(os, "pwrite", refuse)
    monkeypatch.undo()
    check_empty(engine)
    seen = sum(output.token_id >= 0 for output in heard)
    assert 0 < seen <= ticket.usage.output <= len(journal.read("r").outputs)
    if end in ("length", "stop"):
        assert seen == ticket.usage.output == len(journal.read("r").outputs)
    else:
        assert heard[-1] == Output(-1, 0.0, "aborted" if end == "cancelled" else "insufficient_system_resource")
    again = engine.submit(plain)
    got = list(again)
    same(got, cold(model, plain, got), kernels)
    assert got[:seen] == heard[:seen] and again.usage.output == len(got) == len(journal.read("r").outputs)
    journal.close()


def refuse(*args: object) -> int:
    raise OSError(28, "No space left on device")


def test_a_resumed_answer_computes_no_token_twice(model: Transformer, kernels: str, tmp_path: Path) -> None:
    """What the log has is handed out at once and computed like a prompt; then one step a token."""
    request = Request(tokens(3, 40), 30, GREEDY, id="r")
    for stop in (11, 20, 30):
        journal = FileJournal(tmp_path, model="m")
        engine = make_engine(model, journal=journal)
        heard = len(journal.read("r").outputs) if journal.read("r") else 0
        ticket = engine.submit(request)
        got = []
        for output in ticket:
            got.append(output)
            if len(got) == stop and stop < 30:
                break
        assert engine.stats().step_tokens == 40 + stop - 1 and engine.stats().steps == stop - heard
        engine.close()
        journal.close()
    same(got, cold(model, request, got), kernels)


def test_a_log_longer_than_what_the_engine_can_hold(model: Transformer, tmp_path: Path) -> None:
    """It was written by an engine with more memory. The answer ends where this one's context does, as any answer."""
    request = Request(tokens(3, 40), 60, GREEDY, id="r")
    for blocks, most in ((32, 35), (4, 24), (5, 40)):
        journal = FileJournal(tmp_path, model="m")
        engine = make_engine(model, journal=journal)
        engine.scheduler.blocks.count = blocks
        engine.context = min(engine.context, blocks * model.config.block_size)
        got = []
        for output in engine.generate(request):
            got.append(output)
            if len(got) == most and blocks == 32:
                break
        assert len(got) >= most and (blocks == 32 or got[-1].finish_reason == "length")
        check_empty(engine)
        engine.close()
        journal.close()


def test_another_request_under_the_same_id_is_refused(model: Transformer, tmp_path: Path) -> None:
    journal = FileJournal(tmp_path, model="m")
    engine = make_engine(model, journal=journal)
    list(engine.generate(Request(tokens(3, 40), 5, GREEDY, id="r")))
    with pytest.raises(DifferentRequest):
        engine.submit(Request(tokens(4, 40), 5, GREEDY, id="r"))
    before = engine.stats().step_tokens
    assert len(list(engine.generate(Request(tokens(3, 40), 5, GREEDY, id="r")))) == 5 and engine.stats().step_tokens == before
    check_empty(engine)
    journal.close()
