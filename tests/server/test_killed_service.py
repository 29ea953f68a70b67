"""The real service is killed at random moments under 32 HTTP clients: for every request seen ≤ billed ≤ logged, nothing is billed twice.

Seen is counted by the clients, token by token; billed stands in the ledger, logged in the journal. Some clients ask again after a death,
under the same id, and must get the answer that an undisturbed service gives; some leave in the middle; some have no money left.
"""
from __future__ import annotations

import contextlib
import http.client
import json
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fathom.engine.journal import FileJournal
from fathom.server import billing
from fathom.server.accounts import Accounts
from fathom.server.database import reading
from fathom.server.metering import NORMAL, LedgerRow
from tests.server.forked import Forked

CLIENTS = 32
AGAIN = 12  # interrupted requests that are asked again as new ones, at most
MONEY = 60_000  # nano-dollars, each time, of those who run out


@dataclass
class Asked:
    """One request and what its client saw of it."""

    id: str
    kind: str
    body: dict[str, Any]
    key: str
    seen: int = 0
    most: int = 0
    """Tokens that came at once, at most: what is recorded together is sent together."""
    ended: bool = False
    """Its client saw the end."""
    status: int = 0
    text: str = ""
    refused: str = ""
    """What the service said when it last answered with another status than 200."""
    attempts: int = 0

    @property
    def patient(self) -> bool:
        """Whether its client asks again after a crash."""
        return self.kind in ("whole", "again")


def plan(number: int, secrets: dict[str, str]) -> Asked:
    """A request as a function of its number."""
    rng = random.Random(number)
    kind = rng.choice(["stream", "stream", "whole", "whole", "again", "leave"])
    key = secrets["poor" if rng.random() < 0.25 else "rich"]
    body = {"model": "small", "prompt": f"def f{number % 7}(", "max_tokens": rng.randrange(4, 70), "seed": number, "logprobs": 0,
            "stream": kind != "whole"}
    return Asked(f"r{number}", kind, body, key)


class Clients:
    """Threads that ask until they are told to stop."""

    def __init__(self, live: Forked, secrets: dict[str, str]) -> None:
        self.live, self.secrets = live, secrets
        self.asked: list[Asked] = []
        self.stopping, self._lock = threading.Event(), threading.Lock()
        self.failures: list[BaseException] = []
        self.threads = [threading.Thread(target=self._run) for _ in range(CLIENTS)]

    def _run(self) -> None:
        try:
            while not self.stopping.is_set():
                with self._lock:
                    asked = plan(len(self.asked), self.secrets)
                    self.asked.append(asked)
                self._until_answered(asked)
        except BaseException as failure:
            self.failures.append(failure)
            raise

    def _until_answered(self, asked: Asked) -> None:
        end = time.monotonic() + 120
        while time.monotonic() < end:
            asked.attempts += 1
            began, batches = False, []
            try:
                for count in self._ask(asked):
                    began = True
                    batches.append(count)
                    asked.seen, asked.most = max(asked.seen, sum(batches)), max(asked.most, count if len(batches) > 1 else 0)
                if asked.status not in (409, 503):
                    return
            except (OSError, http.client.HTTPException):
                if not asked.patient and (began or asked.status):
                    return
            time.sleep(0.05)
        raise AssertionError(f"no answer: {asked}")

    def _ask(self, asked: Asked) -> Any:
        """Asks once; yields how many tokens came, each time some come."""
        asked.status, text, came = 0, "", 0
        connection = http.client.HTTPConnection(self.live.url.removeprefix("http://"), timeout=60)
        try:
            connection.request("POST", "/v1/completions", json.dumps(asked.body), {
                "Authorization": f"Bearer {asked.key}", "Content-Type": "application/json", "X-Request-Id": asked.id})
            answer = connection.getresponse()
            asked.status = answer.status
            if answer.status != 200:
                asked.refused = answer.read().decode()
                return
            for line in answer if asked.body["stream"] else [b"data: " + answer.read().strip()]:
                if not line.startswith(b"data: {"):
                    asked.ended |= line == b"data: [DONE]\n"
                    continue
                data = json.loads(line[6:])
                if "error" in data:
                    asked.status = 402 if data["error"]["code"] == "insufficient_balance" else 500
                    return
                [choice] = data["choices"]
                text += choice["text"]
                asked.text = text
                asked.ended |= not asked.body["stream"]
                count = len(choice["logprobs"]["tokens"]) if choice["logprobs"] else 0
                yield count
                came += count
                if asked.kind == "leave" and came > 5:
                    connection.sock.settimeout(0.001)  # goes when nothing more is there: what has come unread would count as unseen
            if not asked.ended:  # http.client takes the end of a connection for the end of the body
                raise ConnectionResetError
        finally:
            connection.close()


def disturbed(model: Path, folder: Path, kills: int, seed: int) -> tuple[list[Asked], dict[str, str], int]:
    """The requests that were made while the service was killed so often, and the service's end."""
    rng = random.Random(seed)
    with Accounts.open(folder, serving=False) as books:
        secrets = {"rich": books.create_key("rich", postpaid=True).secret, "poor": books.create_key("poor").secret}
        books.credit("poor", "top-up", topped_up=MONEY)
    live = Forked(model, folder, "--keep-alive-seconds", 0.2)
    live.start()
    clients, deaths = Clients(live, secrets), 0
    for thread in clients.threads:
        thread.start()
    try:
        for _ in range(kills):
            time.sleep(rng.uniform(0.3, 2.5))
            deaths += live.end() == -9
            live.start()
            with Accounts.open(folder, serving=False) as books:
                books.credit("poor", "top-up", topped_up=MONEY)
                assert books.audit() == [], "between two deaths"
        time.sleep(1)
        end = time.monotonic() + 60  # a slow machine takes longer to spend their money
        while not any(asked.status == 402 and asked.seen for asked in list(clients.asked)) and time.monotonic() < end:
            time.sleep(0.1)
    finally:
        clients.stopping.set()
        for thread in clients.threads:
            thread.join()
    try:
        assert not clients.failures
        live.until_idle()
        assert undisturbed(live, clients.asked) >= min(kills, AGAIN)
    finally:
        assert live.end(15) == 0, live.log()
        live.close()
    return clients.asked, secrets, deaths


def undisturbed(live: Forked, asked: list[Asked]) -> int:
    """Asks some of the interrupted requests as new ones: the answers are the same. Gives how many there were."""
    again = [request for request in asked if request.patient and request.attempts > 1 and request.ended][:AGAIN]
    for request in again:
        status, body = live.post("/v1/completions", {**request.body, "stream": False})
        assert status == 200 and body["choices"][0]["text"] == request.text, request
    return len(again)


def check(folder: Path, asked: list[Asked], secrets: dict[str, str], deaths: int) -> dict[str, Any]:
    """Holds ledger and journal to the laws; gives what was found."""
    with contextlib.closing(FileJournal(folder / "journal", model="any")) as journal:
        logged = {entry.id.rpartition("-")[0]: sum(output.token_id >= 0 for output in entry.outputs) for entry in journal.entries()}
    with Accounts.open(folder) as books:
        books.recover()  # what nobody asked for again
        assert books.audit() == []
        assert all(min(balance.granted, balance.topped_up) >= 0 == balance.held for _, balance in books.balances().values())
        with reading(books.engine) as connection:
            rows = [row for _, row in billing.requests(connection, billing.Span())]
    assert max(Counter(row.request_id for row in rows).values()) == 1
    billed = {row.request_id: row for row in rows}
    flush = max(8, 2 * max(request.most for request in asked))
    endings: Counter[str] = Counter()
    most = {"unseen": 0, "unbilled": 0}
    for request in asked:
        row = billed.get(f"{request.key[:11]}-{request.id}")
        if row is None:
            assert request.seen == 0 and not request.ended, request
            continue
        log = logged.get(row.request_id)
        check_row(request, row, log, flush)
        endings[row.status] += 1
        if row.status == "crashed":
            output = row.usage.output
            most["unseen"], most["unbilled"] = max(most["unseen"], output - request.seen), max(most["unbilled"], (log or 0) - output)
    assert all(request.ended or request.status == 402 for request in asked if request.patient), "who asks again is answered"
    return {"deaths": deaths, "requests": len(asked), "asked again": sum(r.attempts > 1 for r in asked), "flush": flush, **most, **endings}


def check_row(request: Asked, row: LedgerRow, log: int | None, flush: int) -> None:
    """One request. log: None where there was none yet, or it was dropped because its client had left or couldn't pay."""
    seen, output = request.seen, row.usage.output
    assert seen <= output, (request, row)
    if row.status in NORMAL:
        assert output == log and (seen == output or not request.ended and output - seen <= flush), (request, row, log)
    elif row.status == "crashed":
        assert not request.ended and not request.patient, (request, row)
        assert output <= (log or 0) <= output + flush and output - seen <= flush, (request, row, log)
    else:
        assert row.status in ("cancelled", "balance") and not request.ended, (request, row)
        assert row.status == "cancelled" or request.status == 402 or not request.patient, (request, row)


def test_killed_at_random_moments(small_model: Path, tmp_path: Path) -> None:
    found = check(tmp_path, *disturbed(small_model, tmp_path, 3, 1))
    print(found)
    assert found["deaths"] == 3 and found["stop"] + found["length"] > 30 and found["crashed"] and found["cancelled"] and found["balance"]


@pytest.mark.check
def test_killed_many_times_more(small_model: Path, tmp_path: Path) -> None:
    found = check(tmp_path, *disturbed(small_model, tmp_path, 25, 2))
    print(found)
    assert found["deaths"] == 25 and found["crashed"] > 25
