"""The judgement of completions: what ends, what is clean, what is a valid call, what is right; and which questions are asked."""
import random

import pytest

from fathom.config.recipe import ConversationsRecipe
from fathom.text import encode_messages
from fathom.text.special import EOS, THINK_CLOSE
from fathom.train.sft.conversation import messages_of
from fathom.train.sft.exchange import draw, held_out, words_of
from fathom.train.sft.kinds import KINDS
from fathom.train.sft.measure import BESIDE, figures, judge, questions

RECIPE = ConversationsRecipe(measured=12)


@pytest.fixture(scope="module")
def asked():
    return questions(RECIPE, 0)


def perfect(question):
    """What the model should say, from the encoding itself: the conversation with the answer, without its prompt."""
    said = messages_of(question.exchange)
    after = len([message for message in question.messages if message["role"] != "system"])
    mode = "thinking" if question.thinking else "chat"
    whole = encode_messages([*question.messages, said[after]], mode)
    return whole.removeprefix(encode_messages(question.messages, mode)).removesuffix(EOS)


def test_the_right_answers_are_right(asked):
    for question in asked:
        judged = judge(question, perfect(question) + EOS, ended=True)
        assert judged.ended and judged.clean and judged.right and judged.valid == question.calls, judged


def test_an_answer_that_does_not_end_is_not_right(asked):
    for question in asked:
        judged = judge(question, perfect(question), ended=False)
        assert not (judged.ended or judged.right or judged.valid)


def test_reasoning_that_is_not_closed_is_neither_clean_nor_right(asked):
    for question in (q for q in asked if q.thinking):
        judged = judge(question, perfect(question).replace(THINK_CLOSE, "") + EOS, ended=True)
        assert not (judged.clean or judged.right or judged.valid)


@pytest.mark.parametrize(("old", "new"), [
    ("</｜DSML｜parameter>", ""), ("｜DSML｜", "|DSML|"), ("get_weather", "get_whether"), ("location", "place"), ('string="true"', 'string="false"'),
    ("</｜DSML｜tool_calls>", ""), ("<｜DSML｜tool_calls>", "<｜DSML｜tool_calls><think>"), ("\n\n<", "\n<"),
    ("</｜DSML｜invoke>\n", "</｜DSML｜invoke>"),
])
def test_a_call_with_a_mistake_is_not_valid(asked, old, new):
    """Also with those that the parser forgives: a service reads them as meant, but the model wasn't taught them."""
    for question in (q for q in asked if q.calls):
        judged = judge(question, perfect(question).replace(old, new) + EOS, ended=True)
        assert not judged.valid and not judged.right, judged


def test_a_call_for_another_place_or_day_is_valid_and_wrong(asked):
    for question in (q for q in asked if q.calls):
        city = question.exchange.call.arguments["location"]
        judged = judge(question, perfect(question).replace(f">{city}<", ">Springfield<") + EOS, ended=True)
        assert judged.valid and not judged.right
        lower = judge(question, perfect(question).replace(f">{city}<", f">{city.lower()}<") + EOS, ended=True)
        assert lower.valid and lower.right


def test_two_calls_are_not_the_one_that_was_needed(asked):
    question = next(q for q in asked if q.calls and not q.thinking)
    call = perfect(question)
    inside = call[call.index("<｜DSML｜invoke"):call.index("</｜DSML｜tool_calls>")]
    assert not judge(question, call.replace(inside, inside * 2) + EOS, ended=True).valid


def test_a_call_where_none_is_needed_is_wrong(asked):
    call = next(perfect(q) for q in asked if q.calls and not q.thinking)
    for question in (q for q in asked if q.group in (BESIDE, "toolless") and not q.thinking):
        assert not judge(question, perfect(question) + call + EOS, ended=True).right


@pytest.mark.parametrize("text", ["", EOS, THINK_CLOSE, "</｜DSML｜invoke>", "<｜DSML｜invoke name=", "\x00" * 10, "<｜User｜>" * 5])
def test_anything_can_be_judged(asked, text):
    for question in asked:
        judged = judge(question, text, ended=True)
        assert not judged.right and not judged.valid


# ---- the questions


def test_every_kind_is_asked_in_both_modes_with_different_held_out_questions(asked):
    groups = {question.group for question in asked}
    assert groups == (set(KINDS) - {"weather"}) | {"weather: call", "weather: answer", BESIDE}
    for group in groups:
        of = [question for question in asked if question.group == group]
        assert len(of) == 12 and [q.thinking for q in of].count(True) == 6
        assert len({q.exchange.question for q in of}) == 12
        assert all(held_out(q.exchange, RECIPE.held_out) for q in of)
    assert {q.kind.name for q in asked if q.group == BESIDE} == set(KINDS) - {"weather", "toolless"}
    assert all(bool(q.tools) == (q.group == BESIDE or q.group.startswith("weather")) for q in asked)


def test_they_are_none_of_those_to_train_on(asked):
    trained = {words_of(draw(kind, random.Random(seed), RECIPE.held_out, out=False).question) for kind in KINDS.values() for seed in range(1000)}
    assert not trained & {words_of(q.exchange.question) for q in asked}


def test_the_same_seed_asks_the_same_and_another_seed_others(asked):
    assert [q.exchange for q in questions(RECIPE, 0)] == [q.exchange for q in asked] != [q.exchange for q in questions(RECIPE, 1)]


def test_a_kind_with_fewer_questions_than_wanted_gives_what_it_has():
    found = questions(ConversationsRecipe(kinds=("toolless",), measured=500, held_out=0.05), 0)
    assert 50 < len(found) < 500 and len({q.exchange.question for q in found}) == len(found)


def test_the_answer_to_a_call_is_asked_with_the_right_call_and_its_result(asked):
    for question in (q for q in asked if q.group == "weather: answer"):
        roles = [message["role"] for message in question.messages]
        assert roles == ["system", "user", "assistant", "tool"] and question.messages[-1]["content"] == question.exchange.result


def test_figures_count_by_group_and_mode(asked):
    judged = [judge(question, (perfect(question) if question.thinking else "no") + EOS, ended=True) for question in asked]
    found = figures(judged)
    assert found["ended"] == 1.0 and found["questions"] == len(asked) and found["valid_calls"] == 0.5
    for group in found["groups"].values():
        assert (group["right_thinking"], group["right_chat"], group["right"]) == (1.0, 0.0, 0.5)
    assert figures([])["valid_calls"] is None
