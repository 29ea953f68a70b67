"""The journal: what was handed out is in the log, whatever kills the process; and a log goes on only for the request that began it."""
import contextlib
import dataclasses
import inspect
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.engine import Journal, Logged, Output, Request, Sampling
from fathom.engine.answerlog import MAGIC
from fathom.engine.journal import DifferentRequest, FileJournal
from fathom.errors import UserError

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
REQUEST = Request((0, 5, 7), 10, Sampling(temperature=0.5, seed=3), frozenset({1, 2}), id="r", owner="key 1", top_logprobs=2)
HOUR = 3600.0


def opened(folder: Path, **options) -> FileJournal:
    return FileJournal(folder / "journal", **{"model": "m", **options})


def files(folder: Path) -> list[Path]:
    return sorted(p for p in (folder / "journal").iterdir() if p.suffix != ".lock")


def write(journal: FileJournal, request: Request, *outputs: Output) -> None:
    """What an engine does with a request from beginning to end."""
    assert journal.open(request) == Logged()
    for output in outputs:
        journal.append(request.id, output)
        journal.commit()
    journal.release(request.id)


def token(n: int, reason=None) -> Output:
    return Output(n, -n / 7, reason, tuple((n + i, -float(i)) for i in range(n % 3)))


ids, floats = st.integers(0, 2**31 - 1), st.floats(allow_nan=False)
outputs = st.builds(Output, ids, floats, st.none(), st.lists(st.tuples(ids, floats), max_size=20).map(tuple))


def test_it_keeps_the_contract():
    for name, method in inspect.getmembers(Journal, inspect.isfunction):
        if name in vars(Journal) and not name.startswith("_"):
            assert list(inspect.signature(method).parameters) == list(inspect.signature(getattr(FileJournal, name)).parameters), name


@settings(max_examples=40)
@given(st.lists(outputs, max_size=12), st.lists(st.integers(0, 12), max_size=3), st.sampled_from(["stop", "length", "constraint", None]))
def test_an_answer_in_any_number_of_sittings(answer: list[Output], cuts: list[int], end: str | None):
    """Whatever was appended before is there in every next sitting, bit for bit; an answer that ended has ended for good."""
    if end == "constraint":  # ends without a token of its own
        answer = [*answer, Output(-1, 0.0, "stop")]
    elif end and answer:
        answer = [*answer[:-1], dataclasses.replace(answer[-1], finish_reason=end)]
    with tempfile.TemporaryDirectory() as folder:
        done = 0
        for stop in [*sorted(min(c, len(answer)) for c in cuts), len(answer)]:
            journal = opened(Path(folder))
            assert journal.open(REQUEST) == Logged(tuple(answer[:done]))
            for output in answer[done:stop]:
                journal.append("r", output)
                journal.commit()
                assert journal.read("r").outputs[-1] == output
            done = stop
            journal.release("r")
            journal.close()
        journal = opened(Path(folder))
        ended = bool(answer) and answer[-1].finish_reason is not None
        found = journal.read("r")
        assert (found is None) == (not answer), "a log with nothing in it isn't kept"
        assert found is None or (found.id, found.owner, found.prompt_tokens, found.outputs, found.finished) == ("r", "key 1", 3, tuple(answer), ended)
        assert journal.open(REQUEST) == Logged(tuple(answer))
        if ended:
            with pytest.raises(ValueError, match="has ended"):
                journal.append("r", token(1))
        journal.close()


def test_an_aborted_answer_can_be_resumed(tmp_path: Path):
    journal = opened(tmp_path)
    write(journal, REQUEST, token(4), Output(-1, 0.0, "aborted"))
    assert journal.open(REQUEST) == Logged((token(4),))
    journal.append("r", Output(-1, 0.0, "insufficient_system_resource"))
    journal.append("r", token(5, "stop"))
    journal.release("r")
    assert journal.read("r").outputs == (token(4), token(5, "stop"))
    journal.close()


# --- whose log it is ---

@pytest.mark.parametrize(("change", "field"), [
    ({"prompt": (0, 5, 8)}, "prompt"), ({"prompt": (0, 5, 7, 7)}, "prompt"), ({"prompt": (5, 0, 7)}, "prompt"), ({"max_tokens": 11}, "max_tokens"),
    ({"sampling": Sampling(temperature=0.5, seed=4)}, "sampling"), ({"sampling": Sampling(temperature=0.51, seed=3)}, "sampling"),
    ({"stop_ids": frozenset({1})}, "stop_ids"), ({"top_logprobs": 3}, "top_logprobs"), ({"owner": "key 2"}, "owner"), ({}, "model")])
@pytest.mark.parametrize("end", [None, "stop"])
def test_a_different_request_is_refused(tmp_path: Path, change: dict, field: str, end: str | None):
    """And the log is not touched by it."""
    journal = opened(tmp_path)
    write(journal, REQUEST, token(4), token(5, end))
    journal.close()
    before = files(tmp_path)[0].read_bytes()
    journal = opened(tmp_path, model="another" if field == "model" else "m")
    with pytest.raises(DifferentRequest, match=rf"^id = r: belongs to a different request \({field} differs\); use another id"):
        journal.open(dataclasses.replace(REQUEST, **change))
    assert files(tmp_path)[0].read_bytes() == before
    if field != "model":
        assert journal.open(REQUEST).outputs == (token(4), token(5, end))
    journal.close()


def test_what_changes_no_token_is_no_difference(tmp_path: Path):
    journal = opened(tmp_path)
    write(journal, REQUEST, token(4))
    assert journal.open(dataclasses.replace(REQUEST, speculate=False, stop_ids=frozenset({2, 1}))).outputs == (token(4),)
    journal.close()


def test_reopened_without_anything_new_a_log_is_kept(tmp_path: Path):
    with contextlib.closing(opened(tmp_path)) as journal:
        write(journal, REQUEST)
        assert not files(tmp_path), "there is nothing in it"
        write(journal, REQUEST, token(4))
        assert journal.open(REQUEST).outputs == (token(4),)
        journal.release("r")
        assert journal.read("r").outputs == (token(4),)


def test_a_running_request_is_refused(tmp_path: Path):
    journal = opened(tmp_path)
    journal.open(REQUEST)
    with pytest.raises(UserError, match="id = r: a request with this id is running"):
        journal.open(REQUEST)
    journal.append("r", token(4))
    journal.release("r")
    assert journal.open(REQUEST).outputs == (token(4),)
    journal.close()


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "/", ".", "..", "\0", "x" * 10_000, "é\ud800\n", "CON", " ", "%s", "r.done"])
def test_any_id_is_a_safe_file_name(tmp_path: Path, name: str):
    journal = opened(tmp_path)
    write(journal, dataclasses.replace(REQUEST, id=name), token(4))
    write(journal, dataclasses.replace(REQUEST, id=name.swapcase() + "2"), token(5))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["journal"] and len(files(tmp_path)) == 2
    assert {(e.id, e.outputs) for e in journal.entries()} == {(name, (token(4),)), (name.swapcase() + "2", (token(5),))}
    journal.forget(name)
    journal.forget("no such id")
    assert len(files(tmp_path)) == 1 and journal.read(name) is None and journal.open(dataclasses.replace(REQUEST, id=name)) == Logged()
    journal.close()


def test_a_request_without_an_id_is_our_bug(tmp_path: Path):
    journal = opened(tmp_path)
    with pytest.raises(ValueError, match="without an id"):
        journal.open(dataclasses.replace(REQUEST, id=""))
    journal.close()


# --- torn and damaged files ---

ANSWER = tuple(token(n) for n in range(12))


def reopened(folder: Path, data: bytes) -> tuple[Output, ...]:
    """What a journal finds in such a file. Then it adds a token, behind which nothing else may be found the next time: the same token as
    before where there was one, so that whole records which lay behind the damage would fit again."""
    file, = files(folder)
    file.write_bytes(data)
    journal = opened(folder)
    found = journal.open(REQUEST).outputs
    following = ([*ANSWER, token(99)])[len(found)]
    journal.append("r", following)
    journal.close()
    journal = opened(folder)
    assert journal.open(REQUEST).outputs == (*found, following)
    journal.close()
    return found


def on_file(folder: Path, data: bytes) -> tuple[Output, ...]:
    """What reading such a file gives, without touching it."""
    file, = files(folder)
    file.write_bytes(data)
    journal = opened(folder)
    entry = journal.read("r")
    journal.close()
    return entry.outputs if entry else ()


def boundaries(folder: Path) -> tuple[bytes, list[int]]:
    """The whole file, and its length after its beginning and after each token."""
    journal = opened(folder)
    journal.open(REQUEST)
    file, = files(folder)
    lengths = [file.stat().st_size]
    for output in ANSWER:
        journal.append("r", output)
        journal.commit()
        lengths.append(file.stat().st_size)
    journal.close()
    return file.read_bytes(), lengths


def good(lengths: list[int], upto: int) -> tuple[Output, ...]:
    """The tokens whose records lie before a place in the file."""
    return ANSWER[: max(0, sum(length <= upto for length in lengths) - 1)]


def test_cut_anywhere_the_good_prefix_is_there(tmp_path: Path):
    whole, lengths = boundaries(tmp_path)
    for n in range(len(whole) + 1):
        check = reopened if n % 7 == 0 or n in lengths else on_file
        assert check(tmp_path, whole[:n]) == good(lengths, n), n


def test_a_tail_of_anything_is_cut_off(tmp_path: Path):
    whole, lengths = boundaries(tmp_path)
    for n in (lengths[0], lengths[3], lengths[3] + 5, len(whole)):
        for tail in (b"\0" * 4096, b"\xff" * 100, random.Random(n).randbytes(500), whole[lengths[4] :]):
            assert reopened(tmp_path, whole[:n] + tail) == good(lengths, n)
    for data in (b"", b"\0" * 100, b"something else", MAGIC, MAGIC + b"\0" * 100):
        assert reopened(tmp_path, data) == ()


def test_any_changed_byte_costs_only_what_follows(tmp_path: Path):
    whole, lengths = boundaries(tmp_path)
    for i in range(len(whole)):
        check = reopened if i % 7 == 0 else on_file
        assert check(tmp_path, whole[:i] + bytes([whole[i] ^ 1 << i % 8]) + whole[i + 1 :]) == good(lengths, i), i


def test_a_record_holds_only_in_its_place(tmp_path: Path):
    """Tokens left out, repeated, exchanged, or taken from another answer don't pass, though each record is whole."""
    whole, lengths = boundaries(tmp_path)
    record = [whole[a:b] for a, b in zip(lengths, lengths[1:])]
    for order in ([0, 2, 3], [0, 0, 1], [0, 2, 1]):
        data = whole[: lengths[0]] + b"".join(record[i] for i in order)
        assert reopened(tmp_path, data) == ANSWER[:1]


# --- the disk ---

def test_a_full_disk_raises_and_loses_nothing(tmp_path: Path):
    """The system refuses in the middle of a record; with room again the next commit goes on as if nothing had been."""
    code = """
import resource, signal, sys
from pathlib import Path
from fathom.engine.journal import FileJournal
from tests.engine.test_journal import REQUEST, files, opened, token
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = opened(Path(sys.argv[1]))
journal.open(REQUEST)
size = files(Path(sys.argv[1]))[0].stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))
n, written = 0, 0
while written < 3:
    journal.append("r", token(n))
    n += 1
    try:
        journal.commit()
    except OSError as e:
        assert "too large" in str(e)
        assert journal.read("r").outputs == tuple(token(i) for i in range(len(journal.read("r").outputs))) and len(journal.read("r").outputs) < n
        if n == 8:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    else:
        assert len(journal.read("r").outputs) == n
        written += n > 8
assert journal.read("r").outputs == tuple(token(i) for i in range(n))
resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
import dataclasses
for _ in range(2):
    try:
        journal.open(dataclasses.replace(REQUEST, id="another"))
    except OSError:
        print("refused")
assert len(files(Path(sys.argv[1]))) == 1
journal.close()
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0 and done.stdout == "refused\nrefused\n", done.stdout + done.stderr


def test_closing_writes_what_it_can_and_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    journal = opened(tmp_path, flush_seconds=HOUR)
    pwrite = os.pwrite
    requests = [dataclasses.replace(REQUEST, id=name) for name in "abc"]
    for request in requests:
        journal.open(request)
        journal.append(request.id, token(4))
    broken = journal._logs["b"].handle

    def failing(handle: int, data: bytes, offset: int) -> int:
        if handle == broken:
            raise OSError(5, "Input/output error")
        return pwrite(handle, data, offset)

    monkeypatch.setattr(os, "pwrite", failing)
    with pytest.raises(OSError, match="Input/output"):
        journal.close()
    journal.close()
    with pytest.raises(ValueError, match="closed"):
        journal.append("a", token(5))
    monkeypatch.undo()
    journal = opened(tmp_path)
    assert [len(journal.open(request).outputs) for request in requests] == [1, 0, 1]
    journal.close()


@pytest.mark.parametrize("fsync", [False, True])
def test_fsync_is_asked_for_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fsync: bool):
    """For every write, and for the folder when a file appears in it."""
    calls: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda handle: calls.append(os.readlink(f"/proc/self/fd/{handle}").rpartition(".")[2]))
    journal = opened(tmp_path, fsync=fsync)
    write(journal, REQUEST, token(4), token(5))
    assert calls == (["log", str(tmp_path / "journal").rpartition(".")[2], "log", "log"] if fsync else [])
    journal.close()


# --- the flush policy ---

def test_with_a_flush_interval_commits_are_gathered(tmp_path: Path):
    journal = opened(tmp_path, flush_seconds=HOUR)
    journal.open(REQUEST)
    for n in range(5):
        journal.append("r", token(n))
        journal.commit()
    assert journal.read("r").outputs == ()  # at most one flush is missing: this is it
    journal.release("r")
    assert len(journal.read("r").outputs) == 5
    journal.close()


def test_what_waits_is_written_when_nothing_comes_any_more(tmp_path: Path):
    """By the thread; the answer stalls after its third token."""
    journal = opened(tmp_path, flush_seconds=0.05)
    journal.open(REQUEST)
    for n in range(3):
        journal.append("r", token(n))
        journal.commit()
    while len(journal.read("r").outputs) < 3:
        time.sleep(0.01)
    journal.close()


@pytest.mark.parametrize("flush_seconds", [0.0, 0.02])
def test_killed_at_random_moments_what_was_handed_out_is_in_the_log(tmp_path: Path, flush_seconds: float):
    """Or, with batches, all but at most one write of it; and every next process goes on where the log ends (killed.py)."""
    command = [sys.executable, str(Path(__file__).with_name("killed.py")), "journal", str(tmp_path), str(flush_seconds)]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0 and int(done.stdout) > 50, done.stdout + done.stderr


# --- retention ---

def test_finished_logs_go_after_their_retention(tmp_path: Path):
    journal = opened(tmp_path, retention_seconds=HOUR, unfinished_seconds=3 * HOUR)
    write(journal, REQUEST, token(4, "stop"))
    write(journal, dataclasses.replace(REQUEST, id="unfinished"), token(4))
    journal.open(dataclasses.replace(REQUEST, id="running"))
    start = time.time()
    assert journal.prune() == journal.prune(start + HOUR / 2) == 0 and len(files(tmp_path)) == 3
    assert journal.open(REQUEST).outputs == (token(4, "stop"),)
    assert journal.prune(start + 2 * HOUR) == 0, "it is being read"
    journal.release("r")
    assert journal.prune(start + 2 * HOUR) == 1 and journal.read("r") is None and len(files(tmp_path)) == 2
    assert journal.prune(start + 4 * HOUR) == 1 and journal.read("running") is not None
    assert journal.open(REQUEST) == Logged(), "the id is free again"
    journal.close()


def test_what_a_crash_left_is_kept_from_the_next_opening_on(tmp_path: Path):
    """However long ago it was: metering looks at it first."""
    journal = opened(tmp_path)
    write(journal, REQUEST, token(4, "stop"))
    journal.close()
    for file in files(tmp_path):
        os.utime(file, (1000, 1000))
    journal = opened(tmp_path, retention_seconds=HOUR)
    assert journal.prune() == 0 and [e.finished for e in journal.entries()] == [True]
    assert journal.prune(time.time() + HOUR + 60) == 1
    journal.close()


def test_killed_between_its_end_and_its_release_an_answer_is_finished(tmp_path: Path):
    journal = opened(tmp_path)
    journal.open(REQUEST)
    journal.append("r", token(4, "length"))
    journal.commit()
    left = files(tmp_path)[0].read_bytes(), files(tmp_path)[0].name
    journal.close()
    files(tmp_path)[0].unlink()
    (tmp_path / "journal" / left[1]).write_bytes(left[0])  # as it was before the release
    journal = opened(tmp_path, retention_seconds=HOUR)
    assert journal.read("r").finished and journal.open(REQUEST).outputs == (token(4, "length"),)
    journal.release("r")
    assert journal.prune(time.time() + 2 * HOUR) == 1
    journal.close()


def test_it_prunes_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("fathom.engine.journal._PRUNE_SECONDS", 0.02)
    journal = opened(tmp_path, retention_seconds=0.0)
    write(journal, REQUEST, token(4, "stop"))
    while files(tmp_path):
        time.sleep(0.01)
    journal.close()


# --- folder ---

def test_the_folder(tmp_path: Path):
    """Private, of one process, of nothing else."""
    journal = opened(tmp_path)
    write(journal, REQUEST, token(4))
    assert (tmp_path / "journal").stat().st_mode & 0o777 == 0o700 and files(tmp_path)[0].stat().st_mode & 0o777 == 0o600
    with pytest.raises(UserError, match=f"journal folder = .*: is in use by process {os.getpid()}"):
        opened(tmp_path)
    journal.close()
    opened(tmp_path).close()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "photo.jpg").write_text("")
    with pytest.raises(UserError, match="holds other files, such as photo.jpg"):
        FileJournal(tmp_path / "home", model="m")
    with pytest.raises(UserError, match="retention_seconds = -1"):
        FileJournal(tmp_path / "x", model="m", retention_seconds=-1)


def test_many_threads(tmp_path: Path):
    """Eight requests append and commit at once, while somebody reads and prunes."""
    journal = opened(tmp_path, flush_seconds=0.001)
    wrong: list[object] = []
    running = threading.Event()

    def work(name: str) -> None:
        try:
            journal.open(dataclasses.replace(REQUEST, id=name))
            for n in range(200):
                journal.append(name, token(n))
                journal.commit()
            journal.release(name)
        except BaseException as e:
            wrong.append(e)

    def look() -> None:
        try:
            while not running.is_set():
                for entry in journal.entries():
                    assert entry.outputs == tuple(token(n) for n in range(len(entry.outputs)))
                journal.prune()
        except BaseException as e:
            wrong.append(e)

    watcher, workers = threading.Thread(target=look), [threading.Thread(target=work, args=(str(i),)) for i in range(8)]
    for thread in (watcher, *workers):
        thread.start()
    for thread in workers:
        thread.join()
    running.set()
    watcher.join()
    assert wrong == [] and all(len(entry.outputs) == 200 for entry in journal.entries()) and len(files(tmp_path)) == 8
    journal.close()
