"""Trains a tiny run whose process is killed over and over, and goes on each time. A program of its own: python killed.py FOLDER KILLS SEED KIND.

Two ways to die, in turn: at the n-th file operation (an audit hook sends SIGKILL when the process opens, renames or deletes something
in the run folder), or after a random time. The parent imports everything once and forks, so that a death costs milliseconds; it never
computes, so the children inherit no threads. Prints how many deaths there were.
"""
import os
import random
import signal
import sys
import threading
from pathlib import Path

import torch
from rich.console import Console

from fathom.train import life
from fathom.train.display import Display
from fathom.train.run import RunFolder
from tests.train import tiny
from tests.train.sft import small

CPU = torch.device("cpu")


def train_once(folder: Path, kind: str) -> None:
    """Start the run (of kind pretrain, or sft from folder/base) or go on with it, to the end."""
    run = RunFolder(folder / "run")
    if not run.exists:
        recipe = tiny.recipe(folder / "data", model=str(folder / "model")) if kind == "pretrain" else small.recipe(folder / "base")
        run = life.start(recipe, run.path, CPU)
    life.train(run, CPU, Display(Console(quiet=True)))


def die_at_operation(number: int, inside: str) -> None:
    left = number

    def hook(event: str, args: tuple) -> None:
        nonlocal left
        if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink") and inside in str(args[0]):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def die_after(seconds: float) -> None:
    def wait() -> None:
        threading.Event().wait(seconds)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


def main(folder: Path, kills: int, seed: int, kind: str) -> None:
    rng = random.Random(seed)
    deaths = 0
    while True:
        child = os.fork()
        if child == 0:
            torch.set_num_threads(1)
            if deaths < kills:
                if deaths % 2:
                    die_after(rng.uniform(0, 0.75))
                else:
                    die_at_operation(rng.randrange(80), str(folder / "run"))
            train_once(folder, kind)
            os._exit(0)
        rng.random()  # the next child draws other numbers
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, "the run failed by itself"
            print(deaths)
            return
        deaths += 1


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
