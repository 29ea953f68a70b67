"""An SFT run as a whole: it starts from its base, learns, is killed and resumed to the same bits, and is measured by whoever can answer."""
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fathom.checkpoint import open_checkpoint
from fathom.cli import _answer as answer
from fathom.config.recipe_file import recipe_to_toml
from fathom.engine import Engine
from fathom.errors import UserError
from fathom.session import load
from fathom.text import Tokenizer
from fathom.train import life
from fathom.train.run import RunFolder
from fathom.train.sft.base import checkpoint_of, newest_pretraining
from tests.train.sft import small
from tests.train.sft.small import CPU, QUIET

ROOT = Path(__file__).parents[3]
TIMES = ("seconds", "tokens_per_second")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return small.pretrained(tmp_path_factory.mktemp("base"))


def start(base, folder, **changes):
    return life.start(small.recipe(base.path, **changes), folder / "run", CPU)


@pytest.fixture(scope="module")
def uninterrupted(base, tmp_path_factory):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    run = start(base, tmp_path_factory.mktemp("whole"))
    assert life.train(run, CPU, QUIET) is not None
    torch.set_num_threads(before)
    return run


def test_the_run_learns_to_answer(uninterrupted):
    lines = uninterrupted.metrics()
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.5
    assert [line["step"] for line in lines if "held_out_loss" in line] == [5, 10, 12]
    assert uninterrupted.results()["held_out"]["bits_per_byte"] > 0 and "compressors" not in uninterrupted.results()
    assert "answers" not in uninterrupted.results()  # nobody was there to answer
    pytest.importorskip("matplotlib")
    assert (uninterrupted.path / "loss.png").exists()


def test_it_starts_with_the_bases_weights_and_tokenizer(base, tmp_path):
    """With a rate of next to nothing the weights after a step are the base's; and with another base they are that one's."""
    run = start(base, tmp_path, schedule={"steps": 1}, optimizer={"lr": 1e-30, "weight_decay": 0.0})
    life.train(run, CPU, QUIET)
    found, theirs = (open_checkpoint(r.checkpoints()[-1][1]) for r in (run, base))
    for name, row in found.params.items():
        if row.storage != "int64" and not name.endswith("gate.bias"):  # which moves by a fixed step
            assert torch.equal(found.tensor(name), theirs.tensor(name)), name
    assert Tokenizer.load(run.path).encode("alpha1 beta2") == Tokenizer.load(base.path).encode("alpha1 beta2")
    assert run.config() == base.config()


def test_what_the_run_remembers_of_its_recipe(uninterrupted, base):
    recipe = uninterrupted.recipe()
    assert recipe.kind == "sft" and recipe.base == str(base.checkpoints()[-1][1])
    assert life.made_by(small.recipe(base.path), recipe) and not life.made_by(small.recipe(base.path, seed=1), recipe)
    text = recipe_to_toml(recipe)
    assert "[conversations]" in text and "[data]" not in text and "[tokenizer]" not in text


# ---- killed and stopped


def same(run, other):
    assert [step for step, _ in run.checkpoints()] == [step for step, _ in other.checkpoints()] == [11, 12]
    for name in ("model.safetensors", "training.safetensors", "tokenizer.json", "config.json"):
        assert (run.checkpoints()[-1][1] / name).read_bytes() == (other.checkpoints()[-1][1] / name).read_bytes(), name
    stories = [[{k: v for k, v in line.items() if k not in TIMES} for line in r.metrics()] for r in (run, other)]
    assert stories[0] == stories[1] and [line["step"] for line in stories[0]] == list(range(1, 13))
    assert run.results()["held_out"] == other.results()["held_out"]


def killed(folder, base, kills, seed):
    shutil.copytree(base.path, folder / "base")
    command = [sys.executable, str(ROOT / "tests" / "train" / "killed.py"), str(folder), str(kills), str(seed), "sft"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_killed_at_random_moments_the_weights_are_the_same_bits(tmp_path, base, uninterrupted):
    assert killed(tmp_path, base, 8, 0) >= 4
    same(RunFolder(tmp_path / "run"), uninterrupted)


@pytest.mark.check
def test_killed_many_times_more(tmp_path, base, uninterrupted):
    assert killed(tmp_path, base, 40, 1) >= 15
    same(RunFolder(tmp_path / "run"), uninterrupted)


@pytest.mark.parametrize("after", [1, 6])
def test_asked_to_stop_it_leaves_a_checkpoint_and_needs_its_base_no_more(tmp_path, base, uninterrupted, after):
    shutil.copytree(base.path, tmp_path / "base")
    run = life.start(small.recipe(tmp_path / "base", checkpoint={"minutes": 1000.0}), tmp_path / "run", CPU)
    asked = iter([False] * (after - 1) + [True])
    assert life.train(run, CPU, QUIET, lambda: next(asked)) is None
    shutil.rmtree(tmp_path / "base")
    assert life.train(run, CPU, QUIET) is not None
    for name in ("model.safetensors", "training.safetensors"):
        assert (run.checkpoints()[-1][1] / name).read_bytes() == (uninterrupted.checkpoints()[-1][1] / name).read_bytes()


def test_a_base_that_goes_before_the_first_checkpoint_is_named(tmp_path, base):
    shutil.copytree(base.path, tmp_path / "base")
    run = start(RunFolder(tmp_path / "base"), tmp_path)
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(UserError, match="base"):
        life.train(run, CPU, QUIET)


# ---- measured


def test_the_finished_run_answers_held_out_questions(tmp_path, base):
    run = start(base, tmp_path, conversations={"kinds": ["greetings", "weather", "toolless"]}, schedule={"steps": 1})
    results = life.train(run, CPU, QUIET, answer=answer)
    found = results["answers"]
    assert set(found["groups"]) == {"greetings", "weather: call", "weather: answer", "toolless", "beside a tool"}
    assert all(group["questions"] == 2 for group in found["groups"].values()) and found["questions"] == 10
    assert found["ended"] == 0.0 == found["right"] == found["valid_calls"]  # after one step it can't
    lines = [json.loads(line) for line in (run.path / "answers.jsonl").read_text().splitlines()]
    assert len(lines) == 10 and {line["thinking"] for line in lines} == {True, False}
    assert json.loads((run.path / "results.json").read_text()) == results


def test_prompts_answered_together_come_back_in_order_each_as_by_itself(uninterrupted):
    prompts = [[0, 5 + n % 7, *range(20, 20 + n % 5)] for n in range(200)]  # more than the engine holds at once
    together = list(answer(uninterrupted.path, prompts, 3))
    assert len(together) == 200 and all(1 <= len(ids) <= 3 for ids in together)
    alone = [next(iter(answer(uninterrupted.path, [prompts[n]], 3))) for n in (0, 1, 133, 199)]
    assert [together[n] for n in (0, 1, 133, 199)] == alone and len(set(map(tuple, together))) > 1


def test_no_measurement_where_none_is_wanted(tmp_path, base):
    run = start(base, tmp_path, conversations={"measured": 0}, schedule={"steps": 1})
    assert "answers" not in life.train(run, CPU, QUIET, answer=lambda *_: pytest.fail("asked"))


def test_a_run_killed_while_it_is_measured_is_measured_again(tmp_path, base):
    run = start(base, tmp_path, schedule={"steps": 1})

    def dies(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        life.train(run, CPU, QUIET, answer=dies)
    assert run.results() is None
    assert life.train(run, CPU, QUIET, answer=answer)["answers"]["questions"] == 6


# ---- where it starts


def test_the_newest_finished_pretraining_run_is_found(tmp_path, base, uninterrupted):
    runs = tmp_path / "runs"
    for name in ("old", "new", "unfinished"):
        shutil.copytree(base.path, runs / name, copy_function=shutil.copy)
    shutil.copytree(uninterrupted.path, runs / "talks")
    (runs / "unfinished" / "results.json").unlink()
    (runs / "latest").symlink_to("talks")
    for age, name in enumerate(("new", "old")):
        (checkpoint,) = (path for _, path in RunFolder(runs / name).checkpoints())
        os.utime(checkpoint, (1e9 - age, 1e9 - age))
    assert newest_pretraining(runs) == runs / "new"
    with pytest.raises(UserError, match="no finished pretraining run"):
        newest_pretraining(tmp_path / "none")


def test_a_base_is_a_run_or_a_checkpoint(tmp_path, base):
    newest = base.checkpoints()[-1][1]
    assert checkpoint_of(base.path) == checkpoint_of(newest) == newest
    run = RunFolder(tmp_path / "empty")
    run.lock()
    run.create(base.recipe(), base.config())
    run.unlock()
    for path, said in ((tmp_path / "none", "to start from"), ("", "to start from"), (run.path, "without a checkpoint")):
        with pytest.raises(UserError, match=said):
            checkpoint_of(path)


def test_rows_longer_than_the_bases_context_are_refused(tmp_path, base):
    with pytest.raises(UserError, match="max_position_embeddings"):
        start(base, tmp_path, stage=[{"length": 5000}])
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="conversations.kinds"):
        start(base, tmp_path, conversations={"kinds": ["nothing"]})
    assert not (tmp_path / "run").exists()


def test_a_model_of_another_source_can_be_the_base(tmp_path, base):
    """A checkpoint folder outside any run, in bf16."""
    from fathom.checkpoint import write_model

    model = open_checkpoint(base.checkpoints()[-1][1])
    tensors = {name: model.tensor(name) for name in model.params}
    (tmp_path / "m").mkdir()
    write_model(tmp_path / "m", model.config, tensors, dtype=torch.bfloat16)
    Tokenizer.load(base.path).save(tmp_path / "m")
    run = life.start(small.recipe(tmp_path / "m", schedule={"steps": 1}), tmp_path / "run", CPU)
    assert life.train(run, CPU, QUIET) is not None
    (tmp_path / "m" / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="tokenizer.json"):
        life.train(life.start(small.recipe(tmp_path / "m"), tmp_path / "other", CPU), CPU, QUIET)


def test_a_session_talks_with_the_run(uninterrupted):
    session = load(uninterrupted.path, device="cpu", precision="fp32")
    assert isinstance(session.engine, Engine)
    said = session.chat([{"role": "user", "content": "Hello!"}], thinking=True, max_tokens=4, temperature=0.0)
    assert dataclasses.is_dataclass(session.config) and set(said) >= {"content", "reasoning_content"}
