"""The disk tier: what comes back is what was put under that key or nothing, whatever happens to files, disk, process and clock."""
import hashlib
import inspect
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fathom.engine.cache import BlockStore
from fathom.engine.cache.disk import DiskStore
from fathom.engine.cache.record import MAGIC, Record
from fathom.errors import UserError

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
KEY = hashlib.sha256(b"a key").digest()
BIG = 1 << 30


def opened(folder: Path, budget: int = BIG, **options) -> DiskStore:
    return DiskStore(folder / "cache", budget_bytes=budget, **{"keep_free_bytes": 0, **options})


def content(key: bytes, size: int = 40) -> tuple[dict, dict[str, torch.Tensor]]:
    """What belongs under a key, so that a stranger's content is noticed."""
    drawn = torch.tensor(list(hashlib.shake_128(key).digest(size)), dtype=torch.uint8)
    return {"key": key.hex(), "size": size}, {"drawn": drawn, "numbers": drawn[:4].view(torch.float32)}


def bits(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous().flatten().view(torch.uint8)


def same(found, expected) -> bool:
    return found[0] == expected[0] and found[1].keys() == expected[1].keys() and all(
        a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))
        for a, b in zip(found[1].values(), expected[1].values(), strict=True))


def files(folder: Path) -> list[Path]:
    return sorted((folder / "cache").glob("*.record"))


def put(store: DiskStore, *keys: bytes, size: int = 40) -> None:
    for key in keys:
        store.put(key, *content(key, size))
    store.flush()


def test_everything_comes_back(tmp_path: Path):
    """From the queue, from the file, after a restart; every dtype, empty and scalar tensors, views, odd names."""
    x = torch.randn(6, 10)
    x[0, :3] = torch.tensor([float("nan"), float("inf"), -0.0])
    tensors = {str(d): x.to(d) for d in (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.int64, torch.uint8)}
    tensors |= {"none": torch.empty(0, 4), "one": torch.tensor(7), "flags": x > 0, "turned": x.T, "part": x[1:4, ::2], "ünïcode/\n": x[0]}
    header = {"blocks": [1, 2], "nested": {"é": None, "x": 0.1, "deep": [True, "\ud800"]}, "big": 2**70}
    store = opened(tmp_path)
    store.put(KEY, header, tensors)
    assert same(store.get(KEY), (header, tensors))
    store.flush()
    assert same(store.get(KEY), (header, tensors)) and KEY in store
    store.get(KEY)[1]["one"].add_(1)  # what was given is the caller's own
    store.close()
    store = opened(tmp_path)
    assert KEY in store and same(store.get(KEY), (header, tensors))
    assert store.stats.hits == 1 and store.stats.bytes == files(tmp_path)[0].stat().st_size == Record(KEY, header, tensors).size
    store.close()


def test_what_is_given_from_the_queue_is_the_callers_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    gate = threading.Event()
    write = Record.write
    monkeypatch.setattr(Record, "write", lambda *args: gate.wait() and write(*args))
    store = opened(tmp_path)
    store.put(KEY, *content(KEY))
    header, tensors = store.get(KEY)
    header["size"] = 0
    tensors["drawn"].zero_()
    gate.set()
    store.flush()
    assert same(store.get(KEY), content(KEY))
    store.close()


def test_it_keeps_the_contract():
    for name, method in inspect.getmembers(BlockStore, inspect.isfunction):
        if name in vars(BlockStore) and (name in ("__contains__",) or not name.startswith("_")):
            assert list(inspect.signature(method).parameters) == list(inspect.signature(getattr(DiskStore, name)).parameters), name


# --- damage ---

def test_any_changed_byte_is_a_miss(tmp_path: Path):
    store = opened(tmp_path)
    put(store, KEY)
    file, = files(tmp_path)
    whole = file.read_bytes()
    for i in range(len(whole)):
        file.write_bytes(whole[:i] + bytes([whole[i] ^ 1 << i % 8]) + whole[i + 1 :])
        assert store.get(KEY) is None and not file.exists() and KEY not in store, f"byte {i}"
        assert store.stats.damaged == i + 1 and store.stats.bytes == store.stats.records == 0
        put(store, KEY)
    assert same(store.get(KEY), content(KEY)) and store.stats.hits == 1
    store.close()


def test_any_other_length_is_a_miss(tmp_path: Path):
    store = opened(tmp_path)
    put(store, KEY)
    file, = files(tmp_path)
    whole = file.read_bytes()
    for damaged in (*(whole[:n] for n in range(len(whole))), whole + b"\0", whole + whole, whole[:-1] + b"\0\0", b"\0" * len(whole), whole[::-1]):
        file.write_bytes(damaged)
        assert store.get(KEY) is None and not file.exists()
        put(store, KEY)
    store.close()


def test_an_older_version_is_removed(tmp_path: Path):
    """Whole in every sum, but of a version that this one doesn't read."""
    store = opened(tmp_path)
    put(store, KEY)
    file, = files(tmp_path)
    data = file.read_bytes()
    head_length, payload_length = struct.unpack_from("<IQ", data, 12)
    preamble, head = struct.pack("<8sIIQ", MAGIC, 0, head_length, payload_length), data[56 : 56 + head_length]
    file.write_bytes(preamble + hashlib.sha256(preamble + head).digest() + data[56:])
    assert store.get(KEY) is None and not file.exists() and store.stats.damaged == 1
    store.close()


def test_a_record_under_anothers_name_is_not_given_out(tmp_path: Path):
    """As if two keys had one digest, or somebody had copied files about: owners stay apart."""
    mine, yours = b"owner a / model / tokens", b"owner b / model / tokens"
    store = opened(tmp_path)
    put(store, mine)
    a, = files(tmp_path)
    put(store, yours)
    b, = set(files(tmp_path)) - {a}
    shutil.copy(a, b)
    assert store.get(yours) is None and not b.exists() and same(store.get(mine), content(mine))
    store.close()


def test_a_file_deleted_or_replaced_by_a_folder_is_a_miss(tmp_path: Path):
    store = opened(tmp_path)
    put(store, KEY)
    file, = files(tmp_path)
    file.unlink()
    assert store.get(KEY) is None and store.stats.damaged == store.stats.failed == store.stats.records == 0
    put(store, KEY)
    file.unlink()
    file.mkdir()
    assert store.get(KEY) is None and store.stats.failed and store.stats.damaged == 0
    put(store, KEY)  # can't take the folder's place
    assert store.get(KEY) is None and store.stats.records == store.stats.bytes == 0 and "directory" in store.stats.error
    file.rmdir()
    put(store, KEY)
    assert same(store.get(KEY), content(KEY))
    store.close()


# --- budget and order ---

class AgainstAModel(RuleBasedStateMachine):
    """Any sequence of calls and restarts equals an ordered dict that evicts from its front; exactly, as sizes and order are known."""

    BUDGET = 3000
    keys = st.integers(0, 9).map(lambda n: b"key %d" % n)

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.model: OrderedDict[bytes, tuple[dict, dict]] = OrderedDict()
        self.store = opened(self.folder, self.BUDGET)

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    def sizes(self) -> int:
        return sum(Record(key, *c).size for key, c in self.model.items())

    @rule(key=keys, size=st.sampled_from([4, 40, 400, 1200, 4000]))
    def put(self, key: bytes, size: int) -> None:
        put(self.store, key, size=size)
        self.model.pop(key, None)
        record = Record(key, *content(key, size))
        if record.size > self.BUDGET:
            return
        while self.sizes() + record.size > self.BUDGET:
            self.model.popitem(last=False)
        self.model[key] = content(key, size)

    @rule(key=keys)
    def get(self, key: bytes) -> None:
        found = self.store.get(key)
        assert (found is not None) == (key in self.model)
        if found is not None:
            assert same(found, self.model[key])
            self.model.move_to_end(key)

    @rule(key=keys)
    def discard(self, key: bytes) -> None:
        self.store.discard(key)
        self.model.pop(key, None)

    @rule(budget=st.sampled_from([BUDGET, BUDGET, 1500]))
    def reopen(self, budget: int) -> None:
        """Also with a smaller budget for a moment: the least recently used go."""
        self.store.close()
        self.store = opened(self.folder, budget)
        while self.sizes() > budget:
            self.model.popitem(last=False)
        if budget != self.BUDGET:
            self.reopen(self.BUDGET)

    @invariant()
    def agrees(self) -> None:
        assert {key for key in (b"key %d" % n for n in range(10)) if key in self.store} == set(self.model)
        assert self.store.stats.bytes == self.sizes() == sum(f.stat().st_size for f in files(self.folder)) <= self.BUDGET
        assert self.store.stats.records == len(self.model)


TestAgainstAModel = AgainstAModel.TestCase
TestAgainstAModel.settings = settings(max_examples=25, stateful_step_count=40)


def test_the_order_of_use_survives_a_clock_that_goes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = opened(tmp_path)
    put(store, b"a", b"b")
    monkeypatch.setattr(time, "time_ns", lambda: 1000)
    put(store, b"c")
    store.get(b"a")
    size = store.stats.bytes
    store.close()
    store = opened(tmp_path, size)
    put(store, b"d")
    assert [key for key in (b"a", b"b", b"c", b"d") if key in store] == [b"a", b"c", b"d"] and store.stats.evicted == 1
    store.close()


def test_space_is_left_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The disk as the system reports it; the store's own files count in it."""
    store = opened(tmp_path, keep_free_bytes=10_000)
    size, total = Record(b"a", *content(b"a")).size, [10_000]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": total[0] - sum(f.stat().st_size for f in files(tmp_path))})())
    put(store, b"a")
    assert store.stats.dropped == 1 and not files(tmp_path)
    total[0] += 2 * size
    put(store, b"a", b"b", b"c")
    assert [key for key in (b"a", b"b", b"c") if key in store] == [b"b", b"c"] and store.stats.evicted == 1
    total[0] = 5000  # others have filled the disk: nothing that this store gives up would help
    put(store, b"d")
    assert store.stats.records == 2 and store.stats.dropped == 2 and same(store.get(b"c"), content(b"c"))
    store.close()


# --- the queue ---

def test_put_never_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With a disk that stands still: records are found in the queue, the queue has a bound, and what was discarded or replaced is."""
    gate, began = threading.Event(), threading.Event()
    write = Record.write

    def stalled(self: Record, path: Path) -> None:
        began.set()
        gate.wait()
        write(self, path)

    monkeypatch.setattr(Record, "write", stalled)
    size = Record(b"a", *content(b"a")).size
    store = opened(tmp_path, queue_bytes=3 * size)
    for key in (b"a", b"b", b"c", b"d"):
        store.put(key, *content(key))
    assert store.stats.dropped == 1 and b"d" not in store and store.stats.queued == 3 * size
    assert same(store.get(b"a"), content(b"a")) and same(store.get(b"c"), content(b"c")) and store.stats.hits == 2
    assert began.wait(60)
    store.discard(b"a")  # which is being written
    store.put(b"b", {}, {})  # replaced before it was written
    assert b"a" not in store and store.get(b"a") is None and store.get(b"b") == ({}, {})
    gate.set()
    store.flush()
    assert b"a" not in store and store.get(b"b") == ({}, {}) and same(store.get(b"c"), content(b"c"))
    assert len(files(tmp_path)) == 2 and store.stats.queued == 0
    gate.clear()
    began.clear()
    store.put(b"e", *content(b"e"))
    assert began.wait(60)
    store.put(b"e", {"second": 2}, {})  # replaced while it is being written
    gate.set()
    store.flush()
    assert store.get(b"e") == ({"second": 2}, {})
    store.close()
    store = opened(tmp_path)
    assert store.get(b"e") == ({"second": 2}, {}) and store.stats.records == 3
    store.close()


def test_a_dropped_record_does_not_leave_the_older_one(tmp_path: Path):
    store = opened(tmp_path, 1000)
    put(store, KEY)
    store.put(KEY, {"much": "x" * 1000}, {})
    assert store.get(KEY) is None and store.stats.dropped == 1
    store.close()


def test_closing_writes_what_waits(tmp_path: Path):
    store = opened(tmp_path)
    for n in range(50):
        store.put(b"%d" % n, *content(b"%d" % n, 5000))
    store.close()
    store.close()
    with pytest.raises(ValueError, match="closed"):
        store.get(b"1")
    with opened(tmp_path) as store:
        assert all(same(store.get(b"%d" % n), content(b"%d" % n, 5000)) for n in range(50))


def test_a_bug_of_the_writer_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Record, "write", lambda *args: 1 / 0)
    store = opened(tmp_path)
    store.put(KEY, *content(KEY))
    with pytest.raises(RuntimeError) as error:
        store.flush()
    assert isinstance(error.value.__cause__, ZeroDivisionError)
    store.close()


def test_many_threads(tmp_path: Path):
    """Eight threads put, get and discard the same keys under a small budget; nobody ever sees another key's content."""
    keys = [b"key %d" % n for n in range(12)]
    store = opened(tmp_path, 4000)
    wrong: list[object] = []

    def work(seed: int) -> None:
        rng = random.Random(seed)
        try:
            for _ in range(150):
                key = rng.choice(keys)
                action = rng.random()
                if action < 0.45:
                    store.put(key, *content(key, rng.choice([8, 40, 600])))
                elif action < 0.9:
                    found = store.get(key)
                    if found is not None and not same(found, content(key, found[0]["size"])):
                        wrong.append(key)
                elif action < 0.97:
                    store.discard(key)
                else:
                    store.flush()
        except BaseException as e:
            wrong.append(e)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.flush()
    assert wrong == [] and store.stats.failed == store.stats.damaged == 0
    assert store.stats.bytes == sum(f.stat().st_size for f in files(tmp_path)) <= 4000 and store.stats.hits and store.stats.evicted
    assert sum(key in store for key in keys) == store.stats.records == len(files(tmp_path))
    assert not list((tmp_path / "cache").glob("*.partial"))
    store.close()


# --- folders and processes ---

def test_a_folder_of_something_else_is_refused(tmp_path: Path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "diary.txt").write_text("dear diary")
    with pytest.raises(UserError, match="prefix cache folder = .*cache: holds other files, such as diary.txt; give a folder of its own"):
        opened(tmp_path)
    assert os.listdir(tmp_path / "cache") == ["diary.txt"]
    with pytest.raises(UserError, match="can't be used"):
        DiskStore(tmp_path / "cache" / "diary.txt", budget_bytes=1)
    for wrong in ({"budget_bytes": 0}, {"budget_bytes": 1, "queue_bytes": 0}, {"budget_bytes": 1, "keep_free_bytes": -1}):
        with pytest.raises(UserError, match="at least"):
            DiskStore(tmp_path / "x", **wrong)
    assert not (tmp_path / "x").exists()


def test_files_that_appear_in_the_folder_later_are_left_alone(tmp_path: Path):
    opened(tmp_path).close()
    (tmp_path / "cache" / "note.txt").write_text("mine")
    (tmp_path / "cache" / f"{'0' * 64}.record").mkdir()
    store = opened(tmp_path)
    put(store, KEY)
    assert store.stats.records == 1 and (tmp_path / "cache" / "note.txt").read_text() == "mine"
    store.close()


def test_the_files_are_for_their_owner_alone(tmp_path: Path):
    store = opened(tmp_path)
    put(store, KEY)
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700 and files(tmp_path)[0].stat().st_mode & 0o777 == 0o600
    store.close()


@pytest.mark.parametrize(("key", "header", "tensors", "told"), [
    (b"", {}, {}, "key"), (b"x" * 5000, {}, {}, "key"), (b"k", {"a": (1, 2)}, {}, "JSON"), (b"k", {1: 2}, {}, "JSON"),
    (b"k", {"a": float("nan")}, {}, "JSON"), (b"k", {}, {"c": torch.zeros(2, dtype=torch.complex64)}, "complex64")])
def test_what_would_not_come_back_as_it_was_is_our_bug(tmp_path: Path, key: bytes, header: dict, tensors: dict, told: str):
    with opened(tmp_path) as store, pytest.raises(ValueError, match=told):
        store.put(key, header, tensors)


def child(code: str, *args: object, prefix: tuple[str, ...] = ()) -> subprocess.Popen:
    return subprocess.Popen([*prefix, sys.executable, "-c", code, *map(str, args)], cwd=ROOT, env=ENVIRONMENT, text=True,
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


HOLD = """
import sys
from pathlib import Path
from tests.engine.test_disk import opened
store = opened(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.read()
"""


def test_one_process_at_a_time(tmp_path: Path):
    holder = child(HOLD, tmp_path)
    try:
        assert holder.stdout.readline() == "ready\n", holder.stderr.read()
        with pytest.raises(UserError, match=f"prefix cache folder = .*: is in use by process {holder.pid}; stop it or give another folder"):
            opened(tmp_path)
    finally:
        holder.kill()
        holder.communicate()
    with opened(tmp_path) as store:
        with pytest.raises(UserError, match="in use"):
            opened(tmp_path)  # nor twice in one process
        put(store, KEY)
        assert same(store.get(KEY), content(KEY))


def test_killed_at_random_moments_while_writing(tmp_path: Path):
    """What is found is whole, within budget, and nothing half-written is left (killed.py)."""
    command = [sys.executable, str(Path(__file__).with_name("killed.py")), "disk", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0 and int(done.stdout) > 20, done.stdout + done.stderr


LIMITED = """
import resource, signal, sys, torch
from pathlib import Path
from tests.engine.test_disk import content, opened, put, same
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
store = opened(Path(sys.argv[1]))
for n in range(4):
    put(store, b"small %d" % n)
    put(store, b"large %d" % n, size=100_000)
store.put(b"one tensor", {}, {"last": torch.zeros(100_000, dtype=torch.uint8)})  # its only write is cut short, then refused
store.flush()
assert all(same(store.get(b"small %d" % n), content(b"small %d" % n)) and store.get(b"large %d" % n) is None for n in range(4))
print(store.stats.written, store.stats.failed, store.stats.evicted, store.stats.error)
store.close()
"""


def test_a_real_refusal_in_the_middle_of_a_file(tmp_path: Path):
    out, err = child(LIMITED, tmp_path).communicate(timeout=200)
    assert out.startswith("4 5 0 ") and "File too large" in out, out + err
    assert len(files(tmp_path)) == 4 and not list((tmp_path / "cache").glob("*.partial"))


FULL = """
import os, sys
from pathlib import Path
from tests.engine.test_disk import content, opened, put, same
folder = Path(sys.argv[1])
(folder / "others").write_bytes(b"x" * 600_000)
store = opened(folder)
for n in range(60):
    put(store, b"%d" % n, size=20_000)
full = store.stats
found = [n for n in range(60) if (got := store.get(b"%d" % n)) is not None and same(got, content(b"%d" % n, 20_000))]
assert 10 < len(found) == full.records < 40 and full.failed + full.evicted + full.dropped == 60 - len(found), (full, found)
assert found[-1] == 59, "the disk being full, the oldest made room"
assert not list((folder / "cache").glob("*.partial"))
(folder / "others").unlink()
put(store, b"after", size=200_000)
assert same(store.get(b"after"), content(b"after", 200_000))
store.close()
print("fine")
"""


@pytest.mark.needs("bwrap")
def test_a_disk_that_is_really_full(tmp_path: Path):
    """A file system of one megabyte, most of it somebody else's."""
    out, err = child(FULL, tmp_path, prefix=("bwrap", "--dev-bind", "/", "/", "--size", "1000000", "--tmpfs", str(tmp_path))).communicate(timeout=200)
    assert out == "fine\n", out + err
