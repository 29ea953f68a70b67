"""From one checkpoint to another: precision and layout change, the model stays.

bf16, FP8 and FP4 experts in the official layout go into each other in any direction, and transformers' spellings become the
published one. The source is read through memory maps and written as a stream, a piece of a matrix at a time, so that a terabyte
needs some hundred megabytes of memory. Nothing appears under the target's name before it is complete.

What is lost: nothing from FP8 or FP4 to bf16 or fp32, from FP4 to FP8 within the lossless rule, or where the format stays; the
usual rounding from plain to quantised and from FP8 to FP4. `Written.rounded` lists the matrices of the last kind.
"""
from __future__ import annotations

from pathlib import Path

from ..errors import UserError
from .locate import INDEX
from .read import Progress, open_checkpoint
from .replace import replace_folder
from .write import SHARD_BYTES, Written, write_file, write_weights

_WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".gguf"}


def convert(source: str | Path, target: str | Path, precision: str = "bf16", *, overwrite: bool = False, max_shard_bytes: int = SHARD_BYTES,
            progress: Progress | None = None) -> tuple[Written, tuple[str, ...]]:
    """Write the checkpoint in `source` to `target` in another precision; tokenizer and other small files come along.

    Args:
        precision: fp32, bf16, fp16, fp8 (official base layout) or fp4-experts (official instruct layout).
        overwrite: replace a checkpoint that is at `target` already, also when it is `source` itself.
        progress: called with (bytes written, bytes in all).

    Returns:
        What was written, and what a user should know of the source (`Checkpoint.notices`).

    Raises:
        UserError: as `open_checkpoint` and `save_checkpoint`; the target exists already.
    """
    target = Path(target)
    if not overwrite and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(str(target), None, "exists already", "choose another name, or replace it with --overwrite")
    checkpoint = open_checkpoint(source)
    for param in checkpoint.params.values():
        if param.storage == "int64":
            checkpoint.check_routing(param, checkpoint.stored(param.name).weight)
    with replace_folder(target) as new:
        written = write_weights(new, checkpoint.config, checkpoint, precision, max_shard_bytes, progress)
        for file in sorted(checkpoint.folder.iterdir()):
            if file.is_file() and file.suffix not in _WEIGHTS and file.name not in ("config.json", INDEX) and not file.name.startswith("."):
                write_file(new / file.name, file)
    return written, checkpoint.notices
