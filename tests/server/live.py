"""A real service in a process of its own, on a real socket, with a small model: what the tests of the HTTP side talk to.

The model is random, but leans towards ending: `</think>` and the end of sentence come about every twelfth token, so that answers have
reasoning, content and an end. What it says means nothing; grammars make it call tools and write JSON all the same.
"""
from __future__ import annotations

import json
import random
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from fathom.checkpoint import save_checkpoint
from fathom.model import Batch, Transformer
from fathom.text import Tokenizer, special, train_tokenizer
from tests.oracle import randomise, tiny_config

LIKELY = 1 / 12
OPTIONS = ("--dtype", "bfloat16", "--memory", 0.02, "--cache", 0.02)


def save_model(folder: Path, context: int = 2048) -> Path:
    """Makes the model and its tokenizer."""
    tokenizer = train_tokenizer(texts(), 700)
    config = tiny_config(vocab_size=tokenizer.vocab_size, eos_token_id=tokenizer.eos_id, bos_token_id=tokenizer.bos_id,
                         max_position_embeddings=context)
    model = randomise(Transformer(config), 5)
    lean(model, [tokenizer.eos_id, tokenizer.control_id(special.THINK_CLOSE)], tokenizer)
    save_checkpoint(folder, config, model.tensors(), dtype="bfloat16")
    tokenizer.save(folder)
    return folder


def texts() -> list[str]:
    """Python-like text, the same for ever: a model's answers must not change with the project's own sources."""
    draw = random.Random(0)
    names = "value count mean total text word line item key name path file list table row first last token model answer question number size".split()
    verbs = "return read write find make open close sort join split count keep drop take give send ask show move start stop wait".split()
    small = "the of and to in is that it for as with on by from at or one all none each which when where not no more less".split()

    def function() -> str:
        (a, b, c), verb = draw.sample(names, 3), draw.choice(verbs)
        words = " ".join(draw.choice(small if i % 2 else [*names, *verbs]) for i in range(draw.randrange(5, 14)))
        return (f'def {verb}_{a}({b}s: list[int], {c}: str = "{draw.choice(names)}") -> int:\n    """{words.capitalize()}."""\n'
                f"    if not {b}s:\n        raise ValueError({c})\n    return sum({b}s) / len({b}s) + {draw.randrange(1000)}\n\n\n")

    return ["".join(function() for _ in range(40)) for _ in range(10)]


@torch.no_grad()
def lean(model: Transformer, tokens: list[int], tokenizer: Tokenizer) -> None:
    """Turns the output rows of some tokens towards the mean last state, until each has about the probability LIKELY."""
    hidden = model(Batch.pack([torch.tensor(tokenizer.encode("def mean(values):\n    return sum(values) / len(values)\n" * 4))])).hidden.float()
    mean, head = hidden.mean(0), model.tensors()["head.weight"]
    head *= 0.3  # flatter, so that the random rest has no favourites
    rest = (hidden @ head.float().T).logsumexp(-1).mean()
    for token in tokens:
        head[token] = ((rest + torch.tensor(LIKELY / (1 - 2 * LIKELY)).log()) / mean.square().sum() * mean).to(head.dtype)


class Live:
    """A running service. url: its address; key: a key whose account is never out of balance; folder: all it keeps."""

    def __init__(self, process: subprocess.Popen[str], folder: Path, log: Path) -> None:
        self.process, self.folder, self.log_file = process, folder, log
        self.url = self.key = ""

    def wait(self, seconds: float = 120) -> None:
        """Until it has announced itself."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            said = self.log_file.read_text()
            if "curl" in said or "Keys:" in said:
                self.url = said.split("is served on ")[1].split()[0]
                file = self.folder / "local.key"
                self.key = file.read_text().strip() if file.exists() else ""
                return
            time.sleep(0.05)
        raise AssertionError(f"the service didn't start:\n{self.log_file.read_text()}")

    def log(self) -> str:
        """What it has printed."""
        return self.log_file.read_text()

    def request(self, method: str, path: str, body: Any = None, *, key: str | None = None, headers: dict[str, str] | None = None,
                seconds: float = 120) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body) of one request. body: JSON, or bytes as they are; key: this service's own unless given, "" for none."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        secret = self.key if key is None else key
        sent = {"Content-Type": "application/json", **({"Authorization": f"Bearer {secret}"} if secret else {}), **(headers or {})}
        request = urllib.request.Request(self.url + path, data=data, method=method, headers=sent)
        try:
            with urllib.request.urlopen(request, timeout=seconds) as answer:
                return answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, {k.lower(): v for k, v in error.headers.items()}, error.read()

    def post(self, path: str, body: Any, **options: Any) -> tuple[int, Any]:
        """(status, parsed body) of a POST."""
        status, _, text = self.request("POST", path, body, **options)
        return status, json.loads(text)

    def get(self, path: str, **options: Any) -> tuple[int, Any]:
        """(status, parsed body) of a GET."""
        status, _, text = self.request("GET", path, **options)
        return status, json.loads(text)

    def engine(self) -> dict[str, float]:
        """The engine's figures at /metrics."""
        text = self.request("GET", "/metrics")[2].decode()
        pairs = (line.split() for line in text.splitlines() if line.startswith("fathom_engine_"))
        return {name.removeprefix("fathom_engine_").removesuffix("_total"): float(value) for name, value in pairs}

    def until_idle(self, seconds: float = 20) -> dict[str, float]:
        """The engine's figures once nothing runs or waits."""
        end = time.monotonic() + seconds
        while (found := self.engine())["running"] or found["waiting"]:
            assert time.monotonic() < end, found
            time.sleep(0.05)
        return found


@contextmanager
def serve(model: Path, folder: Path, *options: object) -> Iterator[Live]:
    """`fathom serve` as a process; it is told to stop at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "printed.log"
    arguments = ["serve", "--model", model, "--folder", folder, "--port", 0, *OPTIONS, *options]
    with log.open("w") as out:
        process = subprocess.Popen([sys.executable, "-m", "fathom.cli", *map(str, arguments)], stdout=out, stderr=subprocess.STDOUT, text=True)
    try:
        live = Live(process, folder, log)
        live.wait()
        yield live
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
