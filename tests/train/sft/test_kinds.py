"""The generators' laws: every kind's items are well-formed, different, solvable from their text alone, and on one side of the split."""
import inspect
import json
import random
import re

import pytest

from fathom.config.recipe import ConversationsRecipe
from fathom.text import encode_messages
from fathom.train.sft.conversation import make_conversation, messages_of
from fathom.train.sft.exchange import Exchange, draw, held_out, words_of
from fathom.train.sft.kinds import KINDS, functions, weather
from fathom.train.sft.measure import allowed, same_call
from tests.train.sft import solver

SEEDS = range(200)
SHARE = 0.1
RECIPE = ConversationsRecipe(held_out=SHARE)
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))


def exchanges(kind, *, out=False, seeds=SEEDS):
    return [draw(kind, random.Random(f"{kind.name}/{out}/{seed}"), SHARE, out=out) for seed in seeds]


@every_kind
def test_a_seed_gives_one_exchange_and_seeds_give_different_ones(kind):
    assert exchanges(kind) == exchanges(kind)
    uncommon = [e for e in exchanges(kind) if not e.common]
    assert len({e.question for e in uncommon}) > 0.6 * len(uncommon) > 0.35 * len(SEEDS)


@every_kind
def test_every_exchange_is_well_formed(kind):
    for exchange in exchanges(kind) + exchanges(kind, out=True):
        assert exchange.kind == kind.name
        for text in (exchange.question, exchange.answer, exchange.reasoning):
            assert text and text == text.strip() and len(text) < 250
        assert "\n" not in exchange.reasoning and len(exchange.reasoning.split()) <= 25
        assert "<" not in exchange.question + exchange.answer and "｜" not in exchange.answer  # nothing that looks like markup
        assert (exchange.call is not None) == bool(kind.tools) == bool(exchange.result) == bool(exchange.after)


@every_kind
def test_the_reference_solver_says_what_the_exchange_says(kind):
    for exchange in exchanges(kind) + exchanges(kind, out=True):
        if exchange.call is None:
            solved = solver.solve(kind.name, exchange.question)
        else:
            assert solver.solve_call(exchange.question) == exchange.call.arguments
            told = json.loads(exchange.result)
            solved = solver.solve_result(exchange.question, told["sky"], told["degrees"])
        assert words_of(solved) == words_of(exchange.answer), exchange
        assert kind.right(exchange, solved)


@every_kind
def test_another_exchanges_answer_is_wrong(kind):
    """A judge that says yes to everything would be found here: the answers of one item don't pass for the next with another answer."""
    if kind.name == "toolless":
        pytest.skip("there is one answer to all of them")
    items = exchanges(kind)
    said = words_of if kind.name != "arithmetic" else lambda answer: answer.split()[-1]
    pairs = [(a, b) for a, b in zip(items, items[1:]) if said(a.answer) != said(b.answer)]
    assert len(pairs) > 50
    assert not any(kind.right(a, b.answer) for a, b in pairs)


@every_kind
@pytest.mark.parametrize("said", ["", "no", "```python\ndef f(:\n```", "\x00", "((" * 5000, "9" * 400, "𝟘 = ٣"])
def test_the_judge_survives_anything_and_rewards_none_of_it(kind, said):
    assert not any(kind.right(exchange, said) for exchange in exchanges(kind, seeds=range(20)))


@pytest.mark.parametrize(("content", "right"), [
    ("3 + 4 = 7", True), ("The result is 7.", True), ("7", True), ("3 + 4 = 8", False), ("7 or 8", False), ("-7", False), ("seven", False),
])
def test_a_sum_is_judged_by_its_last_number(content, right):
    assert KINDS["arithmetic"].right(Exchange("arithmetic", "What is 3 + 4?", "3 + 4 = 7", "3 + 4 = 7"), content) is right


@pytest.mark.parametrize(("content", "right"), [
    ("```python\ndef f(x):\n    return x + 3\n```", True), ("def f(x): return x+3", True), ("```\ndef f(x):\n  return (x + 3)  # so\n```", True),
    ("```python\ndef f(x):\n    return x - 3\n```", False), ("```python\ndef g(x):\n    return x + 3\n```", False),
    ("```python\ndef f(x):\n    x + 3\n```", False), ("return x + 3", False),
])
def test_a_function_is_judged_by_its_syntax_tree(content, right):
    exchange = Exchange("functions", "…", "```python\ndef f(x):\n    return x + 3\n```", "return x + 3")
    assert functions.right(exchange, content) is right


MEANINGS = {"plus": lambda a, b: a + b, "minus": lambda a, b: a - b, "times": lambda a, b: a * b, "divided": lambda a, b: a / b,
            "sum": lambda *x: sum(x), "product": lambda a, b: a * b, "larger": max, "smaller": min, "largest": max, "smallest": min,
            "length": lambda *x: len(x), "first": lambda *x: x[0], "last": lambda *x: x[-1], "order": lambda *x: sorted(x)}


def test_functions_compute_what_is_asked():
    """The references are run, and compared with what the words of the question mean."""
    for exchange in exchanges(KINDS["functions"]):
        head, wanted = re.search(r"\((.*)\) (?:that returns|to return) (.*)\.", exchange.question).groups()
        of_list = head in functions.LISTS
        given = {head: [3, 1, 2]} if of_list else dict(zip(head.split(", "), (5, 2)))
        scope: dict = {}
        exec(exchange.answer.removeprefix("```python\n").removesuffix("```"), scope)
        (function,) = [value for value in scope.values() if inspect.isfunction(value)]
        numbers = [3, 1, 2] if of_list else [given.get(word) or int(word) for word in wanted.split() if word in given or word.isdigit()]
        assert function(**given) == next(meaning for word, meaning in MEANINGS.items() if word in wanted.split())(*numbers), exchange


# ---- the tool


@pytest.mark.parametrize(("name", "arguments", "ok"), [
    ("get_weather", {"location": "Rome"}, True), ("get_weather", {"location": "Rome", "days": 2}, True), ("get_weather", {"days": 2}, False),
    ("get_weather", {"location": "Rome", "days": "2"}, False), ("get_weather", {"location": "Rome", "days": True}, False),
    ("get_weather", {"location": "Rome", "day": 2}, False), ("weather", {"location": "Rome"}, False), ("get_weather", {}, False),
    ("get_weather", {"location": 3}, False),
])
def test_a_call_is_held_to_the_tools_schema(name, arguments, ok):
    tools = weather.tools(random.Random(0))
    assert allowed({"name": name, "arguments": json.dumps(arguments)}, tools) is ok


def test_every_generated_call_is_allowed_and_the_same_as_itself_alone():
    items = exchanges(KINDS["weather"])
    for exchange, other in zip(items, items[1:]):
        function = messages_of(exchange)[1]["tool_calls"][0]["function"]
        assert allowed(function, weather.tools(random.Random(1))) and same_call(function, exchange)
        assert same_call(function, other) == (exchange.call.arguments == other.call.arguments)


# ---- the split


@every_kind
def test_held_out_questions_are_not_trained_on(kind):
    """On the items themselves: no held-out question, in whatever case and punctuation, is one of thousands to train on."""
    trained = {words_of(e.question) for e in exchanges(kind, seeds=range(3000))}
    kept = {words_of(e.question) for e in exchanges(kind, out=True)}
    assert not trained & kept
    assert len(kept) >= 60


@every_kind
def test_about_the_share_is_held_out(kind):
    questions = {words_of(e.question): e for e in (kind.make(random.Random(seed)) for seed in range(4000)) if not e.common}
    share = sum(held_out(e, SHARE) for e in questions.values()) / len(questions)
    assert 0.07 < share < 0.13
    assert all(held_out(e, 0.2) for e in questions.values() if held_out(e, SHARE))  # a larger share keeps what a smaller one kept


def test_what_everybody_says_is_always_trained_on():
    common = [e for e in (KINDS["greetings"].make(random.Random(seed)) for seed in range(2000)) if e.common]
    assert {"Hello!", "Thanks!", "Who are you?"} <= {e.question for e in common}
    assert not any(held_out(e, 0.99) for e in common)


# ---- conversations


@pytest.mark.parametrize("out", [False, True])
def test_a_conversation_keeps_to_its_side(out):
    for seed in SEEDS:
        conversation = make_conversation(f"{out}/{seed}", list(KINDS.values()), RECIPE, out=out)
        assert all(held_out(e, SHARE) == out for e in conversation.exchanges)


def test_conversations_are_as_the_recipe_says():
    recipe = ConversationsRecipe(turns=3, tool_turns=5, thinking=0.3)
    made, again = ([make_conversation(str(seed), list(KINDS.values()), recipe, out=False) for seed in range(1000)] for _ in range(2))
    assert made == again
    with_tool = [c for c in made if c.tools]
    assert {len(c.exchanges) for c in with_tool} == {1, 2, 3, 4, 5} and {len(c.exchanges) for c in made if not c.tools} == {1, 2, 3}
    assert abs(sum(c.thinking for c in made) / 1000 - 0.3) < 0.06
    assert all(e.call is None for c in made if not c.tools for e in c.exchanges)
    assert not any(e.kind == "toolless" for c in with_tool for e in c.exchanges)
    assert {e.kind for c in with_tool for e in c.exchanges} == set(KINDS) - {"toolless"}
    assert any(c.system for c in with_tool) and any(c.system for c in made if not c.tools) and not all(c.system for c in made)


@pytest.mark.parametrize("names", [["greetings"], ["weather"], ["toolless"], ["weather", "toolless"], ["lists", "weather"]])
def test_a_recipe_may_name_some_kinds(names):
    for seed in range(50):
        conversation = make_conversation(str(seed), [KINDS[name] for name in names], RECIPE, out=False)
        assert {e.kind for e in conversation.exchanges} <= set(names)


def test_conversations_are_encodable_and_end_in_the_assistants_words():
    for seed in SEEDS:
        conversation = make_conversation(str(seed), list(KINDS.values()), RECIPE, out=False)
        text = encode_messages(conversation.messages(), conversation.mode)
        assert text.endswith(conversation.exchanges[-1].answer + "<｜end▁of▁sentence｜>")
        assert text.count("<｜DSML｜invoke name=") == sum(e.call is not None for e in conversation.exchanges) + 2 * bool(conversation.tools)
