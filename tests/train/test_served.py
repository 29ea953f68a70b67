"""Which run is served when nobody names one."""
import os
from pathlib import Path

import pytest

from fathom.config.recipe_file import recipe_from_dict, recipe_to_toml
from fathom.train.run import RunFolder
from fathom.train.served import served_model


class Runs:
    """A folder of runs as training leaves them: recipe, checkpoints, and results once a run is finished."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.said, self.clock = folder, [], 1_000_000_000

    def add(self, name: str, kind: str, finished: bool = True, checkpoint: bool = True) -> RunFolder:
        run = RunFolder(self.folder / name)
        run.path.mkdir(parents=True)
        table = {"kind": kind, **({"base": "runs/demo"} if kind == "sft" else {"data": {"paths": ["."]}})}
        (run.path / "recipe.toml").write_text(recipe_to_toml(recipe_from_dict(table)))
        if checkpoint:
            (run.path / "checkpoints" / "step-9").mkdir(parents=True)
            self.clock += 10
            os.utime(run.path / "checkpoints" / "step-9", (self.clock, self.clock))
        if finished:
            run.write_results({"bits_per_byte": 2.0})
        run.mark_latest()
        return run

    def chosen(self, make=None) -> str:
        def trained() -> RunFolder:
            raise AssertionError("nothing is to be trained")

        return served_model(self.folder, make or trained, self.said.append).name


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path / "runs")


def test_without_a_run_one_is_trained(runs: Runs) -> None:
    assert runs.chosen(lambda: runs.add("chat", "sft")) == "chat"
    assert "no model in" in runs.said[0] and "--model" in runs.said[0]


def test_the_newest_that_converses_comes_before_a_newer_one_that_does_not(runs: Runs) -> None:
    runs.add("first", "sft")
    runs.add("second", "sft")
    runs.add("nano", "pretrain")
    assert runs.chosen() == "second" and "learned to converse" in runs.said[0]


def test_the_newest_of_those_that_only_continue_text(runs: Runs) -> None:
    runs.add("zz", "pretrain")
    runs.add("aa", "pretrain")
    (runs.folder / "service").mkdir()  # no run
    assert runs.chosen() == "aa"
    assert "hasn't learned to converse" in runs.said[0] and "--stage sft --from" in runs.said[0]


def test_a_run_under_way_is_served_and_one_without_a_checkpoint_is_not(runs: Runs) -> None:
    runs.add("old", "pretrain")
    runs.add("hour", "pretrain", finished=False)
    runs.add("begun", "pretrain", finished=False, checkpoint=False)
    assert runs.chosen() == "hour" and "unfinished" in runs.said[0]


def test_what_was_interrupted_is_gone_on_with(runs: Runs) -> None:
    demo = runs.add("demo", "pretrain", finished=False)
    asked = []

    def go_on() -> RunFolder:
        asked.append(True)
        return demo

    with pytest.raises(KeyboardInterrupt):  # and interrupted once more
        runs.chosen(go_on)
    demo.write_results({})
    assert runs.chosen() == "demo"
    chat = runs.add("chat", "sft", finished=False)

    def finish() -> RunFolder:
        chat.write_results({})
        return chat

    assert runs.chosen(finish) == "chat" and runs.chosen() == "chat" and len(asked) == 1
