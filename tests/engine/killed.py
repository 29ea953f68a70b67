"""Writers of records and of answers that are killed at random moments, and what must be found after each death.

A program of its own: python killed.py disk|journal FOLDER [FLUSH_SECONDS]. It imports everything once and forks, so that a death costs
milliseconds; it has no threads of its own while it forks. It prints how much there was to find.
"""
import dataclasses
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.engine import test_disk, test_journal

ROUNDS = 12


def killed(work: Callable[[Callable[[], None]], None], seconds: float) -> None:
    """Runs work(ready) in a child and kills it so many seconds after it has called ready."""
    ready, say_ready = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ready)
        try:
            work(lambda: os.close(say_ready))
        finally:
            os._exit(1)  # it should have worked until it was killed
    os.close(say_ready)
    os.read(ready, 1)
    os.close(ready)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the writer has failed by itself"


def disk(folder: Path) -> None:
    """Records of many sizes, written over and over. What is found is whole, within budget, and nothing half-written is left."""
    rng, budget, found = random.Random(0), 300_000, 0
    keys = [b"key %d" % n for n in range(97)]

    def fill(ready: Callable[[], None]) -> None:
        store = test_disk.opened(folder, budget)
        ready()
        for n in range(10**9):
            store.put(keys[n % 97], *test_disk.content(keys[n % 97], 1000 * (n % 50)))
            if n % 40 == 39:
                store.flush()

    for _ in range(ROUNDS):
        killed(fill, rng.uniform(0.0, 0.3))
        total = sum(f.stat().st_size for f in (folder / "cache").iterdir() if f.suffix in (".record", ".partial"))
        assert total <= budget, "the one being written counts too"
        with test_disk.opened(folder, budget) as store:
            assert not list((folder / "cache").glob("*.partial")) and store.stats.bytes <= budget
            for key in keys:
                if key in store:
                    record = store.get(key)
                    assert record is not None and test_disk.same(record, test_disk.content(key, record[0]["size"]))
                    found += 1
            assert store.stats.damaged == store.stats.failed == 0
    print(found)


def journal(folder: Path, flush_seconds: float) -> None:
    """Three answers at once, which every next process continues. Handing out is printing into a file, which outlives the process.

    What was handed out is in the log; with batches, what was handed out before the last write is, so at most one write is missing.
    """
    rng, said = random.Random(1), folder / "said"
    requests = [dataclasses.replace(test_journal.REQUEST, id=str(i)) for i in range(3)]

    def answer(ready: Callable[[], None]) -> None:
        journal = test_journal.opened(folder, flush_seconds=flush_seconds)
        counts = [len(journal.open(request).outputs) for request in requests]
        out = open(said, "w")
        print(*counts, file=out, flush=True)
        ready()
        written = journal._written
        while True:
            for request, n in zip(requests, counts, strict=True):
                journal.append(request.id, test_journal.token(n))
            counts = [n + 1 for n in counts]
            journal.commit()
            if journal._written != written:
                written = journal._written
                print("written", file=out, flush=True)
            print(*counts, file=out, flush=True)

    for _ in range(ROUNDS):
        killed(answer, rng.uniform(0.0, 0.1))
        promised = seen = [0, 0, 0]
        for line in said.read_text().split("\n")[:-1]:  # the last may be torn
            if line == "written":
                promised = seen
            else:
                seen = [int(n) for n in line.split()]
        after = test_journal.opened(folder)
        found = [after.read(request.id).outputs for request in requests]
        after.close()
        assert all(len(f) >= n for f, n in zip(found, promised if flush_seconds else seen, strict=True))
        assert all(f == tuple(test_journal.token(n) for n in range(len(f))) for f in found)
    print(len(found[0]))


if __name__ == "__main__":
    if sys.argv[1] == "disk":
        disk(Path(sys.argv[2]))
    else:
        journal(Path(sys.argv[2]), float(sys.argv[3]))
