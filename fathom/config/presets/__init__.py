"""Named models: the two published ones, the benchmark model and the demo's.

Each is a config.json beside this file, in the published spelling.
"""
from __future__ import annotations

from pathlib import Path

from ...errors import UserError
from ..model import ModelConfig
from ..published import read_config

PRESETS = ("v4-flash", "v4-pro", "bench-130m", "nano")


def preset(name: str) -> ModelConfig:
    """The model of that name; raises UserError with the list for an unknown one."""
    if name not in PRESETS:
        raise UserError("preset", name, f"one of {', '.join(PRESETS)}", "or give a folder with a config.json")
    return read_config(Path(__file__).parent / f"{name}.json")


def resolve_config(name_or_path: str | Path) -> ModelConfig:
    """A preset by name, or the config.json at a path (file or folder). Raises UserError when it is neither."""
    if str(name_or_path) in PRESETS:
        return preset(str(name_or_path))
    if not Path(name_or_path).exists():
        raise UserError("model", name_or_path, f"a preset ({', '.join(PRESETS)}) or a folder with a config.json")
    return read_config(name_or_path)
