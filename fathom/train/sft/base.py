"""Which checkpoint an SFT run starts from: the one given, the newest of a run that is given, or that of the newest pretraining run."""
from __future__ import annotations

from pathlib import Path

from ...errors import UserError
from ..run import RunFolder


def checkpoint_of(base: str | Path) -> Path:
    """The checkpoint folder meant by `base`: itself, or the newest checkpoint of a run folder.

    Raises:
        UserError: no such folder, or a run that has no checkpoint yet.
    """
    path = Path(base)
    if not base or not path.is_dir():
        raise UserError("base", base or None, "a run or checkpoint folder to start from",
                        "name one with --from, or train one: fathom train recipes/nano.toml")
    run = RunFolder(path.resolve())  # runs/latest is a link, and will point to the run that starts
    if not run.exists:
        return path
    if not run.checkpoints():
        raise UserError("base", path, "a run without a checkpoint yet", f"go on with it: fathom train --resume {path}")
    return run.checkpoints()[-1][1]


def newest_pretraining(runs: Path) -> Path:
    """The finished pretraining run in the folder `runs` whose newest checkpoint is the latest.

    Raises:
        UserError: there is none.
    """
    found = [run for path in runs.glob("*") if not path.is_symlink() and (run := RunFolder(path)).exists and run.results() is not None
             and run.checkpoints() and run.recipe().kind == "pretrain"]
    if not found:
        raise UserError("base", None, f"no finished pretraining run in {runs}",
                        "train one: fathom train recipes/nano.toml, or name a model with --from")
    return max(found, key=lambda run: run.checkpoints()[-1][1].stat().st_mtime).path
