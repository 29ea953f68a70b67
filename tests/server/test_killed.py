"""The server is killed at random moments under 32 requests at once: seen ≤ billed ≤ logged, nothing billed twice, no money lost."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from fathom.server import billing
from fathom.server.accounts import Accounts
from fathom.server.database import reading
from fathom.server.metering import NORMAL
from tests.server.databases import POSTGRES, cluster  # noqa: F401  (fixture)
from tests.server.killed_accounts import AT_ONCE, FLUSH, resumable, wanted

ROOT = Path(__file__).parents[2]


def kill(folder: Path, kills: int, seed: int, url: str | None) -> int:
    """Runs the program, holds its outcome to the laws; gives the number of deaths."""
    command = [sys.executable, "-m", "tests.server.killed_accounts", str(folder), str(kills), str(seed), *([url] if url else [])]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    with Accounts.open(folder / "service", url) as accounts:
        assert accounts.recover() == [], "the last server left nothing open"
        assert accounts.audit() == []
        with reading(accounts.engine) as connection:
            rows = [row for _, row in billing.requests(connection, billing.Span())]
        assert all(min(balance.granted, balance.topped_up) >= 0 == balance.held for _, balance in accounts.balances().values())
    assert max(Counter(row.request_id for row in rows).values()) == 1
    endings: Counter[str] = Counter()
    cut_off = 0
    for row in rows:
        seen, billed, logged = said["seen"].get(row.request_id, 0), row.usage.output, said["logged"][row.request_id]
        endings[row.status] += 1
        assert seen <= billed <= logged and billed - seen <= FLUSH and logged - billed <= FLUSH, (row, seen, logged)
        if row.status in (*NORMAL, "cancelled", "failed"):  # it ended; only its last flush can have been cut off on the way to the client
            assert billed == logged == wanted(row.request_id)[1], (row, seen, logged)
            cut_off += seen < billed
        else:
            assert row.status in ("crashed", "balance"), row
        if row.status == "crashed":
            assert not resumable(row.request_id) or billed == 0
    billed_ids = {row.request_id for row in rows}
    assert all(count == 0 for name, count in said["seen"].items() if name not in billed_ids), "what was seen is billed"
    assert endings["stop"] and endings["cancelled"] and endings["failed"] and endings["balance"] and len(rows) > 12 * kills
    assert endings["crashed"] and cut_off <= said["deaths"] * AT_ONCE
    assert cut_off < sum(endings[status] for status in (*NORMAL, "cancelled", "failed")) // 2, "most were seen to their end"
    return said["deaths"]


def test_killed_at_random_moments(tmp_path: Path) -> None:
    assert kill(tmp_path, 8, 0, None) >= 4


@pytest.mark.check
@pytest.mark.parametrize("seed", range(1, 4))
def test_killed_many_times_more(tmp_path: Path, seed: int) -> None:
    assert kill(tmp_path, 40, seed, None) >= 15


@pytest.mark.check
@pytest.mark.needs(*POSTGRES[1].args)
@pytest.mark.parametrize("seed", range(4, 5))
def test_killed_on_postgresql(tmp_path: Path, cluster, seed: int) -> None:  # noqa: F811
    assert kill(tmp_path, 25, seed, cluster()) >= 10
