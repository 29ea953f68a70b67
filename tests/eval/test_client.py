"""The client against a service in another process: what it survives, what it gives up on, what it never tells."""
import re
import time
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest

from fathom.errors import UserError
from fathom.eval.client import Endpoint, Failure, Pace, Refused, chat_url, read_reply, retry_after, server_message

pytestmark = pytest.mark.needs("module:httpx")
QUESTION = [{"role": "user", "content": "q"}]


def ask(endpoint, log=None, messages=QUESTION):
    log = [] if log is None else log
    return endpoint.ask(messages, max_tokens=8, request_id="r-1", log=log.append)


def test_an_answer_with_its_counts(serve):
    service = serve(answers={"q": "a"}, key="secret")
    log = []
    reply = ask(Endpoint(service.url, "m", "secret"), log)
    assert (reply.text, reply.prompt_tokens, reply.completion_tokens, reply.finish) == ("a", 100, 10, "stop")
    assert [(a.status, a.counted, a.error) for a in log] == [(200, True, "")] and service.stats()["ids"] == ["r-1"]


def test_429_is_waited_out_and_not_held_against_availability(serve):
    service = serve(answers={"q": "a"}, reject_every=2, retry_after=0.2)
    endpoint, log = Endpoint(service.url, "m"), []
    ask(endpoint, log)
    began = time.monotonic()
    assert ask(endpoint, log).text == "a"
    assert time.monotonic() - began >= 0.2
    assert [(a.status, a.counted) for a in log] == [(200, True), (429, False), (200, True)]


def test_dropped_connections_and_5xx_are_tried_again_with_growing_waits(serve):
    waits = []
    service = serve(answers={"q": "a"}, drop_every=2)
    endpoint, log = Endpoint(service.url, "m", sleep=waits.append), []
    assert [ask(endpoint, log).text for _ in range(3)] == ["a"] * 3
    assert sum(a.status == 0 and a.counted and a.error.startswith("connection lost") for a in log) == service.stats()["dropped"] == 2
    broken = serve(fail_every=1, fail_status=500)
    waits.clear()
    with pytest.raises(Failure, match="500.*cannot do that"):
        ask(Endpoint(broken.url, "m", attempts=5, sleep=waits.append))
    assert len(waits) == 4 and all(1.2 < b / a < 4.1 for a, b in zip(waits, waits[1:])) and broken.stats()["requests"] == 5


def test_a_try_that_the_service_heard_is_made_again_under_another_id(serve):
    """The third connection is cut after the service took the request: it knows the id, and says so."""
    service = serve(answers={"q": "a"}, drop_every=3, once_per_id=True)
    endpoint, log = Endpoint(service.url, "m", sleep=lambda s: None), []
    for name in ("r-2", "r-3"):
        endpoint.ask(QUESTION, max_tokens=8, request_id=name, log=log.append)
    assert ask(endpoint, log).text == "a"
    assert [(a.status, a.counted) for a in log] == [(200, True)] * 2 + [(0, True), (409, False), (200, True)]
    ids = service.stats()["ids"]
    assert ids[:4] == ["r-2", "r-3", "r-1", "r-1"] and ids[4].startswith("r-1-")


@pytest.mark.parametrize("name", ["run-humaneval:HumanEval/12-0-0", "run-mbpp:fünf-0-0", "a\nb", "x" * 300])
def test_ids_that_a_header_cant_hold(serve, name):
    service = serve(answers={"q": "a"})
    for given in (name, name + "-"):
        assert Endpoint(service.url, "m").ask(QUESTION, max_tokens=8, request_id=given, log=lambda a: None).text == "a"
    first, second = service.stats()["ids"]
    assert first != second and all(re.fullmatch(r"[A-Za-z0-9.-]{1,100}", i) for i in (first, second))


def test_a_slow_service_runs_into_the_deadline(serve):
    service = serve(answers={"q": "a"}, delay=1.0)
    log = []
    with pytest.raises(Failure, match="no answer in 0.2 s"):
        ask(Endpoint(service.url, "m", timeout=0.2, attempts=2, sleep=lambda s: None), log)
    assert [(a.status, a.counted) for a in log] == [(0, True)] * 2
    assert ask(Endpoint(service.url, "m", timeout=10)).seconds >= 1.0


def test_refusals_are_final(serve):
    service = serve(fail_every=1, fail_status=400)
    with pytest.raises(Refused, match="cannot do that"):
        ask(Endpoint(service.url, "m"))
    assert service.stats()["requests"] == 1


@pytest.mark.parametrize("status, field", [(402, "--endpoint"), (403, "--key-file")])
def test_what_the_user_must_mend_stops_at_once(serve, status, field):
    with pytest.raises(UserError) as caught:
        ask(Endpoint(serve(fail_every=1, fail_status=status).url, "m"))
    assert caught.value.field == field


def test_a_wrong_key_is_named_but_never_shown(serve):
    with pytest.raises(UserError, match="--key-file") as caught:
        ask(Endpoint(serve(key="right").url, "m", "sk-very-secret"))
    assert "sk-very-secret" not in str(caught.value)


def test_a_wrong_path_says_v1(serve):
    with pytest.raises(UserError, match="/v1"):
        ask(Endpoint(serve().url.removesuffix("/v1"), "m"))


def test_nobody_there():
    log = []
    with pytest.raises(Failure, match="connection lost"):
        ask(Endpoint("http://127.0.0.1:9", "m", attempts=2, sleep=lambda s: None), log)
    assert len(log) == 2


def test_a_service_that_wants_a_day_stops_the_run(serve):
    service = serve(reject_every=1, retry_after=86400)
    with pytest.raises(UserError, match="continued"):
        ask(Endpoint(service.url, "m", sleep=lambda s: pytest.fail("must not sleep a day")))


def test_the_other_name_of_the_limit(monkeypatch):
    """A 400 that names max_completion_tokens switches the field, once and for all."""
    endpoint, sent = Endpoint("http://x", "m"), []

    def send(body, request_id):
        sent.append(body)
        if "max_tokens" in body:
            return 400, {}, '{"error": {"message": "use max_completion_tokens instead"}}', 0.0, ""
        return 200, {}, '{"choices": [{"message": {"content": "ok"}}]}', 0.0, ""

    monkeypatch.setattr(endpoint, "_send", send)
    assert ask(endpoint).text == "ok" and ask(endpoint).text == "ok"
    assert ["max_tokens" in b for b in sent] == [True, False, False]


def test_the_body():
    endpoint = Endpoint("http://x", "m", temperature=None, room=100, extra={"thinking": {"type": "disabled"}, "stream": None})
    assert endpoint.body(QUESTION, 8) == {"model": "m", "messages": QUESTION, "max_tokens": 108, "thinking": {"type": "disabled"}}
    plain = {"model": "m", "messages": QUESTION, "max_tokens": 8, "temperature": 0.0, "stream": False}
    assert Endpoint("http://x", "m").body(QUESTION, 8) == plain


@pytest.mark.parametrize("url, full", [
    ("http://h:1/v1", "http://h:1/v1/chat/completions"), ("https://h/", "https://h/chat/completions"),
    ("http://h/v1/chat/completions", "http://h/v1/chat/completions"),
])
def test_addresses(url, full):
    assert chat_url(url) == full


@pytest.mark.parametrize("url", ["", "h:8000", "ftp://h", "http://user:pw@h/v1"])
def test_bad_addresses(url):
    with pytest.raises(UserError) as caught:
        chat_url(url)
    assert "pw" not in str(caught.value)


def test_retry_after_in_all_its_forms():
    now = datetime(2031, 5, 4, 3, 2, 1, tzinfo=UTC)
    assert retry_after({"retry-after": "7"}, 0) == 7 and retry_after({"retry-after-ms": "1500"}, 0) == 1.5
    assert retry_after({"retry-after": format_datetime(now)}, now.timestamp() - 30) == 30
    assert retry_after({"retry-after": format_datetime(now)}, now.timestamp() + 30) == 0
    assert retry_after({}, 0) is None and retry_after({"retry-after": "soon"}, 0) is None


def test_pace_halves_once_per_burst_and_grows_back():
    clock = [0.0]
    pace = Pace(16, clock=lambda: clock[0])
    for _ in range(16):
        pace.later(0.0)
    assert pace.limit == 8
    clock[0] = 5.0
    pace.later(3.0)
    assert pace.limit == 4 and pace.open_at == 8.0
    for _ in range(1000):
        pace.succeeded()
    assert pace.limit == 16


@pytest.mark.parametrize("text", ["", "{}", "<html>", '{"choices": []}', '{"choices": [{}]}', "[1]", '{"choices": [{"message": null}]}',
                                  "\n\n"])
def test_what_is_no_answer(text):
    reply, trouble = read_reply(text, 0.0)
    assert reply is None and "isn't a chat completion" in trouble


def test_dialects():
    reply, _ = read_reply('\n\n{"choices": [{"message": {"content": [{"type": "text", "text": "a"}, {"text": "b"}], "reasoning": "r"}}], '
                          '"usage": {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}}', 1.0)
    assert (reply.text, reply.reasoning, reply.cached_tokens) == ("ab", "r", 4)
    reply, _ = read_reply('{"choices": [{"message": {"content": null, "reasoning_content": "x"}, "finish_reason": "length"}]}', 1.0)
    assert (reply.text, reply.reasoning, reply.finish, reply.prompt_tokens) == ("", "x", "length", None)


def test_server_messages_are_one_line():
    assert server_message('{"error": {"message": "a\\nb"}}') == "a b" and server_message("<html>\n oops") == "<html> oops"
    assert server_message('{"detail": "x"}') == "{'detail': 'x'}" and server_message("[]") == "[]"
