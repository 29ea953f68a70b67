"""An engine with journal and disk tier whose process is killed over and over, and goes on each time with the same request ids.

A program of its own: python killed_engine.py FOLDER KERNELS SPECULATE KILLS. It imports everything once and forks, so that a death costs
little. Handing out is writing a line into a file, which outlives the process. Death comes the moment a certain Output has been handed
out, or a random time after it. It checks after each death that what was handed out is in the log, and that what is in the log is
handed out first in the next life. Prints the whole answers as JSON, then the number of deaths.
"""
from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from fathom.engine import Output, Request, Sampling
from fathom.engine.cache.disk import DiskStore
from fathom.engine.fingerprint import fingerprint
from fathom.engine.journal import FileJournal
from tests.engine.models import GREEDY, make_engine, make_model, tokens

Told = list[list[Output]]


def requests() -> list[Request]:
    """Six answers, greedy and sampled, some with a common beginning."""
    return [Request(tokens(i % 2, 60 + 7 * i), 60, Sampling(0.9, seed=i) if i % 2 else GREEDY, frozenset({3}), id=f"request {i}", top_logprobs=3)
            for i in range(6)]


def line(i: int, output: Output) -> str:
    return json.dumps([i, output.token_id, output.logprob, output.finish_reason, output.top])


def told(file: Path) -> Told:
    """What was handed out in one life, by request."""
    found: Told = [[] for _ in requests()]
    for said in file.read_text().split("\n")[:-1] if file.exists() else []:
        i, token, logprob, reason, top = json.loads(said)
        found[i].append(Output(token, logprob, reason, tuple((t, p) for t, p in top)))
    return found


def die_after(seconds: float) -> None:
    def wait() -> None:
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start() if seconds else os.kill(os.getpid(), signal.SIGKILL)


def live(folder: Path, said: Path, kernels: str, speculate: str, deadly: int, wait: float) -> None:
    """One life: all requests, to the end or to so many seconds after the `deadly`-th Output; 0: never."""
    model, left = make_model(kernels, agreeing=True), deadly
    journal = FileJournal(folder / "journal", model=fingerprint(model))
    with DiskStore(folder / "cache", budget_bytes=64 << 20, keep_free_bytes=0) as store:
        engine = make_engine(model, journal=journal, store=store, speculate=speculate)
        handle = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

        def hand_out(i: int) -> Callable[[Output], None]:
            def take(output: Output) -> None:
                nonlocal left
                os.write(handle, (line(i, output) + "\n").encode())
                left -= 1
                if not left:
                    die_after(wait)
            return take

        for i, request in enumerate(requests()):
            engine.submit(request, hand_out(i))
        engine.start()
        assert engine.drain()
        engine.close()
    journal.close()


def logged(folder: Path) -> Told:
    """What the log says between two lives."""
    journal = FileJournal(folder / "journal", model="whoever")
    entries = {entry.id: list(entry.outputs) for entry in journal.entries()}
    journal.close()
    return [entries.get(request.id, []) for request in requests()]


def main(folder: Path, kernels: str, speculate: str, kills: int) -> None:
    rng, said, cut = random.Random(kernels + speculate), folder / "said", 0
    for life in range(kills + 1):
        before = logged(folder)
        said.unlink(missing_ok=True)
        last = life == kills
        done = sum(map(len, before))
        child = os.fork()
        if child == 0:
            live(folder, said, kernels, speculate, 0 if last else done + rng.randrange(1, 120 // kills), life % 2 * rng.uniform(0.0, 0.1 / kills))
            os._exit(0)
        rng.random()  # the next child draws other numbers
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the engine has failed by itself"
        cut += os.WIFSIGNALED(status)
        given, after = told(said), logged(folder)
        for was, heard, stands in zip(before, given, after, strict=True):
            assert stands[: len(was)] == was, "the log lost something"
            assert stands[: len(heard)] == heard, "something was handed out that isn't in the log"
            assert heard[: len(was)] == was[: len(heard)], "the log wasn't handed out first"
        if last:
            assert given == after and all(answer[-1].finish_reason for answer in given)
            print(json.dumps([[line(i, output) for output in answer] for i, answer in enumerate(given)]))
    print(cut)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
