"""The run folder: whole checkpoints or none, metrics cut back, one writer at a time."""
import errno
import json

import pytest

from fathom.config import read_config
from fathom.errors import UserError
from fathom.train.run import RunFolder
from tests.train import tiny


@pytest.fixture
def run(tmp_path):
    run = RunFolder(tmp_path / "runs" / "r")
    run.lock()
    run.create(tiny.recipe(tmp_path), tiny.config())
    yield run
    run.unlock()


def write(content):
    def fill(folder):
        (folder / "config.json").write_text("{}")
        (folder / "weights").write_text(content)
    return fill


def test_what_is_created_reads_back(run, tmp_path):
    assert run.recipe() == tiny.recipe(tmp_path)
    assert run.config() == read_config(run.path) == tiny.config()


def test_the_newest_checkpoints_stay(run):
    for step in (5, 10, 100):
        run.save_checkpoint(step, write(str(step)), keep=2)
    assert [(step, (path / "weights").read_text()) for step, path in run.checkpoints()] == [(10, "10"), (100, "100")]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("bug"), KeyboardInterrupt()])
def test_a_save_that_fails_leaves_the_others_and_nothing_else(run, error):
    run.save_checkpoint(5, write("5"), keep=1)

    def fails(folder):
        write("half")(folder)
        raise error

    with pytest.raises((UserError, RuntimeError, KeyboardInterrupt)):
        run.save_checkpoint(6, fails, keep=1)
    assert [p.name for p in (run.path / "checkpoints").iterdir()] == ["step-5"]
    assert (run.path / "checkpoints" / "step-5" / "weights").read_text() == "5"


def test_what_a_killed_process_left_is_cleared(run):
    (run.path / "checkpoints" / ".step-7.writing").mkdir()
    (run.path / "checkpoints" / "..step-7.writing.writing").mkdir()
    run.unlock()
    run.lock()
    assert not list((run.path / "checkpoints").iterdir())


def test_metrics_are_cut_back_and_half_a_line_is_forgotten(run):
    for step in range(1, 6):
        run.append_metrics({"step": step, "loss": 1 / 3})
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "lo')
    assert [line["step"] for line in run.metrics()] == [1, 2, 3, 4, 5]
    run.cut_metrics(3)
    run.append_metrics({"step": 4, "loss": 0.5})
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1 / 3), (2, 1 / 3), (3, 1 / 3), (4, 0.5)]


def test_one_process_at_a_time(run):
    with pytest.raises(UserError, match="another process"):
        RunFolder(run.path).lock()
    run.unlock()
    RunFolder(run.path).lock()


def test_latest_follows_the_newest_run(run):
    run.mark_latest()
    other = RunFolder(run.path.parent / "other")
    other.lock()
    other.mark_latest()
    other.unlock()
    assert (run.path.parent / "latest").resolve() == other.path.resolve()


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(UserError, match="a run folder"):
        RunFolder(tmp_path).recipe()
