"""A request that was cut by a kill of the service goes on from its log when it is asked again under its id, and is billed once."""
from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fathom.server.accounts import Accounts
from tests.server.forked import Forked

LONG = {"model": "small", "messages": [{"role": "user", "content": "Write."}], "max_tokens": 400, "thinking": {"type": "disabled"}, "logprobs": True,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "string", "minLength": 10_000}}}}
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def service(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forked]:
    live = Forked(small_model, tmp_path_factory.mktemp("resumed"), "--speculate", "off")
    live.start()
    yield live
    live.end(15)
    live.close()


def killed_in_the_middle(service: Forked, body: dict[str, Any], name: str, tokens: int = 100) -> None:
    """Asks, and kills the service once it has given out so many tokens; then starts it again."""
    def ask() -> None:
        with pytest.raises(OSError):
            service.post(CHAT, body, headers={"X-Request-Id": name})

    thread = threading.Thread(target=ask)
    before = service.engine()["output_tokens"]
    thread.start()
    while service.engine()["output_tokens"] < before + tokens:
        time.sleep(0.002)
    assert service.end() == -9
    thread.join()
    service.start()


def billed(service: Forked, name: str) -> list[int]:
    """Tokens of each ledger row with this id."""
    with Accounts.open(service.folder, serving=False) as books:
        assert books.audit() == []
        [key] = [key for key in books.keys() if key.name == "local"]
        row = books.request(key.account_id, f"{key.prefix}-{name}")
    return [] if row is None else [row.usage.output]


def test_it_goes_on_from_its_log(service: Forked) -> None:
    killed_in_the_middle(service, LONG, "cut-1")
    assert billed(service, "cut-1") == []
    status, answer = service.post(CHAT, LONG, headers={"X-Request-Id": "cut-1"})
    assert status == 200 and answer["usage"]["completion_tokens"] == 400 and billed(service, "cut-1") == [400]
    assert service.engine()["steps"] < 330, "what was in the log isn't computed again"
    again, undisturbed = (service.post(CHAT, LONG, headers={"X-Request-Id": "cut-1"})[1] for _ in range(2))
    assert service.engine()["steps"] < 330 and again == undisturbed, "an answer that is whole is on file"
    for field in ("choices", "usage", "id", "model"):
        assert again[field] == answer[field]


def test_the_answer_is_that_of_an_undisturbed_service(service: Forked) -> None:
    body = {**LONG, "seed": 5, "top_logprobs": 2}
    killed_in_the_middle(service, body, "cut-2")
    cut = service.post(CHAT, body, headers={"X-Request-Id": "cut-2"})[1]
    whole = service.post(CHAT, body, headers={"X-Request-Id": "whole"})[1]
    assert cut["choices"] == whole["choices"] and cut["id"] != whole["id"]


def test_cut_twice(service: Forked) -> None:
    body = {**LONG, "seed": 6}
    killed_in_the_middle(service, body, "cut-3")
    killed_in_the_middle(service, body, "cut-3", 200)
    status, answer = service.post(CHAT, body, headers={"X-Request-Id": "cut-3"})
    assert status == 200 and answer["choices"] == service.post(CHAT, body)[1]["choices"] and billed(service, "cut-3") == [400]


def test_another_request_under_the_same_id_is_refused(service: Forked) -> None:
    body = {**LONG, "max_tokens": 20}
    assert service.post(CHAT, body, headers={"X-Request-Id": "mine"})[0] == 200
    for other in ({"seed": 1}, {"messages": [{"role": "user", "content": "Else."}]}, {"max_tokens": 21}, {"logprobs": False}, {"stop": ["a"]}):
        status, answer = service.post(CHAT, {**body, **other}, headers={"X-Request-Id": "mine"})
        assert status == 409 and answer["error"]["code"] == "request_id_taken", other
    assert billed(service, "mine") == [20]
    with Accounts.open(service.folder, serving=False) as books:
        stranger = books.create_key("stranger", postpaid=True).secret
    status, answer = service.post(CHAT, body, headers={"X-Request-Id": "mine"}, key=stranger)
    assert status == 200, "ids of different keys have nothing to do with each other"


def test_who_asks_again_after_the_balance_was_spent_is_told_so_again(service: Forked) -> None:
    with Accounts.open(service.folder, serving=False) as books:
        poor = books.create_key("poor").secret
        books.credit("poor", "top-up", topped_up=30_000)

    def ask(name: str) -> tuple[int, Any]:
        status, answer = service.post(CHAT, LONG, headers={"X-Request-Id": name}, key=poor)
        return status, answer.get("error", {}).get("message")

    status, told = ask("dear")
    assert status == 402 and "top up" in told
    with Accounts.open(service.folder, serving=False) as books:
        row = books.request(books.find_key("poor").account_id, f"{poor[:11]}-dear")
        assert row is not None and row.status == "balance" and 0 < row.usage.output < 400
        books.credit("poor", "top-up", topped_up=10**6)
    assert ask("dear") == (402, f"request = {poor[:11]}-dear: ended when the balance was spent; top up the account, then ask under another id")
    assert service.end() == -9
    service.start()
    assert ask("dear")[0] == 402 and ask("another")[0] == 200


def test_an_id_that_is_running_is_taken(service: Forked) -> None:
    done = []
    thread = threading.Thread(target=lambda: done.append(service.post(CHAT, {**LONG, "seed": 9}, headers={"X-Request-Id": "busy"})[0]))
    before = service.engine()["output_tokens"]
    thread.start()
    while service.engine()["output_tokens"] < before + 10:
        time.sleep(0.002)
    assert service.post(CHAT, {**LONG, "seed": 9}, headers={"X-Request-Id": "busy"})[0] == 409
    thread.join()
    assert done == [200]
