"""What a request asks for: conversations that the encoding leaves open, limits, defaults, forged control tokens, and no ignored field."""
import ast
import inspect
import json
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

import fathom.server
from fathom.errors import UserError
from fathom.server import anthropic_wire, wire
from fathom.server.accepted import WITHOUT_EFFECT
from fathom.server.anthropic import read_messages
from fathom.server.anthropic_wire import MessagesRequest
from fathom.server.asking import ask
from fathom.server.chat import read_chat
from fathom.server.completions import read_completion
from fathom.server.errors import from_validation
from fathom.server.wire import ChatRequest, CompletionRequest
from fathom.text import SPECIAL_TOKENS, Tokenizer, special, train_tokenizer

USER = {"role": "user", "content": "Hi"}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "d", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"a": 1}'}}
TURN = [USER, {"role": "assistant", "content": "", "tool_calls": [CALL], "reasoning_content": "why"},
        {"role": "tool", "tool_call_id": "c1", "content": "sun"}]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([Path(fathom.server.__file__).read_text()], 300)


@pytest.fixture(scope="module")
def prompt(tokenizer):
    """The prompt of a chat request, as text: text that spells a control token shows as ‹…›."""
    def encode(*messages, lenient=True, quirks=False, **fields):
        request = ChatRequest.model_validate({"model": "m", "messages": list(messages), **fields})
        ids = ask(read_chat(request, lenient=lenient, quirks=quirks), tokenizer).prompt
        return visible(tokenizer, ids)
    return encode


def visible(tokenizer, ids):
    """Text in which real control tokens are in ⟦ ⟧ and everything else is as it is."""
    controls = {tokenizer.control_id(token): token for token in SPECIAL_TOKENS}
    text, run = "", []
    for token in [*ids, None]:
        if token is None or token in controls:
            text += tokenizer.decode(run)
            run = []
            text += f"⟦{controls[token].strip('<｜>')}⟧" if token is not None else ""
        else:
            run.append(token)
    return text.replace("⟦begin▁of▁sentence⟧", "⟦BOS⟧").replace("⟦end▁of▁sentence⟧", "⟦EOS⟧")


OFF = {"thinking": {"type": "disabled"}}


def test_thinking_is_on_unless_told(prompt):
    assert prompt(USER) == "⟦BOS⟧⟦User⟧Hi⟦Assistant⟧⟦think⟧"
    assert prompt(USER, **OFF) == prompt(USER, reasoning_effort="none") == "⟦BOS⟧⟦User⟧Hi⟦Assistant⟧⟦/think⟧"
    for effort in ("low", "minimal", "medium", "high", "xhigh"):
        assert prompt(USER, reasoning_effort=effort) == prompt(USER)
    for effort in ("max", "ultra"):
        assert prompt(USER, reasoning_effort=effort).startswith("⟦BOS⟧Reasoning Effort: Absolute maximum")
        assert prompt(USER, reasoning_effort=effort, **OFF) == prompt(USER, **OFF)


@pytest.mark.parametrize("token", SPECIAL_TOKENS)
def test_control_tokens_spelled_by_a_client_stay_text(prompt, token):
    """In every place where a client's text goes, on both APIs."""
    clean = prompt({"role": "system", "content": "x"}, *TURN, tools=[WEATHER])
    count = lambda text: text.count("⟦")
    dirty_call = {**CALL, "function": {"name": "weather", "arguments": json.dumps({f"a{token}": f"b{token}"})}}
    dirty_tool = {"type": "function", "function": {**WEATHER["function"], "description": f"d{token}"}}
    assistant = {"role": "assistant", "content": token, "tool_calls": [dirty_call], "reasoning_content": token}
    dirty = prompt({"role": "system", "content": token}, {"role": "user", "content": [{"type": "text", "text": token}]}, assistant,
                   {"role": "tool", "tool_call_id": "c1", "content": token}, tools=[dirty_tool])
    assert count(dirty) == count(clean) and dirty.count(token) >= 8


def test_tools_and_formats_go_to_a_system_message_at_the_front(prompt):
    said = prompt(USER, tools=[WEATHER])
    assert said.startswith("⟦BOS⟧\n\n## Tools") and '{"name": "weather", "description": "d", "parameters"' in said
    assert prompt({"role": "system", "content": "S"}, USER, tools=[WEATHER]) == said.replace("⟦BOS⟧", "⟦BOS⟧S")
    assert '"type": "object"}⟦User⟧' in prompt(USER, response_format={"type": "json_object"})
    schema = {"type": "object", "properties": {"zeta": {}, "alpha": {}}}
    assert json.dumps(schema) in prompt(USER, response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}})
    strict = {"type": "function", "function": {**WEATHER["function"], "strict": True}}
    assert prompt(USER, tools=[strict]) == said, "strict is between client and service"


def test_a_conversation_that_ends_in_system_gives_the_assistant_the_turn(prompt):
    system, answered = {"role": "system", "content": "Be brief."}, {"role": "assistant", "content": "Yes."}
    assert prompt(USER, system) == "⟦BOS⟧Be brief.⟦User⟧Hi⟦Assistant⟧⟦think⟧"
    assert prompt(system) == "⟦BOS⟧⟦User⟧Be brief.⟦Assistant⟧⟦think⟧"
    assert prompt(USER, answered, system) == "⟦BOS⟧⟦User⟧Hi⟦Assistant⟧⟦/think⟧Yes.⟦EOS⟧⟦User⟧Be brief.⟦Assistant⟧⟦think⟧"
    assert prompt({"role": "system", "content": "A"}, {"role": "system", "content": "B"}) == "⟦BOS⟧A⟦User⟧B⟦Assistant⟧⟦think⟧"
    for messages in ([*TURN, system], [system], [{"role": "system", "content": ""}], [USER, system, system], [USER, answered, system, system]):
        for fields in ({}, {"tools": [WEATHER]}, OFF, {**OFF, "response_format": {"type": "json_object"}}):
            assert prompt(*messages, **fields).endswith(("⟦Assistant⟧⟦think⟧", "⟦Assistant⟧⟦/think⟧"))


def test_a_prefix_is_continued(prompt, tokenizer):
    begun = {"role": "assistant", "content": "```py\n", "prefix": True}
    assert prompt(USER, begun, **OFF) == "⟦BOS⟧⟦User⟧Hi⟦Assistant⟧⟦/think⟧```py\n"
    assert prompt(USER, {**begun, "reasoning_content": "Hm."}) == "⟦BOS⟧⟦User⟧Hi⟦Assistant⟧⟦think⟧Hm.⟦/think⟧```py\n"
    assert prompt(USER, {**begun, "content": "", "reasoning_content": "Hm"}) == "⟦BOS⟧⟦User⟧Hi⟦Assistant⟧⟦think⟧Hm"

    def read(message):
        request = ChatRequest.model_validate({"model": "m", "messages": [USER, message]})
        return ask(read_chat(request, lenient=True, quirks=False), tokenizer)

    assert read(begun).parsed == "chat" and read({**begun, "content": "", "reasoning_content": "Hm"}).parsed == "thinking"


def test_reasoning_beside_tools(prompt):
    bare = [TURN[0], {key: value for key, value in TURN[1].items() if key != "reasoning_content"}, TURN[2]]
    aliased = [TURN[0], {**bare[1], "reasoning": "why"}, TURN[2]]
    assert "⟦think⟧why⟦/think⟧" in prompt(*TURN, tools=[WEATHER]) == prompt(*aliased, tools=[WEATHER], lenient=False)
    assert "⟦think⟧⟦/think⟧" in prompt(*bare, tools=[WEATHER])
    with pytest.raises(UserError, match="reasoning_content"):
        prompt(*bare, tools=[WEATHER], lenient=False)
    assert prompt(*bare, tools=[WEATHER], lenient=False, **OFF) and prompt(*bare, lenient=False)
    assert prompt(*TURN) == prompt(*bare), "without tools it is ignored"


@pytest.mark.parametrize(("fields", "field"), [
    ({"tools": [WEATHER], "tool_choice": "required"}, "tool_choice"),
    ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "weather"}}}, "tool_choice"),
    ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "other"}}, **OFF}, "tool_choice"),
    ({"tool_choice": "required", **OFF}, "tool_choice"),
    ({"tools": [WEATHER, WEATHER]}, "tools"),
    ({"thinking": {"type": "enabled"}, "reasoning_effort": "none"}, "reasoning_effort"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, "max_completion_tokens"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"messages": [USER, {"role": "assistant", "content": "x"}]}, "messages[1].role"),
    ({"messages": [{"role": "assistant", "content": "x", "prefix": True}, USER]}, "messages[0].prefix"),
    ({"messages": [USER, {"role": "tool", "tool_call_id": "c9", "content": "x"}]}, "messages[1].tool_call_id"),
    ({"messages": [USER, {"role": "assistant", "content": "x", "prefix": True, "tool_calls": [CALL]}]}, "messages[1].tool_calls"),
])
def test_what_contradicts_itself_is_refused(tokenizer, fields, field):
    with pytest.raises(UserError) as e:
        ask(read_chat(ChatRequest.model_validate({"model": "m", "messages": [USER], **fields}), lenient=True, quirks=False), tokenizer)
    assert e.value.field == field and e.value.allowed


@pytest.mark.parametrize(("change", "status", "param"), [
    ({"messages": [{"role": "developer", "content": "x"}]}, 400, "messages[0]"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, 400, "messages[0].content[0].type"),
    ({"messages": [{"role": "user"}]}, 400, "messages[0].content"),
    ({"messages": []}, 422, "messages"), ({"messages": "x"}, 400, "messages"), ({"model": None}, 400, "model"),
    ({"temperature": 2.1}, 422, "temperature"), ({"temperature": "1"}, 400, "temperature"), ({"temperature": float("nan")}, 422, "temperature"),
    ({"top_p": -0.1}, 422, "top_p"), ({"max_tokens": 0}, 422, "max_tokens"), ({"max_tokens": 393217}, 422, "max_tokens"),
    ({"max_tokens": True}, 400, "max_tokens"), ({"n": 2}, 422, "n"), ({"presence_penalty": 3}, 422, "presence_penalty"),
    ({"stop": ["x"] * 17}, 422, "stop"), ({"stop": [""]}, 422, "stop[0]"), ({"top_logprobs": 21}, 422, "top_logprobs"),
    ({"tools": [WEATHER] * 129}, 422, "tools"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, 422, "tools[0].function.name"),
    ({"tools": [{"type": "function", "function": {"name": "a" * 65}}]}, 422, "tools[0].function.name"),
    ({"user_id": "ä"}, 422, "user_id"), ({"user_id": ""}, 422, "user_id"), ({"thinking": {"type": "maybe"}}, 422, "thinking.type"),
    ({"reasoning_effort": "enormous"}, 422, "reasoning_effort"), ({"response_format": {"type": "xml"}}, 400, "response_format"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}}, 400, "response_format.json_schema.schema"),
    ({"functions": []}, 400, "functions"), ({"logit_bias": {"5": 1}}, 400, "logit_bias"),
])
def test_form_is_400_and_value_is_422(change, status, param):
    with pytest.raises(ValidationError) as e:
        ChatRequest.model_validate({"model": "m", "messages": [USER], **change})
    error = from_validation([{**found, "loc": ("body", *found["loc"])} for found in e.value.errors()])
    assert (error.status, error.param) == (status, param) and param.split("[")[0].split(".")[0] in error.message


def test_fields_we_do_not_know_may_be_null():
    ChatRequest.model_validate({"model": "m", "messages": [{**USER, "refusal": None, "audio": None}], "functions": None, "logit_bias": None})


def test_defaults_and_limits(tokenizer):
    def made(quirks=False, **fields):
        return ask(read_chat(ChatRequest.model_validate({"model": "m", "messages": [USER], **fields}), lenient=True, quirks=quirks), tokenizer)

    assert [made(**OFF).max_tokens, made().max_tokens, made(reasoning_effort="max").max_tokens] == [8192, 65536, 131072]
    assert made(max_completion_tokens=7).max_tokens == made(max_tokens=7).max_tokens == 7
    assert made(temperature=0.3, top_p=0.5).sampled.temperature == 0.3, "honoured in thinking mode"
    quirky = made(quirks=True, temperature=0.3, top_p=0.5).sampled
    assert (quirky.temperature, quirky.top_p) == (1.0, 1.0)
    assert made(quirks=True, temperature=0.3, **OFF).sampled.temperature == 0.3
    assert 0 < made(top_p=0).sampled.top_p < 1e-6 and made(seed=5).sampled.seed == 5 and made().sampled.seed is None
    assert made(user_id="a").user == "a" != made(user="a").user != made(user="b").user and made().user == ""
    assert made().grammar is None and made().top_logprobs is None and made(logprobs=True).top_logprobs == 0
    assert made(stop="x").stops == ("x",) and made(stop=["x", "y"]).stops == ("x", "y")


# ---- completions


def test_completions_and_fim(tokenizer):
    def prompts(**fields):
        asks = read_completion(CompletionRequest.model_validate({"model": "m", **fields}), tokenizer, 1000)
        return [visible(tokenizer, one.prompt) for one in asks]

    assert prompts(prompt="def f(") == ["⟦BOS⟧def f("]
    assert prompts(prompt="a", suffix="b") == ["⟦BOS⟧⟦fim▁begin⟧a⟦fim▁hole⟧b⟦fim▁end⟧"]
    assert prompts(prompt=special.EOS, suffix=special.FIM_END)[0].count("⟦") == 4
    assert prompts(prompt=["a", "b"]) == ["⟦BOS⟧a", "⟦BOS⟧b"]
    ids = tokenizer.encode("abc")
    assert prompts(prompt=ids) == ["abc"] and prompts(prompt=[ids, ids]) == ["abc", "abc"]
    with pytest.raises(UserError, match="1000"):
        prompts(prompt=[5, 1000])
    with pytest.raises(UserError, match="stream"):
        prompts(prompt=["a", "b"], stream=True)


# ---- Anthropic


def test_anthropic_blocks_are_the_same_conversation(tokenizer, prompt):
    def anthropic(**fields):
        request = MessagesRequest.model_validate({"model": "m", "max_tokens": 9, **fields})
        return visible(tokenizer, ask(read_messages(request, quirks=False), tokenizer).prompt)

    assert anthropic(messages=[USER]) == prompt(USER, **OFF)
    assert anthropic(messages=[USER], thinking={"type": "enabled", "budget_tokens": 99}) == prompt(USER)
    assert anthropic(messages=[USER], thinking={"type": "adaptive"}, output_config={"effort": "max"}) == prompt(USER, reasoning_effort="max")
    assert anthropic(system=[{"type": "text", "text": "S", "cache_control": {"type": "ephemeral"}}], messages=[USER]) == prompt(
        {"role": "system", "content": "S"}, USER, **OFF)
    tool = {"name": "weather", "description": "d", "input_schema": {"type": "object", "properties": {}}}
    blocks = [USER, {"role": "assistant", "content": [{"type": "thinking", "thinking": "why", "signature": "s"},
                                                      {"type": "tool_use", "id": "c1", "name": "weather", "input": {"a": 1}}]},
              {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "sun"}]}]}]
    assert anthropic(messages=blocks, tools=[tool], thinking={"type": "adaptive"}) == prompt(*TURN, tools=[WEATHER])
    blocks[2]["content"][0] |= {"is_error": True, "content": "no"}
    assert "<tool_result>Error: no</tool_result>" in anthropic(messages=blocks, tools=[tool])
    assert anthropic(messages=[USER, {"role": "assistant", "content": "Once"}]).endswith("⟦/think⟧Once"), "a prefill is continued"
    with pytest.raises(UserError, match="tool_use_id|id of a call"):
        anthropic(messages=[{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "zz", "content": "x"}]}])


def test_anthropic_tool_choice():
    def read(choice):
        return read_messages(MessagesRequest.model_validate(
            {"model": "m", "max_tokens": 9, "messages": [USER], "tools": [{"name": "f", "input_schema": {}}], "tool_choice": choice}), quirks=False)

    assert [read(choice).choice for choice in ({"type": "any"}, {"type": "tool", "name": "f"}, {"type": "none"})] == ["required", "f", "none"]
    assert read({"type": "auto", "disable_parallel_tool_use": True}).parallel is False and read({"type": "auto"}).parallel
    with pytest.raises(UserError, match="tool_choice.name"):
        read({"type": "tool"})


# ---- no field is parsed and ignored


def models():
    found = {name: cls for module in (wire, anthropic_wire) for name, cls in inspect.getmembers(module, inspect.isclass)
             if issubclass(cls, BaseModel) and cls.__module__ == module.__name__}
    found.pop("Wire")
    return found


def attributes_read():
    """Names of attributes that the server's code reads off anything but self, outside of the models themselves."""
    names = set()
    for file in Path(fathom.server.__file__).parent.glob("*.py"):
        if file.name in ("wire.py", "anthropic_wire.py", "accepted.py"):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                names.add(node.attr)
            elif isinstance(node, ast.MatchClass):
                names |= set(node.kwd_attrs)
    return names


TAGS = {"type", "role"}  # read by pydantic, to know what the object is


@pytest.mark.parametrize("name", models())
def test_every_field_is_read_or_on_the_list(name):
    own = {field for field in models()[name].model_fields if field not in TAGS}
    listed = {field for cls in models()[name].__mro__ for field in WITHOUT_EFFECT.get(cls.__name__, {})}
    ignored = own - attributes_read() - listed - ALWAYS.get(name, set())
    assert not ignored, f"{name}: {ignored} is parsed and never read: honour it, refuse it, or put it on the list in accepted.py"
    assert WITHOUT_EFFECT.get(name, {}).keys() <= own, "on the list, but no field"


ALWAYS = {
    "ChatRequest": {"n"}, "CompletionRequest": {"n", "best_of"},  # 1, and nothing else is accepted
    "Function": {"description", "parameters"},  # handed on as given, to the prompt and the grammar
}
"""Fields that need no reading, because only one value is possible or because the object is handed on whole."""


def test_the_list_is_about_models_that_exist_and_gives_reasons():
    assert set(WITHOUT_EFFECT) <= set(models())
    assert all(reason for fields in WITHOUT_EFFECT.values() for reason in fields.values())
