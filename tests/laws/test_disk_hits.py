"""A hit on disk gives what a cold run gives, whatever has happened to the files: damage, exchange, eviction, a full disk, other settings.

Every engine here begins with empty memory, so all that it doesn't compute comes from files. (tests/engine/test_disk.py has the store alone;
test_prefix_hits.py has conversations.)
"""
from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from fathom.engine import Output, Request, Sampling
from fathom.engine.cache.disk import DiskStore
from fathom.model import Transformer
from tests.engine.models import BLOCK, GREEDY, KERNELS, check_empty, cold, make_engine, make_model, run, same, tokens

POLICIES = {"all": BLOCK, "every": 3 * BLOCK, "none": 0}
STEM = tokens(1, 150)
ASKED = [Request(STEM + tokens(10 + i, 9 + 13 * i), 12, GREEDY if i % 2 else Sampling(0.9, seed=i), owner="ab"[i % 2], top_logprobs=20)
         for i in range(4)]


@pytest.fixture(scope="module", params=KERNELS)
def kernels(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(kernels: str) -> Transformer:
    return make_model(kernels)


@pytest.fixture(scope="module")
def expected(model: Transformer) -> list[list[Output]]:
    return [cold(model, request) for request in ASKED]


@pytest.fixture(params=POLICIES)
def every(request: pytest.FixtureRequest) -> int:
    return POLICIES[request.param]


def opened(folder: Path, budget: int = 64 << 20) -> DiskStore:
    return DiskStore(folder, budget_bytes=budget, keep_free_bytes=0)


def answers(model: Transformer, folder: Path, **options: object) -> tuple[list[list[Output]], int, DiskStore]:
    """All requests, one after the other, by an engine that has only the disk; how many tokens it spared; the store, closed."""
    with opened(folder) as store:
        engine = make_engine(model, store=store, **options)
        tickets = [engine.submit(request) for request in ASKED]
        found = [list(ticket) for ticket in tickets]
        check_empty(engine)
        return found, sum(ticket.usage.hit for ticket in tickets), store


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.record"))


def alike(found: list[list[Output]], expected: list[list[Output]], kernels: str) -> None:
    for got, wanted in zip(found, expected, strict=True):
        same(got, wanted, kernels)


def test_after_a_restart_only_the_ends_are_computed(model: Transformer, kernels: str, every: int, expected: list, tmp_path: Path) -> None:
    alike(answers(model, tmp_path, mark_every=every, sequences=1)[0], expected, kernels)
    found, spared, store = answers(model, tmp_path, mark_every=every, sequences=1)
    alike(found, expected, kernels)
    least = {"all": 150, "every": 96, "none": 80}[next(name for name, value in POLICIES.items() if value == every)]
    assert store.stats.hits >= 2 * (150 // BLOCK) and spared >= 4 * least


def damage(file: Path, how: int, rng: random.Random, others: list[Path]) -> None:
    data = bytearray(file.read_bytes())
    if how == 0:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif how == 1:
        del data[rng.randrange(len(data)) :]
    elif how == 2:
        a = rng.randrange(len(data))
        data[a : a + 512] = bytes(min(512, len(data) - a))  # a lost sector
    elif how == 3:
        data = bytearray(rng.choice(others).read_bytes())  # whole, and another record's
    else:
        data += b"more"
    file.write_bytes(data)


def test_damaged_files_change_nothing(model: Transformer, kernels: str, every: int, expected: list, tmp_path: Path) -> None:
    """Two thirds of the files, in five ways; those that are read are removed and written anew, until all that is read is whole."""
    rng, damaged = random.Random(7), 0
    answers(model, tmp_path, mark_every=every)
    for _ in range(3):
        before = files(tmp_path)
        for i, file in enumerate(before):
            if rng.random() < 2 / 3:
                damage(file, i % 5, rng, before)
        found, _, store = answers(model, tmp_path, mark_every=every)
        alike(found, expected, kernels)
        damaged += store.stats.damaged
    assert damaged > 5
    for _ in range(len(files(tmp_path))):  # a search ends at the first damaged file, so those behind it are found later
        found, spared, store = answers(model, tmp_path, mark_every=every)
        if not store.stats.damaged:
            break
    alike(found, expected, kernels)
    assert store.stats.damaged == store.stats.failed == 0 and spared > 200


def test_any_one_file_missing(model: Transformer, kernels: str, expected: list, tmp_path: Path) -> None:
    answers(model, tmp_path / "whole")
    for i, file in enumerate(files(tmp_path / "whole")[::5]):
        folder = shutil.copytree(tmp_path / "whole", tmp_path / str(i))
        (folder / file.name).unlink()
        alike(answers(model, folder)[0], expected, kernels)


def test_under_a_budget_for_a_third(model: Transformer, kernels: str, every: int, expected: list, tmp_path: Path) -> None:
    """Records are evicted while others are read and written."""
    answers(model, tmp_path, mark_every=every)
    budget = sum(file.stat().st_size for file in files(tmp_path)) // 3
    for _ in range(3):
        with opened(tmp_path, budget) as store:
            engine = make_engine(model, store=store, mark_every=every)
            engine.scheduler.blocks.count = 40
            alike(run(engine, ASKED), expected, kernels)
            store.flush()
            assert store.stats.bytes <= budget and store.stats.evicted
            check_empty(engine)


def test_a_disk_that_refuses_everything(model: Transformer, kernels: str, expected: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fathom.engine.cache.disk.Record.write", refuse)
    found, _, store = answers(model, tmp_path)
    alike(found, expected, kernels)
    assert store.stats.failed > 5 and not files(tmp_path)


def test_owners_do_not_meet_on_disk(model: Transformer, tmp_path: Path) -> None:
    """The same prompt of two owners: nothing of the one's is found for the other, although both lie in one folder."""
    hits = []
    for owner in ("a", "b", "a", "b", ""):
        with opened(tmp_path) as store:
            ticket = make_engine(model, store=store).submit(Request(STEM, 2, GREEDY, owner=owner))
            list(ticket)
            hits.append(ticket.usage.hit)
    assert hits == [0, 0, 144, 144, 0]


def test_other_settings_on_the_same_folder(model: Transformer, kernels: str, expected: list, tmp_path: Path) -> None:
    """Policies, drafts, chunks and company change between restarts: what fits is used, the rest is as if it weren't there."""
    settings = [dict(mark_every=every, speculate=speculate, chunk=chunk, sequences=sequences)
                for every in POLICIES.values() for speculate in ("off", "always") for chunk, sequences in ((64, 4), (9, 1))]
    random.Random(3).shuffle(settings)
    spared = []
    for options in settings:
        found, hit, store = answers(model, tmp_path, **options)
        alike(found, expected, kernels)
        assert store.stats.damaged == store.stats.failed == 0
        spared.append(hit)
    assert min(spared[1:]) > 0


def test_another_model_finds_nothing(kernels: str, model: Transformer, tmp_path: Path) -> None:
    """Other weights of the same shapes, in the same folder."""
    answers(model, tmp_path)
    other = make_model(kernels, 5)
    found, spared, _ = answers(other, tmp_path, sequences=1)
    for got, request in zip(found, ASKED, strict=True):
        same(got, cold(other, request, got), kernels)
    assert spared <= answers(other, tmp_path / "empty", sequences=1)[1]
