"""The verbs, as a user meets them."""
import io
import json

import pytest
import torch
import typer
from rich.console import Console
from typer.testing import CliRunner

from fathom.config import config_to_dict
from fathom.config.recipe_file import recipe_from_dict, recipe_to_toml
from fathom.errors import UserError
from fathom.train import command, life
from fathom.train.run import RunFolder
from tests.train import tiny


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a recipe, a model and data, and the current one."""
    monkeypatch.chdir(tmp_path)
    tiny.write_documents(tmp_path / "data")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(config_to_dict(tiny.config())))
    (tmp_path / "small.toml").write_text(recipe_to_toml(tiny.recipe("data", model="model", schedule={"steps": 4, "warmup": 1})))
    return tmp_path


def asked(*parts):
    """A completion that says what it was asked."""
    return " | ".join(map(repr, parts))


def nothing(run, prompts, max_tokens):
    """A model that says nothing."""
    return [[] for _ in prompts]


@pytest.fixture
def fathom():
    app = typer.Typer()
    command.add_commands(app, asked, nothing)
    return lambda *arguments: CliRunner().invoke(app, list(arguments), catch_exceptions=True)


def demo(place, **changes):
    out = io.StringIO()
    console = Console(file=out, width=200)
    run = command.demo(asked, device="cpu", runs=place / "runs", console=console, **{"recipe": place / "small.toml", **changes})
    return run, out.getvalue()


@pytest.mark.parametrize("verb", ["train", "demo"])
def test_help_has_an_example(fathom, verb):
    result = fathom(verb, "--help")
    assert result.exit_code == 0 and f"fathom {verb}" in result.output and "Example" in result.output


def test_train_names_its_run_after_the_recipe_and_counts(fathom, place):
    assert fathom("train", "small.toml").exit_code == 0
    result = fathom("train", "small.toml", "--steps", "2", "--set", "optimizer.lr=1e-3")
    assert result.exit_code == 0, result.output
    assert [p.name for p in sorted((place / "runs").iterdir())] == ["latest", "small", "small-2"]
    assert (place / "runs" / "latest").resolve() == place / "runs" / "small-2"
    resolved = RunFolder(place / "runs" / "small-2").recipe()
    assert (resolved.schedule.steps, resolved.optimizer.lr) == (2, 1e-3)
    assert resolved.data.paths == (str(place / "data"),) and resolved.model == str(place / "model")
    for said in ("bits per byte", "gzip -9", "xz -9", "metrics.jsonl", "step-2"):
        assert said in result.output
    pytest.importorskip("matplotlib")
    assert (place / "runs" / "small" / "loss.png").stat().st_size > 1000


def test_data_on_the_command_line_replaces_the_recipes(fathom, place):
    tiny.write_documents(place / "other", 3)
    assert fathom("train", "small.toml", "--data", "other", "--name", "mine").exit_code == 0
    assert json.loads((place / "runs" / "mine" / "data" / "summary.json").read_text())["documents"] == 3
    tiny.write_documents(place / "third", 4)
    assert fathom("train", "small.toml", "--data", "other", "third", "--name", "both").exit_code == 0
    assert RunFolder(place / "runs" / "both").recipe().data.paths == (str(place / "other"), str(place / "third"))


@pytest.mark.parametrize(("arguments", "said"), [
    (["train"], "no recipe given"),
    (["train", "nothing.toml"], "a recipe file"),
    (["train", "small.toml", "data"], "go after --data"),
    (["train", "small.toml", "--data", "nowhere"], "no such file or folder"),
    (["train", "small.toml", "--data", "data", "--data", "nowhere"], "nowhere"),
    (["train", "small.toml", "--data", "model", "--set", 'data.suffixes=[".py"]'], "no document found (1 other suffix)"),
    (["train", "small.toml", "--set", "optimizer.learning=1"], "optimizer.learning"),
    (["train", "small.toml", "--set", "stage.0.length=4096"], "max_position_embeddings"),
    (["train", "small.toml", "--set", "model=nano-2"], "a preset"),
    (["train", "small.toml", "--steps", "0"], "schedule.steps"),
    (["train", "small.toml", "--device", "tpu"], "device"),
    (["train", "small.toml", "--resume", "runs/x"], "alone"),
    (["train", "--resume", "runs/x", "--from", "runs/y"], "alone"),
    (["train", "small.toml", "--stage", "sft"], "is a recipe of kind pretrain"),
    (["train", "small.toml", "--from", "runs/y"], "only a run of kind sft"),
    (["train", "--stage", "dpo"], "one of pretrain, sft"),
    (["train", "--stage", "sft"], "no finished pretraining run in runs"),
    (["train", "--stage", "sft", "--from", "runs/y"], "to start from"),
    (["train", "--stage", "sft", "--from", "model"], "model"),
    (["train", "--resume", "runs/x"], "a run folder"),
])
def test_what_a_user_gets_wrong_is_one_line(fathom, place, arguments, said):
    result = fathom(*arguments)
    assert isinstance(result.exception, UserError), result.output
    assert said in str(result.exception) and "\n" not in str(result.exception)
    assert not (place / "runs").exists()  # nothing was begun


TALK = {"kind": "sft", "precision": "float32", "conversations": {"generated": 12, "kinds": ["greetings"], "measured": 2, "max_tokens": 4},
        "schedule": {"steps": 2, "warmup": 1}, "optimizer": {"orthogonalize": "float32"}, "stage": [{"length": 120, "rows": 1}],
        "evaluation": {"final_bytes": 200, "sample_bytes": 200}}


@pytest.fixture
def talk(place):
    """An SFT recipe that a moment is enough for, its base left open."""
    (place / "talk.toml").write_text(recipe_to_toml(recipe_from_dict(TALK)))
    return place / "talk.toml"


def test_an_sft_run_starts_from_the_newest_pretraining_run_and_is_measured(fathom, place, talk):
    assert fathom("train", "small.toml", "--name", "a").exit_code == 0
    result = fathom("train", "talk.toml", "--stage", "sft")
    assert result.exit_code == 0, result.output
    run = RunFolder(place / "runs" / "talk")
    assert run.recipe().base == str(place / "runs" / "a" / "checkpoints" / "step-4")
    assert (place / "runs" / "latest").resolve() == run.path
    for said in ("conversations to train on", "held-out questions", "greetings", "valid calls where one is needed", "answers.jsonl"):
        assert said in result.output
    assert run.results()["answers"]["ended"] == 0.0  # a model that says nothing
    again = fathom("train", "--stage", "sft", "--from", "runs/latest", "talk.toml", "--name", "twice")
    assert again.exit_code == 0 and RunFolder(place / "runs" / "twice").recipe().base.startswith(str(run.path))


def test_conversations_of_your_own_on_the_command_line(fathom, place, talk):
    assert fathom("train", "small.toml", "--name", "a").exit_code == 0
    row = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}
    (place / "chats.jsonl").write_text("".join(json.dumps({**row, "thinking": bool(n % 2)}) + "\n" for n in range(8)))
    result = fathom("train", "talk.toml", "--data", "chats.jsonl", "--set", "conversations.measured=0", "--set", "conversations.generated=0")
    assert result.exit_code == 0, result.output
    recipe = RunFolder(place / "runs" / "talk").recipe()
    assert recipe.conversations.paths == (str(place / "chats.jsonl"),) and "8 of all your own" in result.output
    assert isinstance(fathom("train", "talk.toml", "--data", "data", "--name", "b").exception, UserError)


def test_the_model_to_talk_to_is_made_once(place, talk):
    (place / "recipes").mkdir()
    (place / "small.toml").rename(place / "recipes" / "nano.toml")
    talk.rename(place / "recipes" / "sft.toml")

    def made():
        out = io.StringIO()
        run = command.chat_model(nothing, device="cpu", runs=place / "runs", console=Console(file=out, width=200), recipes=place / "recipes")
        return run, out.getvalue()

    run, first = made()
    assert run.path == place / "runs" / "chat" and run.recipe().base.startswith(str(place / "runs" / "demo"))
    stamps = [(place / "runs" / name / "metrics.jsonl").stat().st_mtime_ns for name in ("demo", "chat")]
    _, second = made()
    assert second.count("reusing the finished run") == 2 and "reusing" not in first and "another recipe" not in second
    assert stamps == [(place / "runs" / name / "metrics.jsonl").stat().st_mtime_ns for name in ("demo", "chat")]


def test_a_name_that_is_taken_is_refused_with_the_way_on(fathom, place):
    fathom("train", "small.toml", "--name", "a")
    result = fathom("train", "small.toml", "--name", "a")
    assert isinstance(result.exception, UserError) and "fathom train --resume runs/a" in str(result.exception)
    assert fathom("train", "--resume", "runs/latest").exit_code == 0


def test_a_second_demo_reuses_the_run_and_says_so(place, monkeypatch):
    run, first = demo(place)
    assert run.path == place / "runs" / "demo" and "bits per byte" in first
    for prompt in command.DEMO_PROMPTS:
        assert repr(prompt) in first  # asked for a completion of each
    stamp = (run.path / "metrics.jsonl").stat().st_mtime_ns
    monkeypatch.setattr(life, "Trainer", None)
    _, second = demo(place)
    assert "reusing the finished run" in second and (run.path / "metrics.jsonl").stat().st_mtime_ns == stamp
    assert [line for line in second.splitlines() if "this model" in line] == [line for line in first.splitlines() if "this model" in line]


def test_an_interrupted_demo_goes_on(place, monkeypatch):
    monkeypatch.setattr(life, "final_results", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        demo(place)
    monkeypatch.undo()
    monkeypatch.chdir(place)
    run, said = demo(place)
    assert "going on with the unfinished run" in said and "resumed from step 4" in said and run.results() is not None


def test_a_demo_of_another_recipe_is_remarked(place):
    demo(place)
    other = place / "small.toml"
    other.write_text(other.read_text().replace("lr = 0.01", "lr = 0.02"))
    assert "made by another recipe" in demo(place)[1]


def test_auto_is_decided_once_and_is_not_another_recipe(place):
    (place / "auto.toml").write_text((place / "small.toml").read_text().replace('"float32"', '"auto"'))
    run, _ = demo(place, recipe=place / "auto.toml")
    assert run.recipe().precision in ("float32", "bfloat16") and run.recipe().optimizer.orthogonalize != "auto"
    assert "made by another recipe" not in demo(place, recipe=place / "auto.toml")[1]
