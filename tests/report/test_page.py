"""The page law: whatever text goes in, nothing of it runs, nothing is fetched, and the data comes back."""
import json
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom.report import bars, card, escape, heat_map, json_data, lines, page, table, tile, tiles
from fathom.report.charts import short

HOSTILE = ["<script>alert(1)</script>", "</script><script>x", "<!--", "a & b", '" onload="x', "' x='", "]]>", "\u2028", "\ud800", "\x00"]


class Reader(HTMLParser):
    """Collects the tags, attributes and the text of script elements, as a browser would see them."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.scripts, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.scripts and self.lasttag == "script" and self.cdata_elem == "script":
            self.scripts[-1] += data
        else:
            self.text.append(data)


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    return reader


@pytest.mark.parametrize("text", HOSTILE)
def test_text_stays_text(text):
    body = card(text, bars([(text, 1.0, text)]) + table([text], [[text]], caption=text) + tiles(tile(text, text)), note=text)
    body += heat_map([text], [text], [[0.5]], text, text) + lines([(text, [(1, 1), (2, 2)])], text, text)
    tags = read(page(text, body)).tags
    assert "script" not in tags and "img" not in tags
    assert not [name for name, _ in read(page(text, body)).attributes if name.startswith("on")]
    page(text, body).encode("utf-8")


LEAVES = st.text() | st.sampled_from(HOSTILE) | st.integers() | st.none()


@given(st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_data_comes_back_and_cannot_end_its_element(data):
    html = page("t", json_data("d", data))
    reader = read(html)
    assert reader.tags.count("script") == 1
    assert json.loads(reader.scripts[0]) == json.loads(json.dumps(data))


def test_nothing_is_fetched():
    html = page("t", "<p>x</p>", scripts=["let a = 1 < 2;"], styles=["p{color:red}"])
    assert any(name == "content" and value.startswith("default-src 'none'") for name, value in read(html).attributes)
    assert not re.search(r"(src|href)=\"(?!data:)", html) and "url(" not in html and "@import" not in html


def test_a_script_that_would_end_itself_is_our_bug():
    with pytest.raises(AssertionError):
        page("t", "", scripts=["var s = '</script>'"])
    with pytest.raises(ValueError):
        json_data("d", float("nan"))


def test_missing_is_not_zero():
    missing, zero = bars([("a", None, "–")]), bars([("a", 0.0, "0")])
    assert "fill" not in missing and "fill" in zero
    assert "–" in heat_map(["r"], ["c"], [[None]]) and ">0<" in heat_map(["r"], ["c"], [[0.0]])


def test_bars_are_in_proportion_and_bounded():
    widths = re.findall(r"width:([\d.]+)%", bars([("a", 25, ""), ("b", 100, ""), ("c", 250, ""), ("d", -5, "")]))
    assert widths == ["25.00", "100.00", "100.00", "0.00"]


def test_lines_rise_where_the_data_rises():
    svg = lines([("up", [(1, 0), (10, 5), (100, 10)])], "x", "y", log_x=True)
    points = [tuple(map(float, p.split(","))) for p in re.search(r'points="([^"]+)"', svg)[1].split()]
    assert points[0][0] < points[1][0] < points[2][0] and points[0][1] > points[1][1] > points[2][1]  # y grows downwards in SVG
    assert points[1][0] - points[0][0] == pytest.approx(points[2][0] - points[1][0], abs=0.2)  # decades are equally wide
    lines([("one point", [(4, 4)])], "x", "y")
    lengths = lines([("needle", [(4096 * 2**i, i) for i in range(9)])], "x", "y", log_x=True)
    assert [label for label in ("4K", "8K", "16K", "32K", "64K", "128K", "256K", "512K", "1M") if f">{label}</text>" in lengths] == [
        "4K", "16K", "64K", "256K", "1M"], "places of its own, every second of nine"


def test_short_numbers():
    assert [short(v) for v in (0, 0.25, 4096, 1048576, 1500, 2.5e9, 12.5)] == ["0", "0.25", "4K", "1M", "1.5k", "2.5G", "12.5"]


def test_escape_covers_attributes():
    assert escape("\"'<>&") == "&quot;&#x27;&lt;&gt;&amp;"
