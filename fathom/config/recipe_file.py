"""Recipe files: TOML in, TOML out.

An unknown key is refused with the nearest known one, a value of the wrong kind or range with what is allowed, and a key of the other kind
of run as such: a typing mistake must not cost a night of training. What is written back is the *resolved* recipe, which the run folder
keeps: every value of the run's kind, and running it again gives the same run.

No torch here.
"""
from __future__ import annotations

import dataclasses
import difflib
import json
import math
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ..errors import UserError
from .recipe import Recipe

OF_THE_OTHER_KIND: Mapping[str, tuple[str, ...]] = types.MappingProxyType({"pretrain": ("base", "conversations"),
                                                                           "sft": ("model", "data", "tokenizer")})
"""Keys that a kind of run has no use for."""


def read_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a TOML file, with `KEY=VALUE` overrides such as "optimizer.lr=1e-3" laid over it.

    Raises:
        UserError: no such file, not TOML, an unknown key (with the nearest known one) or an impossible value.
    """
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise UserError("recipe", path, "a recipe file (TOML)", "recipes/ has some; fathom train recipes/nano.toml") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError("recipe", path, f"valid TOML, but {error}") from error
    for override in overrides:
        _lay_over(table, override)
    return recipe_from_dict(table)


def recipe_from_dict(table: Mapping[str, Any]) -> Recipe:
    """A recipe from nested tables; raises UserError as `read_recipe` does."""
    recipe: Recipe = _build(Recipe, table, "")
    for key in OF_THE_OTHER_KIND[recipe.kind]:
        if key in table:
            other = next(kind for kind in OF_THE_OTHER_KIND if kind != recipe.kind)
            raise UserError(f"recipe key {key}", None, f"it belongs to a recipe of kind {other}, and this one is of kind {recipe.kind}",
                            f'leave it out, or say kind = "{other}"')
    return recipe


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Nested plain tables (JSON-ready) with every value of its kind filled in; `recipe_from_dict` gives the same recipe back."""
    values = json.loads(json.dumps(dataclasses.asdict(recipe)))
    if recipe.kind == "pretrain":
        for stage in values["stage"]:
            del stage["kinds"]
    return {key: value for key, value in values.items() if key not in OF_THE_OTHER_KIND[recipe.kind]}


def recipe_to_toml(recipe: Recipe) -> str:
    """The resolved recipe as TOML text; `read_recipe` gives the same recipe back, bit for bit in every number."""
    values = recipe_to_dict(recipe)
    tables = {key: value for key, value in values.items() if isinstance(value, dict)}
    lines = [f"{key} = {_toml(value)}" for key, value in values.items() if key not in tables and key != "stage"]
    for stage in values["stage"]:
        lines += ["", "[[stage]]", *(f"{key} = {_toml(value)}" for key, value in stage.items())]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def _build(kind: type, table: Mapping[str, Any], prefix: str) -> Any:
    """An instance of the dataclass `kind` from a table; `prefix` names the table in messages ("optimizer.")."""
    hints = typing.get_type_hints(kind)
    values = {}
    for key, value in table.items():
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1, cutoff=0.0)
            raise UserError(f"recipe key {prefix}{key}", None, "unknown", f"the nearest known key is {prefix}{near[0]}")
        values[key] = _value(hints[key], value, prefix + key)
    return kind(**values)


def _value(hint: Any, value: Any, name: str) -> Any:
    """`value` as the annotated type, whole numbers also where a float is wanted; raises UserError naming the key."""
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise UserError(name, value, f"a table: [{name}]")
        return _build(typing.cast(type, hint), value, name + ".")
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        if not isinstance(value, list | tuple):
            raise UserError(name, value, f"tables: [[{name}]]" if dataclasses.is_dataclass(item) else "a list")
        return tuple(_value(item, v, name) for v in value)
    if typing.get_origin(hint) is Literal:
        if value not in typing.get_args(hint):
            raise UserError(name, value, f"one of {', '.join(typing.get_args(hint))}")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not hint or (hint is float and not math.isfinite(value)):
        raise UserError(name, value, _KIND_NAMES[hint])
    return value


_KIND_NAMES: Mapping[type, str] = types.MappingProxyType({int: "a whole number", float: "a number", str: "a text in quotes"})


def _lay_over(table: dict[str, Any], override: str) -> None:
    """Set one "a.b=VALUE" in nested tables; VALUE is TOML, or a bare word taken as text. [[stage]] is counted from 0: stage.0.rows=4."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise UserError("--set", override, "KEY=VALUE such as optimizer.lr=1e-3")
    try:
        value = tomllib.loads(f"v = {text.strip()}")["v"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    *parents, last = key.strip().split(".")
    node: Any = table
    for name in parents:
        if isinstance(node, list):
            node = node[_index(node, name, override)]
        elif isinstance(node, dict):
            node = node.setdefault(name, {})
        else:
            raise UserError("--set", override, f"{name} is inside a value, not a table")
    if isinstance(node, list):
        node[_index(node, last, override)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise UserError("--set", override, f"{last} is inside a value, not a table")


def _index(node: list[Any], name: str, override: str) -> int:
    if not name.isdecimal() or int(name) >= len(node):
        raise UserError("--set", override, f"a list of {len(node)}: count from 0 to {len(node) - 1}")
    return int(name)


def _toml(value: Any) -> str:
    """A TOML literal. JSON's spelling of texts, numbers and lists is valid TOML as long as a float keeps its point or exponent."""
    if isinstance(value, list):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
