"""The store: what went in comes out, after a crash too; nothing is overwritten; one run at a time."""
import multiprocessing
import os
import sqlite3
import threading

import pytest

from fathom.errors import UserError
from fathom.eval.items import Verdict
from fathom.eval.pools import Probe
from fathom.eval.store import Attempt, Reply, Run, Store
from tests.eval.models import tiny_kind

KIND = tiny_kind("t", "execution")
WHEN = "2031-01-02T03:04:05+00:00"


def begin(store, run_id="r1", repeats=1):
    items = [KIND.generate(seed, 1) for seed in range(3)]
    probes = [Probe(i.id, i.dimension, i.kind, i.level, i.seed, repeats) for i in items]
    store.add_run(Run(run_id, "m", "local", "smoke", 7, WHEN, {"b": 1, "a": [2]}), probes, iter(items))
    return items


def test_everything_comes_back(tmp_path):
    store = Store(tmp_path / "sub/eval.sqlite")
    items = begin(store)
    key = (items[0].id, 0, 0)
    request = {"messages": [{"role": "user", "content": "héllo \ud800 " + "x" * 100_000}], "max_tokens": 3}
    store.sent("r1", key, request, WHEN)
    store.attempted("r1", key, Attempt(500, True, 0.5, "HTTP 500: oops"), WHEN)
    store.attempted("r1", key, Attempt(429, False, 0.5, "HTTP 429: later"), WHEN)
    store.attempted("r1", key, Attempt(200, True, 1.5, ""), WHEN)
    store.answered("r1", key, Reply("the answer", "thought", "stop", 10, 4, 2, 1.5))
    store.judged("r1", items[0].id, 0, Verdict(0.5, False, "half"))
    store.close()
    store = Store(tmp_path / "sub/eval.sqlite")
    assert store.replies("r1") == {key: Reply("the answer", "thought", "stop", 10, 4, 2, 1.5)}
    assert store.request("r1", key) == request and store.request("r1", ("none", 0, 0)) is None
    assert store.verdicts("r1") == {(items[0].id, 0): Verdict(0.5, False, "half")}
    assert store.attempt_counts("r1") == (1, 1)
    assert [a["number"] for a in store.attempts("r1")] == [1, 2, 3]
    assert [(o.item_id, o.score, o.answered) for o in store.outcomes("r1")] == [
        (items[0].id, 0.5, True), (items[1].id, 0.0, False), (items[2].id, 0.0, False)]
    assert store.run("r1").settings == {"a": [2], "b": 1} and store.runs("other") == []
    assert os.path.getsize(tmp_path / "sub/eval.sqlite") < 90_000, "requests are compressed"


def test_an_answer_is_never_replaced(tmp_path):
    store = Store(tmp_path / "e.sqlite")
    key = (begin(store)[0].id, 0, 0)
    with pytest.raises(AssertionError):
        store.answered("r1", key, Reply("before it was sent"))
    store.sent("r1", key, {"messages": [1]}, WHEN)
    store.sent("r1", key, {"messages": [2]}, WHEN)  # not answered yet: asked again
    store.answered("r1", key, Reply("first"))
    store.sent("r1", key, {"messages": [3]}, WHEN)
    with pytest.raises(AssertionError):
        store.answered("r1", key, Reply("second"))
    assert store.replies("r1")[key].text == "first" and store.request("r1", key) == {"messages": [2]}


def test_a_run_is_added_whole_or_not_at_all(tmp_path):
    store = Store(tmp_path / "e.sqlite")
    items = [KIND.generate(0, 1), KIND.generate(0, 1)]  # the same id twice
    probes = [Probe(i.id, i.dimension, i.kind, i.level, i.seed) for i in items]
    with pytest.raises(sqlite3.IntegrityError):
        store.add_run(Run("r1", "m", "local", "smoke", 7, WHEN), probes, iter(items))
    assert store.runs() == []


def test_many_threads(tmp_path):
    store = Store(tmp_path / "e.sqlite")
    item = begin(store)[0].id

    def work(n):
        for turn in range(20):
            store.sent("r1", (item, n, turn), {"messages": [n, turn]}, WHEN)
            store.answered("r1", (item, n, turn), Reply(f"{n} {turn}"))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {k: r.text for k, r in store.replies("r1").items()} == {(item, n, t): f"{n} {t}" for n in range(8) for t in range(20)}


def _die_writing(path):
    store = Store(path)
    item = begin(store)[0].id
    for turn in range(5):
        store.sent("r1", (item, 0, turn), {"messages": []}, WHEN)
        store.answered("r1", (item, 0, turn), Reply(f"answer {turn}"))
    os.kill(os.getpid(), 9)


def test_a_killed_process_loses_nothing_that_was_written(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=_die_writing, args=(tmp_path / "e.sqlite",))
    process.start()
    process.join(60)
    assert process.exitcode == -9
    assert len(Store(tmp_path / "e.sqlite").replies("r1")) == 5


def test_one_run_at_a_time(tmp_path):
    first, second = Store(tmp_path / "e.sqlite"), Store(tmp_path / "e.sqlite")
    first.claim()
    with pytest.raises(UserError, match="in use"):
        second.claim()
    assert second.runs() == []  # reading is fine
    first.close()
    second.claim()
    second.close()


def test_foreign_files_are_refused(tmp_path):
    (tmp_path / "text.sqlite").write_text("no database " * 100)
    with pytest.raises(UserError, match="--out"):
        Store(tmp_path / "text.sqlite")
    other = sqlite3.connect(tmp_path / "other.sqlite")
    other.execute("CREATE TABLE x (y)")
    other.close()
    with pytest.raises(UserError, match="format 0"):
        Store(tmp_path / "other.sqlite")
    with pytest.raises(UserError, match="r9"):
        Store(tmp_path / "e.sqlite").run("r9")
