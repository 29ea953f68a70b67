"""What a run says: the summary's numbers, the page that shows them, and (check) the page in a browser."""
import io
import json
import re
import shutil
from datetime import datetime
from pathlib import Path

import pytest
from rich.console import Console

from fathom.eval import longcontext, pools, summary, webreport
from fathom.eval.console import Watch, print_summary
from fathom.eval.evaluate import Options, evaluate
from fathom.eval.items import Verdict
from fathom.eval.pools import Probe
from fathom.eval.runner import Event, Opened, Reply
from fathom.eval.store import Store
from fathom.prices import load_prices
from tests.eval.models import Scripted
from tests.eval.test_runner import KINDS, right

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)><!-- \u2028"


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """A full run with a heat map by a model that is right but for communication, where it attacks the page."""
    out = tmp_path_factory.mktemp("run")
    kinds = {**KINDS, **{k.name: k for k in longcontext.KINDS}}
    options = Options(local=Path("m"), model="v4-<flash>", seed=5, out=out, full=True, long_context=8192, prices=(), price_model="v4-flash")
    probes = pools.index_probes(kinds, full=True, seed=5) + pools.long_context_probes(kinds, seed=5, context=8192)

    def answer(item, turn, nth):
        if item.dimension == "communication":
            return HOSTILE
        text = "" if item.kind == "needle" and item.payload["depth"] == 0.5 else kinds[item.kind].reference(item)[turn]
        return Reply(text, reasoning="because", finish="stop", prompt_tokens=1000, cached_tokens=200, completion_tokens=100)

    model = Scripted([p.item(kinds) for p in probes], answer)
    return evaluate(options, open_local=lambda path: Opened("m", model), console=Console(file=io.StringIO(), width=100), kinds=kinds), out


def test_numbers(result):
    data, _ = result
    s = data["scores"]
    assert (s["overall"], s["communication"], s["judgment"], s["label"], s["constraint_keeping"]) == (100, 0, 100, "pass", 1)
    replies = data["usage"]["reported"]
    assert data["usage"]["prompt_tokens"] == 1000 * replies and data["usage"]["answers"] == replies + 25
    # 200 cached at 0.028, 800 at 0.14, 100 out at 0.28 US$ per million: 5 600 + 112 000 + 28 000 nano-dollars
    assert data["cost"]["nano_dollars"] == 145_600 * replies and data["cost"]["price"] == "deepseek-v4-flash@2026-04-24"
    # 3 × 0.14 + 0.28 over 4 = 0.175 US$; 100 points / 0.175 = 571.43 a dollar; 100 · 571.43 / 611.43
    assert s["points_per_dollar"] == 571.43 and s["value"] == 93.46
    (needle, ) = [g for g in data["grids"] if g["name"] == "needle"]
    assert needle["depths"] == [0, 0.25, 0.5, 0.75, 1] and needle["lengths"] == [4096, 8192]
    assert needle["cells"] == [[1, 1], [1, 1], [0, 0], [1, 1], [1, 1]]


def test_reports_are_written_and_read_back(result):
    data, out = result
    folder = out / data["run"]["id"]
    assert json.loads((folder / "report.json").read_text()) == json.loads(json.dumps(data))
    assert (folder / "report.html").read_text().startswith("<!doctype html>")
    assert (folder / "needle.png").read_bytes().startswith(b"\x89PNG")
    store = Store(out / "eval.sqlite")
    price = load_prices().at("v4-flash", datetime.fromisoformat(data["run"]["started"]))
    assert summary.summarise(store, data["run"]["id"], price) == data, "the report is made from the store alone"


def test_transcripts_keep_both_ends(result):
    data, _ = result
    item = next(i for i in data["items"] if i["kind"] == "keep")
    assert len(item["turns"]) == 3 and item["turns"][0]["reasoning"] == "because"
    asked = item["turns"][1]["asked"][0][1]
    assert "characters left out" in asked and asked.endswith("?") and len(asked) < 3200
    assert summary.cut("x" * 3000) == "x" * 3000


def test_the_page_holds_no_foreign_markup(result):
    html = webreport.render(*_pair(result[0]))
    assert html.count("<script") == 2 and "onerror=alert" not in re.sub(r"<script type=.*?</script>", "", html, flags=re.DOTALL)
    assert "v4-&lt;flash&gt;" in html and "<flash>" not in html
    assert "Comparison" in html and "depth" in html


def _pair(data):
    other = json.loads(json.dumps(data))
    other["run"]["model"], other["scores"]["overall"], other["scores"]["core"] = "other", 60.5, 60.5
    return data, [other]


def test_terminal(result):
    console = Console(file=io.StringIO(), width=100)
    data, others = _pair(result[0])
    print_summary(data, console, others)
    text = console.file.getvalue()
    for part in ("100.00", "pass (recommended)", "points per US$: 571.4", "constraint keeping: 1.000", "60.50 (-39.50)", "by deepseek-v4-flash"):
        assert part in text, text


def test_progress_on_a_terminal():
    """Bars move, the mean is shown, troubles are told but not all of them."""
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    probes = [Probe(f"x-{i}", "judgment", "x", 1, i) for i in range(20)]
    with Watch(probes, console) as watch:
        for i, probe in enumerate(probes):
            watch.tell(Event(probe, 0, Verdict(float(i % 2), bool(i % 2), ""), 1, "no luck" if i > 5 else ""))
    text = console.file.getvalue()
    assert "20/20" in text and "50.0" in text and text.count("no luck") == 5 and "further ones" in text


def test_comparison_counts_items_that_changed(result):
    data, (other,) = _pair(result[0])
    for item in other["items"][:7]:
        item["score"] = 0.0
    columns, rows = webreport.comparison_rows([data, other])
    assert {r[0]: r[2] for r in rows}["same items: better / worse"] == f"0 / 7 of {len(data['items'])}"
    other["choices"] = 99
    assert any("differs" in r[0] for r in webreport.comparison_rows([data, other])[1])


def test_not_rated_is_said_not_zeroed(tmp_path):
    from tests.eval.test_runner import run
    data, _ = run(tmp_path, right, full=False)
    html = webreport.render(data)
    assert data["scores"]["availability"] is None and "not rated" in html
    assert re.search(r"integrity</span><b class=\"\">not rated", html)


@pytest.mark.check
@pytest.mark.needs("chromium", "module:playwright")
def test_in_a_browser(result, tmp_path):
    """From a file, offline, desktop and phone, light and dark: no error, no request, no sideways scrolling; filters and transcripts work."""
    from playwright.sync_api import sync_playwright
    path = tmp_path / "report.html"
    path.write_text(webreport.render(*_pair(result[0])), encoding="utf-8")
    flags = ("--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update "
             "--disable-sync").split()
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        for width, scheme in ((1280, "light"), (390, "light"), (390, "dark")):
            page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
            seen, requests = [], []
            page.on("console", lambda m, seen=seen: seen.append(m.text))
            page.on("pageerror", lambda e, seen=seen: seen.append(str(e)))
            page.on("dialog", lambda d, seen=seen: (seen.append("dialog"), d.dismiss()))
            page.on("request", lambda r, requests=requests: requests.append(r.url))
            page.goto(path.as_uri())
            assert page.title() == "YZ Index: v4-<flash>"
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.locator("details.item").count() == 40
            page.click("#more")
            assert page.locator("details.item").count() == 80
            page.select_option("#f-dimension", "communication")
            page.select_option("#f-result", "failed")
            assert page.inner_text("#count").startswith("25 of ")
            page.locator("details.item summary").first.click()
            assert page.locator("details.item pre").last.inner_text().strip().startswith("</script><script>")
            page.select_option("#f-dimension", "")
            page.select_option("#f-result", "")
            page.fill("#f-text", "canary-paper")
            assert page.inner_text("#count").startswith("11 of ")
            dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (dark == "rgb(17, 20, 24)") == (scheme == "dark")
            assert seen == [] and page.title() != "owned" and {u.split(":")[0] for u in requests} <= {"file", "data"}
            page.close()
        browser.close()
