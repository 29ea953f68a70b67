"""How many solutions a minute the evaluation judges on this machine: generated execution items of every kind, answers right and wrong.

Only answers that start a sandbox count; a review whose verdict is a comparison of two JSON values would flatter the figure.

Command: python -m fathom.bench.judging [--solutions 240] [--workers 2] [--out bench/judging.csv]
"""
from __future__ import annotations

import argparse
import csv
import os
import platform
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from ..eval.execution import KINDS
from ..eval.items import Item, Kind
from ..sandbox import Sandbox

FIRST_SEED = 1000
Solution = tuple[Kind, Item, tuple[str, ...], bool]  # kind, item, answer, whether it is right


def solutions(count: int) -> list[Solution]:
    """So many items with an answer each, going round kinds and levels; every second answer is the reference, the others give nothing back."""
    found: list[Solution] = []
    for seed in range(FIRST_SEED, FIRST_SEED + 100 * count):
        if len(found) == count:
            break
        kind = KINDS[seed % len(KINDS)]
        item = kind.generate(seed, kind.levels[seed // len(KINDS) % len(kind.levels)])
        if kind.name == "review" and item.payload["form"] != "fix":
            continue
        right = len(found) % 2 == 0
        found.append((kind, item, kind.reference(item) if right else (wrong(item),), right))
    return found


def wrong(item: Item) -> str:
    """An answer that runs and is never right."""
    if item.kind == "sql":
        return "```sql\nSELECT NULL\n```"
    if item.kind == "review":
        return '{"line": 1, "replacement": "def nothing(*arguments):"}'
    return f"```python\ndef {item.payload['entry']}(*arguments):\n    return None\n```"


def judge_all(work: Sequence[Solution], sandbox: Sandbox, workers: int = 2) -> list[bool]:
    """Whether each answer passed, `workers` judged at a time."""
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda s: s[0].judge(s[1], s[2], sandbox=sandbox).passed, work))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Time the judging of execution items.", epilog="example: python -m fathom.bench.judging")
    parser.add_argument("--solutions", type=int, default=240, help="how many to judge")
    parser.add_argument("--workers", type=int, default=2, help="how many at a time")
    parser.add_argument("--out", type=Path, default=Path("bench/judging.csv"))
    options = parser.parse_args()
    sandbox, work = Sandbox(), solutions(options.solutions)
    judge_all(work[:4], sandbox, options.workers)  # warm-up: files into the cache
    start = time.perf_counter()
    passed = judge_all(work, sandbox, options.workers)
    seconds = time.perf_counter() - start
    assert passed == [right for *_, right in work], "a right answer failed or a wrong one passed"
    row = {"solutions": len(work), "workers": options.workers, "seconds": round(seconds, 2), "per_minute": round(60 * len(work) / seconds),
           "containment": sandbox.containment.describe(), "cores": os.cpu_count(), "machine": platform.machine(),
           "python": platform.python_version(), "date": datetime.now(UTC).date().isoformat()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerow(row)
    print(f"{row['per_minute']} solutions a minute ({len(work)} in {seconds:.1f} s, {options.workers} at a time; {row['containment']})")
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
