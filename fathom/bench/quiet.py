"""Timing on a machine that may be busy with something else.

Two threads that wait for each other run 10 to 60 times slower when anything else wants a core, and a median doesn't help against
that. So each sample is kept only if other processes used little of this process's cores while it ran (from /proc/stat; where there is
none, every sample counts and is marked unchecked), and taken again otherwise. A process bound to some cores (taskset) looks at those.
"""
from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

STAT = Path("/proc/stat")
FOREIGN = 0.12  # CPU seconds per second that others may use during a sample


@dataclass(frozen=True)
class Timing:
    """seconds: median of the clean samples (of all, where none was clean).  clean: number of them.  rejected: samples thrown away."""

    seconds: float
    clean: int
    rejected: int


def quiet_median(work: Callable[[], object], *, samples: int, budget: float, warm_up: int = 1, most: int = 1 << 30) -> Timing:
    """Median seconds of `work` over `samples` clean runs, trying for at most `budget` seconds and `most` runs beside those to warm up."""
    for _ in range(warm_up):
        work()
    clean: list[float] = []
    every: list[float] = []
    begin = time.perf_counter()
    while len(clean) < samples and len(every) < most and (not every or time.perf_counter() - begin < budget):
        before, start = _foreign(), time.perf_counter()
        work()
        seconds = time.perf_counter() - start
        every.append(seconds)
        if before is None or _foreign() - before < FOREIGN * seconds:  # type: ignore[operator]
            clean.append(seconds)
        else:
            time.sleep(min(1.0, seconds))
    return Timing(median(clean or every), len(clean), len(every) - len(clean))


def _foreign() -> float | None:
    """CPU seconds that other processes have used so far on the cores that this one may run on; None where the system doesn't tell."""
    if not STAT.exists() or not hasattr(os, "sched_getaffinity"):
        return None
    mine = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    ticks, own = 0, os.times()
    for name, *counts in map(str.split, STAT.read_text().splitlines()):
        if name in mine:
            user, nice, system, _, _, irq, soft, steal = map(int, counts[:8])
            ticks += user + nice + system + irq + soft + steal
    return ticks / os.sysconf("SC_CLK_TCK") - own.user - own.system
