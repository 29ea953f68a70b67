"""Loading the built library, and choosing the instruction set.

The best that processor and system have, unless another is asked for; or a reason why there is none.
"""
from __future__ import annotations

from functools import cache
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from ...errors import UserError
from .build import ISA_FLAGS, default_folder, instruction_sets, library_file

NEEDS = {  # what torch calls the features that an instruction set needs
    "amx": ("amx_tile", "amx_bf16", "avx512_bf16", "avx512_f", "avx512_bw", "avx512_vl", "avx512_dq", "avx2", "fma3"),
    "avx512": ("avx512_bf16", "avx512_f", "avx512_bw", "avx512_vl", "avx512_dq", "avx2", "fma3"),
    "avx512f": ("avx512_f", "avx512_bw", "avx512_vl", "avx512_dq", "avx2", "fma3"),
    "avx2": ("avx2", "fma3"),
    "portable": (),
}


def load(isa: str | None = None, folder: Path | None = None) -> tuple[Any, str]:
    """The kernels of one instruction set and its name; or None and why there are none.

    Args:
        isa: one of ISA_FLAGS; the best that works here unless given.  folder: where the library lies, `default_folder()` unless given.

    Raises:
        UserError: an instruction set that doesn't exist, or that this machine can't run.
    """
    if isa is not None and isa not in ISA_FLAGS:
        raise UserError("kernels", isa, f"one of auto, reference, {', '.join(ISA_FLAGS)}")
    file = library_file(folder or default_folder())
    if not file.exists():
        if isa is not None:
            raise UserError("kernels", isa, "the native kernels aren't built", "fathom doctor --build")
        return None, "not built (fathom doctor --build)"
    module = open_library(file)
    missing = ""
    for name in [isa] if isa else instruction_sets():
        lacks = lacking(name)
        kernels = None if lacks else module.kernels(name)
        if kernels is not None:
            return kernels, name
        missing = f"this processor lacks {', '.join(lacks)}" if lacks else "the system doesn't grant it, or the compiler didn't know it"
    raise UserError("kernels", isa, missing, "leave the choice to auto")


def lacking(isa: str) -> list[str]:
    """Processor features that the instruction set needs and that aren't there."""
    has = torch.cpu.get_capabilities()
    return [feature for feature in NEEDS[isa] if not has.get(feature)]


@cache
def open_library(file: Path) -> ModuleType:
    """The library as a module; the same file is loaded once a process, as the system would have it anyway."""
    loader = ExtensionFileLoader("fathom_native", str(file))
    spec = spec_from_loader("fathom_native", loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module
