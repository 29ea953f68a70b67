"""The unmodified `openai` client: chat, streams, tools there and back, FIM, log-probabilities, prefix, errors."""
from __future__ import annotations

import json
from typing import Any

import pytest

from tests.server.live import Live

pytestmark = pytest.mark.needs("module:openai")
openai = pytest.importorskip("openai")

OFF = {"thinking": {"type": "disabled"}}
USER = [{"role": "user", "content": "What is the weather in Paris?"}]
WEATHER = {"type": "function", "function": {"name": "weather", "description": "Weather of a town.", "strict": True, "parameters": {
    "type": "object", "additionalProperties": False, "required": ["city", "days"],
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}}}}}


@pytest.fixture(scope="module")
def client(live: Live) -> Any:
    return openai.OpenAI(base_url=f"{live.url}/v1", api_key=live.key, max_retries=0, timeout=120)


def chat(client: Any, *, messages: list = USER, extra: dict | None = None, **fields: Any) -> Any:
    return client.chat.completions.create(model="small", messages=messages, **{"max_tokens": 200, "seed": 3, "extra_body": extra, **fields})


def seed_of(client: Any, wanted: Any, **fields: Any) -> int:
    """The first seed whose answer is as wanted: what a random model says with which seed depends on the processor."""
    for seed in range(40):
        if wanted(chat(client, seed=seed, **fields).choices[0]):
            return seed
    raise AssertionError("no seed gives such an answer")


spoke = lambda choice: len(choice.message.content) > 12 and choice.finish_reason == "stop"
thought = lambda choice: spoke(choice) and choice.message.reasoning_content


def test_chat(client: Any) -> None:
    seed = seed_of(client, thought)
    answer = chat(client, seed=seed)
    [choice] = answer.choices
    assert answer.object == "chat.completion" and answer.model == "small" and answer.id.startswith("chatcmpl-") and answer.system_fingerprint
    assert choice.message.role == "assistant" and choice.message.reasoning_content and choice.finish_reason in ("stop", "length")
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens == usage.prompt_cache_hit_tokens + usage.prompt_cache_miss_tokens
    assert usage.prompt_tokens_details.cached_tokens == usage.prompt_cache_hit_tokens
    assert 0 < usage.completion_tokens_details.reasoning_tokens <= usage.completion_tokens <= 200
    quiet = chat(client, extra=OFF).choices[0].message
    assert not hasattr(quiet, "reasoning_content")
    again = chat(client, seed=seed)
    assert again.choices[0].message == choice.message and again.id != answer.id, "the same seed gives the same answer"
    assert chat(client, seed=seed + 1).choices[0].message != choice.message
    assert chat(client, extra={"reasoning_effort": "none"}).choices[0].message == quiet


@pytest.mark.parametrize("include_usage", [False, True])
def test_a_stream_is_the_same_answer_in_pieces(client: Any, include_usage: bool) -> None:
    seed = seed_of(client, thought)
    whole = chat(client, stop=["zzzz"], seed=seed)
    options = {"stream_options": {"include_usage": True}} if include_usage else {}
    chunks = list(chat(client, stop=["zzzz"], seed=seed, stream=True, **options))
    assert len({(chunk.id, chunk.created, chunk.model, chunk.object) for chunk in chunks}) == 1
    first, *middle, last = chunks
    assert first.choices[0].delta.role == "assistant" and first.choices[0].delta.content == ""
    text = lambda name: "".join(getattr(chunk.choices[0].delta, name, None) or "" for chunk in chunks)
    message = whole.choices[0].message
    assert (text("reasoning_content"), text("content")) == (message.reasoning_content, message.content)
    kinds = [name for chunk in middle for name in ("reasoning_content", "content") if getattr(chunk.choices[0].delta, name, None)]
    assert kinds == sorted(kinds, reverse=True), "reasoning comes before content"
    assert last.choices[0].finish_reason == whole.choices[0].finish_reason and last.usage.completion_tokens == whole.usage.completion_tokens
    for chunk in chunks[:-1]:
        assert chunk.choices[0].finish_reason is None and ("usage" in chunk.model_fields_set) == include_usage and chunk.usage is None


@pytest.mark.parametrize("send_reasoning", [True, False])
def test_tools_there_and_back(client: Any, send_reasoning: bool) -> None:
    called = lambda choice: choice.finish_reason == "tool_calls"  # not cut by its length
    seed = seed_of(client, called, tools=[WEATHER], tool_choice="required", extra=OFF)
    forced = chat(client, seed=seed, tools=[WEATHER], tool_choice="required", extra=OFF)
    message = forced.choices[0].message
    for call in message.tool_calls:
        arguments = json.loads(call.function.arguments)
        assert call.function.name == "weather" and arguments["city"] in ("Paris", "Rome") and 1 <= arguments["days"] <= 9
    assert len({call.id for call in message.tool_calls}) == len(message.tool_calls)
    turn = message.model_dump(exclude_none=True) | ({"reasoning_content": "I should look."} if send_reasoning else {})
    results = [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in message.tool_calls]
    answer = chat(client, messages=[*USER, turn, *results], tools=[WEATHER])  # in thinking mode
    assert hasattr(answer.choices[0].message, "reasoning_content") and answer.usage.prompt_tokens > forced.usage.prompt_tokens
    whole = message.model_dump()  # with every null that the client knows
    assert chat(client, messages=[*USER, whole, *results], tools=[WEATHER]).choices


def test_calls_in_a_stream(client: Any) -> None:
    fields: dict = dict(tools=[WEATHER], tool_choice={"type": "function", "function": {"name": "weather"}}, extra=OFF)
    fields["seed"] = seed_of(client, lambda choice: choice.finish_reason == "tool_calls", **fields)
    whole = chat(client, **fields).choices[0].message.tool_calls
    calls: list[dict] = []
    chunks = list(chat(client, stream=True, **fields))
    for delta in (delta for chunk in chunks for delta in chunk.choices[0].delta.tool_calls or ()):
        if delta.id:
            calls.append({"id": delta.id, "name": delta.function.name, "arguments": ""})
            assert delta.index == len(calls) - 1 and delta.type == "function"
        else:
            calls[delta.index]["arguments"] += delta.function.arguments
    assert [(call["name"], call["arguments"]) for call in calls] == [(call.function.name, call.function.arguments) for call in whole]
    assert chunks[-1].choices[0].finish_reason == "tool_calls" and not any(chunk.choices[0].delta.content for chunk in chunks)


def test_one_call_or_none(client: Any) -> None:
    for seed in range(4):
        one = chat(client, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False, seed=seed, extra=OFF)
        assert len(one.choices[0].message.tool_calls) == 1
    assert not chat(client, tools=[WEATHER], tool_choice="none", extra=OFF).choices[0].message.tool_calls
    assert chat(client, tools=[WEATHER], extra=OFF).choices[0].finish_reason in ("stop", "length", "tool_calls")


def test_json(client: Any) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "y"]}}, "required": ["a", "b"],
              "additionalProperties": False}
    wanted = {"type": "json_schema", "json_schema": {"name": "pair", "schema": schema, "strict": True}}
    for seed in range(4):
        answer = chat(client, response_format=wanted, seed=seed, extra=OFF).choices[0]
        if answer.finish_reason == "stop":
            found = json.loads(answer.message.content)
            assert set(found) == {"a", "b"} and isinstance(found["a"], int) and found["b"] in ("x", "y")
        answer = chat(client, response_format={"type": "json_object"}, seed=seed, extra=OFF).choices[0]
        assert answer.finish_reason == "length" or isinstance(json.loads(answer.message.content), dict)
    seed = seed_of(client, lambda choice: choice.message.content, response_format=wanted)
    reasoned = chat(client, response_format=wanted, seed=seed).choices[0].message
    assert reasoned.content.startswith("{") and not reasoned.reasoning_content.startswith("{"), "reasoning is free"


def test_logprobs(client: Any) -> None:
    answer = chat(client, seed=seed_of(client, thought), logprobs=True, top_logprobs=3)
    found, usage = answer.choices[0].logprobs, answer.usage
    assert len(found.reasoning_content) == usage.completion_tokens_details.reasoning_tokens
    for entry in [*found.content, *found.model_dump()["reasoning_content"]]:
        entry = entry if isinstance(entry, dict) else entry.model_dump()
        assert entry["logprob"] <= 0 and len(entry["top_logprobs"]) == 3
        ranked = [top["logprob"] for top in entry["top_logprobs"]]
        assert ranked == sorted(ranked, reverse=True) and bytes(entry["bytes"]).decode("utf-8", "replace") == entry["token"]
    fields: dict = dict(logprobs=True, seed=seed_of(client, spoke, extra=OFF), extra=OFF)
    quiet = chat(client, **fields)
    entries = quiet.choices[0].logprobs.content
    assert all(entry.top_logprobs == [] for entry in entries)
    assert b"".join(bytes(entry.bytes) for entry in entries).decode("utf-8", "replace") == quiet.choices[0].message.content
    streamed = [entry for chunk in chat(client, stream=True, **fields)
                if chunk.choices[0].logprobs for entry in chunk.choices[0].logprobs.content]
    assert [entry.logprob for entry in streamed] == [entry.logprob for entry in entries]
    assert chat(client).choices[0].logprobs is None


def test_stop_strings(client: Any) -> None:
    seed = seed_of(client, spoke, extra=OFF)
    whole = chat(client, extra=OFF, seed=seed)
    text = whole.choices[0].message.content
    stop = text[3:6]
    cut = chat(client, extra=OFF, seed=seed, stop=[stop])
    assert cut.choices[0].message.content == text[: text.index(stop)] and cut.choices[0].finish_reason == "stop"
    assert cut.usage.completion_tokens < whole.usage.completion_tokens, "it ends where the stop string does"


def test_length(client: Any) -> None:
    fields: dict = dict(max_tokens=None, extra={"max_completion_tokens": 3})
    seed = seed_of(client, lambda choice: choice.finish_reason == "length", **fields)
    assert chat(client, seed=seed, **fields).usage.completion_tokens == 3


@pytest.mark.parametrize("base", ["/beta", "/v1", ""])
def test_prefix(live: Live, base: str) -> None:
    client = openai.OpenAI(base_url=live.url + base, api_key=live.key, max_retries=0)
    begun = [*USER, {"role": "assistant", "content": '{"a": 1', "prefix": True}]
    answer = chat(client, messages=begun, max_tokens=8, extra=OFF)
    assert answer.usage.prompt_tokens > chat(client, max_tokens=1, extra=OFF).usage.prompt_tokens
    closed = chat(client, messages=begun, response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": {
        "type": "object", "properties": {"a": {"const": 12}}, "required": ["a"], "additionalProperties": False}}}, extra=OFF)
    assert json.loads('{"a": 1' + closed.choices[0].message.content) == {"a": 12}


def test_fim_and_completions(live: Live) -> None:
    client = openai.OpenAI(base_url=f"{live.url}/beta", api_key=live.key, max_retries=0)
    create = lambda **fields: client.completions.create(model="small", **{"max_tokens": 6, "temperature": 0, **fields})
    plain, filled = create(prompt="def f("), create(prompt="def f(", suffix="):\n    pass")
    assert plain.object == "text_completion" and filled.usage.prompt_tokens > plain.usage.prompt_tokens + 3
    echoed = create(prompt="def f(", echo=True, logprobs=2)
    [choice] = echoed.choices
    assert choice.text == "def f(" + plain.choices[0].text
    tokens = choice.logprobs
    assert len(tokens.tokens) == len(tokens.token_logprobs) == len(tokens.top_logprobs) == len(tokens.text_offset)
    assert len(tokens.tokens) == echoed.usage.total_tokens - 1, "BOS isn't shown"
    assert all(2 <= len(top) <= 3 and max(top.values()) <= 0 for top in tokens.top_logprobs)
    assert "".join(tokens.tokens)[: len("def f(")] == "def f("
    fim = create(prompt="def f(", suffix=")", echo=True, logprobs=0).choices[0]
    assert fim.text.startswith("def f(") and "".join(fim.logprobs.tokens).startswith("def f(") and "fim" not in "".join(fim.logprobs.tokens[:3])
    scored = create(prompt="def f(", echo=True, logprobs=1, max_tokens=0)
    assert scored.choices[0].text == "def f(" and scored.usage.completion_tokens == 0 and scored.choices[0].finish_reason == "length"
    several = create(prompt=["a", "b", "def f("])
    assert [choice.index for choice in several.choices] == [0, 1, 2] and several.choices[2].text == plain.choices[0].text
    chunks = list(create(prompt="def f(", stream=True, echo=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == choice.text and chunks[-1].usage.completion_tokens == plain.usage.completion_tokens


def test_models_and_balance(client: Any, live: Live) -> None:
    [model] = client.models.list().data
    assert model.id == "small" and model.context_length == 2048 and model.pricing["output"] > 0
    assert client.models.retrieve("small").id == "small" and client.models.retrieve("other-name").id == "small"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nothing")
    status, balance = live.get("/user/balance")
    assert status == 200 and balance["is_available"] and isinstance(balance["balance_infos"][0]["total_balance"], str)
    assert chat(client.with_options(), extra=OFF, max_tokens=1).model == "small"


def test_usage_of_the_day_and_receipts(client: Any, live: Live) -> None:
    before = sum(row["requests"] for row in live.get("/user/usage?days=2")[1]["data"])
    answer = chat(client, max_tokens=5, extra_headers={"X-Request-Id": "receipt-1"})
    rows = live.get("/user/usage?days=2")[1]["data"]
    assert sum(row["requests"] for row in rows) == before + 1 and all(row["model"] == "small" for row in rows)
    status, receipt = live.get("/user/requests/receipt-1")
    assert status == 200 and receipt["completion_tokens"] == answer.usage.completion_tokens and receipt["status"] == answer.choices[0].finish_reason
    assert float(receipt["cost"]) > 0 and live.get("/user/requests/never")[0] == 404


def test_token_counts(live: Live) -> None:
    answer = live.post("/chat/completions", {"model": "small", "messages": USER, "max_tokens": 1, "tools": [WEATHER]})[1]
    assert live.post("/tokenize", {"messages": USER, "tools": [WEATHER]})[1]["count"] == answer["usage"]["prompt_tokens"]
    assert live.post("/tokenize", {"prompt": "def f("})[1] == {"count": 3, "max_model_len": 2048}
    assert live.post("/tokenize", {})[0] == live.post("/tokenize", {"prompt": "x", "messages": USER})[0] == 400


@pytest.mark.parametrize(("fields", "error", "status", "param"), [
    ({"model": "nothing"}, openai.BadRequestError, 400, "model"),
    ({"temperature": 3}, openai.UnprocessableEntityError, 422, "temperature"),
    ({"messages": []}, openai.UnprocessableEntityError, 422, "messages"),
    ({"messages": [{"role": "developer", "content": "x"}]}, openai.BadRequestError, 400, "messages[0]"),
    ({"messages": [{"role": "user", "content": "x " * 3000}]}, openai.BadRequestError, 400, "messages"),
    ({"tools": [WEATHER], "tool_choice": "required"}, openai.BadRequestError, 400, "tool_choice"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object", "not": {}}}}}, openai.BadRequestError, 400,
     "response_format.json_schema.schema"),
    ({"functions": [{"name": "f"}]}, openai.BadRequestError, 400, "functions"),
])
def test_errors(client: Any, fields: dict, error: type, status: int, param: str) -> None:
    with pytest.raises(error) as e:
        client.chat.completions.create(**{"model": "small", "messages": USER, **fields})
    assert e.value.status_code == status and e.value.body["param"] == param and e.value.body["message"] and e.value.body["type"]
    assert e.value.request_id and set(e.value.response.json()["error"]) == {"message", "type", "param", "code"}


def test_a_wrong_key(live: Live) -> None:
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{live.url}/v1", api_key="sk-wrong", max_retries=0).models.list()


def test_nobody_pays_with_nothing(live: Live) -> None:
    """An account without money, on the same service, in the same folder."""
    from fathom.server.accounts import Accounts, Limits

    with Accounts.open(live.folder, serving=False) as books:
        poor, slow = books.create_key("poor"), books.create_key("slow", limits=Limits(requests_per_minute=1), postpaid=True)
    with pytest.raises(openai.APIStatusError) as e:
        chat(openai.OpenAI(base_url=f"{live.url}/v1", api_key=poor.secret, max_retries=0))
    assert e.value.status_code == 402 and e.value.body["code"] == "insufficient_balance"
    hasty = openai.OpenAI(base_url=f"{live.url}/v1", api_key=slow.secret, max_retries=0)
    assert chat(hasty, max_tokens=1).choices
    with pytest.raises(openai.RateLimitError) as e:
        chat(hasty, max_tokens=1)
    assert int(e.value.response.headers["retry-after"]) >= 1


def test_quirks_of_the_official_service_are_off(client: Any) -> None:
    cold = [chat(client, temperature=0, seed=seed).choices[0].message.reasoning_content for seed in (1, 2)]
    assert cold[0] == cold[1], "temperature is honoured in thinking mode"
    ignored = chat(client, presence_penalty=2, frequency_penalty=-2, extra={"store": True, "metadata": {"a": "b"}})
    assert ignored.choices[0].message == chat(client).choices[0].message
