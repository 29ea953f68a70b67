"""From tokens to what is shown: the grouping of tokens doesn't show, stop strings cut exactly, counts and log-probabilities fit."""
import random
from pathlib import Path

import pytest

import fathom.text
from fathom.engine import Output
from fathom.server.reader import Reader, StopWatch
from fathom.text import ContentDelta, ReasoningDelta, Tokenizer, ToolCallDelta, merge_events, train_tokenizer
from tests.text.completions import BASES, EOS, TWO


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([file.read_text() for file in sorted(Path(fathom.text.__file__).parent.glob("*.py"))], 900)


def outputs(tokenizer, text):
    return [Output(token, -float(i) / 8, None) for i, token in enumerate(tokenizer.encode_with_controls(text))]


def read(tokenizer, parsed, tokens, cuts, stops=(), cut=False):
    reader, events, reasoning, content = Reader(tokenizer, parsed, stops), [], [], []
    seens = [reader.feed(tokens[a:b]) for a, b in zip([0, *cuts], [*cuts, len(tokens)])]
    for seen in [*seens, reader.finish(cut)]:
        events += seen.events
        reasoning += seen.reasoning
        content += seen.content
    return reader, merge_events(events), reasoning, content


def said(events, kind=ContentDelta):
    return "".join(event.text for event in events if isinstance(event, kind))


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("stops", [(), ("w2", "zz"), ("w1 w", "w12")])
def test_grouping_does_not_show(tokenizer, name, stops):
    parsed, text, _ = BASES[name]
    tokens = outputs(tokenizer, text)
    whole = read(tokenizer, parsed, tokens, [], stops)
    rng = random.Random(name)
    for cuts in (range(1, len(tokens)), *(sorted(rng.sample(range(len(tokens)), min(5, len(tokens)))) for _ in range(5))):
        reader, events, reasoning, content = read(tokenizer, parsed, tokens, list(cuts), stops)
        assert events == whole[1] and (reader.tokens, reader.reasoning_tokens, reader.calls, reader.stopped) == (
            whole[0].tokens, whole[0].reasoning_tokens, whole[0].calls, whole[0].stopped)
        assert reasoning == whole[2]


def test_reasoning_and_content_have_their_own_tokens(tokenizer):
    tokens = outputs(tokenizer, f"thinking about it</think>The answer{EOS}")
    reader, events, reasoning, content = read(tokenizer, "thinking", tokens, [])
    assert tokenizer.decode([piece.id for piece in reasoning]) == said(events, ReasoningDelta) == "thinking about it"
    assert tokenizer.decode([piece.id for piece in content]) == said(events) == "The answer"
    assert reader.reasoning_tokens == len(reasoning) and reader.tokens == len(tokens) == len(reasoning) + len(content) + 2
    assert [piece.logprob for piece in reasoning] == [output.logprob for output in tokens[: len(reasoning)]]


def test_a_call_is_no_content(tokenizer):
    reader, events, _, content = read(tokenizer, "chat", outputs(tokenizer, f"Look:{TWO}{EOS}"), [])
    assert reader.calls == 2 and said(events) == "Look:" and "invoke" not in tokenizer.decode([piece.id for piece in content])
    assert any(isinstance(event, ToolCallDelta) for event in events)


def test_stop_strings_end_the_content_and_nothing_else(tokenizer):
    tokens = outputs(tokenizer, f"a stop here</think>one two stop three{EOS}")
    reader, events, _, _ = read(tokenizer, "thinking", tokens, range(1, len(tokens)), ["stop"])
    assert said(events, ReasoningDelta) == "a stop here" and said(events) == "one two " and reader.stopped == "stop"
    watch = StopWatch(tokenizer, "thinking", ["stop"])
    ends = [watch.accept(output.token_id) for output in tokens]
    first = ends.index(True)
    assert "stop" in tokenizer.decode([o.token_id for o in tokens[: first + 1]]).split("</think>")[1]
    assert "stop" not in tokenizer.decode([o.token_id for o in tokens[:first]]).split("</think>")[1]
    call = outputs(tokenizer, f"{TWO}{EOS}")
    reader, events, _, _ = read(tokenizer, "chat", call, [], ["w3", "\n"])
    assert reader.calls == 2 and reader.stopped is None, "the layout and the arguments of a call are no content"


def test_plain_text_hides_control_tokens_but_counts_them(tokenizer):
    reader, events, _, content = read(tokenizer, "text", outputs(tokenizer, f"def f():<｜User｜> pass{EOS}"), [])
    assert said(events) == "def f(): pass" and len(content) == reader.tokens and reader.reasoning_tokens == 0


def test_an_answer_that_is_cut_leaves_arguments_open(tokenizer):
    tokens = outputs(tokenizer, TWO[: TWO.index("w4")])
    _, events, _, _ = read(tokenizer, "chat", tokens, [], cut=True)
    assert "".join(event.arguments for event in events if isinstance(event, ToolCallDelta)) == '{"w2": "w3 \\"'
    _, events, _, _ = read(tokenizer, "chat", tokens, [], cut=False)
    assert "".join(event.arguments for event in events if isinstance(event, ToolCallDelta)).endswith('"}')


def test_a_token_that_isnt_one_is_no_token(tokenizer):
    reader = Reader(tokenizer, "chat")
    assert reader.feed([Output(-1, 0.0, "aborted")]).events == [] and reader.tokens == 0
