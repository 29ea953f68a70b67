"""Run check functions on the simulated npu with torch.cuda poisoned: `python -m tests.npu.run tests.npu.checks_simulation`.

A check is a function `check_*()` without arguments that raises when something is wrong. The last line of the output is one JSON
object: {"checks": {name: traceback or null}, "operators": {name: [operators that reached the device]}}.

This runs in a process of its own, since neither the simulation nor the poison can be undone. They are installed before the check
module, and so before any of Fathom, is imported. The device refuses float64 and complex numbers, as accelerators do or would
like to; what needs them is computed on the host.
"""
from __future__ import annotations

import importlib
import json
import sys
import traceback

import torch

from tests.npu import poison, simulation


def run(module_name: str) -> dict[str, dict]:
    """All checks of a module, in the order of the file; a failed one doesn't stop the others."""
    module = importlib.import_module(module_name)
    checks, operators = {}, {}
    for name, check in list(vars(module).items()):
        if not name.startswith("check_"):
            continue
        simulation.operators.clear()
        try:
            check()
            checks[name] = None
        except Exception:
            checks[name] = traceback.format_exc()
        operators[name] = sorted(simulation.operators)
    return {"checks": checks, "operators": operators}


if __name__ == "__main__":
    simulation.install(refuse=[torch.float64, torch.complex64, torch.complex128])
    poison.poison_cuda()
    print(json.dumps(run(sys.argv[1])))
