"""The verbs `train` and `demo`, as functions for the command line.

`add_commands` puts them on a Typer application; `chat_model` makes sure that there is a model to talk to. Completing and answering
prompts needs an engine, which is none of this room's business, so the command line hands in functions that do it.
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

from ..config.recipe import Recipe
from ..config.recipe_file import read_recipe
from ..device import choose_device
from ..errors import UserError
from . import life
from .display import Display
from .phase import Answer
from .run import RunFolder
from .sft.base import newest_pretraining

Complete = Callable[[Path, str, int], str]  # (run folder, prompt, at most so many tokens) → continuation

DEMO_PROMPTS = ('def read_lines(path):\n    """Return the lines of a file."""\n', "class Stack:\n    def __init__(self",
                "import os\nimport sys\n\ndef main(")
DEMO_TOKENS = 96
RECIPES = Path(__file__).parents[2] / "recipes"
STAGES = {"pretrain": "nano.toml", "sft": "sft.toml"}  # what --stage takes when no recipe is given


def add_commands(app: typer.Typer, complete: Complete, answer: Answer) -> None:
    """Put the verbs `train` and `demo` on `app`; `complete` continues a prompt with the model of a run folder, `answer` many of them."""

    @app.command("train")
    def train_verb(
        recipe: Annotated[Path | None, typer.Argument(help="recipe file (TOML), such as recipes/nano.toml", show_default=False)] = None,
        more: Annotated[list[str] | None, typer.Argument(help="more files or folders of --data", metavar="[PATH]...", show_default=False)] = None,
        stage: Annotated[str | None, typer.Option(help="pretrain or sft: without a recipe, recipes/nano.toml or recipes/sft.toml")] = None,
        data: Annotated[list[str] | None, typer.Option(help="files or folders in place of the recipe's data (sft: .jsonl files of conversations): "
                                                            "--data PATH PATH, or repeated")] = None,
        base: Annotated[str | None, typer.Option("--from", help="sft: run or checkpoint folder to start from; unless given, the recipe's, "
                                                                "or the newest finished pretraining run")] = None,
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

          fathom train --stage sft --from runs/demo

          fathom train --resume runs/latest
        """
        overrides = [*(set_ or []), *([f"schedule.steps={steps}"] if steps is not None else [])]
        if more and not data:
            raise UserError("argument", more[0], "only one recipe", "files and folders to train on go after --data")
        train(recipe, stage=stage, data=[*(data or []), *(more or [])], base=base, name=name, resume=resume, overrides=overrides, device=device,
              runs=runs, console=Console(), answer=answer)

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


def train(recipe: Path | None, *, stage: str | None = None, data: Sequence[str] = (), base: str | None = None, name: str | None = None,
          resume: Path | None = None, overrides: Sequence[str] = (), device: str, runs: Path, console: Console,
          answer: Answer | None = None) -> RunFolder:
    """The verb `train`: start a run or go on with one, and say how it went. Returns its folder.

    Raises:
        UserError: arguments that don't go together, and all that `life.start` and `life.train` raise.
    """
    chosen = choose_device(device)
    if stage is not None and stage not in STAGES:
        raise UserError("--stage", stage, f"one of {', '.join(STAGES)}")
    if resume is not None:
        if recipe or stage or data or base or name or overrides:
            raise UserError("--resume", resume, "alone: a run goes on with its own recipe and data", "leave the other arguments out")
        run = RunFolder(resume.resolve())
    elif recipe is None and stage is None:
        raise UserError("recipe", None, "no recipe given", "fathom train recipes/nano.toml, or fathom train --resume runs/latest")
    else:
        file = recipe or RECIPES / STAGES[stage]
        wanted = read_recipe(file, overrides)
        if stage not in (None, wanted.kind):
            raise UserError("--stage", stage, f"{file} is a recipe of kind {wanted.kind}", "leave one of the two out")
        run = life.start(_laid_over(wanted, data, base, runs), runs / (name or _free_name(runs, file.stem)), chosen)
    _go(run, device, console, answer)
    return run


def demo(complete: Complete, *, device: str, runs: Path, console: Console, recipe: Path | None = None) -> RunFolder:
    """The verb `demo`: recipes/nano.toml (or `recipe`) trained in runs/demo unless it has been, results, completions. Returns the run."""
    run = _finished(runs / "demo", recipe or RECIPES / STAGES["pretrain"], "", device, console, None)
    if run.results() is None:
        return run
    for prompt in DEMO_PROMPTS:
        console.rule(style="dim")
        console.print(prompt, end="", style="bold", markup=False, highlight=False)
        console.print(complete(run.path, prompt, DEMO_TOKENS), markup=False, highlight=False)
    console.rule(style="dim")
    console.print(f'complete your own: fathom generate --model {run.path} "def fib("', highlight=False, soft_wrap=True)
    return run


def chat_model(answer: Answer, *, device: str, runs: Path, console: Console, recipes: Path = RECIPES) -> RunFolder:
    """The model to talk to, runs/chat: recipes/sft.toml on top of runs/demo, each trained unless it has been. Returns the run.

    An interrupted run goes on where it was; when it is interrupted again, the run that comes back has no results.
    """
    pretrained = _finished(runs / "demo", recipes / STAGES["pretrain"], "", device, console, None)
    if pretrained.results() is None:
        return pretrained
    return _finished(runs / "chat", recipes / STAGES["sft"], str(pretrained.path), device, console, answer)


def _finished(folder: Path, recipe: Path, base: str, device: str, console: Console, answer: Answer | None) -> RunFolder:
    """The run in `folder`, used again if it is finished, gone on with if it isn't, started by `recipe` if there is none."""
    wanted, run = dataclasses.replace(read_recipe(recipe), base=base), RunFolder(folder)
    if run.results() is not None:
        console.print(f"reusing the finished run in {run.path} (remove the folder to train again)", highlight=False)
    elif run.exists:
        console.print(f"going on with the unfinished run in {run.path}", highlight=False)
    else:
        run = life.start(wanted, run.path, choose_device(device))
    if not life.made_by(wanted, run.recipe()):
        Display(console).note(f"{run.path} was made by another recipe than {recipe}; remove the folder to train by this one")
    _go(run, device, console, answer)
    return run


def _go(run: RunFolder, device: str, console: Console, answer: Answer | None) -> None:
    """Train and report."""
    display = Display(console)
    with _interrupts(console) as stopped:
        results = life.train(run, choose_device(device), display, stopped, answer)
    if results is None:
        console.print(f"stopped; go on with: fathom train --resume {run.path}", highlight=False, soft_wrap=True)
        return
    display.results(results)
    checkpoint = run.checkpoints()[-1][1]
    files = {"run": run.path, "checkpoint": checkpoint, "metrics": run.path / "metrics.jsonl", "plot": run.path / "loss.png",
             "answers": run.path / "answers.jsonl"}
    for what, path in files.items():
        if path.exists():
            console.print(f"{what:<11}{path}", highlight=False, soft_wrap=True)


def _laid_over(recipe: Recipe, data: Sequence[str], base: str | None, runs: Path) -> Recipe:
    """The recipe with the command line's data and base; an SFT recipe without a base gets the newest finished pretraining run."""
    if recipe.kind == "pretrain":
        if base is not None:
            raise UserError("--from", base, "only a run of kind sft starts from another", "give a recipe of that kind, or --stage sft")
        return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, paths=tuple(data))) if data else recipe
    if data:
        recipe = dataclasses.replace(recipe, conversations=dataclasses.replace(recipe.conversations, paths=tuple(data)))
    return dataclasses.replace(recipe, base=base or recipe.base or str(newest_pretraining(runs)))


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
