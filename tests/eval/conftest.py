"""The mock service, started as a process for one test and stopped with it."""
import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest


class Service:
    """A running mock service: url for clients, stats() for tests."""

    def __init__(self, process):
        self.process = process
        self.port = int(process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def stats(self):
        return self.get("/stats")

    def get(self, path):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{self.port}{path}", timeout=10) as response:
            return json.load(response)


@pytest.fixture
def serve(tmp_path):
    """serve(answers=…, delay=…, …) -> Service."""
    started = []

    def start(**config):
        path = tmp_path / f"service-{len(started)}.json"
        path.write_text(json.dumps({"answers": {}, **config}))
        command = [sys.executable, str(Path(__file__).with_name("mockserver.py")), str(path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return Service(process)

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()
