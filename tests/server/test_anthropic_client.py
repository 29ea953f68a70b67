"""The unmodified `anthropic` client: messages, streams, tools there and back, counting, errors."""
from __future__ import annotations

import json
from typing import Any

import pytest

from tests.server.live import Live

pytestmark = pytest.mark.needs("module:anthropic")
anthropic = pytest.importorskip("anthropic")

USER = [{"role": "user", "content": "What is the weather in Paris?"}]
THINK = {"type": "enabled", "budget_tokens": 1024}
TOOL = {"name": "weather", "description": "Weather of a town.", "strict": True, "input_schema": {
    "type": "object", "additionalProperties": False, "required": ["city"], "properties": {"city": {"enum": ["Paris", "Rome"]}}}}


@pytest.fixture(scope="module")
def client(live: Live) -> Any:
    return anthropic.Anthropic(base_url=f"{live.url}/anthropic", api_key=live.key, max_retries=0, timeout=120)


def create(client: Any, messages: list = USER, **fields: Any) -> Any:
    return client.messages.create(model="small", messages=messages, **{"max_tokens": 60, **fields})


def spoken(client: Any, *blocks: str, **fields: Any) -> Any:
    """An answer with these blocks: of a random model one has to try some seeds, and which one does it depends on the processor."""
    for seed in range(40):
        answer = create(client, extra_body={"seed": seed}, **fields)
        if [block.type for block in answer.content] == list(blocks):
            return answer
    raise AssertionError(f"no answer with {blocks}")


def test_a_message(client: Any) -> None:
    answer = create(client, system="Be brief.", extra_body={"temperature": 0.9, "top_k": 50, "top_p": 0.9})
    assert answer.type == "message" and answer.role == "assistant" and answer.model == "small"
    assert "thinking" not in [block.type for block in answer.content], "it reasons only when asked to"
    assert answer.stop_reason in ("end_turn", "max_tokens") and answer.stop_sequence is None
    assert answer.usage.input_tokens + answer.usage.cache_read_input_tokens > 5 and 0 < answer.usage.output_tokens <= 60
    parts = create(client, system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}], max_tokens=1).usage
    assert parts.input_tokens + parts.cache_read_input_tokens == answer.usage.input_tokens + answer.usage.cache_read_input_tokens


def test_reasoning_is_a_block_and_can_be_sent_back(client: Any) -> None:
    answer = spoken(client, "thinking", "text", thinking=THINK, max_tokens=400, metadata={"user_id": "{any: thing}"})
    thinking, text = answer.content
    assert thinking.thinking and thinking.signature and text.text
    back = [block.model_dump(exclude_none=True) for block in answer.content]
    assert create(client, [*USER, {"role": "assistant", "content": back}, *USER], thinking={"type": "adaptive"}).usage.output_tokens


def test_a_stream(client: Any) -> None:
    seed = next(seed for seed in range(40) if len(create(client, thinking=THINK, max_tokens=400, extra_body={"seed": seed}).content) == 2)
    with client.messages.stream(model="small", messages=USER, max_tokens=400, thinking=THINK, stop_sequences=["zzzz"],
                                extra_body={"seed": seed}) as stream:
        events = list(stream)
        final = stream.get_final_message()
    kinds = [event.type for event in events]
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop" and kinds[-2] == "message_delta"
    open_block = None
    for event in events:
        if event.type == "content_block_start":
            assert open_block is None
            open_block = event.index
        elif event.type == "content_block_delta":
            assert event.index == open_block
        elif event.type == "content_block_stop":
            assert event.index == open_block
            open_block = None
    assert open_block is None and [block.type for block in final.content] == ["thinking", "text"] and final.content[0].signature
    assert final.stop_reason in ("end_turn", "max_tokens") and final.usage.output_tokens > 0


def test_a_stream_on_the_wire(live: Live) -> None:
    """Names of events, ping included, as they stand in the standard sequence."""
    text = live.request("POST", "/v1/messages", {"model": "small", "messages": USER, "max_tokens": 5, "stream": True})[2].decode()
    events = [dict(line.split(": ", 1) for line in block.split("\n")) for block in text.strip().split("\n\n")]
    names = [event["event"] for event in events]
    assert names[:2] == ["message_start", "ping"] and names[-2:] == ["message_delta", "message_stop"]
    assert all(json.loads(event["data"])["type"] == event["event"] for event in events)


@pytest.mark.parametrize("think_after", [False, True])
def test_tools_there_and_back(client: Any, think_after: bool) -> None:
    asked = create(client, tools=[TOOL], tool_choice={"type": "any", "disable_parallel_tool_use": True}, max_tokens=200)
    assert asked.stop_reason == "tool_use"
    [call] = asked.content
    assert call.type == "tool_use" and call.name == "weather" and call.input["city"] in ("Paris", "Rome")
    results = [{"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}, {"type": "text", "text": "And tomorrow?"}]
    history = [*USER, {"role": "assistant", "content": [call.model_dump(exclude_none=True)]}, {"role": "user", "content": results}]
    if think_after:
        assert spoken(client, "thinking", "text", messages=history, tools=[TOOL], thinking=THINK, max_tokens=400)
    else:
        assert spoken(client, "text", messages=history, tools=[TOOL])
    chosen = {"type": "tool", "name": "weather", "disable_parallel_tool_use": True}
    with client.messages.stream(model="small", messages=USER, max_tokens=200, tools=[TOOL], tool_choice=chosen) as stream:
        pieces = [event.partial_json for event in stream if event.type == "input_json"]
        final = stream.get_final_message()
    calls = [block for block in final.content if block.type == "tool_use"]
    assert calls and len(pieces) >= len(calls) and all(block.input["city"] in ("Paris", "Rome") for block in calls)


def test_stop_sequences_and_json(client: Any) -> None:
    fixed: dict = {"type": "json_schema", "schema": {"const": "hello world"}}
    assert create(client, output_config={"format": fixed}).content[0].text == '"hello world"'
    cut = create(client, output_config={"format": fixed}, stop_sequences=["zz", "wor"])
    assert cut.stop_reason == "stop_sequence" and cut.stop_sequence == "wor" and cut.content[0].text == '"hello '
    schema = {"type": "object", "properties": {"a": {"enum": ["yes", "no"]}}, "required": ["a"], "additionalProperties": False}
    answer = create(client, max_tokens=400, output_config={"format": {"type": "json_schema", "schema": schema}})
    assert json.loads(answer.content[0].text)["a"] in ("yes", "no")
    begun = create(client, [*USER, {"role": "assistant", "content": '{"a": "y'}], output_config={"format": {"type": "json_schema", "schema": schema}})
    assert json.loads('{"a": "y' + begun.content[0].text) == {"a": "yes"}, "a prefill is continued"


def test_counting_and_models(client: Any, live: Live) -> None:
    counted = client.messages.count_tokens(model="small", messages=USER, tools=[TOOL], system="S").input_tokens
    answer = create(client, tools=[TOOL], system="S")
    assert counted == answer.usage.input_tokens + answer.usage.cache_read_input_tokens
    [model] = client.models.list().data
    assert model.id == "small" and model.type == "model"
    direct = anthropic.Anthropic(base_url=live.url, api_key=live.key, max_retries=0)  # /v1/messages without /anthropic
    assert direct.messages.create(model="small", messages=USER, max_tokens=1).stop_reason in ("end_turn", "max_tokens")


@pytest.mark.parametrize(("fields", "error", "status", "said"), [
    ({"model": "nothing"}, anthropic.BadRequestError, 400, "nothing"),
    ({"max_tokens": 0}, anthropic.UnprocessableEntityError, 422, "max_tokens"),
    ({"tools": [TOOL], "tool_choice": {"type": "any"}, "thinking": THINK}, anthropic.BadRequestError, 400, "tool_choice"),
    ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, anthropic.BadRequestError, 400, "messages[0]"),
    ({"mcp_servers": []}, anthropic.BadRequestError, 400, "mcp_servers"),
])
def test_errors(client: Any, fields: dict, error: type, status: int, said: str) -> None:
    with pytest.raises(error) as e:
        client.messages.create(model="small", messages=USER, max_tokens=5, extra_body=fields)
    body = e.value.response.json()
    assert e.value.status_code == status and body["type"] == "error" and body["request_id"] and said in body["error"]["message"]
    assert body["error"]["type"] == "invalid_request_error"


def test_a_wrong_key(live: Live) -> None:
    with pytest.raises(anthropic.AuthenticationError) as e:
        anthropic.Anthropic(base_url=live.url, api_key="sk-wrong", max_retries=0).messages.create(model="small", messages=USER, max_tokens=5)
    assert e.value.response.json()["error"]["type"] == "authentication_error"
