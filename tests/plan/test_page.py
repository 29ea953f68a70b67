"""The page: one file that needs nothing, and in a browser the same numbers as the planner, whatever slider is moved."""
import json
import re
import subprocess
from datetime import date
from pathlib import Path

import pytest

from fathom.config import preset
from fathom.plan.chips import load_chips
from fathom.plan.page import page_data, plan_page
from fathom.plan.search import Wishes, plan_serving
from fathom.plan.serving import Load
from fathom.prices import load_prices
from tests.plan.agreement import cases, differences, program

CHIPS, PRICES, DAY = load_chips(), load_prices(), date(2026, 6, 1)
LOAD = Load(65536, 64, 1024, 0.5)


def pro(**changes) -> str:
    return plan_page(preset("v4-pro"), changes.pop("name", "v4-pro"), LOAD, CHIPS, "h200", prices=PRICES, day=DAY, **changes)


def test_it_is_one_file_that_fetches_nothing():
    html = pro()
    assert not re.search(r"(src|href)=\"(?!data:)", html) and "url(" not in html and "fetch(" not in html and "import(" not in html
    assert "default-src &#x27;none&#x27;" in html
    assert len(html) < 200_000


def test_a_hostile_name_stays_text():
    html = pro(name="</script><script>alert(1)</script>")
    assert "<script>alert" not in html


def test_the_data_is_the_planners():
    data = page_data(preset("v4-pro"), "v4-pro", LOAD, CHIPS, "h200", prices=PRICES, day=DAY)
    assert set(data["profiles"]) == {"fp32", "bf16", "fp16", "fp8", "official"} and len(data["chips"]) == len(CHIPS)
    assert {r["model"] for r in data["prices"]} == set(PRICES.models()) and data["prices"][1]["output"] == 3.48
    best = plan_serving(preset("v4-pro"), LOAD, [CHIPS["h200"]]).options[0]
    assert data["expected"] == {"devices": best.layout.devices, "request": best.costs.request}
    early = page_data(preset("v4-pro"), "v4-pro", LOAD, CHIPS, "h200", prices=PRICES, day=date(2024, 1, 1))
    assert [r["model"] for r in early["prices"]] == ["gpt-4-turbo"]  # the others had no price yet
    assert page_data(preset("v4-pro"), "v4-pro", LOAD, CHIPS, "h200", precision="fp16", devices=8)["expected"] is None


def dump(html: str, folder: Path, width: int = 1280) -> str:
    """The document as Chromium has it once the scripts have run, opened as a file."""
    file = folder / "page.html"
    file.write_text(html, encoding="utf-8")
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900", "--virtual-time-budget=20000",
               f"--user-data-dir={folder / 'profile'}", "--dump-dom", file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def result(html: str, script: str, folder: Path, width: int = 1280) -> object:
    """What `script` leaves as JSON in the page's title."""
    ended = html.replace("</body>", f"<script>\n{script}\n</script>\n</body>")
    title = re.search(r"<title>(.*?)</title>", dump(ended, folder, width), re.S)[1]
    return json.loads(title.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


@pytest.mark.check
@pytest.mark.needs("chromium")
def test_the_browser_computes_what_python_computes(tmp_path):
    made = cases(60, seed=1)
    inputs = [{k: c[k] for k in ("profile", "chip", "layout", "load", "price")} for c in made]
    html = "<!doctype html><html><head><meta charset=utf-8><title></title></head><body></body></html>"
    answers = result(html, program(f"document.title = JSON.stringify({json.dumps(inputs)}.map(answer));"), tmp_path)
    assert not [d for case, answer in zip(made, answers, strict=True) for d in differences(case, answer)]


MOVE = """
const set = (id, value) => { const e = document.getElementById(id); e.value = value; e.dispatchEvent(new Event("input")); };
const read = () => ({verdict: document.getElementById("verdict").textContent, check: document.getElementById("check").textContent,
  tiles: [...document.querySelectorAll(".tile")].map((t) => [t.children[0].textContent, t.children[1].textContent]),
  rows: [...document.querySelectorAll("#options tbody tr")].map((r) => [...r.children].map((c) => c.textContent)),
  wide: document.documentElement.scrollWidth - document.documentElement.clientWidth});
const seen = [read()];
%s
document.title = JSON.stringify(seen);
"""


@pytest.mark.check
@pytest.mark.needs("chromium")
def test_sliders_move_the_plan(tmp_path):
    moves = """
    for (const [id, value] of [["users", 0], ["users", document.getElementById("users").max], ["context", 0], ["precision", "fp16"],
        ["devices", "8"], ["chip", "b200"], ["precision", "official"], ["price", "1"], ["speed", "1e6"], ["devices", ""], ["speed", ""],
        ["wait", "0.001"]]) { set(id, value); seen.push(read()); }
    """
    opened, one, most, short, fp16, eight, b200, official, cheap, fast, faster, any_speed, soon = result(pro(), MOVE % moves, tmp_path)
    assert opened["check"].startswith("This page’s arithmetic gives the same answer")
    best = plan_serving(preset("v4-pro"), LOAD, [CHIPS["h200"]]).options[0]
    assert opened["verdict"].startswith(f"{best.layout.devices} × NVIDIA H200 SXM ({best.layout})") and "bound by memory" in opened["verdict"]
    assert dict(opened["tiles"])["a million output tokens"] == f"${best.costs.output:.2f}"
    dollars = lambda state, tile: float(dict(state["tiles"])[tile].replace("$", "").replace(",", ""))
    output = [dollars(state, "a million output tokens") for state in (one, opened, most)]
    assert output == sorted(output, reverse=True) and output[0] > output[2]
    assert dollars(short, "a request") < dollars(most, "a request")
    assert fp16["rows"] and int(fp16["rows"][0][0]) >= 32  # the cheapest that hold 3 TB
    assert "does not fit 8 × h200" in eight["verdict"] and "devices are enough" in eight["verdict"] and eight["tiles"][0][1] == "–"
    assert "does not fit 8 × b200" in b200["verdict"]
    assert official["verdict"].startswith("8 × NVIDIA B200")
    assert dollars(cheap, "a request") < dollars(official, "a request")
    assert "not your wishes" in fast["verdict"] and "tokens/s a user too slow" in faster["verdict"] and not faster["rows"]
    assert any_speed["rows"] and "too late" in soon["verdict"] and not soon["rows"]


@pytest.mark.check
@pytest.mark.needs("chromium")
def test_it_opens_with_the_wishes_it_was_made_with(tmp_path):
    wishes = Wishes(speed=70, wait=8.0)
    opened, = result(pro(wishes=wishes), MOVE % "", tmp_path)
    best = plan_serving(preset("v4-pro"), LOAD, [CHIPS["h200"]], wishes=wishes).options[0]
    assert opened["check"].startswith("This page’s arithmetic gives the same answer")
    assert opened["verdict"].startswith(f"{best.layout.devices} × NVIDIA H200 SXM ({best.layout})")
    assert best.layout != plan_serving(preset("v4-pro"), LOAD, [CHIPS["h200"]]).options[0].layout, "they rule the cheapest out"
    none, = result(pro(devices=1009), MOVE % "", tmp_path)
    assert none["verdict"].startswith("No layout has 1009 devices")


@pytest.mark.check
@pytest.mark.needs("chromium")
def test_a_phone_needs_no_sideways_scrolling(tmp_path):
    assert result(pro(), MOVE % "", tmp_path, width=390)[0]["wide"] <= 0
