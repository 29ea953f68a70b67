"""Recipes: everything that decides a training run, in one TOML file.

A recipe is read into frozen dataclasses, one a table, with every default filled in; what comes out is the *resolved* recipe,
which the run folder keeps. Running the resolved recipe again gives the same run. An unknown key is refused with the nearest known
one, a value of the wrong kind or range with what is allowed: a typing mistake must not cost a night of training.

    [data]        what to read, what to leave out, how much to hold out
    [tokenizer]   train one of the model's vocabulary size, or take one
    [schedule]    steps, warm-up, decay
    [[stage]]     from a point of the run on: row length, rows a step (length and batch ramps)
    [optimizer]   learning rate and the constants of Muon and AdamW
    [loss]        weights of the losses beside the main one
    [checkpoint]  how often, how many
    [evaluation]  how often, how much of the held-out text

No torch here. Source of the defaults: SPEC section 5; what V4 doesn't say is ours and marked so.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..errors import UserError

TEXT_SUFFIXES = (".py", ".pyi", ".txt", ".md", ".rst", ".jsonl", ".json", ".toml", ".yaml", ".yml", ".c", ".h", ".cc", ".cpp", ".hpp",
                 ".rs", ".go", ".java", ".js", ".ts", ".html", ".css", ".sh", ".sql", ".tex")


@dataclass(frozen=True)
class DataRecipe:
    """What to read. `paths`: files or folders, which `--data` replaces; "python-stdlib" is the running Python's own .py files, less tests.

    `exclude`: names of files or folders left out, with * and ?. `near_duplicate`: Jaccard similarity of 24-byte shingles from which a
    document counts as a copy. `held_out`: share of the documents kept for evaluation. `fim_rate`: share of the pieces rearranged for
    fill-in-the-middle. `shuffle_documents`: documents that are cut, packed and shuffled together.
    """

    paths: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = TEXT_SUFFIXES
    exclude: tuple[str, ...] = ()
    max_file_bytes: int = 4 << 20
    near_duplicate: float = 0.8
    held_out: float = 0.05
    fim_rate: float = 0.1
    shuffle_documents: int = 256

    def __post_init__(self) -> None:
        _at_least("data.max_file_bytes", self.max_file_bytes, 1)
        _share("data.near_duplicate", self.near_duplicate, zero=False)
        if not 0 < self.held_out < 1:
            raise UserError("data.held_out", self.held_out, "a share above 0 and below 1")
        _share("data.fim_rate", self.fim_rate)
        _at_least("data.shuffle_documents", self.shuffle_documents, 1)
        for suffix in self.suffixes:
            if not suffix.startswith("."):
                raise UserError("data.suffixes", suffix, "suffixes with their dot, such as .py")


@dataclass(frozen=True)
class TokenizerRecipe:
    """`path`: a tokenizer.json (or its folder) to take; empty: train one. `sample_bytes`: how much of the training text it learns from."""

    path: str = ""
    sample_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        _at_least("tokenizer.sample_bytes", self.sample_bytes, 1)


@dataclass(frozen=True)
class ScheduleRecipe:
    """`warmup` steps of linear rise (2000 in V4), then constant; over the last `decay` share of steps a cosine to `floor` × the peak."""

    steps: int = 1000
    warmup: int = 50
    decay: float = 0.3
    floor: float = 0.1

    def __post_init__(self) -> None:
        _at_least("schedule.steps", self.steps, 1)
        _at_least("schedule.warmup", self.warmup, 0)
        _share("schedule.decay", self.decay)
        _share("schedule.floor", self.floor)


@dataclass(frozen=True)
class StageRecipe:
    """From `start` (a share of the steps) on: rows of at most `length` tokens, `rows` of them a step, run in `micro_batches` parts.

    attention: CSA is "dense" (over all visible entries, while the indexer learns beside it) or "sparse" (over those it chooses).
    """

    start: float = 0.0
    length: int = 512
    rows: int = 8
    micro_batches: int = 1
    attention: Literal["dense", "sparse"] = "sparse"

    def __post_init__(self) -> None:
        if not 0 <= self.start < 1:
            raise UserError("stage.start", self.start, "a share of the steps, at least 0 and below 1")
        if self.attention not in ("dense", "sparse"):
            raise UserError("stage.attention", self.attention, "dense or sparse")
        _at_least("stage.length", self.length, 8)
        _at_least("stage.rows", self.rows, 1)
        if not 1 <= self.micro_batches <= self.rows:
            raise UserError("stage.micro_batches", self.micro_batches, f"from 1 to the stage's rows = {self.rows}")


@dataclass(frozen=True)
class OptimizerRecipe:
    """Constants of Muon and AdamW. `orthogonalize`: dtype of the Newton–Schulz steps, "bfloat16" (V4's), "float32" or "auto"."""

    lr: float = 2e-3
    weight_decay: float = 0.1
    momentum: float = 0.95
    update_rms: float = 0.18
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-20
    clip: float = 1.0
    orthogonalize: Literal["auto", "bfloat16", "float32"] = "auto"

    def __post_init__(self) -> None:
        for name in ("lr", "update_rms", "eps", "clip"):
            _positive(f"optimizer.{name}", getattr(self, name))
        for name in ("momentum", "beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"optimizer.{name}", getattr(self, name), "at least 0 and below 1")
        if not (0 <= self.weight_decay and self.weight_decay * self.lr < 1):
            raise UserError("optimizer.weight_decay", self.weight_decay, "at least 0, and below 1 when multiplied by optimizer.lr")


@dataclass(frozen=True)
class LossRecipe:
    """Weights beside the main loss: MTP before and during the decay, the sequence-wise balance loss, the indexers' KL; and the step of
    the router biases."""

    mtp: float = 0.3
    mtp_decay: float = 0.1
    balance: float = 1e-4
    indexer: float = 1.0
    bias_step: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("mtp", "mtp_decay", "balance", "indexer", "bias_step"):
            if not (getattr(self, name) >= 0 and math.isfinite(getattr(self, name))):
                raise UserError(f"loss.{name}", getattr(self, name), "a number of at least 0")


@dataclass(frozen=True)
class CheckpointRecipe:
    """A checkpoint every `minutes` of training and at the end; the newest `keep` stay."""

    minutes: float = 10.0
    keep: int = 2

    def __post_init__(self) -> None:
        _positive("checkpoint.minutes", self.minutes)
        _at_least("checkpoint.keep", self.keep, 1)


@dataclass(frozen=True)
class EvaluationRecipe:
    """Every `steps` steps on `sample_bytes` of the held-out text, at the end on `final_bytes` of it (0 = all).

    Documents longer than `length` tokens (0 = that of the last stage) are read in windows that overlap by half, each token scored once.
    """

    steps: int = 100
    sample_bytes: int = 65536
    final_bytes: int = 0
    length: int = 0

    def __post_init__(self) -> None:
        _at_least("evaluation.steps", self.steps, 1)
        _at_least("evaluation.sample_bytes", self.sample_bytes, 1)
        _at_least("evaluation.final_bytes", self.final_bytes, 0)
        if self.length and self.length < 8:
            raise UserError("evaluation.length", self.length, "0 (that of the last stage) or at least 8")


@dataclass(frozen=True)
class Recipe:
    """A whole training run. `model`: a preset, or a config.json (or its folder). `precision`: dtype of activations and matmuls.

    Raises:
        UserError: a value that no run can have, naming the key as it is spelled in the file.
    """

    model: str = "nano"
    seed: int = 0
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    data: DataRecipe = field(default_factory=DataRecipe)
    tokenizer: TokenizerRecipe = field(default_factory=TokenizerRecipe)
    schedule: ScheduleRecipe = field(default_factory=ScheduleRecipe)
    stage: tuple[StageRecipe, ...] = field(default_factory=lambda: (StageRecipe(),))
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    loss: LossRecipe = field(default_factory=LossRecipe)
    checkpoint: CheckpointRecipe = field(default_factory=CheckpointRecipe)
    evaluation: EvaluationRecipe = field(default_factory=EvaluationRecipe)

    def __post_init__(self) -> None:
        _at_least("seed", self.seed, 0)
        starts = [stage.start for stage in self.stage]
        if not starts or starts[0] != 0 or any(a >= b for a, b in zip(starts, starts[1:])):
            raise UserError("stage.start", starts, "0 for the first [[stage]], then rising")

    @property
    def evaluation_length(self) -> int:
        """Window of the evaluation in tokens."""
        return self.evaluation.length or self.stage[-1].length


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
    return _build(Recipe, table, "")


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Nested plain tables (JSON-ready) with every value filled in; `recipe_from_dict` gives the same recipe back."""
    return json.loads(json.dumps(dataclasses.asdict(recipe)))


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


def _at_least(name: str, value: float, least: int) -> None:
    if not value >= least:
        raise UserError(name, value, f"at least {least}")


def _positive(name: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise UserError(name, value, "a number above 0")


def _share(name: str, value: float, *, zero: bool = True) -> None:
    if not (0 <= value <= 1 and (zero or value > 0)):
        raise UserError(name, value, "a share from 0 to 1" if zero else "a share above 0, at most 1")
