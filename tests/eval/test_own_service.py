"""A smoke run against our own service: `fathom serve` and `fathom eval` as two processes, and the service's ledger beside our store.

The model has random weights, so its scores say nothing; what is tested is that the two understand each other, that every token that the
one reports is a token that the other billed, and that a run that was killed asks nothing twice.
"""
import json
import os
import re
import select
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fathom.checkpoint import save_checkpoint
from fathom.eval import pools
from fathom.model import Transformer
from fathom.text import train_tokenizer
from tests.oracle import randomise, tiny_config

pytestmark = pytest.mark.needs("module:httpx", "module:fastapi", "module:uvicorn", "module:sqlalchemy", "module:alembic", "bwrap")
SEED, ROOT = 11, Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny model whose tokenizer knows the items' words, so that even their documents fit its context."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    kinds = pools.built_in()
    texts = [m["content"] for p in pools.index_probes(kinds, full=False, seed=1) for m in p.item(kinds).messages]
    tokenizer = train_tokenizer(texts, 700)
    config = tiny_config(vocab_size=tokenizer.vocab_size, eos_token_id=tokenizer.eos_id, bos_token_id=tokenizer.bos_id, max_position_embeddings=8192)
    save_checkpoint(folder, config, randomise(Transformer(config), 1).tensors(), dtype="float32")
    tokenizer.save(folder)
    return folder


@pytest.fixture
def service(checkpoint, tmp_path):
    """(base URL, folder of the running service)."""
    folder = tmp_path / "service"
    command = [sys.executable, "-m", "fathom.cli", "serve", "--model", str(checkpoint), "--name", "tiny", "--port", "0", "--folder", str(folder),
               "--cache", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=ENVIRONMENT)
    said = ""
    try:
        while not (found := re.search(r"is served on (http://\S+)", said)):
            assert select.select([process.stdout], [], [], 120)[0] and process.poll() is None, said
            said += process.stdout.readline()
        yield found[1], folder
    finally:
        process.terminate()
        process.communicate(timeout=60)


def start(service, out, *options):
    url, folder = service
    command = [sys.executable, "-m", "fathom.cli", "eval", "--endpoint", f"{url}/v1", "--model", "tiny", "--key-file", str(folder / "local.key"),
               "--out", str(out), "--seed", str(SEED), "--thinking-room", "0", "--extra", '{"thinking": {"type": "disabled"}}', *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=ENVIRONMENT)


def finish(process):
    text, _ = process.communicate(timeout=240)
    assert process.returncode == 0, text
    return text


def billed(folder):
    """The ledger's rows, one a request."""
    command = [sys.executable, "-m", "fathom.cli", "bill", "--by", "request", "--json", "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=ENVIRONMENT, timeout=120)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def report(out):
    (path,) = out.glob("*/report.json")
    return json.loads(path.read_text())


def test_a_smoke_run(service, tmp_path):
    finish(start(service, tmp_path / "out", "--max-tokens", "16"))
    result, rows = report(tmp_path / "out"), billed(service[1])
    assert result["scores"]["complete"] and result["scores"]["availability"] == 100 and result["refused"] == 0
    assert len(result["items"]) == 10 == len(rows) and len(result["dimensions"]) == 5
    usage = result["usage"]
    assert usage["reported"] == usage["attempts"] == 10 and usage["troubles"] == {}
    assert usage["prompt_tokens"] == sum(row["hit"] + row["miss"] for row in rows) and usage["cached_tokens"] == sum(row["hit"] for row in rows)
    assert 0 < usage["completion_tokens"] == sum(row["output"] for row in rows) <= 160


@pytest.mark.check
def test_killed_and_started_again_it_asks_nothing_twice(service, tmp_path):
    """One at a time, so that at most the one under way at the kill is asked again; the ledger has what was asked in all."""
    out = tmp_path / "out"
    options = ("--max-tokens", "120", "--concurrency", "1", "--dimension", "judgment", "--dimension", "communication", "--full")
    first = start(service, out, *options)
    end = time.monotonic() + 200
    while answers(out) < 5:
        assert first.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    first.kill()
    first.communicate()
    stored = answers(out)
    assert 5 <= stored < 50
    text = finish(start(service, out, *options))
    assert f"{stored} answers are there" in text and report(out)["usage"]["answers"] == 50
    assert 50 <= len(billed(service[1])) <= 51


def answers(out):
    """How many answers the store holds by now."""
    if not (out / "eval.sqlite").is_file():
        return 0
    with sqlite3.connect(f"file:{out / 'eval.sqlite'}?mode=ro", uri=True) as store:
        try:
            return store.execute("SELECT count(*) FROM asks WHERE answer IS NOT NULL").fetchone()[0]
        except sqlite3.OperationalError:  # its tables aren't there yet
            return 0


@pytest.mark.check
def test_the_refusals_of_the_service_are_understood(service, tmp_path):
    """A wrong key stops the run; documents beyond the context are told, and count as wrong."""
    url, folder = service
    wrong = tmp_path / "wrong.key"
    wrong.write_text("sk-nobody")
    process = start((url, folder), tmp_path / "a", "--key-file", str(wrong))
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 2 and "refuses the key" in text and "sk-nobody" not in text
    finish(start(service, tmp_path / "b", "--max-tokens", "4", "--full", "--dimension", "grounding", "--context", "8K", "--repeats", "1"))
    result = report(tmp_path / "b")
    assert result["scores"]["complete"] and 0 < result["refused"] < 59
    assert all("context" in i["detail"] for i in result["items"] if i["detail"].startswith("refused"))
