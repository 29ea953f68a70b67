"""A chat-completions service in a process of its own, as a third party might write one: standard library, its own idea of errors.

    python mockserver.py CONFIG.json        prints its port, then serves until it is killed

CONFIG: answers {question: answer} by the conversation's last user text; default, the answer to anything else; key; delay seconds;
reject_every (every nth request gets 429 with Retry-After), drop_every (every nth connection is cut), hold_after (after so many answers,
requests get none any more, until GET /release, which cuts them and ends the holding), fail_status with fail_every, once_per_id (an
X-Request-Id that was seen before gets 409).
GET /stats tells what was seen.
"""
import hashlib
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CONFIG = json.load(open(sys.argv[1]))
LOCK, RELEASED = threading.Lock(), threading.Event()
STATS = {"requests": 0, "answered": 0, "rejected": 0, "dropped": 0, "held": 0, "failed": 0, "by_body": {}, "received": {}, "ids": [],
         "most": 0}
NOW = [0]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def reply(self, status, data, headers=()):
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/release":
            RELEASED.set()
        with LOCK:
            self.reply(200, STATS)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path != "/v1/chat/completions":
            return self.reply(404, {"error": {"message": "no such route"}})
        if CONFIG.get("key") and self.headers.get("Authorization") != f"Bearer {CONFIG['key']}":
            return self.reply(401, {"error": {"message": f"bad key: {self.headers.get('Authorization')}"}})
        request = json.loads(body)
        digest = hashlib.sha256(json.dumps(request["messages"], sort_keys=True).encode()).hexdigest()
        with LOCK:
            STATS["requests"] += 1
            n = STATS["requests"]
            STATS["received"][digest] = STATS["received"].get(digest, 0) + 1
            taken = self.headers.get("X-Request-Id") in STATS["ids"]
            STATS["ids"].append(self.headers.get("X-Request-Id"))
            NOW[0] += 1
            STATS["most"] = max(STATS["most"], NOW[0])
        try:
            if taken and CONFIG.get("once_per_id"):
                return self.reply(409, {"error": {"message": "this id is taken"}})
            self.serve(request, digest, n)
        finally:
            with LOCK:
                NOW[0] -= 1

    def serve(self, request, digest, n):
        time.sleep(CONFIG.get("delay", 0))
        every = lambda name: CONFIG.get(name) and n % CONFIG[name] == 0
        if every("drop_every"):
            with LOCK:
                STATS["dropped"] += 1
            return self.cut()
        if every("reject_every"):
            with LOCK:
                STATS["rejected"] += 1
            return self.reply(429, {"error": {"message": "slow down"}}, [("Retry-After", str(CONFIG.get("retry_after", 0.05)))])
        if every("fail_every"):
            with LOCK:
                STATS["failed"] += 1
            return self.reply(CONFIG["fail_status"], {"error": {"message": "cannot do that"}})
        with LOCK:
            held = CONFIG.get("hold_after") is not None and STATS["answered"] >= CONFIG["hold_after"] and not RELEASED.is_set()
            STATS["held" if held else "answered"] += 1
        if held:
            RELEASED.wait(60)
            return self.cut()
        with LOCK:
            STATS["by_body"][digest] = STATS["by_body"].get(digest, 0) + 1
        answer = CONFIG["answers"].get(request["messages"][-1]["content"], CONFIG.get("default", "I don't know."))
        self.reply(200, {"id": "x", "object": "chat.completion", "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": answer}}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}})

    def cut(self):
        self.close_connection = True
        self.connection.shutdown(2)


if __name__ == "__main__":
    ThreadingHTTPServer.request_queue_size = 128
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    server.serve_forever()
