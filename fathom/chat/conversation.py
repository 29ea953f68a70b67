"""A conversation as a value, in the very form that the chat page keeps and exports (fathom/server/web/conversation.js), so that a file
goes both ways. A tree of turns, of which one path is shown: asking again or editing makes a sibling, and nothing that was paid for is lost.
"""
from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fathom.errors import UserError

MODES = {"off": "no thinking", "thinking": "thinking", "max": "max effort"}
SETTINGS: dict[str, Any] = {"mode": "thinking", "system": "", "tools": "", "choice": "auto", "temperature": None, "topP": None, "maxTokens": None,
                            "seed": None}
COUNTS = ("hit", "miss", "output")
Node = dict[str, Any]


def new_id() -> str:
    """Names a node or a conversation."""
    return "n" + secrets.token_hex(12)


def now() -> int:
    """Milliseconds since 1970, as browsers count."""
    return int(time.time() * 1000)


@dataclass
class Conversation:
    """See conversation.js for the fields of a node."""

    settings: dict[str, Any] = field(default_factory=lambda: dict(SETTINGS))
    nodes: dict[str, Node] = field(default_factory=dict)
    leaf: str | None = None
    title: str = ""
    id: str = field(default_factory=new_id)
    created: int = field(default_factory=now)
    updated: int = field(default_factory=now)
    spent: dict[str, int] = field(default_factory=lambda: {"cost": 0, "hit": 0, "miss": 0, "output": 0})

    def add(self, parent: str | None, role: str, **fields: Any) -> Node:
        """Puts a node after `parent` and shows it."""
        node: Node = {"id": new_id(), "parent": parent, "role": role, **fields}
        self.nodes[node["id"]] = node
        self.leaf, self.updated = node["id"], now()
        if not self.title and role == "user":
            line = (node["text"].strip() or node["files"][0]["name"]).split("\n")[0]
            self.title = line if len(line) <= 60 else line[:59].rstrip() + "…"
        return node

    def add_answer(self, parent: str | None) -> Node:
        """The place of an answer that is about to be asked for."""
        unknown = dict.fromkeys(("finish", "trouble", "reasoningMs", "firstMs", "ms", "usage", "cost"))
        return self.add(parent, "assistant", mode=self.settings["mode"], reasoning="", content="", calls=[], request=new_id(), **unknown)

    def path(self, leaf: str | None = None) -> list[Node]:
        """The nodes up to `leaf`, or those shown."""
        found, at = [], self.leaf if leaf is None else leaf
        while at is not None:
            found.append(self.nodes[at])
            at = self.nodes[at]["parent"]
        return found[::-1]

    def drop(self, node: Node) -> None:
        """Takes away a node that has nothing after it."""
        del self.nodes[node["id"]]
        self.leaf = node["parent"]

    def charge(self, node: Node, usage: Mapping[str, int], cost: int | None) -> None:
        """Writes what an answer took; cost: nano-dollars, None where nothing is charged."""
        node["usage"], node["cost"] = dict(usage), cost
        self.spent["cost"] += cost or 0
        for name in COUNTS:
            self.spent[name] += usage[name]

    def messages(self, leaf: str | None, *, reasoning: bool) -> list[dict[str, Any]]:
        """The API's messages up to `leaf`. reasoning: earlier turns carry theirs, as they must with tools."""
        found: list[dict[str, Any]] = [{"role": "system", "content": self.settings["system"]}] if self.settings["system"].strip() else []
        for node in self.path(leaf):
            if node["role"] == "user":
                found.append({"role": "user", "content": with_files(node)})
            elif node["role"] == "tool":
                found += [{"role": "tool", "tool_call_id": r["id"], "content": r["content"]} for r in node["results"]]
            elif not is_empty(node):
                found.append(spoken(node, reasoning))
        return found

    def save(self, file: Path) -> None:
        """Writes the file, whole or not at all. Raises UserError."""
        data = {"fathom": 1, "id": self.id, "title": self.title, "created": self.created, "updated": self.updated, "settings": self.settings,
                "nodes": self.nodes, "leaf": self.leaf, "spent": self.spent}
        draft = file.with_name(file.name + ".new")
        try:
            draft.write_text(json.dumps(data, indent=1, ensure_ascii=False).encode("utf-8", "replace").decode(), encoding="utf-8")
            draft.replace(file)
        except OSError as error:
            raise UserError("conversation", file, f"cannot be written: {error.strerror}") from None


def is_empty(node: Node) -> bool:
    """Whether nothing came of an answer."""
    return node["role"] == "assistant" and not (node["reasoning"] or node["content"] or node["calls"])


def spoken(node: Node, reasoning: bool) -> dict[str, Any]:
    """An answer as a message; calls that were cut off aren't calls."""
    message: dict[str, Any] = {"role": "assistant", "content": node["content"]}
    if reasoning:
        message["reasoning_content"] = node["reasoning"]
    if node["finish"] == "tool_calls":
        message["tool_calls"] = [{"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": call["arguments"]}}
                                 for call in node["calls"]]
    return message


def with_files(node: Node) -> str:
    """A user's turn with its files in front, in the form that DeepSeek recommends (the README of DeepSeek-R1)."""
    return "".join(f"[file name]: {f['name']}\n[file content begin]\n{f['text']}\n[file content end]\n" for f in node["files"]) + node["text"]


def load(file: Path) -> Conversation:
    """Reads a conversation saved here or exported by the page. Raises UserError."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError("conversation", file, f"cannot be read: {error}") from None
    if not isinstance(data, dict) or data.get("fathom") != 1 or not _sound(data):
        raise UserError("conversation", file, "isn't a conversation", "give a file that fathom chat or the chat page has saved")
    return Conversation(**{name: data[name] for name in ("nodes", "leaf", "title", "id", "created", "updated", "spent")},
                        settings={**SETTINGS, **data["settings"]})


def _sound(data: dict[str, Any]) -> bool:
    """Whether a file's fields are what they should be; parents stand before children, so there is no ring."""
    kinds: Sequence[tuple[str, type | tuple[type, ...]]] = (("nodes", dict), ("settings", dict), ("spent", dict), ("title", str), ("id", str),
                                                            ("created", (int, float)), ("updated", (int, float)))
    if not all(isinstance(data.get(name), kind) for name, kind in kinds) or data["settings"].get("mode") not in MODES:
        return False
    texts = {"user": ("text",), "tool": (), "assistant": ("reasoning", "content")}
    lists = {"user": ("files", ("name", "text")), "tool": ("results", ("id", "name", "content")), "assistant": ("calls", ("id", "name", "arguments"))}
    seen: set[str] = set()
    for name, node in data["nodes"].items():
        role = node.get("role") if isinstance(node, dict) else None
        if role not in texts or node.get("id") != name or not (node.get("parent") is None or node["parent"] in seen):
            return False
        items, keys = lists[role]
        if not isinstance(node.get(items), list) or not all(isinstance(node.get(key), str) for key in texts[role]):
            return False
        if not all(isinstance(item, dict) and all(isinstance(item.get(key), str) for key in keys) for item in node[items]):
            return False
        seen.add(name)
    return all(isinstance(data["spent"].get(name), int) for name in ("cost", *COUNTS)) and (data.get("leaf") is None or data["leaf"] in seen)


def read_tools(text: str, where: str = "tools") -> list[dict[str, Any]]:
    """The API's tools from JSON: a list of functions, or one, each with or without {"type": "function"} around it. Raises UserError."""
    if not text.strip():
        return []
    try:
        given = json.loads(text)
    except ValueError as error:
        raise UserError(where, None, f"isn't JSON: {error}") from None
    tools = []
    for entry in given if isinstance(given, list) else [given]:
        function = entry.get("function", entry) if isinstance(entry, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise UserError(where, None, "a list of functions, each an object with a name, a description and parameters (a JSON schema)")
        tools.append({"type": "function", "function": {key: value for key, value in function.items() if key != "type"}})
    return tools
