"""Recipes: what is written can be read, what is wrong is named."""
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom.config.recipe import Recipe
from fathom.config.recipe_file import read_recipe, recipe_from_dict, recipe_to_dict, recipe_to_toml
from fathom.errors import UserError

ROOT = Path(__file__).parents[2]


@given(lr=st.floats(1e-30, 1.0, exclude_max=True), paths=st.lists(st.text(st.characters(codec="utf-8"), max_size=8), max_size=3),
       steps=st.integers(1, 10**12))
def test_resolved_recipe_reads_back_exactly(tmp_path_factory, lr, paths, steps):
    recipe = recipe_from_dict({"optimizer": {"lr": lr, "weight_decay": 0.0}, "data": {"paths": paths}, "schedule": {"steps": steps},
                               "stage": [{"length": 64}, {"start": 0.25, "length": 128}]})
    file = tmp_path_factory.mktemp("recipe") / "r.toml"
    file.write_text(recipe_to_toml(recipe), encoding="utf-8")
    assert read_recipe(file) == recipe
    assert recipe_from_dict(recipe_to_dict(recipe)) == recipe


@pytest.mark.parametrize("file", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda f: f.name)
def test_shipped_recipes_are_valid(file):
    read_recipe(file)


@pytest.mark.parametrize(("table", "named", "nearest"), [
    ({"optimizer": {"learning_rate": 1}}, "optimizer.learning_rate", "nearest known key is optimizer."),
    ({"optimiser": {}}, "optimiser", "optimizer"),
    ({"schedule": {"step": 1}}, "schedule.step", "schedule.steps"),
    ({"stage": [{"lenght": 64}]}, "stage.lenght", "stage.length"),
    ({"sed": 1}, "sed", "seed"),
    ({"kind": "sft", "conversations": {"turn": 1}}, "conversations.turn", "conversations.turns"),
])
def test_unknown_keys_are_refused_with_the_nearest(table, named, nearest):
    with pytest.raises(UserError) as error:
        recipe_from_dict(table)
    assert named in str(error.value) and nearest in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("table", "field"), [
    ({"schedule": {"steps": 0}}, "schedule.steps"), ({"schedule": {"steps": 1.5}}, "schedule.steps"),
    ({"schedule": {"steps": True}}, "schedule.steps"), ({"schedule": {"decay": 1.5}}, "schedule.decay"),
    ({"optimizer": {"lr": 0}}, "optimizer.lr"), ({"optimizer": {"lr": float("inf")}}, "optimizer.lr"),
    ({"optimizer": {"lr": "fast"}}, "optimizer.lr"), ({"optimizer": {"beta2": 1.0}}, "optimizer.beta2"),
    ({"optimizer": {"lr": 10.0, "weight_decay": 0.1}}, "optimizer.weight_decay"), ({"precision": "fp8"}, "precision"),
    ({"data": {"held_out": 0.0}}, "data.held_out"), ({"data": {"held_out": 1.0}}, "data.held_out"),
    ({"data": {"paths": "x"}}, "data.paths"), ({"data": {"paths": [1]}}, "data.paths"),
    ({"data": {"suffixes": ["py"]}}, "data.suffixes"), ({"data": {"fim_rate": -0.1}}, "data.fim_rate"),
    ({"data": 3}, "data"), ({"stage": []}, "stage.start"), ({"stage": [{"start": 0.5}]}, "stage.start"),
    ({"stage": [{}, {"start": 0.5}, {"start": 0.5}]}, "stage.start"), ({"stage": [{"rows": 2, "micro_batches": 3}]}, "stage.micro_batches"),
    ({"stage": [{"length": 1}]}, "stage.length"), ({"stage": {"length": 64}}, "stage"),
    ({"evaluation": {"length": 3}}, "evaluation.length"),
    ({"stage": [{"kinds": ["echo"]}, {"start": 0.5}]}, "stage.kinds"), ({"kind": "sft", "stage": [{"kinds": ["echo"]}]}, "stage.kinds"),
    ({"kind": "sft", "stage": [{"kinds": "echo"}, {"start": 0.5}]}, "stage.kinds"),
    ({"kind": "rl"}, "kind"), *(({"kind": "sft", "conversations": {key: value}}, f"conversations.{key}") for key, value in (
        ("turns", 0), ("tool_turns", 0), ("generated", -1), ("measured", -1), ("max_tokens", 0), ("shuffle", 0), ("thinking", 1.5), ("held_out", 0.0),
        ("held_out", 1.0), ("kinds", "greetings"), ("paths", [1]))),
    ({"checkpoint": {"keep": 0}}, "checkpoint.keep"), ({"loss": {"mtp": -1.0}}, "loss.mtp"), ({"seed": -1}, "seed"),
])
def test_impossible_values_are_named(table, field):
    with pytest.raises(UserError) as error:
        recipe_from_dict(table)
    assert error.value.field == field
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("kind", "key", "table"), [
    ("pretrain", "base", {"base": "runs/demo"}), ("pretrain", "conversations", {"conversations": {"turns": 2}}),
    ("sft", "model", {"kind": "sft", "model": "nano"}), ("sft", "data", {"kind": "sft", "data": {}}),
    ("sft", "tokenizer", {"kind": "sft", "tokenizer": {"path": "x"}}),
])
def test_keys_of_the_other_kind_of_run_are_refused(kind, key, table):
    """They would be read and have no effect."""
    with pytest.raises(UserError, match=f"recipe key {key}.*this one is of kind {kind}"):
        recipe_from_dict(table)


@pytest.mark.parametrize("kind", ["pretrain", "sft"])
def test_a_resolved_recipe_has_the_tables_of_its_kind(kind, tmp_path):
    lesson = {"base": "runs/a", "conversations": {"kinds": ["lists"]}, "stage": [{"kinds": ["echo"]}, {"start": 0.5}]}
    recipe = recipe_from_dict({"kind": kind, **(lesson if kind == "sft" else {})})
    (tmp_path / "r.toml").write_text(recipe_to_toml(recipe))
    assert read_recipe(tmp_path / "r.toml") == recipe
    assert ("data" in recipe_to_dict(recipe)) == (kind == "pretrain") and ("conversations" in recipe_to_dict(recipe)) == (kind == "sft")
    assert ("kinds" in recipe_to_dict(recipe)["stage"][0]) == (kind == "sft")
    assert recipe.fim_rate == (0.1 if kind == "pretrain" else 0.0)
    assert recipe.shuffled_documents == (recipe.data.shuffle_documents if kind == "pretrain" else recipe.conversations.shuffle)


def test_every_error_of_a_file_names_the_recipe(tmp_path):
    with pytest.raises(UserError, match="a recipe file"):
        read_recipe(tmp_path / "none.toml")
    with pytest.raises(UserError, match="a recipe file"):
        read_recipe(tmp_path)
    (tmp_path / "bad.toml").write_text("seed = = 1")
    with pytest.raises(UserError, match="valid TOML"):
        read_recipe(tmp_path / "bad.toml")


def test_overrides_lie_over_the_file(tmp_path):
    file = tmp_path / "r.toml"
    file.write_text("[[stage]]\nlength = 64\n")
    found = read_recipe(file, ["optimizer.lr=1e-3", "stage.0.rows=3", "model=bench-130m", 'data.paths=["a"]', "seed = 7"])
    assert (found.optimizer.lr, found.model, found.data.paths, found.seed) == (1e-3, "bench-130m", ("a",), 7)
    assert (found.stage[0].rows, found.stage[0].length) == (3, 64)


@pytest.mark.parametrize("override",
    ["optimizer.lr", "=3", "stage.1.rows=3", "stage.x.rows=3", "seed.x=1", "optimizer.nope=1", "optimizer.lr=abc"])
def test_wrong_overrides_are_refused(tmp_path, override):
    file = tmp_path / "r.toml"
    file.write_text("seed = 1\n[[stage]]\nlength = 64\n")
    with pytest.raises(UserError):
        read_recipe(file, [override])


def test_whole_numbers_serve_as_numbers():
    assert recipe_from_dict({"optimizer": {"clip": 2}}).optimizer.clip == 2.0
    assert Recipe().evaluation_length == Recipe().stage[-1].length
