"""A stand-in for the service, for what a random tiny model can't be told to do: call a certain tool, write Markdown, run out of money.

It serves the page's real files under the real security policy and speaks SPEC section 9's streaming format on a real socket; what it
answers follows from a word in the last user message. Everything that a tiny model can do is tested against the real service.
"""
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fathom.server

WEB = Path(fathom.server.__file__).parent / "web"
POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; "
          "base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
KEY = "sk-" + "Standin1" + "x" * 43
CONTEXT = 32768
PRICE = {"currency": "USD", "cached": 0.028, "input": 0.14, "output": 0.28, "row": "deepseek-v4-flash@2026-04-24"}

MARKDOWN = """Here is **how**:

1. Read the list from the end,
2. or let `reversed` do it.

```python
def backwards(items: list) -> list:
    return items[::-1]
```

| way | copies |
|---|---|
| `items[::-1]` | yes |
| `reversed(items)` | no |

> Both leave the list as it is. See [the docs](https://docs.python.org/3/) or ![a picture](https://pictures.example/p.png).
"""
HOSTILE = """Look: <script>document.title = "owned"</script> and <img src=x onerror="document.title='owned'">

<iframe src="https://elsewhere.example/"></iframe>

[link](javascript:document.title='owned') ![p](https://elsewhere.example/p.png) <style>body { display: none }</style>

```html
<script>document.title = "owned"</script>
```
"""


class Standin(ThreadingHTTPServer):
    """The server. requests: bodies of the chats asked for; money: US$ left; refuse: a status for the next chats."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.requests: list[dict] = []
        self.refuse: list[int] = []
        self.receipts: dict[str, dict] = {}
        self.usage: list[dict] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.key = KEY

    def __enter__(self) -> "Standin":
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Standin
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        file = {"/": "index.html", "/usage": "usage.html"}.get(path) or (path.removeprefix("/web/") if path.startswith("/web/") else "")
        if file and (WEB / file).is_file():
            return self.answer(200, (WEB / file).read_bytes(), TYPES[Path(file).suffix])
        if not self.known():
            return None
        name = "fathom-standin"
        found = {
            "/models": {"object": "list", "data": [{"id": name, "object": "model", "context_length": CONTEXT, "pricing": PRICE}]},
            "/user/balance": {"is_available": True, "balance_infos": [
                {"currency": "USD", "total_balance": "9.99", "granted_balance": "9.99", "topped_up_balance": "0.00"}]},
            "/user/usage": {"object": "list", "since": "2026-05-01", "until": "2026-05-30", "currency": "USD", "data": self.server.usage},
            **{f"/user/requests/{name}": receipt for name, receipt in self.server.receipts.items()},
        }.get(path)
        return self.json(200, found) if found else self.error(404, "There is nothing here.")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.known():
            return
        if self.path == "/tokenize":
            self.json(200, {"count": len(body["prompt"].split()), "max_model_len": CONTEXT})
        elif self.path in ("/chat/completions", "/beta/chat/completions"):
            self.server.requests.append(body)
            if self.server.refuse:
                status = self.server.refuse.pop(0)
                self.error(status, f"refused with {status}", {"Retry-After": "7"} if status in (429, 503) else {})
            else:
                self.chat(body)
        else:
            self.error(404, "There is nothing here.")

    def known(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {KEY}":
            return True
        self.error(401, "Unknown key.")
        return False

    def chat(self, body: dict) -> None:
        self.send_response(200)
        for name, value in {"Content-Type": "text/event-stream", "Connection": "close", "Content-Security-Policy": POLICY}.items():
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = True
        try:
            self.stream(body)
        except OSError:  # the page has gone
            prompt = 20
            self.server.receipts[self.headers["X-Request-Id"]] = {
                "cost": "0.000011", "prompt_cache_hit_tokens": 0, "prompt_cache_miss_tokens": prompt, "completion_tokens": 30, "reasoning_tokens": 0}

    def stream(self, body: dict) -> None:
        last = body["messages"][-1]
        said = next(m["content"] for m in reversed(body["messages"]) if m["role"] == "user")
        thinking = body["thinking"]["type"] == "enabled"
        pause = 0.05 if "slow" in said else 0.004
        self.chunk({"role": "assistant", "content": ""})
        self.wfile.write(b": keep-alive\n\n")
        reasoning, content, calls = "", f"You said: {said}", []
        if thinking and not last.get("prefix"):
            reasoning = "The user wants something. I look at it from several sides, and then I know what to say. "
            reasoning *= 3 if body.get("reasoning_effort") == "max" else 1
        if last["role"] == "tool":
            content = f"The tool says: {last['content']}"
        elif last.get("prefix"):
            content = " … and so it goes on, to its end."
        elif "tool" in said and body.get("tools"):
            content, calls = "Let me look that up.", [("get_weather", '{"place": "Rome", "days": [1, 2]}')]
        elif "markdown" in said:
            content = MARKDOWN
        elif "hostile" in said:
            content = HOSTILE
        elif "slow" in said:
            content = "word " * 400
        for text in pieces(reasoning):
            self.chunk({"reasoning_content": text}, pause)
        for i, text in enumerate(pieces(content)):
            if "breaks" in said and i > 3:
                return  # without an end
            if "fails" in said and i > 3:
                self.event({"error": {"message": "The balance is spent.", "type": "insufficient_balance", "param": None, "code": None}})
                return
            self.chunk({"content": text}, pause)
        for i, (name, arguments) in enumerate(calls):
            self.chunk({"tool_calls": [{"index": i, "id": f"call_{i}", "type": "function", "function": {"name": name, "arguments": ""}}]})
            for text in pieces(arguments):
                self.chunk({"tool_calls": [{"index": i, "function": {"arguments": text}}]}, pause)
        output = len(pieces(reasoning)) + len(pieces(content)) + 1
        prompt = sum(len(m["content"].split()) + 4 for m in body["messages"])
        hit = 128 * ((prompt - 1) // 128)
        usage = {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output, "prompt_cache_hit_tokens": hit,
                 "prompt_cache_miss_tokens": prompt - hit, "completion_tokens_details": {"reasoning_tokens": len(pieces(reasoning))}}
        finish = "tool_calls" if calls else "length" if "length" in said and not last.get("prefix") else "stop"
        self.chunk({}, finish=finish, usage=usage)
        self.wfile.write(b"data: [DONE]\n\n")

    def chunk(self, delta: dict, pause: float = 0.0, finish: str | None = None, usage: dict | None = None) -> None:
        time.sleep(pause)
        self.event({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "fathom-standin", "usage": usage,
                    "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    def event(self, data: dict) -> None:
        self.wfile.write(b"data: " + json.dumps(data).encode() + b"\n\n")
        self.wfile.flush()

    def json(self, status: int, data: dict, headers: dict | None = None) -> None:
        self.answer(status, json.dumps(data).encode(), "application/json", headers)

    def error(self, status: int, message: str, headers: dict | None = None) -> None:
        self.json(status, {"error": {"message": message, "type": "", "param": None, "code": None}}, headers)

    def answer(self, status: int, body: bytes, kind: str, headers: dict | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), "Content-Security-Policy": POLICY, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def pieces(text: str) -> list[str]:
    """Words with the space before them."""
    words = text.split(" ")
    return [word if i == 0 else " " + word for i, word in enumerate(words)] if text else []
