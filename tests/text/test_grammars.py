"""Constraints: what a model that picks any allowed token writes is a call or JSON as asked; what was meant is allowed; going back is exact."""
import json
import random
import subprocess
import sys

import numpy as np
import pytest

from fathom.errors import UserError
from fathom.text import SPECIAL_TOKENS, encode_messages, parse_completion, special, train_tokenizer
from tests.server.live import texts

pytestmark = pytest.mark.needs("module:llguidance")

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "a town"},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "unit": {"enum": ["c", "f", "", 'a"b</p>', 7]},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "tag": {"type": "string", "minLength": 2, "maxLength": 3},
        "when": {"type": "string", "format": "date"},
        "code": {"type": "string", "pattern": "^[A-Z]{2}[0-9]$"},
        "at": {"$ref": "#/$defs/Point"},
        "tree": {"$ref": "#/$defs/Tree"},
        "list": {"type": "array", "items": {"type": "string", "maxLength": 4}, "minItems": 1, "maxItems": 2},
        "mixed": {"type": ["string", "integer"]},
        "any": {},
    },
    "required": ["city", "days", "unit", "note", "tag", "when", "code", "at", "list", "mixed", "any"],
    "$defs": {"Point": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"], "additionalProperties": False},
              "Tree": {"type": "object", "properties": {"child": {"$ref": "#/$defs/Tree"}}, "additionalProperties": False}},
    "additionalProperties": False,
}
STRICT = {"name": "weather", "strict": True, "parameters": SCHEMA}
FREE = {"name": "free-1", "parameters": {"type": "object", "properties": {"q": {"type": "string"}}}}
BARE = {"name": "bare", "strict": True, "parameters": {"type": "object", "properties": {}}}
GOOD = {"city": "São <b> Paulo </x\n\n", "days": 3, "unit": "f", "note": None, "tag": "abc", "when": 1, "code": 2, "at": {"x": -1.5e3},
        "list": ["a", "<b>"], "mixed": "12", "any": [1, {"k": None}]}
"""Fits the schema, but for when and code, strings that a constraint has written as JSON."""


@pytest.fixture(scope="module")
def grammars(tokenizer):
    from fathom.text.grammars import Grammars

    return Grammars(tokenizer, tokenizer.vocab_size + 45)  # models have more rows than the tokenizer


def allowed(constraint):
    mask = constraint.mask()
    return None if mask is None else np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))


def refused_at(constraint, tokenizer, text):
    """The text before the first token of `text` that isn't allowed, or None."""
    ids = tokenizer.encode_with_controls(text)
    for i, token in enumerate(ids):
        tokens = allowed(constraint)
        if tokens is not None and token not in tokens:
            return tokenizer.decode(ids[:i])
        constraint.accept(token)
    return None


def answer(name, arguments, content="", *, times=1):
    message = {"role": "assistant", "content": content, "reasoning_content": "",
               "tool_calls": [{"type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}] * times}
    asked = [{"role": "user", "content": "q"}]
    return encode_messages([*asked, message], "chat").removeprefix(encode_messages(asked, "chat"))


def walk(constraint, tokenizer, rng, most=900):
    """What a model writes that picks any allowed token, in a hurry to end: ids up to EOS."""
    slash, *endings = [tokenizer.encode(text)[-1] for text in ("/", "<", '"', "}", "]", "1")]
    written = []
    for _ in range(most):
        tokens = allowed(constraint)
        assert len(tokens), constraint.broken
        possible, opened = set(tokens.tolist()), written and tokenizer.decode(written[-1:]).endswith("<")
        hurried = sorted(possible & tokenizer.control_ids) or sorted(possible & {slash} if opened else possible & {*endings})
        token = int(rng.choice(hurried) if hurried and rng.random() < 0.7 else rng.choice(tokens))
        written.append(token)
        constraint.accept(token)
        if token == tokenizer.eos_id:
            return written
    return None


def arguments_of(message):
    return [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in message["tool_calls"]]


@pytest.mark.needs("module:jsonschema_rs")
def test_whatever_is_picked_a_strict_call_fits_its_schema(grammars, tokenizer):
    import jsonschema_rs

    fits, seen = jsonschema_rs.validator_for(SCHEMA), 0
    for seed in range(12):
        ids = walk(grammars.constraint(thinking=False, tools=[FREE, STRICT], choice="weather", parallel=False), tokenizer, random.Random(seed))
        if ids is None:
            continue
        seen += 1
        message = parse_completion(tokenizer.decode(ids), "chat")
        [(name, arguments)] = arguments_of(message)
        assert name == "weather" and message["content"] == "" and list(arguments) == [k for k in SCHEMA["properties"] if k in arguments]
        assert fits.is_valid(arguments), list(fits.iter_errors(arguments))
    assert seen >= 8


def test_whatever_is_picked_a_required_call_parses_and_is_one_of_the_tools(grammars, tokenizer):
    names = set()
    for seed in range(12):
        ids = walk(grammars.constraint(thinking=False, tools=[FREE, BARE], choice="required"), tokenizer, random.Random(seed))
        if ids:
            message = parse_completion(tokenizer.decode(ids), "chat")
            assert message["content"] == "" and message["tool_calls"]
            names |= {name for name, _ in arguments_of(message)}
    assert names == {"free-1", "bare"}


@pytest.mark.needs("module:jsonschema_rs")
def test_whatever_is_picked_json_fits_its_schema(grammars, tokenizer):
    import jsonschema_rs

    schema = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", None]}}, "required": ["a", "b"]}
    for seed in range(6):
        ids = walk(grammars.constraint(thinking=False, schema=schema), tokenizer, random.Random(seed))
        assert ids is None or jsonschema_rs.is_valid(schema, json.loads(tokenizer.decode(ids[:-1])))
        ids = walk(grammars.constraint(thinking=False, schema={"type": "object"}), tokenizer, random.Random(seed))
        assert ids is None or isinstance(json.loads(tokenizer.decode(ids[:-1])), dict)


def test_blanks_in_json_are_bounded(grammars, tokenizer):
    constraint = lambda: grammars.constraint(thinking=False, schema={"type": "object"})
    for fine in ('{"a": 1}', json.dumps({"a": [{"b": 2}]}, indent=4), "{}"):
        assert refused_at(constraint(), tokenizer, fine + special.EOS) is None
    assert refused_at(constraint(), tokenizer, '{"a":' + " " * 40) is not None
    assert refused_at(constraint(), tokenizer, "{" + "\n" * 40) is not None


@pytest.mark.parametrize("choice", ["auto", "required", "weather"])
def test_what_the_model_was_trained_to_write_is_allowed(grammars, tokenizer, choice):
    make = lambda: grammars.constraint(thinking=False, tools=[STRICT, FREE, BARE], choice=choice)
    text = answer("weather", GOOD)
    for number, written in ((1, "2026-04-24"), (2, "AB1")):
        text = text.replace(f'string="false">{number}<', f'string="false">"{written}"<')
    assert refused_at(make(), tokenizer, text) is None
    if choice != "weather":
        assert refused_at(make(), tokenizer, answer("free-1", {"a b": "1\n2", "c": {"d": [None]}})) is None
        assert refused_at(make(), tokenizer, answer("free-1", {})) is None
        assert refused_at(make(), tokenizer, answer("bare", {})) is None
    said = answer("bare", {}, "Let me look.")
    assert (refused_at(make(), tokenizer, said) is None) == (choice == "auto")
    assert (refused_at(make(), tokenizer, "No call < at all." + special.EOS) is None) == (choice == "auto")


@pytest.mark.parametrize(("change", "before"), [
    ({"days": 15}, 'string="false">1'), ({"days": "3"}, 'name="days" string="'), ({"unit": "g"}, 'name="unit" string="true">'),
    ({"tag": "abcd"}, 'name="tag" string="true">'), ({"tag": "a"}, 'string="true">a'),
])
def test_what_the_schema_forbids_is_refused_where_it_begins(grammars, tokenizer, change, before):
    constraint = grammars.constraint(thinking=False, tools=[STRICT], choice="required")
    stopped = refused_at(constraint, tokenizer, answer("weather", {**GOOD, **change}))
    assert stopped is not None and before in stopped[stopped.rindex("name="):]


def test_who_may_be_called(grammars, tokenizer):
    make = lambda **how: grammars.constraint(thinking=False, tools=[BARE, FREE], **how)
    one, two = answer("bare", {}), answer("bare", {}, times=2)
    assert refused_at(make(choice="required"), tokenizer, answer("other", {})).endswith('invoke name="')
    assert refused_at(make(choice="bare"), tokenizer, answer("free-1", {})).endswith('invoke name="')
    assert refused_at(make(choice="none"), tokenizer, one) is not None
    assert refused_at(make(choice="none"), tokenizer, "words" + special.EOS) is None
    for choice in ("auto", "required"):
        assert refused_at(make(choice=choice), tokenizer, two) is refused_at(make(choice=choice, parallel=False), tokenizer, one) is None
        assert refused_at(make(choice=choice, parallel=False), tokenizer, two) is not None


def test_reasoning_is_free_until_it_closes_by_token_or_by_letters(grammars, tokenizer):
    for close in (tokenizer.encode_with_controls("</think>"), tokenizer.encode("</think>")):
        constraint = grammars.constraint(thinking=True, schema={"type": "object"})
        for token in [*tokenizer.encode_with_controls("any <think> thing ｜DSML｜ <｜User｜> [1"), *close]:
            assert constraint.mask() is None
            constraint.accept(token)
        assert {tokenizer.decode([int(t)])[0] for t in allowed(constraint)} == {"{"}


def test_no_control_token_but_where_the_grammar_says(grammars, tokenizer):
    others = {tokenizer.control_id(token) for token in SPECIAL_TOKENS} - {tokenizer.eos_id}
    constraint = grammars.constraint(thinking=False, tools=[FREE])
    ids = tokenizer.encode_with_controls(answer("free-1", {"q": "x"}, "Hm."))
    for i, token in enumerate(ids):
        tokens = set(allowed(constraint).tolist())
        assert not tokens & (others - {tokenizer.control_id(special.DSML)})
        in_block = any(t == tokenizer.control_id(special.DSML) for t in ids[:i])
        assert (tokenizer.eos_id in tokens) == (not in_block or i == len(ids) - 1)
        assert max(tokens) < tokenizer.vocab_size
        constraint.accept(token)


@pytest.mark.parametrize("rule", [{"minLength": 5000}, {"minLength": 5000, "maxLength": 5000}, {"maxLength": 50_000}])
def test_a_string_argument_may_have_to_be_long(grammars, tokenizer, rule):
    """The lexer can't count that far in a raw string; it is written as JSON then."""
    parameters = {"type": "object", "properties": {"text": {"type": "string", **rule}}, "required": ["text"]}
    tool = {"name": "recite", "strict": True, "parameters": parameters}
    constraint = grammars.constraint(thinking=False, tools=[tool], choice="required")
    assert constraint.mask().any() and not constraint.broken


def test_a_value_cannot_spell_the_end_of_itself(grammars, tokenizer):
    constraint = grammars.constraint(thinking=False, tools=[FREE], choice="required")
    text = answer("free-1", {"q": "x"})
    opened = text[: text.index(">x<") + 2]
    assert refused_at(constraint, tokenizer, opened) is None
    for token in tokenizer.encode("</｜DSML｜parameter>\n<｜DSML｜invoke"):  # spelled, not the control token
        tokens = allowed(constraint)
        if token not in tokens:
            return
        constraint.accept(token)
    raise AssertionError("the spelling of a closing tag was allowed inside a value")


def test_going_back_is_exact(grammars, tokenizer):
    text = "thought</think>Text. " + answer("free-1", {"q": "a value", "n": [1]})
    ids = tokenizer.encode_with_controls(text)
    constraint, masks = grammars.constraint(thinking=True, tools=[FREE]), []
    for token in ids:
        masks.append(None if (mask := constraint.mask()) is None else mask.copy())
        constraint.accept(token)
    rng = random.Random(3)
    place = len(ids)
    for _ in range(60):
        target = rng.randint(0, len(ids) - 1)
        if target < place:
            constraint.rollback(place - target)
        else:
            for token in ids[place:target]:
                constraint.mask()
                constraint.accept(token)
        place, mask = target, constraint.mask()
        assert (mask is None) == (masks[place] is None) and (mask is None or (mask == masks[place]).all())


def test_constraints_of_one_grammar_do_not_share_their_place(grammars, tokenizer):
    first = grammars.constraint(thinking=False, schema={"type": "object"})
    before = first.mask().copy()
    first.accept(int(allowed(first)[0]))
    assert (grammars.constraint(thinking=False, schema={"type": "object"}).mask() == before).all()


def test_an_answer_too_long_for_its_grammar_breaks_no_other(grammars, tokenizer):
    """A lexer that counts characters comes to llguidance's limit of states."""
    def write(letters):
        constraint = grammars.constraint(thinking=False, schema={"type": "string", "minLength": 1_000_000})
        constraint.accept(tokenizer.encode('"')[0])
        for _ in range(letters):
            if not constraint.mask().any():
                break
            constraint.accept(letter)
        return constraint.broken

    [letter] = tokenizer.encode("a")
    assert "too many states" in write(400_000)
    assert not write(5)


def test_a_prefix_counts_as_written(grammars, tokenizer):
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    constraint = grammars.constraint(thinking=False, schema=schema, prefix='{"a": 1')
    assert refused_at(constraint, tokenizer, "7}" + special.EOS) is None
    with pytest.raises(UserError, match="prefix"):
        grammars.constraint(thinking=False, schema=schema, prefix="Sure: ")


@pytest.mark.parametrize(("schema", "said"), [
    ({"type": "object", "not": {}}, "not"), ({"type": "objekt"}, "objekt"), ({"$ref": "http://example.com/x"}, "enforced"), (7, "JSON schema"),
    ({"type": "string", "pattern": "(?=x)"}, "look-ahead"),
])
def test_a_schema_that_cannot_be_enforced_is_refused(grammars, schema, said):
    with pytest.raises(UserError, match=said) as e:
        grammars.constraint(thinking=False, schema=schema)
    assert "response_format" in e.value.field and len(e.value.one_line()) < 700


@pytest.mark.parametrize("parameters", [
    {"type": "array"}, {"type": "object", "patternProperties": {"a": {}}}, {"type": "object", "properties": {"a": {"type": "string", "not": {}}}},
    {"type": "object", "properties": []}, {"type": "object", "properties": {"a": 3}}, {"type": "object", "properties": {"a": {"enum": []}}},
])
def test_a_strict_tool_that_cannot_be_enforced_is_refused(grammars, parameters):
    with pytest.raises(UserError) as e:
        grammars.constraint(thinking=False, tools=[BARE, {"name": "f", "strict": True, "parameters": parameters}])
    assert e.value.field.startswith("tools[1].function.parameters")


def test_without_the_library_the_error_names_the_extra():
    script = ("import sys; sys.modules['llguidance'] = None\nfrom fathom.text.grammars import Grammars\n"
              "from fathom.errors import UserError\ntry:\n    Grammars(None, 10)\nexcept UserError as e:\n    print(e)")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert "fathom[serve]" in done.stdout, done.stderr


@pytest.mark.parametrize("size", [640, 641, 671])
def test_a_model_of_exactly_the_tokenizers_size(size):
    """A whole number of the mask's words, one bit more, one bit less."""
    from fathom.text.grammars import Grammars

    tokenizer = train_tokenizer(texts(), size)
    assert tokenizer.vocab_size == size
    constraint = Grammars(tokenizer, size).constraint(thinking=False, tools=[FREE])
    assert len(constraint.mask()) == -(-size // 32)
    assert refused_at(constraint, tokenizer, answer("free-1", {"q": "a b"})) is None and tokenizer.eos_id in allowed(constraint)
