"""Stop strings: however the stream is cut, the result is that of searching the whole text."""
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.errors import UserError
from fathom.text import StopStrings


def run(stops, chunks):
    watch, pieces = StopStrings(stops), []
    for chunk in chunks:
        pieces.append(watch.feed(chunk))
    pieces.append(watch.finish())
    return "".join(pieces), watch.matched


def whole(stops, text):
    """The law, written down plainly: the earliest beginning wins, then the shorter string."""
    found = sorted((text.find(stop), len(stop), stop) for stop in stops if stop in text)
    return (text[: found[0][0]], found[0][2]) if found else (text, None)


@settings(max_examples=400, deadline=None)
@given(stops=st.lists(st.text("ab\n", min_size=1, max_size=5), max_size=4), text=st.text("ab\n", max_size=25), data=st.data())
def test_any_cutting_gives_the_result_of_the_whole(stops, text, data):
    chunks, rest = [], text
    while rest:
        n = data.draw(st.integers(1, len(rest)))
        chunks.append(rest[:n])
        rest = rest[n:]
    assert run(stops, chunks) == run(stops, text) == whole(stops, text)


def test_nothing_is_shown_that_may_still_become_a_stop():
    watch = StopStrings(["\nUser:"])
    assert watch.feed("Hello\n") == "Hello"
    assert watch.feed("Us") == ""
    assert watch.feed("ual") == "\nUsual"
    assert watch.feed("\nUser") == ""
    assert watch.feed(": more") == "" and watch.matched == "\nUser:"
    assert watch.feed("still more") == "" and watch.finish() == ""


def test_text_is_held_back_no_longer_than_needed():
    watch = StopStrings("END")
    assert [watch.feed(char) for char in "aEbENEND"] == ["a", "", "Eb", "", "", "EN", "", ""]


def test_an_earlier_beginning_wins_over_an_earlier_end():
    assert run(["abcd", "c"], "xabcd") == ("x", "abcd")
    assert run(["abcd", "c"], ["xabc", "e"]) == ("xab", "c")
    assert run(["aa", "a"], "baa") == ("b", "a")


def test_no_stops_hold_nothing_back():
    watch = StopStrings()
    assert watch.feed("<") == "<" and watch.finish() == "" and watch.matched is None


@pytest.mark.parametrize("stops", ["", ["a", ""], [None]])
def test_an_empty_stop_is_refused(stops):
    with pytest.raises(UserError, match="at least one character"):
        StopStrings(stops if stops != "" else [""])
