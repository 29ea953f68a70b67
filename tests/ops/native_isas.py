"""The instruction sets that can be tested here: those that the processor runs, and AMX's algorithms on emulated tiles."""
from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch

from fathom.config import parameters
from fathom.model import Transformer
from fathom.ops.native.build import EMULATED, ISA_FLAGS, build, default_folder, find_compiler, library_file
from fathom.ops.native.kernels import OPERATORS, Native, Official
from fathom.ops.native.library import lacking, open_library
from fathom.ops.table import Row

ROOT = Path(__file__).parents[2]
ALL = [*ISA_FLAGS, *EMULATED]


@cache
def native(isa: str) -> Native:
    """Kernels of one instruction set; skips the test where they can't be had."""
    if find_compiler() is None:
        pytest.skip("needs a C++ compiler")
    if isa in EMULATED:
        fast = next((ISA_FLAGS[own] for own in ("avx512", "avx512f") if not lacking(own)), ())  # what AMX comes with, as far as it is here
        file = build(ROOT / "build" / "native-emulated", isas={isa: (*fast, *EMULATED[isa])})
    elif lacking(isa):
        pytest.skip(f"this processor lacks {', '.join(lacking(isa))}")
    else:
        file = library_file(default_folder())
        assert file.exists(), "make setup builds the native kernels"
    kernels = open_library(file).kernels(isa)
    if kernels is None:
        pytest.skip("the system doesn't grant it")
    return Native(kernels)


def on_native(plain: Transformer, isa: str, precision: str) -> Transformer:
    """The same model in bf16 or `official` on the kernels of one instruction set; skips the test where they can't be had."""
    config = plain.config
    kernels = native(isa) if precision == "bf16" else Official(native(isa).ext, config.qk_rope_head_dim)
    rows = tuple(Row(op, "cpu", precision, False, "native", getattr(kernels, op), "", kernels.packer) for op in OPERATORS)
    formats = {p.name: {"fp8": "fp8", "expert": "fp4"}[p.storage] for p in parameters(config) if p.storage in ("fp8", "expert")}
    model = Transformer(config, dtype=torch.bfloat16, precision=precision, rows=rows, formats=formats if precision == "official" else None)
    targets = model.tensors()
    for name, values in plain.tensors().items():
        targets[name].copy_(values)
    return model.requires_grad_(False)


def available() -> list[str]:
    """Instruction sets that this machine can run, without building anything."""
    return [isa for isa in ISA_FLAGS if not lacking(isa)] if find_compiler() else []
