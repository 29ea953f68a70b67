"""`fathom serve` as a user meets it: what it takes without --model, what it prints, how it ends, what it refuses before it reads a model."""
from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fathom.cli import main
from fathom.config.recipe_file import recipe_from_dict, recipe_to_toml
from tests.server.crowd import ask
from tests.server.live import OPTIONS, Live

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def place(small_model: Path, tmp_path: Path) -> Path:
    """A folder as `make serve` finds it after training: a run that was pretrained, and one that has learned to converse."""
    for name, table in (("talk", {"kind": "sft", "base": "runs/nano"}), ("nano", {"data": {"paths": ["."]}})):
        run = tmp_path / "runs" / name
        shutil.copytree(small_model, run / "checkpoints" / "step-9")
        (run / "recipe.toml").write_text(recipe_to_toml(recipe_from_dict(table)))
        (run / "results.json").write_text("{}")
    return tmp_path


def fathom(place: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "fathom.cli", *map(str, arguments)], cwd=place, env=ENVIRONMENT, capture_output=True, text=True)


def begin(place: Path, *arguments: object) -> Live:
    """A service with everything where it is unless told otherwise."""
    log = place / "printed.log"
    with log.open("w") as out:
        process = subprocess.Popen([sys.executable, "-m", "fathom.cli", "serve", "--port", "0", *map(str, OPTIONS), *map(str, arguments)],
                                   cwd=place, env=ENVIRONMENT, stdout=out, stderr=subprocess.STDOUT, text=True)
    live = Live(process, place / "runs" / "service", log)
    live.wait()
    return live


@pytest.mark.needs("curl")
def test_a_life(place: Path) -> None:
    live = begin(place)
    try:
        said = live.log()
        assert "serving runs/talk" in said and "learned to converse" in said and live.url.startswith("http://127.0.0.1:")
        assert f"{live.url}/#key={live.key}" in said and live.key.startswith("sk-")
        line = next(line for line in said.splitlines() if line.strip().startswith("curl "))
        answer = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=60).stdout
        assert '"object":"chat.completion"' in answer and '"model":"talk"' in answer
        port = live.url.rpartition(":")[2]
        for arguments, field in ((["--port", port], "--host, --port"), (["--port", "0"], "--folder")):
            refused = fathom(place, "serve", *arguments)
            assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1 and field in refused.stderr
        talk = {"model": "talk", "prompt": "x", "max_tokens": 300, "temperature": 2}

        async def stopped_while_they_listen() -> list[bool]:
            asked = [asyncio.create_task(ask(live, {**talk, "seed": seed}, "/v1/completions")) for seed in range(6)]
            while live.engine()["running"] < 6:
                await asyncio.sleep(0.01)
            live.process.send_signal(signal.SIGTERM)
            return [heard.ended and heard.tokens > 0 for heard in await asyncio.gather(*asked)]

        assert asyncio.run(stopped_while_they_listen()) == [True] * 6, "answers under way are given to their end"
        assert live.process.wait(60) == 0
    finally:
        live.process.kill()
    assert "Traceback" not in live.log()
    key = live.key
    again = begin(place, "--model", "runs/nano", "--name", "other")
    try:
        assert again.key == key and "other is served on" in again.log() and again.get("/models")[0] == 200
        again.process.send_signal(signal.SIGINT)
        assert again.process.wait(60) == 0
    finally:
        again.process.kill()


@pytest.mark.parametrize(("arguments", "said"), [
    (["--model", "nowhere"], "model = nowhere: no such folder"), (["--model", "runs"], "config.json"), (["--host", "no.such.host.invalid"], "--host"),
    (["--prices", "nothing.toml"], "nothing.toml"), (["--body-mib", "0"], "--body-mib"), (["--head-seconds", "inf"], "--head-seconds"),
    (["--log-level", "loud"], "--log-level"), (["--tls-cert", "x.pem"], "--tls-cert, --tls-key"), (["--name", "a\nb"], "--name"),
    (["--speculate", "often"], "speculate"), (["--dtype", "int3"], "precision"), (["--kernels", "fast"], "kernels"), (["--cache", "inf"], "--cache"),
    (["--weights-budget", "much"], "weights-budget"), (["--database", "nothing://"], "--database"), (["--runs", "empty/none", "--device", "x"], "x"),
])
def test_what_cannot_be_is_said_in_one_line(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str],
                                            said: str) -> None:
    monkeypatch.chdir(place)
    with pytest.raises(SystemExit) as end:
        main(["serve", "--port", "0", *arguments])
    printed = capsys.readouterr().err.strip()
    assert end.value.code == 2 and said in printed and re.fullmatch(r"fathom: [^\n]+", printed), printed
