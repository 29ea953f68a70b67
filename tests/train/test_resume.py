"""Killed anywhere and resumed: the same bits. Also: asked to stop, out of disk, out of luck."""
import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from fathom.config import config_to_dict
from fathom.config.recipe_file import recipe_to_toml
from fathom.errors import UserError
from fathom.train import life, loop, trainer
from fathom.train.display import Display
from fathom.train.run import RunFolder
from fathom.train.trainer import Trainer
from tests.train import tiny

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
TIMES = ("seconds", "tokens_per_second")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def folder_with_data(folder: Path) -> Path:
    tiny.write_documents(folder / "data")
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps(config_to_dict(tiny.config())))
    return folder


def start(folder: Path, **changes) -> RunFolder:
    return life.start(tiny.recipe(folder / "data", model=str(folder / "model"), **changes), folder / "run", CPU)


def train(run: RunFolder, should_stop=lambda: False):
    return life.train(run, CPU, Display(Console(quiet=True)), should_stop)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    run = start(folder_with_data(tmp_path_factory.mktemp("whole")))
    assert train(run) is not None
    torch.set_num_threads(before)
    return run


def same(run: RunFolder, other: RunFolder) -> None:
    """Both runs ended with the same bits and told the same story."""
    assert [step for step, _ in run.checkpoints()] == [step for step, _ in other.checkpoints()] == [11, 12]
    for name in ("model.safetensors", "training.safetensors", "tokenizer.json", "config.json"):
        assert (run.checkpoints()[-1][1] / name).read_bytes() == (other.checkpoints()[-1][1] / name).read_bytes(), name
    stories = [[{k: v for k, v in line.items() if k not in TIMES} for line in r.metrics()] for r in (run, other)]
    assert stories[0] == stories[1] and [line["step"] for line in stories[0]] == list(range(1, 13))
    assert run.results()["held_out"] == other.results()["held_out"]
    assert not [p for p in (run.path / "checkpoints").iterdir() if p.name.startswith(".")]


def test_the_run_trains(uninterrupted):
    lines = uninterrupted.metrics()
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.2
    assert [line["step"] for line in lines if "held_out_bits_per_byte" in line] == [5, 10, 12]
    assert set(uninterrupted.results()["compressors"]) == {"gzip -9", "xz -9"}
    assert all(line["mtp_loss"] > 0 and 0 < line["lr"] <= 1e-2 for line in lines)


def test_a_finished_run_is_left_alone(uninterrupted, monkeypatch):
    monkeypatch.setattr(life, "Trainer", None)
    assert train(uninterrupted) == uninterrupted.results()


def kill_and_compare(tmp_path, uninterrupted, kills, seed):
    folder_with_data(tmp_path)
    command = [sys.executable, str(Path(__file__).with_name("killed.py")), str(tmp_path), str(kills), str(seed), "pretrain"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    same(RunFolder(tmp_path / "run"), uninterrupted)
    return int(done.stdout)


def test_killed_at_random_moments_the_weights_are_the_same_bits(tmp_path, uninterrupted):
    assert kill_and_compare(tmp_path, uninterrupted, 8, 0) >= 4


@pytest.mark.check
@pytest.mark.parametrize("seed", range(1, 5))
def test_killed_many_times_more(tmp_path, uninterrupted, seed):
    assert kill_and_compare(tmp_path, uninterrupted, 40, seed) >= 20


@pytest.mark.parametrize("after", [1, 6, 11])
def test_asked_to_stop_it_leaves_a_checkpoint_and_goes_on(tmp_path, uninterrupted, after):
    """Stopped in the first stage, at the border of two, before the last step; no checkpoints by time."""
    run = start(folder_with_data(tmp_path), checkpoint={"minutes": 1000.0})
    asked = iter([False] * (after - 1) + [True])
    assert train(run, lambda: next(asked)) is None
    assert [step for step, _ in run.checkpoints()] == [after] and run.results() is None
    assert train(run) is not None
    last, expected = run.checkpoints()[-1][1], uninterrupted.checkpoints()[-1][1]
    for name in ("model.safetensors", "training.safetensors"):
        assert (last / name).read_bytes() == (expected / name).read_bytes()


def test_ctrl_c_finishes_the_step_and_says_how_to_go_on(tmp_path):
    """The real command in a process of its own, interrupted by the signal of Ctrl-C."""
    folder_with_data(tmp_path)
    recipe = tiny.recipe(tmp_path / "data", model=str(tmp_path / "model"), schedule={"steps": 100000}, checkpoint={"minutes": 1000.0})
    (tmp_path / "r.toml").write_text(recipe_to_toml(recipe), encoding="utf-8")
    program = ("import sys; from pathlib import Path; from rich.console import Console; from fathom.train.command import train; "
               f"train(Path(r'{tmp_path}/r.toml'), name='r', device='cpu', runs=Path(r'{tmp_path}/runs'), console=Console())")
    child = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                             env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    try:
        run = RunFolder(tmp_path / "runs" / "r")
        while child.poll() is None and len(run.metrics()) < 3:
            signal.sigtimedwait([], 0.05)
        child.send_signal(signal.SIGINT)
        said, _ = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == 0, said
    (step, folder), = run.checkpoints()
    assert step == run.metrics()[-1]["step"] and f"fathom train --resume {run.path}" in said


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_line_and_the_checkpoint_before_is_intact(tmp_path, uninterrupted, monkeypatch, code):
    run = start(folder_with_data(tmp_path))
    real, calls = trainer.write_tensor_file, []

    def full(path, *args):
        calls.append(path)
        if len(calls) == 8:
            path.write_bytes(b"half")
            raise OSError(code, os.strerror(code))
        real(path, *args)

    monkeypatch.setattr(trainer, "write_tensor_file", full)
    with pytest.raises(UserError) as error:
        train(run)
    assert "step 7 is intact" in str(error.value) and f"--resume {run.path}" in str(error.value) and "\n" not in str(error.value)
    assert [step for step, _ in run.checkpoints()] == [6, 7]
    monkeypatch.undo()
    assert train(run) is not None
    same(run, uninterrupted)


def test_a_full_disk_while_writing_metrics_is_one_line_too(tmp_path, monkeypatch):
    run = start(folder_with_data(tmp_path))

    def full(self, line):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RunFolder, "append_metrics", full)
    with pytest.raises(UserError, match="there is no checkpoint yet"):
        train(run)


def test_another_error_of_the_system_is_not_a_full_disk(tmp_path):
    with pytest.raises(PermissionError), loop.disk_errors(RunFolder(tmp_path)):
        raise PermissionError(errno.EACCES, "no")


def test_a_loss_that_explodes_is_named(tmp_path):
    run = start(folder_with_data(tmp_path), optimizer={"lr": 1e9, "weight_decay": 0.0})
    with pytest.raises(UserError) as error:
        train(run)
    assert "optimizer.lr" in str(error.value) and "no longer finite at step" in str(error.value)


def test_a_checkpoint_of_another_model_is_refused(tmp_path, uninterrupted):
    other = Trainer(uninterrupted.recipe(), tiny.config(hidden_size=24), uninterrupted.data, CPU)
    with pytest.raises(UserError, match="another configuration"):
        other.load(uninterrupted.checkpoints()[-1][1])


@pytest.mark.parametrize("file", ["training.safetensors", "training.json", "model.safetensors"])
def test_a_damaged_checkpoint_is_named(tmp_path, file):
    run = start(folder_with_data(tmp_path), schedule={"steps": 2})
    asked = iter([True])
    train(run, lambda: next(asked))
    path = run.checkpoints()[-1][1] / file
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError) as error:
        train(run)
    assert file in str(error.value) and "\n" not in str(error.value)


def test_other_arithmetic_is_said(uninterrupted, monkeypatch):
    resumed = Trainer(uninterrupted.recipe(), uninterrupted.config(), uninterrupted.data, CPU)
    assert resumed.load(uninterrupted.checkpoints()[-1][1]) == ""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert "threads 1 → 64" in resumed.load(uninterrupted.checkpoints()[-1][1])
