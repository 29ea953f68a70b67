"""The command as a process against a service as a process: a whole run, kills in the middle, rate limits, lost connections."""
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fathom.errors import UserError
from fathom.eval import pools
from fathom.eval.store import Store

pytestmark = pytest.mark.needs("module:httpx")
SEED = 11
ROOT = Path(__file__).parents[2]
NO_CODE = ["--dimension", "grounding", "--dimension", "integrity", "--dimension", "communication", "--dimension", "constraints"]


@pytest.fixture(scope="module")
def kinds():
    return pools.built_in()


@pytest.fixture(scope="module")
def walls():
    """The sandbox mode that works here; without one (no bubblewrap, and a Python that only root can read) the test is skipped."""
    from fathom.sandbox import Sandbox
    for mode in ("bubblewrap", "limits"):
        try:
            return Sandbox(mode=mode) and mode
        except UserError as error:
            why = str(error)
    pytest.skip(why)


def answers(kinds, full, dimensions=(), context=65536):
    """{last user text: right answer} of a run."""
    found = {}
    for probe in pools.index_probes(kinds, full=full, seed=SEED, dimensions=dimensions, context=context):
        item = probe.item(kinds)
        for question, answer in zip((item.messages[-1]["content"], *item.followups), kinds[probe.kind].reference(item)):
            found[question] = answer
    return found


def start(service, out, *options):
    command = [sys.executable, str(Path(__file__).with_name("evalcli.py")), "--endpoint", service.url, "--model", "mock", "--out", str(out),
               "--seed", str(SEED), "--thinking-room", "0", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT,
                            env={**os.environ, "PYTHONPATH": str(ROOT)})


def finish(process, code=0):
    text, _ = process.communicate(timeout=240)
    assert process.returncode == code, text
    return text


def report(out):
    (path,) = out.glob("*/report.json")
    return json.loads(path.read_text())


def wait_for(condition, seconds=200):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)


def test_a_smoke_run_with_a_key(tmp_path, serve, kinds, walls):
    service = serve(answers=answers(kinds, full=False), key="sk-secret-42")
    (tmp_path / "key").write_text("sk-secret-42\n")
    out = tmp_path / "out"
    text = finish(start(service, out, "--key-file", str(tmp_path / "key"), "--sandbox", walls))
    result = report(out)
    assert result["scores"]["core"] == result["scores"]["judgment"] == result["scores"]["communication"] == 100, result["items"]
    assert result["scores"]["availability"] == 100 and result["scores"]["label"] == "not rated" and result["run"]["finished"]
    assert service.stats()["answered"] == 10 == len(result["items"]) and all(n == 1 for n in service.stats()["by_body"].values())
    assert "report.html" in text and "100.00" in text and "not rated" in text
    for path in out.rglob("*"):
        assert path.is_dir() or b"sk-secret-42" not in path.read_bytes(), path
    assert "sk-secret-42" not in text


def test_a_refused_key_stops_the_run_and_is_not_quoted(tmp_path, serve):
    """The service says it back, as some do."""
    service = serve(key="sk-right-1")
    (tmp_path / "key").write_text("sk-wrong-77\n")
    text = finish(start(service, tmp_path / "out", "--key-file", str(tmp_path / "key"), "--dimension", "judgment"), code=2)
    assert "refuses the key" in text and "bad key: Bearer (the key)" in text and service.stats()["requests"] == 0
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or b"sk-wrong-77" not in path.read_bytes(), path


def test_killed_and_started_again_it_asks_nothing_twice(tmp_path, serve, kinds):
    """The service falls silent after 40 answers; the run is killed while it waits; what was answered is never asked again."""
    dimensions = ("grounding", "integrity", "communication", "constraints")
    service = serve(answers=answers(kinds, True, dimensions, 4096), hold_after=40)
    options = ["--full", *NO_CODE, "--context", "4K", "--repeats", "1", "--concurrency", "6"]
    first = start(service, tmp_path, *options)
    wait_for(lambda: service.stats()["held"] == 6)
    time.sleep(0.5)  # the fortieth answer is on its way into the store
    first.kill()
    first.communicate()
    service.get("/release")
    text = finish(start(service, tmp_path, *options))
    assert "Continuing run" in text and "40 answers" in text
    stats = service.stats()
    assert set(stats["by_body"].values()) == {1} and stats["answered"] == 59 + 42 + 8 + 25 + 3 * 8
    assert sorted(stats["received"].values())[-6:] == [2] * 6 and sum(stats["received"].values()) == stats["answered"] + 6
    result = report(tmp_path)
    assert result["scores"]["grounding"] == result["scores"]["integrity"] == 100 and result["scores"]["constraint_keeping"] == 1
    assert len(set(stats["ids"])) == stats["answered"], "a repeated request carries its first id"


@pytest.mark.check
def test_killed_at_random_moments(tmp_path, serve, kinds):
    dimensions = ("grounding", "integrity", "communication", "constraints")
    service = serve(answers=answers(kinds, True, dimensions, 4096), delay=0.02)
    options = ["--full", *NO_CODE, "--context", "4K", "--repeats", "1", "--concurrency", "4"]
    rng, kills = random.Random(3), 0
    while True:
        before = service.stats()["answered"]
        process = start(service, tmp_path, *options)
        until = before + rng.randrange(10, 60)
        wait_for(lambda process=process, until=until: process.poll() is not None or service.stats()["answered"] >= until)
        if process.poll() is not None:
            break
        process.kill()
        process.communicate()
        kills += 1
    assert kills >= 2 and process.communicate() and process.returncode == 0
    stats = service.stats()
    assert stats["answered"] - len(stats["by_body"]) <= 4 * kills, "only what was in flight at a kill is asked again"
    store = Store(tmp_path / "eval.sqlite")
    assert len(store.runs()) == 1 and len(store.replies(store.runs()[0].id)) == len(stats["by_body"]) == 158
    assert report(tmp_path)["scores"]["complete"]


def test_rate_limits_and_lost_connections_are_survived(tmp_path, serve, kinds):
    service = serve(answers=answers(kinds, True, ("communication", "integrity")), reject_every=6, drop_every=14)
    finish(start(service, tmp_path, "--full", "--dimension", "communication", "--dimension", "integrity", "--concurrency", "8"))
    stats, result = service.stats(), report(tmp_path)
    assert stats["rejected"] > 5 and stats["dropped"] > 3 and stats["most"] <= 8
    assert result["scores"]["communication"] == 100 and result["scores"]["complete"]
    assert result["scores"]["availability"] == pytest.approx(100 * stats["answered"] / (stats["answered"] + stats["dropped"]), abs=0.01)
    assert result["usage"]["troubles"]["HTTP 429"] == stats["rejected"]


def test_every_tenth_request_fails(tmp_path, serve, kinds):
    """90 answers of 100 attempts: all scores full, availability 90."""
    service = serve(answers=answers(kinds, True, ("communication", "integrity", "constraints")), fail_every=10, fail_status=503)
    finish(start(service, tmp_path, "--full", "--dimension", "communication", "--dimension", "integrity", "--dimension", "constraints",
                 "--concurrency", "16"))
    result, stats = report(tmp_path), service.stats()
    assert stats["answered"] == 25 + 50 + 24 and stats["failed"] == 10, (result["usage"], {k: v for k, v in stats.items() if k != "ids"})
    assert result["scores"]["availability"] == pytest.approx(100 * 99 / 109, abs=0.01)
    assert result["scores"]["communication"] == result["scores"]["integrity"] == 100


def test_a_slow_service_scores_the_same_and_its_seconds_are_told(tmp_path, serve, kinds):
    service = serve(answers=answers(kinds, False, ("judgment",)), delay=0.7)
    finish(start(service, tmp_path, "--dimension", "judgment"))
    result = report(tmp_path)
    assert result["scores"]["judgment"] == 100 and result["usage"]["seconds_median"] >= 0.7 and result["scores"]["availability"] == 100


def test_too_slow_is_unanswered_wrong_and_asked_again_next_time(tmp_path, serve, kinds):
    service = serve(answers=answers(kinds, False, ("judgment",)), delay=1.0)
    text = finish(start(service, tmp_path, "--dimension", "judgment", "--timeout", "0.3", "--attempts", "1"))
    result = report(tmp_path)
    assert (result["scores"]["judgment"], result["scores"]["availability"], result["scores"]["complete"]) == (0, 0, False)
    assert "Incomplete" in text and not result["run"]["finished"]
    finish(start(service, tmp_path, "--dimension", "judgment", "--timeout", "9"))
    assert report(tmp_path)["scores"]["judgment"] == 100 and report(tmp_path)["scores"]["availability"] == 50


def test_an_endpoint_that_only_refuses_stops_the_run(tmp_path, serve):
    service = serve(fail_every=1, fail_status=400)
    text = finish(start(service, tmp_path, "--dimension", "judgment", "--full", "--concurrency", "1"), code=2)
    assert "no answer at all" in text and "cannot do that" in text and service.stats()["requests"] < 6


def test_ctrl_c_stops_at_once_and_says_how_to_go_on(tmp_path, serve, kinds):
    service = serve(hold_after=3)
    process = start(service, tmp_path, "--dimension", "communication", "--full", "--concurrency", "2")
    wait_for(lambda: service.stats()["held"] == 2)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=20)
    assert process.returncode != 0 and time.monotonic() - began < 5 and "same command continues" in text, text


@pytest.mark.parametrize("options, says", [
    (["--model", ""], "--model"), (["--local", "x"], "--local"), (["--dimension", "speed"], "--dimension"),
    (["--context", "3X"], "--context"), (["--extra", "[1]"], "--extra"), (["--extra", '{"model": "x"}'], "--extra"),
    (["--key-file", "/nonexistent"], "--key-file"), (["--compare", "nothing"], "--compare"),
    (["--prices", "/nonexistent.toml", "--price-model", "x"], "prices"),
    (["--temperature", "3"], "--temperature"), (["--concurrency", "0"], "--concurrency"), (["--timeout", "0"], "--timeout"),
    (["--price-model", "nobody"], "nobody"), (["--sandbox", "none"], "--sandbox"), (["--long-context", "2K"], "--long-context"),
])
def test_mistakes_are_one_line_before_anything_is_asked(tmp_path, capsys, options, says):
    from typer.testing import CliRunner

    from tests.eval.evalcli import app
    result = CliRunner().invoke(app, ["--endpoint", "http://127.0.0.1:9/v1", "--model", "m", "--out", str(tmp_path), *options])
    assert isinstance(result.exception, UserError) and says in result.exception.one_line() and "\n" not in result.exception.one_line()


def test_comparing_needs_no_endpoint(tmp_path, serve, kinds):
    right = serve(answers=answers(kinds, False, ("judgment", "communication")))
    finish(start(right, tmp_path / "a", "--dimension", "judgment", "--dimension", "communication"))
    wrong = serve()
    finish(start(wrong, tmp_path / "b", "--dimension", "judgment", "--dimension", "communication"))
    (a,), (b,) = (tmp_path / "a").glob("*/report.json"), (tmp_path / "b").glob("*/report.json")
    command = [sys.executable, str(Path(__file__).with_name("evalcli.py")), "--out", str(tmp_path / "c"), "--compare", str(a),
               "--compare", str(b.parent)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "(-100.00)" in done.stdout and "0 / 4 of 4" in done.stdout
    assert (tmp_path / "c/comparison/report.html").is_file()


def test_the_users_own_problems(tmp_path, walls):
    """A file in HumanEval's format is a list of its own: the echoing model gets 0 there, and the core knows nothing of it."""
    problem = {"task_id": "own/0", "prompt": "def twice(x):\n    \"\"\"Twice x.\"\"\"\n", "entry_point": "twice",
               "test": "def check(candidate):\n    assert candidate(4) == 8\n", "canonical_solution": "    return x + x\n"}
    (tmp_path / "own.jsonl").write_text(json.dumps(problem))
    command = [sys.executable, str(Path(__file__).with_name("evalcli.py")), "--local", str(tmp_path), "--out", str(tmp_path / "o"),
               "--dimension", "judgment", "--humaneval", str(tmp_path / "own.jsonl"), "--sandbox", walls]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=120)
    assert done.returncode == 0, done.stderr
    result = report(tmp_path / "o")
    assert [(d["name"], d["items"]) for d in result["dimensions"]] == [("judgment", 2), ("humaneval", 1)]
    assert result["scores"]["humaneval"] == 0 and result["scores"]["core"] is None


def test_a_local_model(tmp_path):
    command = [sys.executable, str(Path(__file__).with_name("evalcli.py")), "--local", str(tmp_path), "--out", str(tmp_path / "o"),
               "--dimension", "communication", "--long-context", "4K"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=120)
    assert done.returncode == 0, done.stderr
    result = report(tmp_path / "o")
    assert result["run"]["model"] == "echo" and result["scores"]["communication"] == 0
    assert len(result["grids"][0]["cells"]) == 5 and result["grids"][0]["lengths"] == [4096]
    assert {e["kind"] for e in result["lengths"]} == {"needle", "needles", "trace", "tally"}
