"""Floors: imports go down only, rooms on one floor don't know each other. Lazy imports and imports for types count too.

    7 cli                           anything, lazily
    6 train bench                   bench: anything below; train: down to checkpoint, not the engine
    5 session server eval chat      all but session: a session or an engine, and floors 0 and 1; never the model or its operators
    4 engine                        never text
    3 model checkpoint              strangers to each other
    2 ops                           quant, device; one device, no process groups
    1 device plan quant parallel    config (and device) only; plan without torch, so without device
    0 errors heap config text prices report sandbox no torch

errors is open to every room. The package root may offer a session, lazily; rooms take nothing from it but the version.
The table below is that drawing, written out; a room that isn't in it isn't in the house.
"""
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.laws.imports import imported_names, modules_of

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "fathom"

FLOOR_0 = {"errors", "heap", "config", "text", "prices", "report", "sandbox"}
FLOOR_1 = {"device", "plan", "quant", "parallel"}
BELOW_5 = FLOOR_0 | FLOOR_1 | {"ops", "model", "checkpoint", "engine"}
BELOW_6 = BELOW_5 | {"session", "server", "eval", "chat"}
TRAIN = (BELOW_5 - {"engine", "sandbox"})
MAY_IMPORT: dict[str, set[str]] = {
    **{room: set() for room in FLOOR_0},
    "device": {"config"},
    "plan": {"config", "prices", "report"},
    "quant": {"config", "device"},
    "parallel": {"config", "device"},
    "ops": {"quant", "device"},
    "model": FLOOR_0 | FLOOR_1 | {"ops"},
    "checkpoint": FLOOR_0 | FLOOR_1 | {"ops"},
    "engine": {"model", "checkpoint", "ops", "parallel", "quant", "plan", "device", "config"},
    "session": BELOW_5,
    "server": FLOOR_0 | FLOOR_1 | {"engine", "session"},
    "eval": FLOOR_0 | FLOOR_1 | {"engine", "session"},
    "chat": FLOOR_0 | FLOOR_1 | {"engine", "session"},
    "train": TRAIN,
    "train/rl": TRAIN | {"engine", "sandbox"},
    "train/distill": TRAIN | {"engine", "sandbox"},
    "bench": BELOW_6,
    "cli": BELOW_6 | {"train", "bench", "doctor"},
    "__init__": {"session"},
    "doctor": {"device", "ops"},
}
COMPUTED = {  # files that import a name no test can follow, and why that is no way around the floors
    "device.py": "loads the plugin that brings an accelerator's backend to torch",
    "eval/canaries.py": "looks whether a name of Python's own library exists",
}
NO_TORCH = FLOOR_0 | {"plan"}
BRINGS_TORCH = {"torch", "torch_npu", "triton", "transformers", "safetensors.torch", "accelerate", "xgrammar"}


def room_of(path: Path) -> str:
    """The row of the table that a file of the package falls under: the longest that fits."""
    parts = path.with_suffix("").parts
    return "/".join(parts[:2]) if "/".join(parts[:2]) in MAY_IMPORT else parts[0]


def violations(package: Path) -> list[str]:
    """Everything in a package folder that breaks the drawing, as "file:line: what"."""
    found = []
    for path, module in modules_of(package):
        room = room_of(path.relative_to(package))
        where = str(path.relative_to(package))
        if room not in MAY_IMPORT:
            found.append(f"{where}:1: {room} isn't a room of the house")
            continue
        allowed = MAY_IMPORT[room] | {"errors", room.partition("/")[0]}
        for line, name, computed in imported_names(path, module):
            parts = name.split(".")
            if computed and (len(parts) < 3 or parts[0] != "fathom") and where not in COMPUTED:  # it must at least say its room
                found.append(f"{where}:{line}: imports a computed name, which no test can follow")
            elif parts[0] == "fathom" and len(parts) > 1 and name != "fathom.__version__":
                target = parts[1]
                if target not in MAY_IMPORT:
                    found.append(f"{where}:{line}: {name} isn't in a room of the house")
                elif room == "train" and len(parts) > 2 and f"train/{parts[2]}" in MAY_IMPORT:
                    found.append(f"{where}:{line}: train may not import {name}, which may know the engine")
                elif target not in allowed:
                    found.append(f"{where}:{line}: {room} may not import {name}")
            elif name == "fathom" and room != "cli":
                found.append(f"{where}:{line}: {room} imports the whole package; name the room")
            if room in NO_TORCH and any(name == heavy or name.startswith(heavy + ".") for heavy in BRINGS_TORCH):
                found.append(f"{where}:{line}: {room} stays without torch, and {name} brings it")
            if room in ("ops", "quant", "device") and name.startswith("torch.distributed"):
                found.append(f"{where}:{line}: {room} works on one device, without process groups")
    return found


def third_party(package: Path, rooms: set[str]) -> set[str]:
    """Top-level modules from outside the standard library that files of these rooms import anywhere."""
    own = [(path, module) for path, module in modules_of(package) if room_of(path.relative_to(package)) in rooms]
    names = {name.partition(".")[0] for path, module in own for _, name, _ in imported_names(path, module)}
    return {name for name in names if name and name != "fathom" and name not in sys.stdlib_module_names}


def loaded_after(code: str, *modules: str) -> set[str]:
    """Which of `modules` a fresh interpreter has loaded after running `code`."""
    script = f"import sys\n{code}\nprint(*[m for m in {modules!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_house_keeps_its_floors():
    assert violations(PACKAGE) == []


def test_the_table_has_no_cycle():
    """What a room may import may not lead back to it."""
    def reach(room: str, seen: frozenset = frozenset()) -> set[str]:
        assert room not in seen, f"cycle through {room}"
        return {room}.union(*(reach(below, seen | {room}) for below in MAY_IMPORT[room]))
    for room in MAY_IMPORT:
        reach(room)


def test_torch_free_rooms_load_without_torch():
    """Not through their own imports, not through those of the libraries they use."""
    modules = [module for path, module in modules_of(PACKAGE) if room_of(path.relative_to(PACKAGE)) in NO_TORCH]
    assert loaded_after("".join(f"import {m}\n" for m in modules), "torch") == set()


def test_libraries_of_torch_free_rooms_do_not_bring_torch():
    names = sorted(third_party(PACKAGE, NO_TORCH))
    tries = "".join(f"try:\n    import {name}\nexcept ImportError:\n    pass  # an extra that isn't installed\n" for name in names)
    assert loaded_after(tries, "torch") == set(), f"one of {names} imports torch"


def test_the_command_line_starts_light():
    """`fathom --help` may not wait for torch: cli.py imports rooms inside its verbs."""
    heavy = ("torch", "numpy", "transformers", "tokenizers", "safetensors", "matplotlib", "fastapi", "fathom.session")
    if not (PACKAGE / "cli.py").exists():
        pytest.skip("no command line yet")
    assert loaded_after("import fathom.cli", *heavy) == set()


def test_the_package_root_starts_light():
    assert loaded_after("import fathom", "torch", "numpy", "fathom.session") == set()


def package_with(folder: Path, file: str, text: str) -> Path:
    """A package that holds one file."""
    planted = folder / "fathom" / file
    planted.parent.mkdir(parents=True)
    planted.write_text(text)
    return folder / "fathom"


def test_a_violation_added_to_the_house_is_found(tmp_path):
    package = shutil.copytree(PACKAGE, tmp_path / "fathom", ignore=shutil.ignore_patterns("__pycache__"))
    with (package / "device.py").open("a") as file:
        file.write("\n\ndef lazily():\n    from fathom.server import app\n")
    assert [v for v in violations(package) if "device may not import fathom.server" in v]


@pytest.mark.parametrize(("file", "text", "complaint"), [
    ("ops/norm.py", "def f():\n    from fathom.model import block\n", "ops may not import fathom.model"),
    ("ops/norm.py", "import torch.distributed as dist\n", "without process groups"),
    ("ops/norm.py", "import torch\nif torch.TYPE_CHECKING:\n    from ..engine.runner import Runner\n", "ops may not import fathom.engine"),
    ("quant/fp8.py", "from fathom import plan\n", "quant may not import fathom.plan"),
    ("parallel/mesh.py", "from fathom.model.block import Block\n", "parallel may not import fathom.model"),
    ("model/block.py", "import fathom.checkpoint.read\n", "model may not import fathom.checkpoint"),
    ("checkpoint/read.py", "from .. import model\n", "checkpoint may not import fathom.model"),
    ("engine/runner.py", "import importlib\nimportlib.import_module('fathom.text.grammar')\n", "engine may not import fathom.text"),
    ("engine/runner.py", "import importlib\ndef f(name):\n    importlib.import_module('fathom.' + name)\n", "computed name"),
    ("engine/runner.py", "import importlib\nlazy = importlib.import_module('.text', 'fathom')\n", "computed name"),
    ("engine/runner.py", "from importlib import *\ndef f(n):\n    import_module(f'fathom.text.{n}')\n", "may not import fathom.text"),
    ("server/app.py", "from fathom.ops import table\n", "server may not import fathom.ops"),
    ("server/app.py", "from fathom.eval import runner\n", "server may not import fathom.eval"),
    ("eval/runner.py", "from fathom.model import Transformer\n", "eval may not import fathom.model"),
    ("session.py", "from fathom.server import app\n", "session may not import fathom.server"),
    ("train/loop.py", "from fathom.engine import Engine\n", "train may not import fathom.engine"),
    ("train/loop.py", "from fathom.train.rl import rollout\n", "train may not import fathom.train.rl"),
    ("bench/decode.py", "from fathom.train import loop\n", "bench may not import fathom.train"),
    ("plan/fit.py", "import torch\n", "plan stays without torch"),
    ("plan/fit.py", "def f():\n    from safetensors.torch import load_file\n", "plan stays without torch"),
    ("plan/fit.py", "from fathom.device import choose_device\n", "plan may not import fathom.device"),
    ("text/chat.py", "from fathom.config import ModelConfig\n", "text may not import fathom.config"),
    ("config/presets.py", "import fathom\n", "imports the whole package"),
    ("__init__.py", "from fathom.model import Transformer\n", "may not import fathom.model"),
    ("utils.py", "", "isn't a room of the house"),
    ("model/block.py", "from fathom.helpers import x\n", "isn't in a room of the house"),
])
def test_a_planted_violation_is_found(tmp_path, file, text, complaint):
    found = violations(package_with(tmp_path, file, text))
    assert len(found) == 1 and complaint in found[0] and found[0].startswith(f"{file}:"), found


@pytest.mark.parametrize(("file", "text"), [
    ("train/rl/rollout.py", "from fathom.engine import Engine\nfrom fathom.sandbox import run\nfrom fathom.train import loop\n"),
    ("eval/runner.py", "from fathom.session import Session\nfrom fathom.report import page\n"),
    ("bench/decode.py", "from fathom.engine import Engine\nfrom fathom import __version__\n"),
    ("ops/norm.py", "from fathom.ops.reference import norm\nfrom . import table\nfrom ..errors import UserError\nimport torch.nn\n"),
    ("ops/table.py", "import importlib\ndef f(n):\n    importlib.import_module(f'fathom.ops.reference.{n}')\n"),
])
def test_what_the_drawing_allows_is_allowed(tmp_path, file, text):
    assert violations(package_with(tmp_path, file, text)) == []


def test_a_library_that_brings_torch_is_noticed(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "x.py").write_text("def f():\n    import transformers, json\n")
    assert third_party(tmp_path, NO_TORCH) == {"transformers"}
    assert loaded_after("import torch", "torch") == {"torch"}
