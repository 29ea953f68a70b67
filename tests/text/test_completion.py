"""The completion parser's promises: any cutting gives the same events, no markup shows, nothing is lost, calls survive."""
import copy
import json
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.errors import UserError
from fathom.text import (
    SPECIAL_TOKENS,
    CompletionParser,
    ContentDelta,
    Notice,
    ReasoningDelta,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallStart,
    encode_messages,
    merge_events,
    parse_completion,
)

from .completions import EOS, TWO, D, all_of_them, block, call, parameter

CASES = list(all_of_them())
ANY_TAG = re.compile("< ?/? ?[｜|‖]{1,2} ?DSML ?[｜|‖]")


def events_of(chunks, mode, cut=False):
    parser, events = CompletionParser(mode), []
    for chunk in chunks:
        events += parser.feed(chunk)
    return merge_events(events + parser.finish(cut))


def cuttings(text):
    """Single characters, small pieces, and some random ones."""
    rng = random.Random(len(text))
    for size in (1, 2, 3, 7, 16):
        yield [text[i : i + size] for i in range(0, len(text), size)]
    for _ in range(3):
        borders = sorted(rng.sample(range(len(text) + 1), min(6, len(text) + 1)))
        yield [text[a:b] for a, b in zip([0, *borders], [*borders, len(text)])]


def said(events):
    """(reasoning, content)"""
    return tuple("".join(event.text for event in events if isinstance(event, kind)) for kind in (ReasoningDelta, ContentDelta))


def calls_of(events):
    """(name, arguments) of each call, checking that the events of calls are in order."""
    calls, open_call = [], None
    for event in events:
        if isinstance(event, ToolCallStart):
            assert open_call is None and event.index == len(calls)
            calls.append((event.name, ""))
            open_call = event.index
        elif isinstance(event, ToolCallDelta):
            assert event.index == open_call and event.arguments
            calls[-1] = (calls[-1][0], calls[-1][1] + event.arguments)
        elif isinstance(event, ToolCallEnd):
            assert event.index == open_call
            open_call = None
    assert open_call is None
    return calls


def assert_laws(text, mode):
    events = events_of([text], mode)
    reasoning, content = said(events)
    for shown in (reasoning, content):
        assert not any(token in shown for token in SPECIAL_TOKENS) and not ANY_TAG.search(shown), shown
    calls = calls_of(events)
    for name, arguments in calls:
        assert name and isinstance(json.loads(arguments), dict)
        assert not re.search(r"</?[｜|‖]{1,2}DSML[｜|‖]{1,2} ?/?(parameter name=|invoke name=\\?\"w)", arguments)
    everything = repr((events, calls))
    assert all(re.search(rf"{word}(?!\d)", everything) for word in re.findall(r"w\d+", text))
    return events


# ---- two hundred and more completions


def test_there_are_enough_of_them():
    assert len({text for _, _, text, _ in CASES}) >= 200


@pytest.mark.parametrize(("name", "mode", "text", "calls"), CASES, ids=[case[0] for case in CASES])
def test_constructed_completions(name, mode, text, calls):
    events = assert_laws(text, mode)
    for chunks in cuttings(text):
        assert events_of(chunks, mode) == events
    if calls is not None:
        assert calls_of(events) == calls


@pytest.mark.parametrize("case", [case for case in CASES if case[0].endswith("as it is")], ids=lambda case: case[0])
def test_well_formed_completions_give_no_notice_and_can_be_cut_anywhere(case):
    _, mode, text, calls = case
    whole = events_of([text], mode)
    assert not any(isinstance(event, Notice) for event in whole)
    assert all(event.complete for event in whole if isinstance(event, ToolCallEnd))
    for at in range(len(text) + 1):
        assert events_of([text[:at], text[at:]], mode) == whole
        prefix = calls_of(assert_laws(text[:at], mode))  # a turn that stops early still parses
        assert [name for name, _ in prefix] == [name for name, _ in calls][: len(prefix)]


@pytest.mark.check
@pytest.mark.parametrize(("name", "mode", "text", "calls"), CASES, ids=[case[0] for case in CASES])
def test_every_cut_in_two_and_every_size_of_piece(name, mode, text, calls):
    """Of all completions, malformed ones too. At each place the rest also comes at once after all before it came one by one."""
    whole, one_by_one, before = events_of([text], mode), CompletionParser(mode), []
    for at in range(len(text) + 1):
        assert events_of([text[:at], text[at:]], mode) == whole
        fork = copy.deepcopy(one_by_one)
        assert merge_events([*before, *fork.feed(text[at:]), *fork.finish()]) == whole
        before = merge_events([*before, *one_by_one.feed(text[at : at + 1])])
    for size in range(1, 33):
        assert events_of([text[i : i + size] for i in range(0, len(text), size)], mode) == whole


# ---- fuzzing

fragments = st.sampled_from([
    "<", "</", "<｜", "｜", "|", "DSML", D, "|DSML|", f"<{D}", f"</{D}", "< | DSML | ", "tool_calls", "invoke", "parameter", ">", "/>",
    "\n", "\n\n", " ", " name=", '"', "'", ' name="f"', ' name="a" string="true">', ' string="false"', "true", "{", "}", '{"k": 1}',
    "<think>", "</think>", "<thi", "nk>", EOS, "<|end▁of▁sentence|>", "<｜User｜>", "é", "🙂", "x" * 1100, f"<{D}tool_calls>\n",
    f'<{D}invoke name="f">\n', f"</{D}invoke>\n", f"</{D}tool_calls>", f"</{D}parameter>\n",
    f'<{D}parameter name="a" string="true">', f'<{D}parameter name="b" string="false">',
])


def check_any_text(pieces, mode, data):
    text = "".join(piece if i % 3 else f" w{i} {piece}" for i, piece in enumerate(pieces))
    events = assert_laws(text, mode)
    assert events_of(text, mode) == events
    chunks, rest = [], text
    while rest:
        n = data.draw(st.integers(1, len(rest)))
        chunks.append(rest[:n])
        rest = rest[n:]
    assert events_of(chunks, mode) == events


lists_of_fragments = st.lists(fragments, max_size=25)
modes = st.sampled_from(["chat", "thinking"])


@settings(max_examples=250, deadline=None)
@given(pieces=lists_of_fragments, mode=modes, data=st.data())
def test_any_text_any_cutting(pieces, mode, data):
    check_any_text(pieces, mode, data)


@pytest.mark.check
@settings(max_examples=5000, deadline=None)
@given(pieces=lists_of_fragments, mode=modes, data=st.data())
def test_any_text_any_cutting_at_length(pieces, mode, data):
    check_any_text(pieces, mode, data)


# ---- encode, then parse

harmless_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="｜‖"), max_size=40).filter(
    lambda text: "DSML" not in text and "think>" not in text and "▁" not in text)
names = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | harmless_text,
                      lambda inner: st.lists(inner, max_size=3) | st.dictionaries(harmless_text, inner, max_size=3), max_leaves=6)
arguments = st.dictionaries(harmless_text, values, max_size=4).map(lambda value: json.dumps(value, ensure_ascii=False))


@settings(max_examples=150, deadline=None)
@given(content=harmless_text, reasoning=harmless_text, calls=st.lists(st.tuples(names, arguments), max_size=3),
       mode=modes, ascii_bars=st.booleans())
def test_an_encoded_message_parses_to_itself(content, reasoning, calls, mode, ascii_bars):
    message = {
        "role": "assistant", "content": content, "reasoning_content": reasoning if mode == "thinking" else "",
        "tool_calls": [{"type": "function", "function": {"name": name, "arguments": text}} for name, text in calls],
    }
    asked = [{"role": "user", "content": "q"}]
    completion = encode_messages([*asked, message], mode).removeprefix(encode_messages(asked, mode))
    completion = completion.replace("｜", "|") if ascii_bars else completion
    assert parse_completion(completion, thinking_mode=mode) == message
    assert parse_completion(completion.removesuffix(EOS), mode) == parse_completion(completion, mode)


# ---- particular promises


def test_deltas_come_as_the_text_comes():
    parser = CompletionParser("thinking")
    assert parser.feed("think") == [ReasoningDelta("think")]
    assert parser.feed("ing</th") == [ReasoningDelta("ing")]
    assert parser.feed("ink>Hi\n\n<｜DS") == [ContentDelta("Hi")]
    assert parser.feed(f"ML｜tool_calls>\n<{D}invoke name=\"f\">\n") == [ToolCallStart(0, "f")]
    assert parser.feed(f'<{D}parameter name="a" string="true">ab') == [ToolCallDelta(0, '{"a": "ab')]
    assert parser.feed("c\n") == [ToolCallDelta(0, "c")]
    assert parser.feed(f'"</{D}parameter>\n<{D}parameter name="b" string="false">12') == [ToolCallDelta(0, '\\n\\"", "b": ')]
    assert parser.feed(f"3</{D}parameter>") == [ToolCallDelta(0, "123")]
    assert parser.feed(f"\n</{D}invoke>") == [ToolCallDelta(0, "}"), ToolCallEnd(0, True)]
    assert parser.feed(f"\n</{D}tool_calls>") == [] and parser.finish() == []


def test_text_that_only_looks_like_markup_is_text():
    looks = ("a < b and c <d> e", "<thinking>", "</thin", "f <| g", "表｜一｜", "<|User|>", "<tool_calls>", 'x <invoke name="f">', "|DSML|")
    for text in looks:
        assert events_of(text, "chat") == [ContentDelta(text)]


def test_a_turn_cut_by_a_length_limit_leaves_its_arguments_open():
    text = block(call("f", parameter("cmd", "rm -rf /tmp/x")))
    for at, open_arguments in ((text.index("tmp"), '{"cmd": "rm -rf /'), (text.index("/x") + 2, '{"cmd": "rm -rf /tmp/x')):
        assert events_of([text[:at]], "chat", cut=True) == [ToolCallStart(0, "f"), ToolCallDelta(0, open_arguments), ToolCallEnd(0, False)]
        closed = events_of([text[:at]], "chat")
        assert calls_of(closed) == [("f", open_arguments + '"}')] and closed[-1] == ToolCallEnd(0, False)
    typed = block(call("f", parameter("n", "[1, 2", False)))
    assert calls_of(events_of([typed[: typed.index(", 2")]], "chat", cut=True)) == [("f", '{"n": [1')]


def test_forgotten_closing_tags_are_read_as_meant():
    one, two = '{"a": "x\\ny", "b": 1}', '{"c": "z"}'
    text = block(call("f", parameter("a", "x\ny"), parameter("b", "1", False)), call("g", parameter("c", "z")))
    for forgotten in (f"</{D}parameter>", f"</{D}parameter>\n</{D}invoke>", f"</{D}invoke>\n"):
        assert calls_of(events_of([text.replace(forgotten, "")], "chat")) == [("f", one), ("g", two)]
    assert calls_of(events_of([re.sub(f"</{D}\\w+>\n?", "", text)], "chat")) == [("f", one), ("g", two)]


def test_line_breaks_before_a_block_are_layout_but_only_two():
    for breaks in range(5):
        content = parse_completion("a" + "\n" * breaks + block(call("f")).lstrip("\n"), "chat")["content"]
        assert content == "a" + "\n" * max(0, breaks - 2)
    assert parse_completion("a\n\n\n", "chat")["content"] == "a\n\n\n"
    assert parse_completion("r\n\n</think>\n\na", "thinking")["reasoning_content"] == "r\n\n"


def test_markup_is_not_put_together_across_the_end_of_the_reasoning():
    message = parse_completion("a<thi</think>nk>b", "thinking")
    assert (message["reasoning_content"], message["content"]) == ("a<thi", "nk>b")


def test_a_text_that_ends_in_the_middle_of_a_tag_shows_none_of_it():
    text = block(call("f", parameter("a", "Paris")))
    first, last = text.index("Paris") + 5, text.index("parameter>", text.index("Paris")) + 9
    for at in range(first, last):
        arguments = calls_of(events_of([text[:at]], "chat"))[0][1]
        assert arguments == '{"a": "Paris"}' or arguments in ('{"a": "Paris<"}', '{"a": "Paris</"}')  # these may be text


def test_values_keep_markup_that_cannot_end_them():
    value = f"<think> </think> <｜User｜> <{D}tool_calls> <{D}foo> </p>"
    assert calls_of(events_of([block(call("f", parameter("a", value)))], "chat")) == [("f", json.dumps({"a": value}, ensure_ascii=False))]


def test_parameter_names_may_hold_anything():
    for name in ('a"b', "a>b", "a b", 'x" y="', "é", "", "</p>"):
        found = calls_of(events_of([block(call("f", parameter(name, "v")))], "chat"))
        assert found == [("f", json.dumps({name: "v"}, ensure_ascii=False))]


def test_values_that_are_not_what_they_claim():
    def value(text, attribute):
        tag = parameter("a", text).replace(' string="true"', attribute)
        return json.loads(calls_of(events_of([block(call("f", tag))], "chat"))[0][1])["a"]

    assert value("oops", ' string="false"') == "oops"
    assert value("NaN", ' string="false"') == "NaN"
    assert value("", ' string="false"') == ""
    assert value("[1]\n", ' string="false"') == [1]
    assert value("12", "") == 12 and value("02139", "") == "02139" and value("true", "") is True  # no type given: JSON if it is JSON
    assert value("12", ' string="true"') == "12"


def test_a_block_inside_the_reasoning_makes_its_calls_and_reasoning_goes_on():
    message = parse_completion(f"before{TWO}after</think>answer{EOS}", "thinking")
    assert (message["reasoning_content"], message["content"]) == ("beforeafter", "answer")
    assert [entry["function"]["name"] for entry in message["tool_calls"]] == ["w1", "w6"]


def test_notices_carry_what_shows_nowhere_else():
    def notices(text):
        return [(event.problem, event.text) for event in events_of([text], "chat") if isinstance(event, Notice)]

    assert notices("a<think>b") == [("control token out of place", "<think>")]
    assert notices(f"a{EOS}rest") == [("text after the end of the turn", "rest")]
    assert notices(f"a</{D}invoke>b") == [("closing tag without an opening one", f"</{D}invoke>")]
    assert notices(f"<{D}invoke>") == [("call without a name", f"<{D}invoke>")]
    assert notices(f"<{D}invoke id='7' name='f'>")[0] == ("attribute not understood", "id='7'")
    assert notices(f"a\n\n<{D}tool_calls>\n</{D}tool_calls>") == [("block without a call", f"<{D}tool_calls></{D}tool_calls>")]
    assert notices("a<｜end") == [("broken markup", "<｜end")]


def test_a_long_completion_takes_linear_time():
    text = block(call("f", parameter("a", "x" * 100 + "\n" + "<" * 50))) * 2000 + "<think>" * 20_000  # 600 kB
    message = parse_completion(text, "chat")
    assert len(message["tool_calls"]) == 2000 and message["content"] == ""


def test_another_mode_is_refused():
    with pytest.raises(UserError, match="thinking_mode = deep"):
        parse_completion("x", "deep")
