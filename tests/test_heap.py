"""Freed memory stays with a program that asked for it: its next step takes no page faults. It goes back when the program says so."""
import subprocess
import sys

import pytest

STEPS = """
import resource, sys
from fathom.heap import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for step in range(6):
    blocks = [bytearray(24 << 20) for _ in range(8)]  # 192 MiB, zeroed
    del blocks
    if step == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Page faults of three steps."""
    return int(subprocess.run([sys.executable, "-c", STEPS, how], check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt(3) is Linux's")
def test_steps_take_no_page_faults() -> None:
    assert faults("keep") < 1000 < faults("as it is")


HOLES = """
import os
from pathlib import Path
from fathom.heap import give_back_freed_memory, keep_freed_memory
resident = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
keep_freed_memory()
blocks = [bytearray(1 << 20) for _ in range(64)]
kept = blocks[::8]  # holes between, none of them at the heap's end
del blocks
before = resident()
assert give_back_freed_memory()
print(before - resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="malloc_trim(3) is glibc's")
def test_memory_between_blocks_in_use_goes_back() -> None:
    assert 50 <= int(subprocess.run([sys.executable, "-c", HOLES], check=True, capture_output=True, text=True).stdout) <= 60
