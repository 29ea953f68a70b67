"""Importing does nothing: no output, no global setting, no environment variable, no thread, no random number drawn.

Otherwise the order of imports would decide what a program computes, and a test or a user's own program couldn't import Fathom
without being changed by it.
"""
import json
import subprocess
import sys
from pathlib import Path

from tests.laws.imports import imported_names, modules_of

ROOT = Path(__file__).parents[2]

PROBE = r'''
import importlib, json, os, random, signal, sys, threading, locale
import numpy, torch

def state():
    return dict(
        dtype=torch.get_default_dtype(), device=torch.get_default_device(), threads=torch.get_num_threads(), grad=torch.is_grad_enabled(),
        deterministic=torch.are_deterministic_algorithms_enabled(), precision=torch.get_float32_matmul_precision(),
        torch_rng=torch.get_rng_state().numpy().tobytes(), numpy_rng=repr(numpy.random.get_state()), python_rng=random.getstate(),
        environment=dict(os.environ), folder=os.getcwd(), path=list(sys.path), running=[t.name for t in threading.enumerate()],
        signals={s: signal.getsignal(s) for s in signal.valid_signals()}, recursion=sys.getrecursionlimit(), hook=sys.excepthook,
        locale=locale.setlocale(locale.LC_ALL),
    )

def load(name):
    try:
        importlib.import_module(name)
    except ImportError as error:
        if (error.name or "fathom").partition(".")[0] == "fathom":
            raise  # anything else is an extra that isn't installed

libraries, modules = json.load(sys.stdin)
for name in libraries:  # what a library does when it is imported isn't ours to answer for
    load(name)
failed = []
for name in modules:
    before = state()
    load(name)
    after = state()
    failed += [f"{name} changes {key}" for key in before if before[key] != after[key]]
print(*failed, sep="\n", end="")
'''


def outcome(folder: Path, modules: list[str], libraries: list[str]) -> str:
    """What importing the modules, after the libraries that they use, printed or changed."""
    said = json.dumps([libraries, modules])
    done = subprocess.run([sys.executable, "-c", PROBE], input=said, cwd=folder, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_no_module_has_an_effect_when_imported():
    ours = [(path, module) for path, module in modules_of(ROOT / "fathom") if path.name != "__main__.py"]
    used = {name.rpartition(".")[0] or name for path, module in ours for _, name, computed in imported_names(path, module) if not computed}
    assert len(ours) > 5
    assert outcome(ROOT, [module for _, module in ours], sorted(name for name in used if not name.startswith("fathom"))) == ""


def test_effects_are_noticed(tmp_path):
    (tmp_path / "loud.py").write_text("print('hello')\n")
    (tmp_path / "meddling.py").write_text(
        "import torch, os\ntorch.set_default_dtype(torch.float64)\nos.environ['A_SETTING'] = '1'\ntorch.rand(1)\n"
    )
    assert "hello" in outcome(tmp_path, ["loud"], [])
    found = outcome(tmp_path, ["meddling"], [])
    assert all(f"meddling changes {what}" in found for what in ("dtype", "environment", "torch_rng"))
