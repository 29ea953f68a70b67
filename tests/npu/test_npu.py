"""Every tests/npu/checks_*.py on the simulated npu: one process per file, one test per check.

To add a check, add a function `check_*()` to such a file; to add a file, add the file. `same_on_both` in checks_simulation.py is
the usual way to compare with the CPU.
"""
import ast
import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
FILES = sorted(HERE.glob("checks_*.py"))
CASES = [
    (path.stem, node.name)
    for path in FILES
    for node in ast.parse(path.read_text()).body
    if isinstance(node, ast.FunctionDef) and node.name.startswith("check_")
]

# Operators that torch_npu 2.13 doesn't register and that are fine all the same, with the reason.
DECOMPOSED_THERE: dict[str, str] = {}


@functools.cache
def outcome(file: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-m", "tests.npu.run", f"tests.npu.{file}"], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("file", "check"), CASES)
def test_on_simulated_npu(file, check):
    failure = outcome(file)["checks"][check]
    assert failure is None, f"\n{failure}"


@pytest.mark.parametrize("file", [path.stem for path in FILES if path.stem != "checks_simulation"])
def test_operators_have_npu_kernels(file):
    """What Fathom runs on the device is registered by torch_npu, as this overload or another of the same operator."""
    kernels = {line.partition(".")[0] for line in (ROOT / "tests/vectors/npu_ops_torch_npu_2.13.txt").read_text().split()}
    used = {name for names in outcome(file)["operators"].values() for name in names}
    missing = sorted(name for name in used if name.partition(".")[0] not in kernels and name not in DECOMPOSED_THERE)
    assert not missing, f"no kernel in torch_npu 2.13: {missing}"
