"""The pages and `fathom chat` before the real service with a tiny model: what is shown is what the ledger has, to the nano-dollar."""
from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from tests.server.browser import Visit, chromium

pytestmark = [pytest.mark.check]
needs_browser = pytest.mark.needs("chromium", "module:playwright")
TOOLS = [{"name": "look_up", "description": "Finds a word.", "strict": True, "parameters": {
    "type": "object", "properties": {"word": {"type": "string", "enum": ["fathom", "deep"]}}, "required": ["word"], "additionalProperties": False}}]
LONG = [{"name": "recite", "strict": True, "parameters": {  # a call of it can't end early, whatever the model would like
    "type": "object", "properties": {"text": {"type": "string", "minLength": 5000}}, "required": ["text"], "additionalProperties": False}}]


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture
def visit(browser, live):
    visitor = Visit(browser, live.url, live.key)
    visitor.enter()
    yield visitor
    visitor.close()


def settings(visit, **values):
    visit.page.click("#settings-open")
    for field, value in values.items():
        (visit.page.select_option if field == "choice" else visit.page.fill)(f"#s-{field}", str(value))
    visit.page.get_by_role("button", name="Save").click()


def ledger_cost(live) -> int:
    """Nano-dollars that the key's account was charged so far."""
    _, usage = live.get("/user/usage")
    return sum(round(float(row["cost"]) * 10**9) for row in usage["data"])


def kept(visit) -> dict:
    return visit.page.evaluate("JSON.parse(localStorage.getItem('fathom.chat.' + localStorage.getItem('fathom.current')))")


@needs_browser
def test_a_conversation_costs_what_the_ledger_says(visit, live):
    before = ledger_cost(live)
    settings(visit, maxTokens=30, seed=3)
    for label in ("Thinking", "No thinking", "Max effort"):
        visit.mode(label)
        visit.ask("What is deep?")
        assert visit.page.locator(".trouble").count() == 0
    conversation = kept(visit)
    answers = [node for node in conversation["nodes"].values() if node["role"] == "assistant"]
    assert [node["mode"] for node in answers] == ["thinking", "off", "max"] and answers[0]["usage"]["reasoning"] > 0
    assert not answers[1]["reasoning"]
    assert conversation["spent"]["cost"] == sum(node["cost"] for node in answers) == ledger_cost(live) - before > 0
    assert "tok/s" in visit.own("article.answer >> nth=0 >> .figures")
    total = answers[-1]["usage"]["hit"] + answers[-1]["usage"]["miss"] + answers[-1]["usage"]["output"]
    assert visit.page.locator("#context").get_attribute("aria-valuetext").startswith(f"{total} of ")


@needs_browser
def test_what_was_stopped_is_billed_as_far_as_it_came(visit, live):
    before = ledger_cost(live)
    settings(visit, tools=json.dumps(LONG), choice="required", maxTokens=1800, seed=0)
    visit.mode("No thinking")
    visit.ask("Go on and on", wait=False)
    visit.page.wait_for_selector(".call pre:not(:empty)")
    visit.page.keyboard.press("Escape")
    visit.wait()
    live.until_idle()
    visit.page.wait_for_selector(".figures .price")
    conversation = kept(visit)
    (answer,) = (node for node in conversation["nodes"].values() if node["role"] == "assistant")
    assert answer["finish"] == "stopped" and 0 < answer["usage"]["output"] < 1800
    assert conversation["spent"]["cost"] == answer["cost"] == ledger_cost(live) - before > 0
    shown = visit.own("#turns")
    visit.page.reload()
    visit.page.wait_for_selector(".figures .price")
    assert visit.own("#turns") == shown


@needs_browser
def test_a_tool_call_is_shown_and_its_result_sent(visit):
    settings(visit, tools=json.dumps(TOOLS), choice="required", maxTokens=200, seed=0)
    visit.mode("No thinking")
    visit.ask("Look it up")
    assert visit.own(".call-head code >> nth=0") == "look_up" and json.loads(visit.own(".call pre >> nth=0"))["word"] in ("fathom", "deep")
    settings(visit, choice="none")
    fields = visit.page.locator(".calls textarea")
    for i in range(fields.count()):
        fields.nth(i).fill("It means deep.")
    visit.page.get_by_role("button", name=re.compile("Send the result")).click()
    visit.wait()
    assert visit.page.locator(".trouble").count() == 0 and visit.page.locator("article.answer").count() == 2


@needs_browser
@pytest.mark.parametrize("label", ["No thinking", "Thinking"])
def test_an_answer_that_was_cut_goes_on(visit, label):
    settings(visit, maxTokens=2, seed=1)
    visit.mode(label)
    visit.ask("Go on and on")
    before = kept(visit)
    settings(visit, maxTokens=12, seed=2)
    visit.page.get_by_role("button", name="Continue").click()
    visit.wait()
    after = kept(visit)
    (old,), (new,) = ([node for node in talk["nodes"].values() if node["role"] == "assistant"] for talk in (before, after))
    assert old["finish"] == "length" and visit.page.locator(".trouble").count() == 0
    assert new["reasoning"].startswith(old["reasoning"]) and new["content"].startswith(old["content"])
    assert len(new["reasoning"] + new["content"]) > len(old["reasoning"] + old["content"])
    assert after["spent"]["cost"] == new["cost"] > old["cost"], "both parts are paid"


@needs_browser
def test_a_file_has_the_services_own_count(visit, live):
    text = "def mean(values):\n    return sum(values) / len(values)\n" * 3
    visit.page.set_input_files("#file-input", files=[{"name": "mean.py", "mimeType": "text/plain", "buffer": text.encode()}])
    visit.page.wait_for_selector(".chip:not(.reading)")
    _, counted = live.post("/tokenize", {"prompt": text})
    assert f"{counted['count']} tokens" in visit.own(".chip")
    settings(visit, maxTokens=10)
    visit.ask("What is it?")
    assert visit.page.locator(".trouble").count() == 0
    visit.page.reload()
    visit.page.wait_for_selector("article.user .file")
    assert "mean.py" in visit.own("article.user")


@needs_browser
def test_a_conversation_beyond_the_context_is_refused_in_plain_words(visit):
    visit.ask("word " * 3000)
    assert "longer than the model’s context" in visit.own(".trouble")


@needs_browser
def test_the_usage_page_shows_the_ledger(browser, live):
    live.post("/chat/completions", {"model": "small", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5})
    visit = Visit(browser, live.url, live.key)
    page = visit.open("/usage")
    page.fill("#key", live.key)
    page.keyboard.press("Enter")
    page.wait_for_selector("#by-day svg.chart")
    _, usage = live.get("/user/usage")
    rows = page.locator("#table tbody tr")
    assert rows.count() == len(usage["data"]) and page.locator("#by-day g.day").count() == 30
    requests = sum(row["requests"] for row in usage["data"])
    assert page.locator(".tile", has_text="Requests").locator("b").inner_text() == str(requests)
    page.get_by_role("button", name="Requests").click()
    page.wait_for_function("() => document.querySelector('#by-day h2').textContent === 'Requests by day'")
    page.get_by_role("button", name="7 days").click()
    page.wait_for_function("() => document.querySelectorAll('#by-day g.day').length === 7")
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").click()
    lines = download.value.path().read_text().splitlines()
    assert lines[0].endswith("cost_usd") and len(lines) == 1 + len(usage["data"])
    page.set_viewport_size({"width": 360, "height": 740})
    page.wait_for_function("() => document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    visit.close()


def chat(*arguments: object, lines: str, key: str = "") -> subprocess.CompletedProcess[str]:
    """`fathom chat` with these lines at its input."""
    command = [sys.executable, "-m", "fathom.cli", "chat", *map(str, arguments)]
    environment = {"FATHOM_API_KEY": key, "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, input=lines, capture_output=True, text=True, timeout=200, check=False, env=environment)


def test_the_terminal_talks_to_the_service(live, tmp_path):
    before, file = ledger_cost(live), tmp_path / "talk.json"
    (tmp_path / "tools.json").write_text(json.dumps(TOOLS))
    lines = f"Hello\n/again\n/mode off\n/tools {tmp_path / 'tools.json'}\n/set choice required\n/set max_tokens 200\nLook it up\n\n/cost\n"
    done = chat("--url", live.url, "--conversation", file, "--max-tokens", 20, lines=lines, key=live.key)
    assert done.returncode == 0, done.stderr
    assert "calls look_up" in done.stdout and "Thought for" in done.stdout and live.key not in done.stdout
    saved = json.loads(file.read_text())
    assert saved["spent"]["cost"] == ledger_cost(live) - before > 0
    again = chat("--url", live.url, "--conversation", file, "--max-tokens", 5, lines="And now?\n", key=live.key)
    assert "Look it up" in again.stdout and len(json.loads(file.read_text())["nodes"]) > len(saved["nodes"])


@needs_browser
def test_a_conversation_goes_from_the_terminal_to_the_page(visit, live, tmp_path):
    file = tmp_path / "talk.json"
    chat("--url", live.url, "--conversation", file, "--max-tokens", 12, lines="From the terminal\n", key=live.key)
    visit.page.set_input_files("#import-input", str(file))
    visit.page.wait_for_selector("article.answer")
    assert visit.own("#title") == "From the terminal" and visit.own("article.user .text") == "From the terminal"


def test_the_terminal_talks_to_a_local_model(small_model, tmp_path):
    (tmp_path / "notes.txt").write_text("deep " * 10)
    lines = f"Hello\n/attach {tmp_path / 'notes.txt'}\nWhat?\n/edit 1 Other\n/save {tmp_path / 'talk.json'}\n"
    done = chat("--model", small_model, "--max-tokens", 20, "--seed", 1, lines=lines)
    assert done.returncode == 0 and "tokens, sent with your next message" in done.stdout and "context" in done.stdout, done.stderr
    nodes = json.loads((tmp_path / "talk.json").read_text())["nodes"].values()
    assert [node["text"] for node in nodes if node["role"] == "user"] == ["Hello", "What?", "Other"]


@pytest.mark.parametrize(("arguments", "said"), [
    (["--model", "nowhere"], "no such folder"), (["--url", "ftp://x"], "an address such as"), (["--url", "http://127.0.0.1:9"], "can't be reached"),
    (["--url", "http://127.0.0.1:9", "--model", "x"], "give --model or --url"), (["--mode", "deep"], "one of off, thinking, max"),
    (["--key", "sk-x"], "give --url too"), (["--conversation", __file__], "cannot be read"),
])
def test_what_cant_be_is_one_line(arguments, said):
    done = chat(*arguments, lines="", key="sk-x")
    assert done.returncode == 2 and said in done.stderr and "\n" not in done.stderr.strip(), done.stderr


def test_a_wrong_key_is_said(live):
    done = chat("--url", live.url, lines="", key="sk-wrong")
    assert done.returncode == 2 and "doesn't know this key" in done.stderr
