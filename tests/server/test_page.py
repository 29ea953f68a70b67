"""The chat page in a browser, before a stand-in that answers as it is told (standin.py); test_page_live.py has the real service."""
import json
import re

import pytest

from tests.server.browser import Visit, chromium
from tests.server.standin import Standin

pytestmark = [pytest.mark.check, pytest.mark.needs("chromium", "module:playwright")]
TOOLS = [{"name": "get_weather", "description": "The weather.", "parameters": {"type": "object", "properties": {"place": {"type": "string"}}}}]


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture
def standin():
    with Standin() as server:
        yield server


@pytest.fixture
def visit(browser, standin):
    visitor = Visit(browser, standin.url, standin.key)
    visitor.enter()
    yield visitor
    visitor.close()


def set_tools(visit, text, choice="auto"):
    page = visit.page
    page.click("#settings-open")
    page.fill("#s-tools", text)
    page.select_option("#s-choice", choice)
    page.get_by_role("button", name="Save").click()


def test_nothing_works_or_shows_without_a_key(browser, standin):
    visit = Visit(browser, standin.url, standin.key)
    page = visit.page
    page.fill("#key", "sk-wrong")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelector('dialog .bad').textContent.includes('doesn’t know this key')")
    assert page.evaluate("localStorage.getItem('fathom.key')") is None
    page.keyboard.press("Escape")
    assert page.locator("#cost").is_hidden() and page.locator("#context").is_hidden() and visit.own("#model-name") == ""
    page.fill("#prompt", "Hello")
    page.keyboard.press("Enter")
    visit.enter()
    visit.wait()
    assert visit.answer() == "You said: Hello"
    page.click("#settings-open")
    page.get_by_role("button", name="Remove").click()
    assert page.evaluate("localStorage.getItem('fathom.key')") is None
    assert "sk-" not in json.dumps(page.evaluate("({...localStorage})"))
    visit.close()


def test_a_turn_is_streamed_with_its_reasoning_figures_and_cost(visit, standin):
    page = visit.page
    visit.ask("Something slow", wait=False)
    page.wait_for_function("() => document.querySelector('.reasoning[open] .thought')?.textContent.length > 20")
    assert visit.own(".reasoning summary").startswith("Thinking…") and page.locator("#stop").is_visible()
    page.wait_for_function("() => document.querySelector('.prose').textContent.length > 20")
    assert page.locator(".reasoning[open]").count() == 0 and re.match(r"Thought for \d", visit.own(".reasoning summary"))
    growing = len(visit.answer())
    page.keyboard.press("Escape")
    visit.wait()
    assert len(visit.answer()) < len("word " * 400) and len(visit.answer()) >= growing
    assert visit.own(".end") == "Stopped."
    page.wait_for_function("() => document.querySelector('.figures .price')?.textContent === '$0.000011'")  # from the ledger: the stream had no usage
    visit.ask("Say it")
    figures = page.locator("article.answer").last.locator(".figures").inner_text()
    assert "tok/s" in figures and "thinking" in figures
    prompt = sum(len(m["content"].split()) + 4 for m in standin.requests[-1]["messages"])
    output = int(re.search(r"(\d+) tokens", figures)[1])
    hit = 128 * ((prompt - 1) // 128)
    cost = round((28_000_000 * hit + 140_000_000 * (prompt - hit) + 280_000_000 * output) / 1e6)
    kept = page.evaluate("JSON.parse(localStorage.getItem('fathom.chat.' + localStorage.getItem('fathom.current')))")
    assert kept["spent"]["cost"] == cost + 11_000
    assert visit.own("#context .figure").startswith(f"{prompt + output} / 32.8k")


def test_modes_are_asked_for_as_the_api_has_them(visit, standin):
    for label, thinking, effort in (("No thinking", "disabled", None), ("Thinking", "enabled", "high"), ("Max effort", "enabled", "max")):
        visit.mode(label)
        visit.ask("Hello")
        body = standin.requests[-1]
        assert (body["thinking"]["type"], body.get("reasoning_effort")) == (thinking, effort)
    assert visit.page.locator("article.answer .reasoning:not([hidden])").count() == 2
    visit.page.keyboard.press("Alt+m")
    assert visit.page.get_by_label("No thinking").is_checked()


def test_a_tool_is_called_answered_and_gone_on_with(visit, standin):
    page = visit.page
    set_tools(visit, json.dumps(TOOLS))
    visit.ask("Use a tool")
    assert visit.own(".call-head code") == "get_weather" and json.loads(visit.own(".call pre")) == {"place": "Rome", "days": [1, 2]}
    assert "\n  " in visit.own(".call pre")
    page.fill(".calls textarea", '{"celsius": 21}')
    page.get_by_role("button", name="Send the result").click()
    visit.wait()
    assert visit.answer() == 'The tool says: {"celsius": 21}'
    first, second = standin.requests[-2:]
    assert first["tools"] == [{"type": "function", "function": TOOLS[0]}]
    call, result = second["messages"][-2:]
    function = {"name": "get_weather", "arguments": '{"place": "Rome", "days": [1, 2]}'}
    assert call["tool_calls"] == [{"id": "call_0", "type": "function", "function": function}]
    assert call["reasoning_content"] and result == {"role": "tool", "tool_call_id": "call_0", "content": '{"celsius": 21}'}
    assert page.locator(".calls textarea").count() == 0
    set_tools(visit, json.dumps(TOOLS), "required")
    visit.mode("No thinking")
    visit.ask("tool again")
    assert standin.requests[-1]["tool_choice"] == "required"
    visit.mode("Thinking")
    visit.ask("and while thinking")
    assert "tool_choice" not in standin.requests[-1]


@pytest.mark.parametrize(("text", "said"), [("{", "isn’t JSON"), ('[{"name": "a b"}]', "“name”"), ('[{"name": "a"}, {"name": "a"}]', "Two tools"),
                                            ('[{"type": "browser"}]', "isn’t a function"), ('[{"name": "a", "parameters": 3}]', "a JSON schema")])
def test_tools_that_arent_tools_are_refused_in_the_panel(visit, text, said):
    visit.page.click("#settings-open")
    visit.page.fill("#s-tools", text)
    assert said in visit.own("#s-tools-said")
    visit.page.get_by_role("button", name="Save").click()
    assert visit.page.locator("dialog[open]").count() == 1


def test_settings_reach_the_request(visit, standin):
    page = visit.page
    page.click("#settings-open")
    for field, value in (("system", "Be brief."), ("temperature", "0.5"), ("topP", "0.9"), ("maxTokens", "100"), ("seed", "7")):
        page.fill(f"#s-{field}", value)
    page.get_by_role("button", name="Save").click()
    visit.ask("Hello")
    body = standin.requests[-1]
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (body["temperature"], body["top_p"], body["max_tokens"], body["seed"]) == (0.5, 0.9, 100, 7)
    page.click("#settings-open")
    page.fill("#s-temperature", "3")
    page.get_by_role("button", name="Save").click()
    assert page.locator("dialog[open]").count() == 1, "out of range"


def test_asking_again_and_editing_make_versions(visit, standin):
    page = visit.page
    visit.ask("First")
    visit.ask("Second")
    page.get_by_role("button", name="Answer again").last.click()
    visit.wait()
    assert visit.own("article.answer >> nth=-1 >> .switch") == "2 / 2"
    assert [m["content"] for m in standin.requests[-1]["messages"]] == ["First", "You said: First", "Second"]
    page.get_by_role("button", name="Edit this message").first.click()
    page.fill(".editing textarea", "Other")
    page.keyboard.press("Enter")
    visit.wait()
    assert page.locator("article").count() == 2 and visit.answer() == "You said: Other"
    page.get_by_role("button", name="The version before").first.click()
    assert page.locator("article").count() == 4 and visit.answer() == "You said: Second"


def test_an_answer_that_was_cut_is_continued(visit, standin):
    visit.ask("the length is too much")
    assert "longest answer" in visit.own(".end")
    visit.page.get_by_role("button", name="Continue").click()
    visit.wait()
    assert visit.answer() == "You said: the length is too much … and so it goes on, to its end."
    assert standin.requests[-1]["messages"][-1] == {
        "role": "assistant", "content": "You said: the length is too much", "prefix": True,
        "reasoning_content": standin.requests[-1]["messages"][-1]["reasoning_content"]}


def test_a_file_goes_along_with_its_token_count(visit, standin):
    page = visit.page
    files = [{"name": "notes.txt", "mimeType": "text/plain", "buffer": "naïve words here".encode()},
             {"name": "picture.png", "mimeType": "image/png", "buffer": b"\x89PNG\x00\xff"}]
    page.set_input_files("#file-input", files=files)
    page.wait_for_function("() => document.querySelector('.chip:not(.reading)')")
    assert visit.own(".chip .name") == "notes.txt" and "3 tokens" in visit.own(".chip")
    assert "picture.png" in visit.own("#toasts") and page.locator(".chip").count() == 1
    page.fill("#prompt", "What is it?")
    page.wait_for_function("() => document.querySelector('#draft').textContent === '6 tokens'")
    page.keyboard.press("Enter")
    visit.wait()
    assert standin.requests[-1]["messages"][-1]["content"] == (
        "[file name]: notes.txt\n[file content begin]\nnaïve words here\n[file content end]\nWhat is it?")
    page.click("article.user summary")
    assert visit.own("article.user .file pre") == "naïve words here"


def test_a_reload_keeps_everything(visit):
    page = visit.page
    visit.ask("Remember this")
    before = visit.own("#turns")
    cost = visit.own("#cost")
    page.reload()
    page.wait_for_selector("article.answer")
    page.wait_for_function("() => !document.querySelector('#cost').hidden")
    assert visit.own("#turns") == before and visit.own("#cost") == cost and cost != "$0"
    assert visit.own("#title") == "Remember this"


def test_a_reload_in_the_middle_keeps_what_was_there(visit, standin):
    page = visit.page
    visit.ask("Something slow", wait=False)
    page.wait_for_function("() => document.querySelector('.prose').textContent.length > 60")
    page.reload()
    page.wait_for_selector(".trouble")
    assert "before th" in visit.own(".trouble") and len(visit.answer()) > 30
    page.wait_for_function("() => document.querySelector('.figures .price')?.textContent === '$0.000011'")
    page.get_by_role("button", name="Try again").click()
    page.wait_for_function("() => document.querySelector('#stop:not([hidden])')")
    page.click("#stop")
    visit.wait()
    assert visit.own("article.answer .switch") == "2 / 2"


def test_conversations_are_listed_renamed_exported_deleted_and_imported(visit, tmp_path):
    page = visit.page
    visit.ask("The first one")
    page.keyboard.press("Control+k")
    visit.ask("The second one")
    names = page.locator("#list .name")
    assert names.all_inner_texts() == ["The second one", "The first one"]
    names.last.hover()
    page.get_by_role("button", name="Rename The first one").click()
    page.keyboard.type("Better")
    page.keyboard.press("Enter")
    assert sorted(names.all_inner_texts()) == ["Better", "The second one"]
    page.get_by_role("button", name="Better", exact=True).hover()
    with page.expect_download() as download:
        page.get_by_role("button", name="Export Better").click()
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    assert file.name == "Better.json" and json.loads(file.read_text())["title"] == "Better"
    page.get_by_role("button", name="Delete Better").click()
    assert names.all_inner_texts() == ["The second one"]
    page.get_by_role("button", name="Undo").click()
    assert visit.own("#title") == "Better" and names.count() == 2
    page.get_by_role("button", name="Better", exact=True).hover()
    page.get_by_role("button", name="Delete Better").click()
    page.set_input_files("#import-input", str(file))
    page.wait_for_function("() => document.querySelectorAll('#list .name').length === 2")
    assert visit.answer() == "You said: The first one"
    file.write_text('{"fathom": 1, "id": "<img>"}')
    page.set_input_files("#import-input", str(file))
    page.wait_for_function("() => document.querySelector('#toasts').textContent.includes('isn’t a conversation')")


def test_what_goes_wrong_is_said_in_plain_words_and_tried_again(visit, standin):
    page = visit.page
    for status, said in ((402, "used up"), (429, "asks to wait 7 s"), (503, "busy"), (500, "has a fault"), (400, "doesn’t take this request")):
        standin.refuse.append(status)
        visit.ask("Hello")
        assert said in visit.own(".trouble")
        page.get_by_role("button", name="Try again").click()
        page.wait_for_function("() => !document.querySelector('.trouble') && document.querySelector('#stop').hidden")
        assert visit.answer() == "You said: Hello"
        page.keyboard.press("Control+k")
    standin.refuse.append(401)
    visit.ask("Hello")
    page.get_by_role("button", name="Give a key").click()
    visit.enter()
    visit.wait()
    page.wait_for_function("() => !document.querySelector('.trouble')")


def test_a_connection_that_breaks_and_a_stream_that_fails(visit, standin):
    page = visit.page
    visit.ask("This breaks in the middle of it all")
    assert "broke off" in visit.own(".trouble") and visit.answer().startswith("You said: This")
    page.keyboard.press("Control+k")
    visit.ask("This fails in the middle of it all")
    assert "used up" in visit.own(".trouble") and "The balance is spent." in visit.own(".trouble")
    page.keyboard.press("Control+k")
    visit.context.set_offline(True)
    visit.ask("Nobody hears this")
    assert "can’t be reached" in visit.own(".trouble")
    visit.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    page.wait_for_function("() => !document.querySelector('.trouble') && document.querySelector('#stop').hidden")
    assert visit.answer() == "You said: Nobody hears this"
    visit.errors[:] = [e for e in visit.errors if "ERR_INTERNET_DISCONNECTED" not in e and "ERR_INCOMPLETE_CHUNKED" not in e]


def test_markup_of_the_model_is_shown_and_never_run(visit):
    page = visit.page
    visit.ask("Something hostile")
    assert page.title() != "owned"
    shown = visit.answer()
    assert '<script>document.title = "owned"</script>' in shown and "<iframe" in shown and "<img src=x" in shown
    box = page.locator(".prose")
    assert box.locator("script, iframe, img, style, [onerror], [style]").count() == 0
    assert [a.get_attribute("href") for a in box.locator("a").all() if a.get_attribute("href")] == ["https://elsewhere.example/p.png"]
    assert page.locator("#composer").is_visible(), "the style element was not applied"


def test_markdown_is_drawn_and_code_is_copied(visit):
    page = visit.page
    visit.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visit.ask("In markdown")
    prose = page.locator(".prose")
    assert prose.locator("ol > li").count() == 2 and prose.locator("table td").count() == 4 and prose.locator("strong").inner_text() == "how"
    assert prose.locator("a").first.get_attribute("rel") == "noopener noreferrer nofollow"
    page.get_by_role("button", name="Copy code").click()
    assert page.evaluate("navigator.clipboard.readText()") == "def backwards(items: list) -> list:\n    return items[::-1]"
    page.get_by_role("button", name="Copy this answer").click()
    assert page.evaluate("navigator.clipboard.readText()").startswith("Here is **how**:")


def test_the_keyboard_alone_does_it(visit):
    page = visit.page
    assert page.evaluate("document.activeElement.id") == "prompt"
    page.keyboard.type("One")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("Two")
    page.keyboard.press("Enter")
    page.wait_for_selector("article.answer")
    visit.wait()
    assert visit.own("article.user .text") == "One\nTwo"
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.value") == "One\nTwo"
    page.keyboard.press("Escape")
    for shortcut, title in (("Control+/", "Keyboard"), ("Control+Comma", "Settings")):
        page.keyboard.press(shortcut)
        assert visit.own("dialog h2") == title
        page.keyboard.press("Escape")
        page.wait_for_selector("dialog", state="detached")
    page.keyboard.press("Control+b")
    page.wait_for_selector("#side", state="hidden")
    page.keyboard.press("Control+b")
    page.keyboard.press("Control+k")
    assert page.locator("article").count() == 0 and page.evaluate("document.activeElement.id") == "prompt"
    names = []
    for _ in range(40):  # every stop of the Tab key has a name and can be seen
        page.keyboard.press("Tab")
        names.append(page.evaluate("""() => {
            const e = document.activeElement, seen = getComputedStyle(e.matches('#mode input') ? e.nextElementSibling : e);
            if (e === document.body || e.matches('#prompt')) return 'page';
            return [e.getAttribute('aria-label') || e.textContent || e.labels?.[0]?.textContent, seen.outlineStyle];
        }"""))
    reached = [name for name in names if name != "page"]
    assert all(name.strip() and outline != "none" for name, outline in reached), reached
    assert {"Settings", "Attach a text file", "Thinking"} <= {name for name, _ in reached}


def test_a_screen_reader_is_told(visit):
    visit.ask("Hello")
    visit.page.wait_for_function("() => document.querySelector('#announcer').textContent === 'Answer: You said: Hello'")
    assert visit.page.locator("article.answer").get_attribute("aria-busy") == "false"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_without_sideways_scrolling(browser, standin, scheme):
    visit = Visit(browser, standin.url, standin.key, width=360, height=740, scheme=scheme, touch=True)
    page = visit.enter()
    set_tools(visit, json.dumps(TOOLS))
    for text in ("In markdown", "Something hostile", "word" * 100, "Use a tool"):
        visit.ask(text)
        assert visit.wide() <= 0
    page.set_input_files("#file-input", files=[{"name": "a" * 80 + ".txt", "mimeType": "text/plain", "buffer": b"x"}])
    page.wait_for_selector(".chip:not(.reading)")
    assert visit.wide() <= 0
    for opener in ("#settings-open", "#cost"):
        page.click(opener)
        assert visit.wide() <= 0
        page.keyboard.press("Escape")
    assert page.locator("#side").is_hidden()
    page.tap("#side-open")
    page.get_by_role("button", name="In markdown", exact=True).tap()
    page.wait_for_selector("#side", state="hidden")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    visit.close()


def test_the_theme_is_turned_and_kept(visit):
    page = visit.page
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(colour)
    page.click("#theme")
    assert visit.own("#theme-now") == "light" and page.evaluate(colour) == light
    page.click("#theme")
    assert visit.own("#theme-now") == "dark" and page.evaluate(colour) != light
    page.reload()
    assert page.evaluate(colour) != light
    page.click("#theme")
    assert visit.own("#theme-now") == "system" and page.evaluate(colour) == light


def test_two_tabs_know_of_each_other(visit):
    visit.ask("In the first tab")
    other = visit.open()
    other.wait_for_selector("article.answer")
    visit.page.keyboard.press("Control+k")
    visit.ask("A second conversation")
    other.wait_for_function("() => document.querySelectorAll('#list .name').length === 2")


def test_a_link_brings_a_key_but_doesnt_replace_one(browser, standin):
    visit = Visit(browser, standin.url, standin.key)
    page = visit.open(f"/#key={standin.key}")
    page.wait_for_function("() => !document.querySelector('#cost').hidden")
    assert standin.key not in page.url
    page.goto("about:blank")
    page = visit.open("/#key=sk-another")
    page.wait_for_function("() => !document.querySelector('#cost').hidden")
    assert page.evaluate("localStorage.getItem('fathom.key')") == standin.key
    visit.requests[:] = [r for r in visit.requests if r != "about:blank"]
    visit.close()
