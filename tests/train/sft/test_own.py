"""Conversations of your own: what is taken, in which mode, and what is refused with file and line."""
import json

import pytest

from fathom.errors import UserError
from fathom.train.sft.own import read_own

ASKED = {"role": "user", "content": "hi"}
SAID = {"role": "assistant", "content": "ho"}
THOUGHT = {**SAID, "reasoning_content": "hm"}
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}}


def written(folder, *rows):
    file = folder / "chats.jsonl"
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return str(file)


def test_conversations_are_read_with_their_mode_and_tools(tmp_path):
    path = written(tmp_path, {"messages": [ASKED, SAID]}, "", {"messages": [ASKED, THOUGHT]}, {"messages": [ASKED, THOUGHT], "thinking": False},
                   {"messages": [ASKED, SAID], "tools": [TOOL]}, {"messages": [{"role": "system", "content": "s"}, ASKED, SAID], "tools": [TOOL]})
    found = list(read_own([path]))
    assert [one.mode for one in found] == ["chat", "thinking", "chat", "chat", "chat"]
    assert [one.place.rpartition(":")[2] for one in found] == ["1", "3", "4", "5", "6"]
    assert found[0].messages == (ASKED, SAID)
    assert found[3].messages[0] == {"role": "system", "content": "", "tools": [TOOL]}
    assert found[4].messages[0] == {"role": "system", "content": "s", "tools": [TOOL]}


@pytest.mark.parametrize(("row", "said"), [
    ("{broken", "a line of JSON"), ("[1]", "no list of messages"), ({"messages": []}, "no list of messages"),
    ({"messages": "hi"}, "no list of messages"),
    ({"messages": [ASKED]}, "the last message must be the assistant's"), ({"messages": [ASKED, SAID], "think": True}, "think: unknown"),
    ({"messages": [ASKED, SAID], "thinking": "yes"}, "true or false"),
    ({"messages": [{"role": "developer", "content": "x"}, SAID]}, "messages[0].role"),
    ({"messages": [{**ASKED, "task": "title"}, SAID]}, "without a task"), ({"messages": [{"role": "user", "content": 3}, SAID]}, "content"),
    ({"messages": [ASKED, {**SAID, "tool_calls": [{"type": "function"}]}]}, "tool_calls"), ({"messages": [ASKED, SAID], "tools": [{}]}, "tools"),
])
def test_a_line_that_is_no_conversation_is_named_by_file_and_line(tmp_path, row, said):
    path = written(tmp_path, {"messages": [ASKED, SAID]}, row)
    with pytest.raises(UserError) as error:
        list(read_own([path]))
    assert f"{path}:2" in str(error.value) and said in str(error.value) and "\n" not in str(error.value)


def test_what_is_no_jsonl_file_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("{}")
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe")
    for path, said in ((tmp_path / "none.jsonl", "a .jsonl file"), (tmp_path / "a.txt", "a .jsonl file"), (tmp_path, "a .jsonl file"),
                       (tmp_path / "b.jsonl", "UTF-8")):
        with pytest.raises(UserError, match=said):
            list(read_own([str(path)]))


def test_the_split_goes_by_the_messages_alone(tmp_path):
    rows = [{"messages": [{"role": "user", "content": f"question {n}"}, SAID]} for n in range(400)]
    sides = {one.messages[0]["content"]: one.held_out(0.1) for one in read_own([written(tmp_path, *rows)])}
    again = {one.messages[0]["content"]: one.held_out(0.1) for one in read_own([written(tmp_path, *rows[::-1])])}
    assert sides == again and 20 < sum(sides.values()) < 60
