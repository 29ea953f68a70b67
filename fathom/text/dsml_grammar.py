"""The grammars themselves, in llguidance's Lark dialect: free text, JSON, and the DSML block of a tool call.

    answer  ::= content | content? block                 then end of sentence
    block   ::= blank line <｜DSML｜tool_calls> call+ </｜DSML｜tool_calls>
    call    ::= <｜DSML｜invoke name="f"> parameter* </｜DSML｜invoke>

They write what encoding.py writes, byte for byte, so a forced call looks to the model like those it was trained on. `｜DSML｜` is a
control token, named by its id. Text and raw string values can't hold the spelling of a DSML sign or of the end of sentence,
because the parser reads a spelling as the real thing.

A parameter is written raw, string="true", where its schema allows plain strings; any other value is JSON, string="false". A string
with a `pattern` or a `format` is written as JSON too: llguidance knows those inside JSON only, and the parser reads both forms.
"""
from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fathom.errors import UserError

from .markup import BAR

Check = Callable[[str, str], None]
WHITESPACE = r"[ \t]{1,2}|\r?\n[ \t]{0,64}"
"""Blanks between JSON's tokens; without a bound, models have been seen to write blanks for ever."""
SIGN = rf"< ?\/? ?{BAR}{{1,2}} ?DSML ?{BAR}|<[｜|]end▁of▁sentence[｜|]>"
TERMINALS = f"""
ANY: /(?s:.*)/
CLEAN: ANY & ~(ANY /{SIGN}/ ANY)
"""
ANNOTATIONS = frozenset({"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment"})
PLAIN_STRING = ANNOTATIONS | {"type", "minLength", "maxLength"}
NOT_STRINGS = ("object", "array", "number", "boolean", "null")
OBJECT_KEYS = ANNOTATIONS | {"type", "properties", "required", "additionalProperties", "$defs", "definitions", "$schema", "$id", "strict"}
LONGEST_RAW = 10_000  # characters; a longer maxLength costs the lexer more than it is worth
LEAST_RAW = 1_000  # characters; from a minLength of between 2 000 and 3 000 on the lexer refuses it. Beyond these a string is written as JSON


def answer_grammar(dsml_id: int, tools: Sequence[Mapping[str, Any]], choice: str, parallel: bool, schema: Any, check: Check) -> str:
    """The grammar of an answer, without its reasoning. Arguments as Grammars.constraint; `check` raises UserError on a bad schema.

    Raises:
        UserError: a schema that can't be enforced.
    """
    rules = Rules(dsml_id, check)
    content = "CLEAN" if schema is None else rules.json(schema, "response_format.json_schema.schema")
    if not tools or choice == "none":
        return rules.text(f"start: {content}")
    chosen = [(i, tool) for i, tool in enumerate(tools) if choice in ("auto", "required", tool["name"])]
    calls = " | ".join(rules.call(tool, f"tools[{i}].function.parameters") for i, tool in chosen)
    block = f'<[{dsml_id}]> "tool_calls>\\n" ({calls}){"+" if parallel else ""} "</" <[{dsml_id}]> "tool_calls>"'
    if choice != "auto":
        return rules.text(f'start: "\\n\\n<" {block}')
    if schema is not None:
        return rules.text(f'start: {content} | "\\n\\n<" {block}')
    return rules.text(f"start: CLEAN | BEFORE {block}", 'BEFORE: CLEAN "<"')


class Rules:
    """Collects the rules of one grammar."""

    def __init__(self, dsml_id: int, check: Check) -> None:
        self.tag, self.check = f"<[{dsml_id}]>", check
        self._lines: list[str] = []
        self._free = ""

    def text(self, *first: str) -> str:
        """The grammar, beginning with the lines given."""
        return "\n".join([*first, TERMINALS, *self._lines])

    def add(self, kind: str, body: str) -> str:
        """Adds a rule ("r") or a terminal ("T") and returns its name."""
        name = f"{kind}{len(self._lines)}"
        self._lines.append(f"{name}: {body}")
        return name

    def json(self, schema: Any, field: str) -> str:
        """A rule for a JSON value by a schema."""
        if schema is True:
            schema = {}
        if not isinstance(schema, Mapping):
            raise UserError(field, schema, "a JSON schema: an object")
        text = json.dumps({**schema, "x-guidance": {"whitespace_pattern": WHITESPACE}}, ensure_ascii=False)
        self.check(text, field)
        return self.add("r", f"%json {text}")

    # ---- calls

    def call(self, tool: Mapping[str, Any], field: str) -> str:
        """A rule for one call of a tool: any parameters, or those of its schema if it is strict."""
        name = literal(f'invoke name="{tool["name"]}">\n')
        body = self.strict_body(tool.get("parameters") or {}, field) if tool.get("strict") else f'{self.free()}+ | "\\n"'
        return self.add("r", f'"<" {self.tag} {name} ({body}) "</" {self.tag} "invoke>\\n"')

    def free(self) -> str:
        """A parameter of any name and value."""
        if not self._free:
            name = self.add("T", r"""/parameter name="[^"<>\n｜|‖]{1,256}" string="/""")
            self._free = self.add("r", f'"<" {self.tag} {name} ({self.raw()} | {self.as_json({"type": list(NOT_STRINGS)}, "tools")})')
        return self._free

    def strict_body(self, schema: Mapping[str, Any], field: str) -> str:
        """The parameters of an object schema, in the order of its properties. Properties that it doesn't name aren't written."""
        if not isinstance(schema, Mapping) or schema.get("type", "object") != "object":
            raise UserError(field, None, "a strict function's parameters are a JSON schema of type object")
        if unknown := sorted(set(schema) - OBJECT_KEYS):
            raise UserError(f"{field}.{unknown[0]}", None, f"can't be enforced: a strict function's parameters have {', '.join(sorted(OBJECT_KEYS))}",
                            "move it into a property, or leave out strict")
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if not isinstance(properties, Mapping) or not isinstance(required, Sequence) or isinstance(required, str):
            raise UserError(field, None, "`properties` is an object and `required` a list of names")
        named = [*properties, *(name for name in required if name not in properties)]
        shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
        parameters = []
        for name in named:
            given = properties.get(name, True)
            rule = self.parameter(str(name), given, shared, f"{field}.properties.{name}")
            parameters.append(rule if name in required else f"{rule}?")
        return " ".join(parameters) if required else f'"\\n" | {" ".join(parameters)}' if parameters else '"\\n"'

    def parameter(self, name: str, schema: Any, shared: Mapping[str, Any], field: str) -> str:
        """One parameter with its line break."""
        forms = self.forms(schema, shared, field)
        opening = literal(f'parameter name="{name}" string="')
        return self.add("r", f'"<" {self.tag} {opening} ({" | ".join(dict.fromkeys(forms))})')

    def forms(self, schema: Any, shared: Mapping[str, Any], field: str) -> list[str]:
        """The ways to write a value by `schema`, each a rule from behind `string="` to the end of the line."""
        if schema is True or isinstance(schema, Mapping) and set(schema) <= ANNOTATIONS:
            return [self.raw(), self.as_json({"type": list(NOT_STRINGS)}, field)]
        if not isinstance(schema, Mapping):
            raise UserError(field, schema, "a JSON schema: an object")
        keys = set(schema) - ANNOTATIONS
        if keys == {"$ref"} and isinstance(target := self.target(schema["$ref"], shared), Mapping) and not holds_reference(target):
            return self.forms(target, shared, field)
        if keys == {"anyOf"} and isinstance(schema["anyOf"], list) and schema["anyOf"]:
            return [form for branch in schema["anyOf"] for form in self.forms(branch, shared, field)]
        if isinstance(schema.get("type"), list) and "string" in schema["type"] and keys <= {"type", "minLength", "maxLength"}:
            others = [kind for kind in schema["type"] if kind != "string"]
            return self.forms({**schema, "type": "string"}, shared, field) + ([self.as_json({"type": others}, field)] if others else [])
        if keys <= {"type", "enum", "const"} and keys & {"enum", "const"} and schema.get("type", "string") == "string":
            return self.chosen([schema["const"]] if "const" in keys else schema["enum"], field)
        if schema.get("type") == "string" and set(schema) <= PLAIN_STRING:
            least, most = schema.get("minLength", 0), schema.get("maxLength")
            if isinstance(least, int) and 0 <= least <= LEAST_RAW and (most is None or least <= most <= LONGEST_RAW):
                return [self.raw(f"/(?s:.{{{least},{'' if most is None else most}}})/" if least or most is not None else "")]
        return [self.as_json({**schema, **shared}, field)]

    def chosen(self, values: Any, field: str) -> list[str]:
        """One of some values, the strings among them raw."""
        if not isinstance(values, list) or not values:
            raise UserError(f"{field}.enum", values, "a list of at least one value")
        strings = [value for value in values if isinstance(value, str)]
        others = [value for value in values if not isinstance(value, str)]
        raw = [self.raw(" | ".join(literal(value) if value else '""' for value in strings))] if strings else []
        return raw + ([self.as_json({"enum": others}, field)] if others else [])

    def raw(self, value: str = "") -> str:
        """A raw string value, any or that of a terminal's body. The `</` that ends it is in the terminal, which else would swallow it."""
        terminal = self.add("T", f'(CLEAN{f" & ({value})" if value else ""}) "</"')
        return self.add("r", f'"true\\">" {terminal} {self.tag} "parameter>\\n"')

    def as_json(self, schema: Mapping[str, Any], field: str) -> str:
        """A value as JSON."""
        return self.add("r", f'"false\\">" {self.json(schema, field)} "</" {self.tag} "parameter>\\n"')

    def target(self, reference: Any, shared: Mapping[str, Any]) -> Any:
        """What a `$ref` into the shared definitions means, None for any other."""
        place = str(reference).split("/")
        return shared.get(place[1], {}).get(place[2]) if len(place) == 3 and place[0] == "#" and place[1] in shared else None


def holds_reference(schema: Any) -> bool:
    """Whether a `$ref` stands anywhere inside: such a schema stays whole, as its definitions may be recursive."""
    if isinstance(schema, Mapping):
        return "$ref" in schema or any(holds_reference(value) for value in schema.values())
    return isinstance(schema, list) and any(holds_reference(value) for value in schema)


def literal(text: str) -> str:
    """A string literal of the grammar."""
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(char if char.isprintable() or char == " " else f"\\u{ord(char):04x}" if ord(char) < 0x10000 else char for char in quoted)
