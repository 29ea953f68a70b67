"""The command line as a process: help with examples on every verb, one-line errors with exit code 2, real output."""
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fathom.cli import VERBS
from tests.test_session import folder, tokenizer  # noqa: F401  (fixtures)


def fathom(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "fathom.cli", *map(str, arguments)], capture_output=True, text=True, timeout=120, **options)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_with_an_example(verb: str) -> None:
    done = fathom(verb, "--help")
    assert done.returncode == 0 and f"fathom {verb}" in done.stdout.split("Usage:")[1], done.stderr
    assert "xample" in done.stdout


def test_overview() -> None:
    done = fathom()
    assert done.returncode == 0 and all(verb in done.stdout for verb in VERBS)


@pytest.mark.parametrize(("arguments", "said"), [
    (["trian"], "verb = trian"),
    (["generate", "--model", "/nowhere", "x"], "model = /nowhere: no such folder"),
    (["plan", "v4-huge"], "v4-huge"),
    (["convert", "/nowhere", "/nowhere/else"], "/nowhere"),
    (["train", "/nowhere.toml"], "/nowhere.toml"),
    (["doctor", "--device", "abacus"], "device = abacus"),
])
def test_a_users_mistake_is_one_line(arguments: list[str], said: str) -> None:
    done = fathom(*arguments)
    assert done.returncode == 2 and said in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and "Traceback" not in done.stderr


def test_generate(folder: Path) -> None:  # noqa: F811
    shown = fathom("generate", "--model", folder, "--max-tokens", 8, "--dtype", "float32", "--temperature", 0, "def")
    alone = fathom("generate", "--model", folder, "--max-tokens", 8, "--dtype", "float32", "--temperature", 0, "--quiet", "def")
    assert shown.returncode == alone.returncode == 0, shown.stderr
    assert shown.stdout == "def" + alone.stdout
    piped = fathom("generate", "--model", folder, "--max-tokens", 8, "--dtype", "float32", "--temperature", 0, "--quiet", "-", input="def")
    assert piped.stdout == alone.stdout
    too_long = fathom("generate", "--model", folder, "--dtype", "float32", "-", input="def fib " * 3000)
    assert too_long.returncode == 2 and "context is 4096 tokens" in too_long.stderr
    assert fathom("generate", "--model", folder, "--temperature", 9, "x").returncode == 2


def test_doctor_and_plan_speak_json() -> None:
    found = json.loads(fathom("doctor", "--json", "--device", "cpu").stdout)
    assert found["device"]["name"] == "cpu" and {row["operator"] for row in found["kernels"]} >= {"attend", "experts", "index_topk"}
    assert json.loads(fathom("plan", "nano", "--json").stdout)
