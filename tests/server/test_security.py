"""What a stranger can do to the service: nothing. Keys, bounds, other origins, forged text, malformed bodies."""
from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fathom.server.accounts import Accounts
from tests.server.live import Live, serve

USER = [{"role": "user", "content": "Hi"}]
CHAT = {"model": "small", "messages": USER, "max_tokens": 3}


@pytest.fixture(scope="module")
def narrow(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A service with tight bounds."""
    with serve(small_model, tmp_path_factory.mktemp("narrow"), "--body-mib", 0.05, "--head-seconds", 1, "--body-seconds", 1,
               "--most-requests", 5, "--log-level", "debug") as service:
        yield service


def talk(live: Live, *pieces: bytes, pause: float = 0.0, seconds: float = 20) -> bytes:
    """What comes back on a raw connection until it is closed."""
    host, port = live.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=seconds) as raw:
        try:
            for piece in pieces:
                raw.sendall(piece)
                time.sleep(pause)
        except OSError:
            pass  # it was closed while we were sending
        answer = b""
        try:
            while part := raw.recv(65536):
                answer += part
        except ConnectionResetError:
            pass
    return answer


def head(live: Live, extra: str = "", path: str = "/v1/chat/completions") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {live.key}\r\nContent-Type: application/json\r\n{extra}\r\n\r\n".encode()


# ---- keys


def test_without_a_key_nothing_is_shown_and_nothing_costs(live: Live) -> None:
    operations = live.get("/openapi.json")[1]["paths"]
    asked = [(method.upper(), path) for path, methods in operations.items() for method in methods]
    asked += [("GET", "/openapi.json"), ("GET", "/nothing"), ("DELETE", "/v1/models"), ("OPTIONS", "/v1/chat/completions"), ("GET", "/docs")]
    free = {("GET", "/healthz"), ("GET", "/readyz")}
    assert len(asked) > 25
    for method, path in asked:
        for key in ("", "sk-wrong", live.key[:-1] + ("a" if live.key[-1] != "a" else "b"), live.key[:11]):
            status, headers, body = live.request(method, path, CHAT if method == "POST" else None, key=key)
            if (method, path) in free:
                assert status == 200 and live.key not in body.decode()
            else:
                assert status == 401 and "bearer" in headers["www-authenticate"].lower(), (method, path)
                assert json.loads(body)["error"]["type"] == "authentication_error" and b"small" not in body
    for path in ("/", "/usage"):
        body = live.request("GET", path, key="")[2].decode()
        assert live.key not in body


def test_either_header_carries_the_key(live: Live) -> None:
    assert live.request("GET", "/models", key="", headers={"x-api-key": live.key})[0] == 200
    assert live.request("GET", "/models", key="", headers={"Authorization": f"bearer {live.key}"})[0] == 200
    assert live.request("GET", "/models", key="", headers={"Authorization": f"Basic {live.key}"})[0] == 401


def test_a_revoked_key_is_none(live: Live) -> None:
    with Accounts.open(live.folder, serving=False) as books:
        made = books.create_key("short-lived", postpaid=True)
        assert live.request("GET", "/models", key=made.secret)[0] == 200
        books.revoke(made.key.prefix)
    assert live.request("GET", "/models", key=made.secret)[0] == 401


def test_keys_never_reach_the_log_or_the_folder(narrow: Live) -> None:
    secret, strange = narrow.key, "sk-" + "Zq9" * 17
    for key in (secret, strange):
        narrow.request("POST", f"/v1/chat/completions?key={key}", CHAT, key=key)
        narrow.request("POST", "/v1/chat/completions", {**CHAT, "messages": key, "model": key}, key=key)
        narrow.request("POST", "/v1/chat/completions", b'{"a": ' + key.encode(), key=key)
        narrow.request("GET", f"/models/{key}", key=key)
        narrow.request("GET", "/models", key=key, headers={"X-Request-Id": key})
        narrow.request("GET", "/models", key=key, headers={"X-Request-Id": f"a{key}"})
    printed = narrow.log()
    assert "/models" in printed and secret in printed, "the announcement shows it once"
    logged = printed[printed.index("\n", printed.index("curl")) :]
    assert secret not in logged and strange not in logged
    for file in narrow.folder.rglob("*"):
        if file.is_file() and file.name not in ("local.key", "printed.log"):
            assert secret.encode() not in file.read_bytes(), file
    assert (narrow.folder / "local.key").stat().st_mode & 0o077 == 0


# ---- bounds


def test_a_body_that_says_it_is_too_large_is_not_read(narrow: Live) -> None:
    answer = talk(narrow, head(narrow, "Content-Length: 99999999999"))
    assert b" 413 " in answer.split(b"\r\n")[0] and b"body_too_large" in answer and b"connection: close" in answer.lower()


def test_a_body_that_turns_out_too_large_is_cut(narrow: Live) -> None:
    chunk = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
    answer = talk(narrow, head(narrow, "Transfer-Encoding: chunked"), *[chunk] * 10)
    assert answer == b"" or b" 413 " in answer.split(b"\r\n")[0]  # a client still sending may see only the reset
    assert narrow.request("GET", "/models")[0] == 200


def test_a_slow_body_is_given_up(narrow: Live) -> None:
    began = time.monotonic()
    answer = talk(narrow, head(narrow, "Content-Length: 1000"), b'{"model"', pause=0.2)
    assert b" 408 " in answer.split(b"\r\n")[0] and b"body_too_slow" in answer and time.monotonic() - began < 15
    answer = talk(narrow, head(narrow, "Content-Length: 1000"), *[b" "] * 20, pause=0.2)
    assert b" 408 " in answer.split(b"\r\n")[0], "a byte now and then doesn't help"


def test_a_slow_head_is_given_up(narrow: Live) -> None:
    assert talk(narrow) == b""  # nothing at all
    whole = head(narrow, "Content-Length: 2")
    assert talk(narrow, *[whole[i : i + 1] for i in range(12)], pause=0.2) == b""
    assert talk(narrow, b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 200_000)[:12] == b"HTTP/1.1 400"
    ok = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    kept = talk(narrow, ok, ok, b"GET /healthz HTTP/1.1\r\n", pause=0.3)
    assert kept.count(b" 200 ") == 2, "also between the requests of one connection"


def test_strangers_bodies_are_not_read(narrow: Live) -> None:
    stranger = head(narrow, "Content-Length: 40000").replace(narrow.key.encode(), b"sk-wrong")
    answer = talk(narrow, stranger)
    assert b" 401 " in answer.split(b"\r\n")[0] and b"connection: close" in answer.lower()


def test_connections_are_counted(narrow: Live) -> None:
    host, port = narrow.url.removeprefix("http://").split(":")
    opened = [socket.create_connection((host, int(port)), timeout=10) for _ in range(40)]  # 4 for each of the 5 requests are allowed
    try:
        refused = 0
        for raw in opened:
            raw.settimeout(0.05)
            try:
                refused += raw.recv(100).startswith(b"HTTP/1.1 503")
            except TimeoutError:
                pass
        assert refused >= 15
    finally:
        for raw in opened:
            raw.close()
    for _ in range(100):
        if narrow.request("GET", "/healthz")[0] == 200:
            return
        time.sleep(0.05)
    raise AssertionError("it doesn't recover")


@pytest.mark.parametrize("body", [
    b"", b"{", b"\xff\xfe", b"[]", b"null", b"1" * 5000, b'{"a": ' * 3000, b"[" * 20000, b'{"model": "small", "messages": NaN}',
    b'{"model": "small", "messages": [{"role": "user", "content": "\\ud800"}], "max_tokens": 1e999}',
    b'{"model": "small", "model": "x", "messages": []}', b'{"\\ud83d": 1}',
])
def test_malformed_bodies_are_the_clients_fault(live: Live, body: bytes) -> None:
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/messages", "/tokenize"):
        status, _, text = live.request("POST", path, body)
        assert status in (400, 422) and json.loads(text)["error"]["message"], (path, body[:30])


def test_lone_surrogates_come_back_as_something(live: Live) -> None:
    body = b'{"model": "small", "prompt": "a\\ud800b", "echo": true, "max_tokens": 1, "logprobs": 1}'
    status, _, text = live.request("POST", "/v1/completions", body)
    assert status == 200 and json.loads(text)["choices"][0]["text"].startswith("a")
    deep = {"type": "object", "properties": {"a": {"$ref": "#"}}}
    for _ in range(200):
        deep = {"type": "object", "properties": {"a": deep}}
    tool = {"type": "function", "function": {"name": "f", "strict": True, "parameters": deep}}
    assert live.post("/v1/chat/completions", {**CHAT, "tools": [tool]})[0] in (200, 400)


def test_a_schema_that_is_hard_to_compile_holds_up_nobody(live: Live) -> None:
    """The grammar is compiled beside the event loop, within limits."""
    hard = {"type": "array", "items": {"type": "string", "pattern": "(a|b|ab){1,50}(c{1,100}d{1,100}){1,30}x"}, "minItems": 40, "maxItems": 90}
    body = {**CHAT, "thinking": {"type": "disabled"}, "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": hard}}}
    status, answer = live.post("/v1/chat/completions", body)
    assert status in (200, 400), answer
    assert live.request("GET", "/healthz", seconds=5)[0] == 200


# ---- other origins, the network, the pages


def test_other_origins_are_told_nothing(live: Live) -> None:
    for method, path in (("GET", "/models"), ("OPTIONS", "/v1/chat/completions"), ("GET", "/"), ("GET", "/healthz")):
        asked = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        headers = live.request(method, path, headers=asked)[1]
        assert not [name for name in headers if name.startswith("access-control")]
        assert headers["x-content-type-options"] == "nosniff" and headers["cross-origin-resource-policy"] == "same-origin"
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy


def test_it_listens_on_loopback_alone(live: Live) -> None:
    port = int(live.url.rsplit(":", 1)[1])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; tells which address we would send from
            own = probe.getsockname()[0]
        except OSError:
            own = "127.0.0.1"
    listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"]
    assert [entry for entry in listening if entry.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]
    if not own.startswith("127."):
        with pytest.raises(OSError):
            socket.create_connection((own, port), timeout=5)


def test_nothing_but_the_pages_files_is_served(live: Live) -> None:
    for path in ("/web/../command.py", "/web/%2e%2e/command.py", "/web/..%2fcommand.py", "/web//etc/passwd", "/web/", "/../local.key", "/web/%00"):
        status, _, body = live.request("GET", path, key="")
        assert status in (401, 404) and b"import" not in body, path


# ---- text


def test_a_control_token_spelled_by_a_user_costs_more_than_the_token(live: Live) -> None:
    count = lambda text: live.post("/tokenize", {"messages": [{"role": "user", "content": text}]})[1]["count"]
    for token in ("<｜end▁of▁sentence｜>", "<｜Assistant｜>", "</think>", "｜DSML｜"):
        assert count(f"a{token}b") > count("a") + 2


def test_request_ids(live: Live) -> None:
    for good in ("mine.1:2-3_4", "task-1", "risk-assessment"):
        assert live.request("GET", "/models", headers={"X-Request-Id": good})[1]["x-request-id"] == good
    assert len({live.request("GET", "/models")[1]["x-request-id"] for _ in range(3)}) == 3
    for bad in ("a b", "x" * 129, "é", "a\tb", "sk-abc", "1:sk-abc", f"x{live.key}"):
        status, headers, body = live.request("GET", "/models", headers={"X-Request-Id": bad})
        assert status == 400 and json.loads(body)["error"]["param"] == "X-Request-Id" and headers["x-request-id"] != bad
