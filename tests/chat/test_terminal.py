"""`fathom chat` as a process: its input a pipe or a real terminal, its service the stand-in that answers as it is told (tests/server)."""
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import pytest

from fathom.chat.conversation import Conversation, load
from fathom.chat.printing import safe
from fathom.errors import UserError
from tests.server.standin import Standin

TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]


@pytest.fixture
def standin():
    with Standin() as server:
        yield server


def command(standin, *arguments):
    return [sys.executable, "-m", "fathom.cli", "chat", "--url", standin.url, *map(str, arguments)]


def chat(standin, *lines, arguments=()):
    environment = {"FATHOM_API_KEY": standin.key, "PATH": os.environ["PATH"]}
    done = subprocess.run(command(standin, *arguments), input="".join(line + "\n" for line in lines), capture_output=True, text=True, timeout=120,
                          check=False, env=environment)
    assert done.returncode == 0 and standin.key not in done.stdout, done.stderr
    return done.stdout


def said(standin, request=-1):
    return [message["content"] for message in standin.requests[request]["messages"]]


def test_a_question_is_answered_with_reasoning_and_figures(standin):
    out = chat(standin, "Hello", "/cost")
    assert out.index("The user wants something.") < out.index("Thought for") < out.index("You said: Hello") < out.index("tok/s")
    assert "21 tokens (19 thinking)" in re.sub(r"\b2\d tokens", "21 tokens", out) and "context" in out and "$ 0.0000" in out
    assert "The user wants" not in chat(standin, "/reasoning hide", "Hello")


def test_modes_and_numbers_reach_the_request(standin):
    chat(standin, "/mode off", "One", "/mode max", "/set temperature 0.5", "/set seed 7", "/system Be brief.", "Two", "/set seed", "Three",
         arguments=("--max-tokens", 50))
    one, two, three = standin.requests
    assert one["thinking"] == {"type": "disabled"} and "reasoning_effort" not in one and one["max_tokens"] == 50
    assert two["reasoning_effort"] == "max" and (two["temperature"], two["seed"]) == (0.5, 7) and said(standin, 1)[0] == "Be brief."
    assert "seed" not in three and said(standin) == ["Be brief.", "One", "You said: One", "Two", "You said: Two", "Three"]


def test_a_tool_is_called_and_its_result_sent(standin, tmp_path):
    (tmp_path / "tools.json").write_text(json.dumps(TOOLS))
    out = chat(standin, f"/tools {tmp_path / 'tools.json'}", "Use a tool", '{"celsius": 21}')
    assert 'calls get_weather {\n  "place": "Rome",' in out and 'The tool says: {"celsius": 21}' in out
    call, result = standin.requests[-1]["messages"][-2:]
    assert call["tool_calls"][0]["id"] == result["tool_call_id"] == "call_0" and call["reasoning_content"]
    assert standin.requests[0]["tools"] == TOOLS


def test_again_edit_and_files(standin, tmp_path):
    (tmp_path / "notes.txt").write_text("three words here")
    out = chat(standin, "First", "Second", "/again", "/edit 1 Other", f"/attach {tmp_path / 'notes.txt'}", "What is it?", "//not a command",
               "a \\", "b")
    assert said(standin, 1) == said(standin, 2) and said(standin, 3) == ["Other"] and "notes.txt: 3 tokens" in out
    assert said(standin, 4)[-1] == "[file name]: notes.txt\n[file content begin]\nthree words here\n[file content end]\nWhat is it?"
    assert said(standin, 5)[-1] == "/not a command" and said(standin, 6)[-1] == "a \nb"


def test_what_goes_wrong_is_said_and_the_chat_goes_on(standin, tmp_path):
    standin.refuse += [402, 429, 503]
    out = chat(standin, "One", "/again", "/again", "/again", "This breaks in the middle of it all", "/nonsense", "/mode deep", "/set temperature 9",
               "/attach nowhere.txt", "/edit 9 x", "/tools nowhere.json", f"/open {__file__}", "Still here")
    for words in ("used up", "too many requests", "is busy", "You said: One", "broke off", "/nonsense", "one of off, thinking, max", "0 to 2",
                  "nowhere.txt", "one of your", "cannot be read", "You said: Still here"):
        assert words in out, words


def test_a_conversation_is_kept_and_gone_on_with(standin, tmp_path):
    file = tmp_path / "talk.json"
    chat(standin, "Remember this", "/again", arguments=("--conversation", file))
    out = chat(standin, "And now?", arguments=("--conversation", file))
    assert "> Remember this" in out and said(standin) == ["Remember this", "You said: Remember this", "And now?"]
    kept = load(file)
    assert kept.title == "Remember this" and len(kept.nodes) == 5 and kept.spent["cost"] == sum(n["cost"] for n in kept.nodes.values() if "cost" in n)


def test_ctrl_c_stops_the_answer_and_not_the_chat(standin, tmp_path):
    file = tmp_path / "talk.json"
    leader, follower = pty.openpty()
    environment = {"FATHOM_API_KEY": standin.key, "PATH": os.environ["PATH"], "TERM": "dumb"}
    process = subprocess.Popen(command(standin, "--conversation", file, "--mode", "off"), stdin=follower, stdout=follower, stderr=follower,
                               env=environment, start_new_session=True)
    os.close(follower)
    screen = ""

    def until(pattern):
        nonlocal screen
        end = time.monotonic() + 60
        while not (found := re.search(pattern, screen, re.DOTALL)):
            assert select.select([leader], [], [], max(0, end - time.monotonic()))[0], screen
            screen += os.read(leader, 4096).decode("utf-8", "replace")
        screen = screen[found.end():]

    until(r"/help shows.*> $")  # the prompt is there: what is typed is read by the line editor
    os.write(leader, b"Something slow\n")
    until("word word word word")
    process.send_signal(signal.SIGINT)
    until(r"stopped.*> $")
    os.write(leader, b"Still there?\n")
    until(r"You said: Still there\?.*> $")
    os.write(leader, b"\x04")
    assert process.wait(30) == 0
    os.close(leader)
    stopped = next(node for node in load(file).nodes.values() if node.get("finish") == "stopped")
    assert stopped["cost"] == 11_000 and stopped["content"].startswith("word word")  # its price comes from the ledger


def test_a_model_cannot_steer_the_terminal():
    assert safe("a\x1b[31mb\x07\x9b2J\r\u202ec\n\td") == "a\ufffd[31mb\ufffd\ufffd2J\ufffd\ufffdc\n\td"
    assert safe("naïve 👩\u200d🔬 تجربة") == "naïve 👩\u200d🔬 تجربة"


@pytest.mark.parametrize("change", [
    lambda d: d.update(fathom=2), lambda d: d.update(leaf="n1"), lambda d: d["settings"].update(mode="deep"), lambda d: d["spent"].pop("cost"),
    lambda d: next(iter(d["nodes"].values())).update(parent=next(iter(d["nodes"]))),
    lambda d: next(iter(d["nodes"].values())).update(files=[{"name": 3}]),
])
def test_a_file_that_is_no_conversation_is_refused(tmp_path, change):
    talk, file = Conversation(), tmp_path / "talk.json"
    talk.add(None, "user", text="Hi", files=[])
    talk.save(file)
    assert load(file) == talk
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))
    with pytest.raises(UserError, match="isn't a conversation"):
        load(file)
