"""The first token after a cached prefix beside that of a cold prompt, by policy of the prefix cache and by where the prefix lies.

A prompt of random tokens is answered cold; then the same prompt with another ending, whose beginning is in memory; then again with a
fresh engine, which finds it on disk. Each is one request on an idle engine, from its submission to its first token. Cold samples and
hits that other processes disturbed are taken again (quiet.py).

Command: python -m fathom.bench.hits [--length 32768] [--new 16] [--samples 3] [--out bench/hits.csv]
"""
from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from ..config import preset
from ..engine import Engine, Request, Sampling
from ..engine.cache.disk import DiskStore
from ..model import Transformer
from ..plan.size import state_size
from .machine import fresh_model, machine, random_prompt, write_rows
from .quiet import quiet_median

GREEDY = Sampling(temperature=0)


class Prompts:
    """A long prompt and requests that begin with it, each with an ending nobody has seen."""

    def __init__(self, model: Transformer, length: int, new: int) -> None:
        self.config, self.stem, self.new = model.config, random_prompt(model.config, length, 1), new
        self._seeds: Iterator[int] = itertools.count(2)

    def first(self, engine: Engine, *, cold: bool = False) -> int:
        """Answers one until its first token; gives how many tokens the cache spared."""
        stem = random_prompt(self.config, len(self.stem), next(self._seeds)) if cold else self.stem
        ticket = engine.submit(Request(stem + random_prompt(self.config, self.new, next(self._seeds)), 1, GREEDY))
        for _ in ticket:
            pass
        return ticket.usage.hit


def measure(model: Transformer, length: int, new: int, samples: int, budget: float) -> list[dict[str, Any]]:
    """A row for the cold prompt and one for each policy and place."""
    c, rows = model.config, []
    prompts = Prompts(model, length, new)
    memory = 4 * state_size(c, model.precision).at(length + new + c.block_size)

    def engine(store: DiskStore | None = None, **options: Any) -> Engine:
        return Engine(model, sequences=2, memory=memory, store=store, **options)

    def row(policy: str, place: str, spared: int, seconds: float, clean: int) -> None:
        rows.append({"policy": policy, "place": place, "prompt": length + new, "spared": spared, "first_token_ms": round(1e3 * seconds, 2),
                     "clean_samples": clean} | machine(model))
        sooner = rows[0]["first_token_ms"] / rows[-1]["first_token_ms"]
        print(f"{policy:>6} {place:>7}: {1e3 * seconds:>9.2f} ms, {spared} of {length + new} tokens spared, {sooner:.1f} times", flush=True)

    plain = engine(prefix_cache=False)
    timing = quiet_median(lambda: prompts.first(plain, cold=True), samples=samples, budget=budget)
    row("", "cold", 0, timing.seconds, timing.clean)
    for policy, every in (("all", c.block_size), ("every", 32 * c.block_size), ("none", 0)):
        with tempfile.TemporaryDirectory(prefix="fathom-hits-") as folder, DiskStore(folder, budget_bytes=8 << 30, keep_free_bytes=0) as store:
            warm = engine(store, mark_every=every)
            prompts.first(warm)
            spared = prompts.first(warm)
            timing = quiet_median(lambda warm=warm: prompts.first(warm), samples=samples, budget=budget)
            row(policy, "memory", spared, timing.seconds, timing.clean)
            store.flush()
            timings = []
            for _ in range(samples):
                fresh = engine(store, mark_every=every)
                timings.append(once(lambda fresh=fresh: prompts.first(fresh)))
            row(policy, "disk", spared, median(seconds for seconds, _ in timings), sum(clean for _, clean in timings))
    return rows


def once(work: Callable[[], object]) -> tuple[float, int]:
    """Seconds of a single run, which can't be taken again, and whether it was undisturbed."""
    timing = quiet_median(work, samples=1, budget=0.0, warm_up=0)
    return timing.seconds, timing.clean


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="example: python -m fathom.bench.hits --length 32768")
    parser.add_argument("--model", default="bench-130m", help="a preset; weights are random")
    parser.add_argument("--length", type=int, default=32768, help="tokens of the cached prefix")
    parser.add_argument("--new", type=int, default=16, help="tokens after it")
    parser.add_argument("--samples", type=int, default=3, help="clean samples wanted")
    parser.add_argument("--budget", type=float, default=60, help="seconds to try for them")
    parser.add_argument("--out", type=Path, default=Path("bench/hits.csv"))
    options = parser.parse_args()
    rows = measure(fresh_model(preset(options.model)), options.length, options.new, options.samples, options.budget)
    write_rows(rows, options.out)


if __name__ == "__main__":
    main()
