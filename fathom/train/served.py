"""Which model is served when nobody names one: the newest run that has learned to converse, else the newest run, else one that is
trained for it (`command.chat_model`: the demo's recipe, then the one that teaches conversation).

A run that `fathom serve` itself had begun to train, and that was interrupted, is gone on with. Any other run is taken as it is, also
while it is still being trained; it is the caller's to say what it is good for.
"""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..config.recipe import Recipe
from .run import RunFolder

OWN = ("demo", "chat")  # the runs that chat_model makes


def served_model(runs: Path, make: Callable[[], RunFolder], say: Callable[[str], None]) -> Path:
    """The run folder to serve.

    Args:
        runs: folder of the runs.  make: as command.chat_model, which trains what isn't there.  say: told, a line at a time, what is taken.

    Raises:
        KeyboardInterrupt: the training was interrupted.  Whatever `make` raises.
    """
    found = [(run, run.recipe()) for path in sorted(runs.glob("*")) if not path.is_symlink() and (run := RunFolder(path)).exists]
    usable = [(run, recipe) for run, recipe in found if run.checkpoints() and (run.results() is not None or run.path.name not in OWN)]
    talking = [(run, recipe) for run, recipe in usable if recipe.kind != "pretrain"]
    interrupted = any(run.path.name == "chat" and run.results() is None for run, _ in found)
    if talking or usable and not interrupted:
        run, recipe = max(talking or usable, key=lambda pair: pair[0].checkpoints()[-1][1].stat().st_mtime)
        say(f"serving {run.path}, {described(run, recipe)}")
        return run.path
    say(f"no model in {runs} yet: training one to talk to, some twenty minutes on two cores; --model serves another")
    made = make()
    if made.results() is None:
        raise KeyboardInterrupt
    return made.path


def described(run: RunFolder, recipe: Recipe) -> str:
    """What a run is good for."""
    state = "the newest run" if run.results() is not None else "the newest run, still unfinished"
    if recipe.kind != "pretrain":
        return f"{state} that has learned to converse"
    return f"{state}; it continues text and hasn't learned to converse (fathom train --stage sft --from {run.path} teaches it)"
