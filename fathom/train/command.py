"""The verbs `train` and `demo`, as functions for the command line.

`add_commands` puts them on a Typer application. Completing a prompt needs an engine, which is none of this room's business, so the
command line hands in a function that does it.
"""
from __future__ import annotations

import contextlib
import dataclasses
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from ..config.recipe import Recipe, read_recipe
from ..device import choose_device
from ..errors import UserError
from . import pretrain
from .display import Display
from .run import RunFolder

Complete = Callable[[Path, str, int], str]  # (run folder, prompt, at most so many tokens) → continuation

DEMO_PROMPTS = ('def read_lines(path):\n    """Return the lines of a file."""\n', "class Stack:\n    def __init__(self",
                "import os\nimport sys\n\ndef main(")
DEMO_TOKENS = 96


def add_commands(app: typer.Typer, complete: Complete) -> None:
    """Put the verbs `train` and `demo` on `app`; `complete` continues a prompt with the model of a run folder."""

    @app.command("train")
    def train_verb(
        recipe: Annotated[Path | None, typer.Argument(help="recipe file (TOML), such as recipes/nano.toml", show_default=False)] = None,
        more: Annotated[list[str] | None, typer.Argument(help="more files or folders of --data", metavar="[PATH]...", show_default=False)] = None,
        data: Annotated[list[str] | None, typer.Option(help="files or folders in place of the recipe's data: --data PATH PATH, or repeated")] = None,
        name: Annotated[str | None, typer.Option(help="name of the run folder; the recipe's name unless given")] = None,
        resume: Annotated[Path | None, typer.Option(help="go on with the run in this folder, such as runs/latest")] = None,
        steps: Annotated[int | None, typer.Option(help="number of steps, in place of the recipe's")] = None,
        set_: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE laid over the recipe; may be repeated")] = None,
        device: Annotated[str, typer.Option(help="auto, cpu, or an accelerator")] = "auto",
        runs: Annotated[Path, typer.Option(help="folder of the runs")] = Path("runs"),
    ) -> None:
        """Train a model from a recipe, or go on with a run.

        Ctrl-C finishes the step and leaves a checkpoint; a second one stops at once.

        Examples:

          fathom train recipes/nano.toml --data ~/notes ~/code

          fathom train recipes/nano.toml --name try-2 --steps 200 --set optimizer.lr=1e-3

          fathom train --resume runs/latest
        """
        overrides = [*(set_ or []), *([f"schedule.steps={steps}"] if steps is not None else [])]
        if more and not data:
            raise UserError("argument", more[0], "only one recipe", "files and folders to train on go after --data")
        train(recipe, data=[*(data or []), *(more or [])], name=name, resume=resume, overrides=overrides, device=device, runs=runs, console=Console())

    @app.command("demo")
    def demo_verb(
        device: Annotated[str, typer.Option(help="auto, cpu, or an accelerator")] = "auto",
        runs: Annotated[Path, typer.Option(help="folder of the runs")] = Path("runs"),
    ) -> None:
        """Train a small model on Python's own source files, measure it, and let it complete some code.

        A second time the finished run is used again; an interrupted one goes on.

        Examples:

          fathom demo

          fathom demo --runs /tmp/runs
        """
        demo(complete, device=device, runs=runs, console=Console())


def train(recipe: Path | None, *, data: Sequence[str], name: str | None, resume: Path | None, overrides: Sequence[str], device: str,
          runs: Path, console: Console) -> RunFolder:
    """The verb `train`: start a run or go on with one, and say how it went. Returns its folder.

    Raises:
        UserError: both or neither of recipe and resume, and all that `pretrain.start` and `pretrain.train` raise.
    """
    chosen = choose_device(device)
    if resume is not None:
        if recipe or data or name or overrides:
            raise UserError("--resume", resume, "alone: a run goes on with its own recipe and data", "leave the other arguments out")
        run = RunFolder(resume.resolve())
    elif recipe is None:
        raise UserError("recipe", None, "no recipe given", "fathom train recipes/nano.toml, or fathom train --resume runs/latest")
    else:
        run = pretrain.start(_with_data(read_recipe(recipe, overrides), data), runs / (name or _free_name(runs, recipe.stem)), chosen)
    _go(run, device, console)
    return run


def demo(complete: Complete, *, device: str, runs: Path, console: Console, recipe: Path | None = None) -> RunFolder:
    """The verb `demo`: recipes/nano.toml (or `recipe`) trained in runs/demo unless it has been, results, completions. Returns the run."""
    recipe = recipe or Path(__file__).parents[2] / "recipes" / "nano.toml"
    wanted = read_recipe(recipe)
    run = RunFolder(runs / "demo")
    if run.results() is not None:
        console.print(f"reusing the finished run in {run.path} (remove the folder to train again)", highlight=False)
    elif run.exists:
        console.print(f"going on with the unfinished run in {run.path}", highlight=False)
    else:
        run = pretrain.start(wanted, run.path, choose_device(device))
    if not pretrain.made_by(wanted, run.recipe()):
        Display(console).note(f"{run.path} was made by another recipe than {recipe}; remove the folder to train by this one")
    if not _go(run, device, console):
        return run
    for prompt in DEMO_PROMPTS:
        console.rule(style="dim")
        console.print(prompt, end="", style="bold", markup=False, highlight=False)
        console.print(complete(run.path, prompt, DEMO_TOKENS), markup=False, highlight=False)
    console.rule(style="dim")
    console.print(f'complete your own: fathom generate --model {run.path} "def fib("', highlight=False, soft_wrap=True)
    return run


def _go(run: RunFolder, device: str, console: Console) -> bool:
    """Train and report; whether the run is finished."""
    display = Display(console)
    with _interrupts(console) as stopped:
        results = pretrain.train(run, choose_device(device), display, stopped)
    if results is None:
        console.print(f"stopped; go on with: fathom train --resume {run.path}", highlight=False, soft_wrap=True)
        return False
    display.results(results)
    checkpoint = run.checkpoints()[-1][1]
    files = {"run": run.path, "checkpoint": checkpoint, "metrics": run.path / "metrics.jsonl", "plot": run.path / "loss.png"}
    for what, path in files.items():
        if path.exists():
            console.print(f"{what:<11}{path}", highlight=False, soft_wrap=True)
    return True


def _with_data(recipe: Recipe, data: Sequence[str]) -> Recipe:
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, paths=tuple(data))) if data else recipe


def _free_name(runs: Path, stem: str) -> str:
    """The recipe's name, or with the first number that no run has."""
    name, number = stem, 2
    while (runs / name).exists():
        name, number = f"{stem}-{number}", number + 1
    return name


@contextlib.contextmanager
def _interrupts(console: Console) -> Iterator[Callable[[], bool]]:
    """Turns the first Ctrl-C (or SIGTERM) into a request to stop; yields whether it came. A second one interrupts as usual."""
    asked = False

    def handler(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        console.print("stopping after this step; once more to stop at once", highlight=False)

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, old in before.items():
            signal.signal(number, old)
